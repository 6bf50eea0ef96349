"""Calls that all wait equally long, under one timer: a timer of the loop for each would cost as much as parsing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Later:
    """Calls that come `delay` seconds after they were added, at most a tenth of that later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._waiting: deque[Pending] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Callable[[], None]) -> Pending:
        """`call` will be called, unless what this returns is cancelled first."""
        loop = asyncio.get_running_loop()
        pending = Pending(loop.time() + self._delay, call)
        self._waiting.append(pending)
        if self._timer is None:
            self._timer = loop.call_later(self._delay, self._ring, loop)
        return pending

    def close(self) -> None:
        """Nothing will be called any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, now = self._waiting, loop.time()
        while waiting and (waiting[0].call is None or waiting[0].due <= now):
            pending = waiting.popleft()
            if pending.call is not None:
                loop.call_soon(pending.ring)
        # A little late for the first brings its successors along.
        wait = max(waiting[0].due - now, 0) + self._delay / 10 if waiting else 0
        self._timer = loop.call_later(wait, self._ring, loop) if waiting else None


class Pending:
    """A call that has not come yet."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def ring(self) -> None:
        """It is time. Whoever ran between the clock and this may have cancelled it."""
        if self.call is not None:
            self.call()

    def cancel(self) -> None:
        """Never call it; it holds nothing from now on."""
        self.call = None
