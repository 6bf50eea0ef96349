"""The audit log as the proxy sees it: `durable` waits for the disk, `append` does not, and neither blocks the loop.

A process of its own writes (see `writer`). One batch is on its way at a time: what gathers here while it is written is
the next one, so that many exchanges share one message, one commit, one sync and one answer.

INVARIANT: a record that was taken is either in the file or still here, until the writer has said that it is in the
file; the queue is bounded; what could not be taken is counted in `lost` or refused with AuditUnavailable. While the
disk fails or the writer is gone, waiters are refused at once, `healthy` is False, and what is held is written later:
by the writer, which keeps trying, or by the next one, which first says whether the last one had written the batch
that it did not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .entry import AuditUnavailable, Entry
from .key import Key
from .process import Process
from .record import Record, encode
from .seal import Head
from .target import check_driver, is_database
from .wire import Frames, Opening, Place, pack

Waiter = asyncio.Future[None]

LAZY = 0.02
"""Seconds that records without a waiter may wait for company."""
BATCH = 2048
"""Most records in one commit."""
BUSY, REST = 8, 0.004
"""Where so many records came during a commit, the next one waits for more as long as that one took, and at most so many
seconds: a sync costs as much CPU as twenty records."""
AGAIN = 0.5
"""Seconds before it is looked whether a disk that was full has room for more."""
RESTART = (0.05, 5.0)
"""Seconds before a writer that ended is replaced: the first time, and at most."""


class Line(Protocol):
    """A writer at the other end of a socket (`process.Process`)."""

    sock: socket.socket

    def end(self, *, kill: bool) -> None: ...


class _Batch(NamedTuple):
    """What is on its way to the disk, kept until the writer has answered."""

    records: int
    size: int
    waiters: list[Waiter]
    frame: bytes


class Audit:
    """See the module. All methods belong to the event loop that opened it; counters may be read anywhere.

    `lost`: records not taken or given up. `failed`: `durable` calls that were refused. `written`: records on disk.
    `waiting`, `waiting_bytes`: what is not on disk yet. `commits`: how often it was asked to sync. `head`: the newest
    row that is known to be on disk. `observer` is told of each fault, and of None when it is over.
    """

    def __init__(
        self,
        start: Callable[[], Line],
        path: str,
        key: bytes | None = None,
        *,
        capacity: int = 8192,
        capacity_bytes: int = 64 << 20,
        patience: float = 5.0,
        keep: float = 0.0,
        head: str = "",
    ) -> None:
        """See `open`. `start` starts a writer, in a thread. Nothing can be written before `begin`."""
        self._start, self._path, self._key, self._patience = start, path, key, patience
        self._more = keep, head
        self._place: Place | None = None
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._loop = asyncio.get_running_loop()
        self._entries: list[Entry] = []
        self._sizes = 0
        self._waiters: list[Waiter] = []
        self._batch: _Batch | None = None
        self._since = 0.0
        self._idle = True  # nothing is on its way, nor about to be
        self._lazy = False
        self._line: Line | None = None
        self._frames = Frames()
        self._ready = self._full = self._parted = False
        self._began: asyncio.Future[None] | None = None
        self._pause = RESTART[0]
        self._restarts: asyncio.Task[None] | None = None
        self._lock: int | None = None
        self._closing = False
        self._fault: AuditUnavailable | None = None
        self._ended: Waiter = self._loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self.waiting = self.waiting_bytes = 0
        self.written = self.commits = 0
        self.lost = self.failed = 0
        self.head: Head | None = None
        self.observer: Callable[[AuditUnavailable | None], None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        key: Key | None = None,
        capacity: int = 8192,
        capacity_bytes: int = 64 << 20,
        patience: float = 5.0,
        keep: float = 0.0,
        head: str | os.PathLike[str] = "",
    ) -> Audit:
        """Open or make the log at `path` (a file, or the URL of a PostgreSQL database) and mark what dead writers left
        open. Raises AuditUnavailable.

        `capacity` and `capacity_bytes` bound the queue, `patience` is how long a silent disk is waited for (seconds),
        and `keep` how long records are kept (seconds; 0: for ever). `head` is the file in which this replica notes the
        newest head of a database; a log in a file has its own.
        """
        limits = {"capacity": capacity, "capacity_bytes": capacity_bytes}
        where, secret = os.fspath(path), key.seal.key if key else None
        if is_database(where):
            check_driver()
            start: Callable[[], Line] = Process.with_packages
        else:
            where, start = _absolute(where), Process.start
        # The writer's directory is another one.
        noted = _absolute(head) if head else ""
        audit = cls(start, where, secret, patience=patience, keep=keep, head=noted, **limits)
        await audit.begin()
        return audit

    async def begin(self) -> None:
        """Start the writer and wait until it has opened the log. Raises AuditUnavailable."""
        await self._connect()
        self._watch = self._loop.call_later(self._patience / 4, self._look)

    # ---- records

    @property
    def healthy(self) -> bool:
        """False while the disk fails, the writer is gone, the queue is full, or after `close`."""
        return self._fault is None and not self._closing

    @property
    def fault(self) -> AuditUnavailable | None:
        """Why it is not healthy."""
        return _CLOSED if self._closing else self._fault

    @property
    def roomy(self) -> bool:
        """Whether half of the queue is free, and it is healthy: what is not urgent is appended only then."""
        return self.healthy and 2 * self.waiting < self._capacity and 2 * self.waiting_bytes < self._capacity_bytes

    async def durable(self, record: Record) -> None:
        """Return when the record is on the disk; see `submit`. A cancelled call is written all the same."""
        await self.submit(record)

    def submit(self, record: Record) -> asyncio.Future[None]:
        """A future that is done when the record is on the disk.

        It raises AuditUnavailable where that cannot be said: the caller then releases nothing. (The record may still be
        written later: the history of a refused exchange.) Raises AuditUnavailable at once where no record can be taken,
        and ValueError for one that is not JSON-able. The future may be cancelled; the record is written all the same.
        """
        fault = self._fault
        if fault is not None or self._closing:
            self.failed += 1
            raise (fault or _CLOSED).again()
        if not self._take(encode(record)):
            self.failed += 1
            raise (self._fault or _CLOSED).again()
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        if self._idle:
            # Not at once: what else this turn of the loop brings shall share the commit.
            self._idle = False
            self._loop.call_soon(self._flush)
        return waiter

    def append(self, record: Record) -> bool:
        """Queue the record; it is on the disk some 20 ms later. False where the queue is full or closed: the record
        is counted in `lost`. Raises ValueError for a record that is not JSON-able."""
        entry = encode(record)
        if self._closing or not self._take(entry):
            self.lost += 1
            return False
        if self._idle and not self._lazy:
            self._lazy = True
            self._loop.call_later(LAZY, self._flush_lazy)
        return True

    async def probe(self) -> None:
        """Prove with a small synced write that the log can be written. Raises AuditUnavailable."""
        if self._closing or not self._ready:
            raise (self.fault or _CLOSED).again()
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        if self._idle:
            self._flush()
        await waiter
        if self._fault is not None:  # it was written, and the next may not be
            raise self._fault.again()

    async def close(self, within: float = 5.0) -> None:
        """Write what is queued, mark what is still open as aborted, end the writer; at most `within` seconds.

        Raises AuditUnavailable, and counts in `lost`, where records could not be written."""
        if not self._closing:
            self._closing = True
            for timer in (self._watch, self._again):
                if timer is not None:
                    timer.cancel()
            self._flush()
        await asyncio.wait([self._ended], timeout=within)
        late = not self._ended.done()
        self._end()
        if self._restarts is not None:
            await asyncio.wait([self._restarts])
        await self._hang_up(kill=late)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self.waiting:
            left, self.waiting, self.waiting_bytes = self.waiting, 0, 0
            self.lost += left
            why = f": {self._fault.problem}" if self._fault else ""
            self._refuse(_CLOSED)
            raise AuditUnavailable(f"{left} record(s) could not be written before the end{why}")

    def _take(self, entry: Entry) -> bool:
        size = len(entry[4])
        if self.waiting >= self._capacity or self.waiting_bytes + size > self._capacity_bytes:
            if self._fault is None:
                mend = "the disk is too slow for this load"
                self._fault = AuditUnavailable(f"the queue is full ({self.waiting} records wait)", mend, "overloaded")
                self._tell()
            return False
        self.waiting += 1
        self.waiting_bytes += size
        self._sizes += size
        self._entries.append(entry)
        return True

    def _flush(self) -> None:
        """Send what has gathered; when all is written and the end was asked for, the farewell."""
        if self._batch is not None:
            return  # `_next` comes back
        self._idle = False
        if not self._ready:
            return  # `_opened` comes back
        entries, waiters = self._entries, self._waiters
        if len(entries) > BATCH:
            entries, self._entries = entries[:BATCH], entries[BATCH:]
            waiters = []  # theirs may be among the others: they wait for both
            size = sum([len(entry[4]) for entry in entries])
            self._sizes -= size
        elif entries or waiters:
            size, self._sizes, self._entries, self._waiters = self._sizes, 0, [], []
        else:
            self._idle = True
            if self._closing and not self._parted:
                self._parted = True
                self._send(pack(None))
            return
        self._batch = _Batch(len(entries), size, waiters, pack(entries))
        self._since = time.monotonic()
        self._send(self._batch.frame)

    def _flush_lazy(self) -> None:
        self._lazy = False
        if self._idle:
            self._flush()

    def _settle(self, *, room: bool = True) -> None:
        """The batch is on the disk. Without `room` for more what was wrong still is, and is looked at again."""
        batch, self._batch = self._batch, None
        assert batch is not None
        self.waiting -= batch.records
        self.waiting_bytes -= batch.size
        self.written += batch.records
        for waiter in batch.waiters:
            if not waiter.done():
                waiter.set_result(None)
        if room:
            self._recovered()
        elif self._again is None and not self._closing:
            self._again = self._loop.call_later(AGAIN, self._look_again)

    def _next(self) -> None:
        """Go on after a batch: under load after a rest, else with what this turn of the loop still brings."""
        if len(self._entries) >= BUSY and not self._closing:
            took = time.monotonic() - self._since
            self._loop.call_later(min(took, REST), self._flush)
        elif self._waiters or self._closing:
            self._loop.call_soon(self._flush)
        else:
            self._idle = True
            if self._entries and not self._lazy:
                self._lazy = True
                self._loop.call_later(LAZY, self._flush_lazy)

    def _tell(self) -> None:
        if self.observer is not None:
            self.observer(self._fault)

    def _look_again(self) -> None:
        self._again = None
        if self._fault is not None and self._idle and self._ready and not self._closing:
            self._waiters.append(self._loop.create_future())
            self._flush()

    def _recovered(self) -> None:
        if self._fault is not None and 2 * self.waiting <= self._capacity:
            self._fault = None
            self._tell()

    def _refuse(self, fault: AuditUnavailable) -> None:
        self._fault = fault
        self._tell()
        for waiters in (self._batch.waiters if self._batch else [], self._waiters):
            for waiter in waiters:
                if not waiter.done():
                    self.failed += 1
                    waiter.set_exception(fault.again())
            waiters.clear()

    def _look(self) -> None:
        """A disk that hangs raises nothing: somebody must look at the clock."""
        patience = self._patience
        if self._ready and self._batch is not None and time.monotonic() - self._since > patience:
            self._refuse(AuditUnavailable(f"the disk has not answered for {patience:g} s", "check the disk", "slow"))
        self._watch = self._loop.call_later(patience / 4, self._look)

    # ---- the writer

    async def _connect(self) -> None:
        """Start a writer and wait until it has opened the log. Raises AuditUnavailable."""
        line = await asyncio.to_thread(self._start)
        self._line, self._frames = line, Frames()
        self._began = began = self._loop.create_future()
        try:
            self._loop.add_reader(line.sock, self._readable)
            opening: Opening = (self._path, self._key, self._patience, self._place, *self._more)
            with contextlib.suppress(OSError):  # it ended already: `_readable` will see
                line.sock.send(pack(opening))
            await began
        except BaseException:
            await self._hang_up(kill=True)
            raise
        finally:
            self._began = None

    async def _hang_up(self, *, kill: bool) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._ready = False
            self._loop.remove_reader(line.sock)
            self._loop.remove_writer(line.sock)
            await asyncio.to_thread(line.end, kill=kill)

    def _send(self, frame: bytes | memoryview) -> None:
        """As much as the socket takes now, and the rest when it takes more."""
        assert self._line is not None
        sock = self._line.sock
        try:
            size = sock.send(frame)
        except BlockingIOError:
            size = 0
        except OSError:
            return  # the writer is gone: `_readable` will see
        if size < len(frame):
            self._full = True
            self._loop.add_writer(sock, self._send, memoryview(frame)[size:])
        elif self._full:
            self._full = False
            self._loop.remove_writer(sock)

    def _readable(self) -> None:
        assert self._line is not None
        try:
            data = self._line.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
        for name, *values in self._frames.feed(data):
            self._told(name, values)

    def _told(self, name: str, values: list[Any]) -> None:
        if name == "written":
            *head, room = values
            self.head = Head(*head)
            self.commits += 1
            self._pause = RESTART[0]
            self._settle(room=room)
            self._next()
        elif name == "fault":
            self._since = time.monotonic()
            self._refuse(AuditUnavailable(*values))
        elif name == "opened":
            self._opened(*values)
        elif name == "failed":
            if self._began is not None and not self._began.done():
                self._began.set_exception(AuditUnavailable(*values))
        elif name == "closed":
            self._end()

    def _opened(self, token: str, writer: int, head: tuple[int, bytes, str], kept: int) -> None:
        if self._began is None or self._began.done():
            return
        try:
            if token and self._lock is None and not is_database(self._path):
                self._lock = _share(f"{self._path}-writers/{token}")
        except OSError as error:
            self._began.set_exception(AuditUnavailable(f"its place was lost: {error.strerror}", "start it again"))
            return
        self.head = Head(*head)
        self._place = (token, writer, self.head.seq, self.head.hash)
        self._ready, self._full, self._parted = True, False, False
        if kept and self._batch is not None:
            self._settle()  # the writer before had written it, and could not say so
        self._recovered()
        if self._batch is not None:
            self._since = time.monotonic()
            self._send(self._batch.frame)
        else:
            self._flush()
        self._began.set_result(None)

    def _gone(self) -> None:
        """The writer closed its end: it was asked to, or it died."""
        assert self._line is not None
        self._loop.remove_reader(self._line.sock)
        if self._began is not None:
            if not self._began.done():
                self._began.set_exception(AuditUnavailable("its writer ended before the log was open", "try again"))
        elif not self._ended.done():
            self._ready = False
            self._refuse(AuditUnavailable("the writer's process ended", "another one is started", "stopped"))
            self._restarts = self._loop.create_task(self._restart())

    async def _restart(self) -> None:
        await self._hang_up(kill=True)
        if self.head is not None and self._place is not None:
            self._place = (*self._place[:2], self.head.seq, self.head.hash)
        while True:
            await asyncio.wait([self._ended], timeout=self._pause)
            self._pause = min(2 * self._pause, RESTART[1])
            if self._ended.done():
                return
            try:
                await self._connect()
            except AuditUnavailable as error:
                self._refuse(error)
            else:
                return

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
        if self._began is not None and not self._began.done():
            self._began.set_exception(_CLOSED.again())


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(path)


def _share(path: str) -> int:
    """Hold the writer's lock with it: while either of the two lives, nobody takes what it left open for abandoned."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


_CLOSED = AuditUnavailable("the log is closed", "the proxy is stopping", "stopped")
