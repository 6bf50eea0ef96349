"""What must be read before a stage can be decided, and how much of a stream must wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .forms import HoldBack
from .model import OnError, Stage
from .ready import PolicySet, Reading

__all__ = ["Hold", "Reading", "StreamMode", "plan", "stream_mode"]


class Hold(StrEnum):
    """How much of a streamed answer waits for its verdict."""

    NONE = "none"
    HOLD_BACK = "hold_back"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class StreamMode:
    """`characters` is how many of the last characters wait; it means something only for Hold.HOLD_BACK."""

    hold: Hold
    characters: int = 0


def plan(policy: PolicySet, stage: Stage) -> tuple[Reading, ...]:
    """The classifiers to ask at `stage`, sorted by name; each with the roles that some rule looks at.

    Shadow rules are asked for too; rules that are off are not.
    """
    return policy.tables[stage].readings


def stream_mode(policy: PolicySet) -> StreamMode:
    """The strictest wish of all rules that can stop or change an answer: whole, then the largest hold-back.

    A rule that would block on a silent classifier can stop an answer too, whatever its action.
    """
    mode = StreamMode(Hold.NONE)
    for rule in policy.rules:
        stops = rule.action.protects or rule.silence is OnError.BLOCK
        if not rule.acts or Stage.OUTPUT not in rule.stages or not stops:
            continue
        if not isinstance(rule.stream, HoldBack):
            return StreamMode(Hold.WHOLE)
        mode = StreamMode(Hold.HOLD_BACK, max(mode.characters, rule.stream.hold_back))
    return mode
