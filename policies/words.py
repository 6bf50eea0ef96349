"""The words of the language: its closed lists, and what a name or a score looks like."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .editor import shape

Id = Annotated[str, shape(r"^[a-z0-9][a-z0-9._-]{0,63}$", "small letters, digits, '.', '_' and '-'")]
ClassifierName = Annotated[str, shape(r"^[a-z][a-z0-9_-]{0,63}$", "small letters, digits, '_' and '-'")]
FindingName = Annotated[
    str, shape(r"^[a-z][a-z0-9_-]{0,63}\.[^\s]{1,128}$", "classifier.label or classifier.*, like guard.injection")
]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Stage(StrEnum):
    """Where in an exchange a rule looks."""

    INPUT = "input"
    OUTPUT = "output"


class Action(StrEnum):
    """What a rule asks for, from the mildest to the most severe. The most severe of all that fired decides."""

    PASS = "pass"  # noqa: S105 - an action, no password
    LOG = "log"
    ADVISE = "advise"
    MASK = "mask"
    ROUTE = "route"
    REWRITE = "rewrite"
    REVIEW = "review"
    BLOCK = "block"

    @property
    def severity(self) -> int:
        """0 for pass, rising to block."""
        return _SEVERITY[self]

    @property
    def protects(self) -> bool:
        """Whether what was found does not pass as it came. Then it must not pass unseen either."""
        return _SEVERITY[self] >= _SEVERITY[Action.MASK]


_SEVERITY = {action: place for place, action in enumerate(Action)}


class OnBlock(StrEnum):
    """How a caller is told of a block: an HTTP error, or a normal answer that holds the message."""

    ERROR = "error"
    MESSAGE = "message"


class Otherwise(StrEnum):
    """What becomes of an exchange that nobody reviewed in time."""

    BLOCK = "block"
    PASS = "pass"  # noqa: S105


class OnError(StrEnum):
    """What a rule does when a classifier that it needs gave no answer."""

    BLOCK = "block"
    LOG = "log"
    PASS = "pass"  # noqa: S105
