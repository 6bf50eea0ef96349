"""What can stop an answer on its way, and the words for it."""

from __future__ import annotations

from policies.engine import Decision

from .upstream import UpstreamError

UNRECORDED = "Decisions cannot be recorded at the moment."

NO_ROOM = "Penstock has no room for another request at the moment."
FAILED = "Penstock failed to handle this request."


def unavailable(decision: str) -> str:
    """What is said where a classifier gave no answer. The operator finds it by the id: `penstock audit show`."""
    return f"This request could not be checked, so it was not answered. Please tell the operator: {decision}."


class Blocked(Exception):
    """A decision that stops the output, on its way to whoever ends the answer."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.rule)
        self.decision = decision


class Unrecorded(Exception):
    """The intent could not be made durable: nothing may leave."""


def words(error: Exception) -> str:
    """A fault of the upstream, for the caller."""
    if isinstance(error, UpstreamError):
        text = str(error)
        return text[:1].upper() + text[1:] + "."
    return f"The upstream's answer cannot be read: {error}."
