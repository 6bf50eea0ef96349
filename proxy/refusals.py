"""Requests that were refused before they were let in, as they are written down.

Those of a caller who is known are a record each. Those of strangers are up to BURST at once and RATE a second; beyond
that they are counted by status and code, and once a second a record of each says how many there were (`times`). A
stranger is who brings no key of ours; without keys everybody is, for a credential that nobody has checked is a name
that its bearer chose.

Decision: strangers get so much of the log and no more. Why: a record each is 700 bytes on the disk as often as somebody
without a key likes, and where disk or queue are full every customer is refused; now it is 2.4 kB a second for each
code. Cost: of a flood the paths and callers are known only where all are the same; its answers share one decision
id; a killed process forgets the last second of it, or all since the disk failed.

INVARIANT: `times` of all records, 1 where it is not said, adds up to the refusals, but for what `Audit.lost` counts.
What is a stranger's is appended only while half of the queue is free, and waits here otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .audit import Audit, Record, new_id
from .kept_path import kept
from .listener import Incoming
from .metrics import Metrics
from .record import Notes

BURST, RATE = 20, 3.0
"""Records of strangers at once, and a second."""
TELL = 1.0
"""Seconds between two records of what was gathered."""


@dataclass(slots=True)
class _Gathered:
    """Refusals of one status and code; None where they differ. `asked` are method and path."""

    account: str | None
    asked: tuple[bytes, bytes] | None
    id: str = field(default_factory=new_id)
    since: float = field(default_factory=time.time)
    times: int = 0


class Refusals:
    """Writes refusals into `audit`. `revision` is the policy's, told with each."""

    def __init__(self, audit: Audit, metrics: Metrics, revision: Callable[[], str]) -> None:
        self._audit, self._metrics, self._revision = audit, metrics, revision
        self._left, self._seen = float(BURST), time.monotonic()
        self._gathered: dict[tuple[int, str], _Gathered] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, incoming: Incoming | None, status: int, code: str, account: str, *, known: bool) -> str:
        """A request is refused; returns the id of the record that tells of it."""
        self._metrics.refused.inc(code)
        asked = (incoming.method, incoming.path) if incoming is not None else (b"", b"")
        if known or self._may():
            method, path = _told(asked)
            notes = Notes(self._metrics, "none", method, path, account, self._revision())
            notes.ended("refused", code)
            self._audit.append(notes.outcome())
            return notes.id
        self._metrics.exchanges.inc("none", self._metrics.model(""), "refused")
        each = self._gathered.get((status, code))
        if each is None:
            each = self._gathered[status, code] = _Gathered(account, asked)
        each.times += 1
        each.account = account if each.account == account else None
        each.asked = asked if each.asked == asked else None
        if self._timer is None:
            self._later()
        return each.id

    def close(self) -> None:
        """Write what was gathered. What comes now is written at once."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._write()

    def _may(self) -> bool:
        """Whether a stranger's is written by itself."""
        if self._closed:
            return True
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._seen) * RATE)
        self._seen = now
        if self._left < 1 or not self._audit.roomy:
            return False
        self._left -= 1
        return True

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TELL, self._tell)

    def _tell(self) -> None:
        self._timer = None
        if self._audit.roomy:
            self._write()
        else:
            self._later()

    def _write(self) -> None:
        gathered, self._gathered = self._gathered, {}
        now, revision = time.time(), self._revision()
        for (status, code), each in gathered.items():
            method, path = (None, None) if each.asked is None else _told(each.asked)
            body = {
                "account": each.account, "dialect": "none", "method": method, "path": path, "policy": None,
                "revision": revision, "action": None, "rule": None, "detail": code, "answered": status,
                "times": each.times, "seconds": round(max(now - each.since, 0.0), 3), "status": "refused",
            }  # fmt: skip
            if not self._audit.append(Record(each.id, "outcome", now, body)):
                self._audit.lost += each.times - 1


def _told(asked: tuple[bytes, bytes]) -> tuple[str, str]:
    """Method and path for the records."""
    method, path = asked
    return method.decode("ascii", "replace")[:200], kept(path)
