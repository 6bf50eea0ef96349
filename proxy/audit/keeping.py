"""How long rows are kept: when the writer takes the oldest away, how many at once, and which.

A prefix of the chain goes, a few rows at a time, and with each step the number and hash of its last row are noted under
the chain's seal. `verify` begins there: without the key nobody can make a beginning of their own.

Decision: the process that writes also prunes, between commits, twice as many rows as it writes. Why: it holds the lock
already, and no job can be forgotten. Cost: under load a commit in a hundred waits some milliseconds longer.
"""

from __future__ import annotations

import time

from .seal import Head
from .steady import Steady

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 256
"""Most rows that are taken away at once."""
PAUSE, REST = 0.25, 60.0
"""Seconds between two steps while there is more to take away, and most seconds between two looks."""
OLDEST = "SELECT seq, hash, id, at FROM records ORDER BY seq LIMIT ?"


class Keeping:
    """What one writer knows of it. `keep` is in seconds, `last` when the newest row was written (unix seconds)."""

    def __init__(self, keep: float, last: float = 0.0) -> None:
        self._keep = keep
        self._clock = Steady(last)
        self._next, self._more, self._written = 0.0, True, 0

    def wrote(self, rows: int) -> None:
        self._written += rows

    def due(self) -> bool:
        """Whether to look now."""
        if self._more and 2 * self._written >= BATCH:
            return True
        return time.monotonic() >= self._next

    def prefix(self, rows: Sequence[tuple[int, bytes, str, float]]) -> Head | None:
        """Of the oldest rows (seq, hash, id, unix seconds; one more than may go) the last one to take away. The newest
        row of a log stays. A row whose clock was ahead waits, and all after it, until it is old."""
        now = time.monotonic()
        until = self._clock.now() - self._keep
        gone = None
        oldest = until + REST
        for seq, hash, id, at in rows[:-1]:
            if at >= until:
                oldest = at
                break
            gone = Head(seq, hash, id)
        else:
            if len(rows) > BATCH:
                oldest = until
        self._written = 0
        self._more = oldest <= until
        self._next = now + (PAUSE if self._more else min(max(oldest - until, 1.0), REST))
        return gone

    def later(self) -> None:
        """It failed: not again at once."""
        self._more, self._next = False, time.monotonic() + REST
