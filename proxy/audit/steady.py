"""Wall time for what cannot be taken back: deleting what is too old, letting go of who is banned.

A clock that jumps ahead (a machine that wakes, a time server that is wrong, a hand that slips) would make everything
old at once. So this one goes on as time passes, follows the system's clock back at once, and ahead only after that has
been ahead for HOLD. Cost: where the clock was behind and is put right, what ends by it ends an hour late.
"""

from __future__ import annotations

import time

HOLD = 3600.0
"""Seconds until a clock that is ahead is believed."""
SLACK = 30.0
"""Seconds ahead that are no jump: clocks are adjusted all the time."""
LEAP = 86_400.0
"""Seconds without a sign of life from which a clock is in doubt at the start."""


class Steady:
    """`last` is when there was something here last, where that is known (unix seconds): at the start a clock that is a
    LEAP ahead of it is not believed yet."""

    def __init__(self, last: float = 0.0) -> None:
        now = time.time()
        self._zero = (last if 0 < last < now - LEAP else now) - time.monotonic()
        self._ahead = (0.0, 0.0)
        """Since when (monotonic) the clock has been ahead, and where its zero was then."""

    def now(self) -> float:
        """Unix seconds."""
        passed = time.monotonic()
        zero = time.time() - passed
        if zero <= self._zero + SLACK:
            self._zero, self._ahead = zero, (0.0, 0.0)
        elif not self._ahead[0] or zero > self._ahead[1] + SLACK:
            self._ahead = passed, zero
        elif passed - self._ahead[0] >= HOLD:
            self._zero, self._ahead = zero, (0.0, 0.0)
        return self._zero + passed
