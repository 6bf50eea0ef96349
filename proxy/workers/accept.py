"""How workers share one listening socket: who holds the fewest connections takes the next.

Decision: a worker that holds more than another leaves a new connection alone for a moment, then takes it after all.
Why: who is awake takes all that come, else: of 64 connections opened at once four workers took 47, 8, 5 and 4; now 16
each, or nearly. Cost: up to two milliseconds for a new connection, and our own accepting in place of the loop's, some
60 microseconds a connection: none where clients keep theirs.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import socket
from collections.abc import Callable, Sized

from ..logs import get_logger

log = get_logger("penstock.workers")

FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
REST = 1.0
"""Seconds without accepting where there is no room for another file: others may have it."""
MOMENT = 0.002
"""Seconds for a worker that holds fewer to be faster."""
AWAY = 1 << 62


class Load:
    """How many connections each of `size` workers holds, in memory that all processes share which are forked later."""

    def __init__(self, size: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * size)).cast("q")
        for number in range(size):
            self.away(number)

    def tell(self, number: int, count: int) -> bool:
        """Worker `number` holds so many: whether another holds fewer."""
        self._counts[number] = count
        return count > min(self._counts)

    def away(self, number: int) -> None:
        """Worker `number` takes no more."""
        self._counts[number] = AWAY


class Accepting:
    """Accepts on `sock` until it is closed, as worker `number`; `made` makes the protocol of a connection, `held` are
    those that are open."""

    def __init__(
        self,
        sock: socket.socket,
        load: Load,
        number: int,
        made: Callable[[], asyncio.Protocol],
        held: Sized,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._made, self._held, self._load, self._number = sock, made, held, load, number
        self._closed = False
        self._tasks: set[asyncio.Task[object]] = set()
        sock.setblocking(False)
        load.tell(number, 0)
        self._listen()

    def close(self) -> None:
        """Accept no more. The socket stays open for the other workers."""
        if not self._closed:
            self._closed = True
            self._load.away(self._number)
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._come)

    def _come(self) -> None:
        """Somebody wants to be accepted."""
        if self._load.tell(self._number, len(self._held) + len(self._tasks)):
            self._loop.remove_reader(self._sock)
            self._loop.call_later(MOMENT, self._late)
        else:
            self._take()

    def _late(self) -> None:
        if not self._closed:
            self._listen()
            self._take()

    def _take(self) -> None:
        try:
            client, _ = self._sock.accept()
        except OSError as error:  # mostly: another worker was faster
            if error.errno in FULL:
                mend = "raise the limit of open files (LimitNOFILE, ulimit -n), or add workers"
                log.error("no room for another connection", problem=error.strerror, mend=mend)
                self._loop.remove_reader(self._sock)
                self._loop.call_later(REST, self._listen)
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(self._made, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
