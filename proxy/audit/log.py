"""The audit log as the proxy sees it: `durable` waits for the disk, `append` does not, and neither blocks the loop.

A process of its own writes (see `writer`). What one turn of the event loop brings is sent to it in one message; all
that gathers while it writes goes into its next commit, so that many exchanges share one sync; one answer settles them.

INVARIANT: a record that was taken is either in the file or still here, until the writer has said that it is in the
file; the queue is bounded; what could not be taken is counted in `lost` or refused with AuditUnavailable. While the
disk fails or the writer is gone, waiters are refused at once, `healthy` is False, and what is held is written later:
by the writer, which keeps trying, or by the next one, to which all is sent that the last one did not answer and had
not written.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .entry import AuditUnavailable, Entry
from .key import Key
from .process import Process
from .record import Record, encode
from .seal import Head
from .wire import Frames, Opening, Place, pack

Waiter = asyncio.Future[None]

LAZY = 0.02
"""Seconds that records without a waiter may wait for company."""
RESTART = (0.05, 5.0)
"""Seconds before a writer that ended is replaced: the first time, and at most."""


class Line(Protocol):
    """A writer at the other end of a socket (`process.Process`)."""

    sock: socket.socket

    def end(self, *, kill: bool) -> None: ...


class _Sent(NamedTuple):
    """The records of one turn, kept until the writer has answered."""

    records: int
    size: int
    waiters: list[Waiter]
    frame: bytes


class Audit:
    """See the module. All methods belong to the event loop that opened it; counters may be read anywhere.

    `lost`: records not taken or given up. `failed`: `durable` calls that were refused. `written`: records on disk.
    `waiting`, `waiting_bytes`: what is not on disk yet. `commits`: how often it was asked to sync. `head`: the newest
    row that is known to be on disk.
    """

    def __init__(
        self,
        start: Callable[[], Line],
        opening: Opening,
        *,
        capacity: int = 8192,
        capacity_bytes: int = 64 << 20,
    ) -> None:
        """See `open`. `start` starts a writer, in a thread. Nothing can be written before `begin`."""
        self._start, self._opening = start, opening
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._loop = asyncio.get_running_loop()
        self._turn: list[Entry] = []
        self._turn_size = 0
        self._turn_waiters: list[Waiter] = []
        self._soon = self._lazy = False
        self._sent: deque[_Sent] = deque()
        self._since: float | None = None
        self._line: Line | None = None
        self._frames = Frames()
        self._unsent: deque[bytes] = deque()
        self._ready = self._full = False
        self._began: asyncio.Future[None] | None = None
        self._pause = RESTART[0]
        self._restarts: asyncio.Task[None] | None = None
        self._lock: int | None = None
        self._closing = False
        self._fault: AuditUnavailable | None = None
        self._ended: Waiter = self._loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        self.waiting = 0
        self.waiting_bytes = 0
        self.written = 0
        self.commits = 0
        self.lost = 0
        self.failed = 0
        self.head: Head | None = None

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        key: Key | None = None,
        capacity: int = 8192,
        capacity_bytes: int = 64 << 20,
        patience: float = 5.0,
        gather: float = 0.001,
    ) -> Audit:
        """Open or make the SQLite log at `path` and mark what dead writers left open. Raises AuditUnavailable.

        `capacity` and `capacity_bytes` bound the queue, `patience` is how long a silent disk is waited for (seconds).
        After a commit that was shared the writer waits for company half as long as that commit took, at most `gather`
        seconds: a sync costs far more than a record."""
        opening = _opening(path, key, patience, gather)
        audit = cls(Process.start, opening, capacity=capacity, capacity_bytes=capacity_bytes)
        await audit.begin()
        return audit

    async def begin(self) -> None:
        """Start the writer and wait until it has opened the log. Raises AuditUnavailable."""
        await self._connect()
        self._watch = self._loop.call_later(self._opening.patience / 4, self._look)

    # ---- records

    @property
    def healthy(self) -> bool:
        """False while the disk fails, the writer is gone, the queue is full, or after `close`."""
        return self._fault is None and not self._closing

    @property
    def fault(self) -> AuditUnavailable | None:
        """Why it is not healthy."""
        return _CLOSED if self._closing else self._fault

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
        self._turn_waiters.append(waiter)
        if not self._soon:
            # Not at once: what else this turn of the loop brings shall share the message.
            self._soon = True
            self._loop.call_soon(self._flush)
        return waiter

    def append(self, record: Record) -> bool:
        """Queue the record; it is on the disk some 20 ms later. False where the queue is full or closed: the record
        is counted in `lost`. Raises ValueError for a record that is not JSON-able."""
        entry = encode(record)
        if self._closing or not self._take(entry):
            self.lost += 1
            return False
        if not self._lazy and not self._soon:
            self._lazy = True
            self._loop.call_later(LAZY, self._flush_lazy)
        return True

    async def probe(self) -> None:
        """Prove with a small synced write that the log can be written. Raises AuditUnavailable."""
        if self._closing or not self._ready:
            raise (self.fault or _CLOSED).again()
        self._flush()
        waiter = self._loop.create_future()
        if self._sent and not self._sent[-1].records:
            self._sent[-1].waiters.append(waiter)  # on a disk that hangs, probes must not pile up
        else:
            self._send([], 0, [waiter])
        await waiter

    async def close(self, within: float = 5.0) -> None:
        """Write what is queued, mark what is still open as aborted, end the writer; at most `within` seconds.

        Raises AuditUnavailable, and counts in `lost`, where records could not be written."""
        if not self._closing:
            self._flush()
            self._closing = True
            if self._watch is not None:
                self._watch.cancel()
            if self._ready:
                self._unsent.append(pack(None))
                self._push()
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
            self._sent.clear()
            raise AuditUnavailable(f"{left} record(s) could not be written before the end{why}")

    def _take(self, entry: Entry) -> bool:
        size = len(entry[3])
        if self.waiting >= self._capacity or self.waiting_bytes + size > self._capacity_bytes:
            if self._fault is None:
                mend = "the disk is too slow for this load"
                self._fault = AuditUnavailable(f"the queue is full ({self.waiting} records wait)", mend)
            return False
        self.waiting += 1
        self.waiting_bytes += size
        self._turn_size += size
        self._turn.append(entry)
        return True

    def _flush(self) -> None:
        """Send what this turn of the loop brought."""
        self._soon = False
        if self._turn:
            entries, size, waiters = self._turn, self._turn_size, self._turn_waiters
            self._turn, self._turn_size, self._turn_waiters = [], 0, []
            self._send(entries, size, waiters)

    def _flush_lazy(self) -> None:
        self._lazy = False
        self._flush()

    def _send(self, entries: list[Entry], size: int, waiters: list[Waiter]) -> None:
        frame = pack(entries)
        if not self._sent:
            self._since = time.monotonic()
        self._sent.append(_Sent(len(entries), size, waiters, frame))
        if self._ready:
            self._unsent.append(frame)
            if not self._full:
                self._push()

    def _settle(self, count: int, head: Head) -> None:
        """So many messages are on the disk: once per commit."""
        for _ in range(count):
            records, size, waiters, _ = self._sent.popleft()
            self.waiting -= records
            self.waiting_bytes -= size
            self.written += records
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self.head = head
        self._since = time.monotonic() if self._sent else None
        self._recovered()

    def _recovered(self) -> None:
        if self._fault is not None and 2 * self.waiting <= self._capacity:
            self._fault = None

    def _refuse(self, fault: AuditUnavailable) -> None:
        self._fault = fault
        for waiters in (*(sent.waiters for sent in self._sent), self._turn_waiters):
            for waiter in waiters:
                if not waiter.done():
                    self.failed += 1
                    waiter.set_exception(fault.again())
            waiters.clear()

    def _look(self) -> None:
        """A disk that hangs raises nothing: somebody must look at the clock."""
        since, patience = self._since, self._opening.patience
        if self._ready and since is not None and time.monotonic() - since > patience:
            self._refuse(AuditUnavailable(f"the disk has not answered for {patience:g} s", "check the disk"))
        self._watch = self._loop.call_later(patience / 4, self._look)

    # ---- the writer

    async def _connect(self) -> None:
        """Start a writer and wait until it has opened the log. Raises AuditUnavailable."""
        line = await asyncio.to_thread(self._start)
        self._line, self._frames = line, Frames()
        self._began = began = self._loop.create_future()
        try:
            self._loop.add_reader(line.sock, self._readable)
            place = self._opening.place
            with contextlib.suppress(OSError):  # it ended already: `_readable` will see
                line.sock.send(pack((*self._opening[:-1], place and tuple(place))))
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

    def _push(self) -> None:
        """Send as much as the socket takes."""
        assert self._line is not None
        sock, unsent = self._line.sock, self._unsent
        while unsent:
            frame = unsent[0]
            try:
                size = sock.send(frame)
            except BlockingIOError:
                size = 0
            except OSError:
                return  # it is gone: `_readable` will see
            if size < len(frame):
                unsent[0] = frame[size:]
                if not self._full:
                    self._full = True
                    self._loop.add_writer(sock, self._push)
                return
            unsent.popleft()
        if self._full:
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
            count, head = values
            self.commits += 1
            self._pause = RESTART[0]
            self._settle(count, Head(*head))
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
            if token and self._lock is None:
                self._lock = _share(f"{self._opening.path}-writers/{token}")
        except OSError as error:
            self._began.set_exception(AuditUnavailable(f"its place was lost: {error.strerror}", "start it again"))
            return
        self.head = Head(*head)
        self._opening = self._opening._replace(place=Place(token, writer, head[0], head[1]))
        # What the writer before had written without an answer: always whole messages, from the oldest on.
        whole = 0
        for sent in self._sent:
            if kept <= 0:
                break
            kept -= sent.records
            whole += 1
        self._settle(whole, self.head)
        self._unsent = deque(sent.frame for sent in self._sent)
        self._ready, self._full = True, False
        if self._closing:
            self._unsent.append(pack(None))
        self._push()
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
            self._refuse(AuditUnavailable("the writer's process ended", "another one is started"))
            self._restarts = self._loop.create_task(self._restart())

    async def _restart(self) -> None:
        await self._hang_up(kill=True)
        if self.head is not None and self._opening.place is not None:
            place = self._opening.place._replace(seq=self.head.seq, hash=self.head.hash)
            self._opening = self._opening._replace(place=place)
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


def _opening(path: str | os.PathLike[str], key: Key | None, patience: float, gather: float) -> Opening:
    return Opening(os.path.abspath(path), key.seal.key if key else None, patience, gather)


def _share(path: str) -> int:
    """Hold the writer's lock with it: while either of the two lives, nobody takes what it left open for abandoned."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


_CLOSED = AuditUnavailable("the log is closed", "the proxy is stopping")
