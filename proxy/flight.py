"""The exchanges in flight: how many, and none for longer than it may be.

One timer for all of them: they began in the order in which they are due, so only the oldest is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from .listener import Caller


class Ending(NamedTuple):
    """Why Penstock itself ends an exchange: how the record calls it, and what the client is told."""

    name: str
    status: int
    code: str
    words: str


SHUTDOWN = Ending("cancelled", 503, "server_shutdown", "Penstock is being shut down")
LATE = Ending("exchange_timeout", 504, "exchange_timeout", "The exchange took longer than it may")


def ending(caller: Caller) -> Ending:
    """Why the exchange of a caller who did not hang up is ended."""
    return LATE if caller.late else SHUTDOWN


def fate(caller: Caller) -> str:
    """How a cancelled exchange ended, as records call it."""
    return "client_gone" if caller.gone else ending(caller).name


class InFlight:
    """The tasks of exchanges; each is cancelled `limit` seconds after it was added."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: dict[asyncio.Task[None], tuple[float, Caller]] = {}  # the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def add(self, task: asyncio.Task[None], caller: Caller) -> None:
        loop = asyncio.get_running_loop()
        self._tasks.add(task)
        self._due[task] = loop.time() + self._limit, caller
        if self._timer is None:
            self._timer = loop.call_later(self._limit, self._ring, loop)

    def discard(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._due.pop(task, None)

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(self._tasks)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._due:
            task, (due, caller) = next(iter(self._due.items()))
            if due > now:
                self._timer = loop.call_at(due, self._ring, loop)
                return
            del self._due[task]
            caller.late = True
            task.cancel()
        self._timer = None
