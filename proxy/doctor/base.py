"""What a check is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from policies.check import CheckResult

from ..config import Settings


class State(StrEnum):
    """A warning: it serves, and not as it should. Wrong: it does not serve, or loses something. Skipped: not looked at,
    as the detail says."""

    WELL = "well"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `check` is the part that it belongs to; `mend` says what to do about it."""

    check: str
    state: State
    detail: str
    mend: str = ""


@dataclass(slots=True)
class Place:
    """Where Penstock is to serve. `policy` is filled by the check of the policy, for those after it; `began` are both
    clocks when the doctor began (wall, steady; seconds)."""

    settings: Settings
    began: tuple[float, float]
    policy: CheckResult | None = None
    skews: list[tuple[str, float]] = field(default_factory=list)
    """Upstreams, and how many seconds our clock is ahead of theirs."""


Check = Callable[[Place], Iterable[Finding]]
