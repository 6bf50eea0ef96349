"""What Penstock leans on outside of its own process, part by part: each in a state that has a name.

A change of state is one line in the log, with what happens meanwhile and the mend. `/readyz` names every part's state
under `parts`, and `penstock_part_up` is 1 where it is well. A part that nothing can be done without (`needed`) makes
this process unready as well, until it is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .logs import get_logger
from .metrics import Metrics

if TYPE_CHECKING:
    from .audit import Audit

log = get_logger("penstock.parts")

WELL = "ready"


class Fault(Protocol):
    """What a part of our own says of itself: its state in a word, what was seen and the mend, a line each."""

    state: str
    problem: str
    mend: str


@dataclass(frozen=True, slots=True)
class _Seen:
    state: str
    detail: str
    needed: bool

    def __str__(self) -> str:
        return f"{self.state}: {self.detail}" if self.detail else self.state


class Parts:
    """The parts of one process by name. For one event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seen: dict[str, _Seen] = {}

    def well(self, part: str, detail: str = "") -> None:
        """`part` does what it is for."""
        before = self._seen.get(part)
        self._seen[part] = _Seen(WELL, detail, False)
        self._metrics.part_up.set(1, part)
        if before is not None and before.state != WELL:
            log.info("part is well again", part=part, was=before.state)

    def ill(self, part: str, state: str, detail: str, *, mend: str, meanwhile: str = "", needed: bool = False) -> None:
        """`part` does not. `state` is one word of a closed list; `detail` what was seen, without secrets and texts;
        `mend` what an operator does about it, `meanwhile` what Penstock does. With `needed` it is not ready."""
        before = self._seen.get(part)
        self._seen[part] = _Seen(state, detail, needed)
        self._metrics.part_up.set(0, part)
        if before is None or (before.state, before.needed) != (state, needed):
            told = {"meanwhile": meanwhile} if meanwhile else {}
            log.error("part is not well", part=part, state=state, detail=detail, mend=mend, **told)

    def tell(self, part: str, fault: Fault | None, meanwhile: str) -> None:
        """`part` is well where there is no fault; else `meanwhile` is what Penstock does."""
        if fault is None:
            self.well(part)
        else:
            self.ill(part, fault.state, fault.problem, mend=fault.mend, meanwhile=meanwhile)

    def forget(self, part: str) -> None:
        """`part` is none of ours any more."""
        del self._seen[part]
        self._metrics.part_up.remove(part)

    def __contains__(self, part: str) -> bool:
        return part in self._seen

    def states(self) -> dict[str, str]:
        """Every part's state, in words."""
        return {part: str(seen) for part, seen in self._seen.items()}

    def missing(self) -> dict[str, str]:
        """The parts without which nothing can be done, and that are not well."""
        return {part: str(seen) for part, seen in self._seen.items() if seen.needed and seen.state != WELL}


def parts_of(metrics: Metrics, audit: Audit) -> Parts:
    """What lies outside; the audit's faults are told as its states. Readiness asks the audit itself."""
    parts = Parts(metrics)

    meanwhile = "new requests are refused, and what is under way is kept until it can be written"
    audit.observer = lambda fault: parts.tell("audit", fault, meanwhile)
    parts.well("audit")
    return parts
