"""The audit log as the proxy sees it: `durable` waits for the disk, `append` does not, and neither blocks the loop.

One thread writes. All that gathered while it wrote goes into its next commit, so that many exchanges share one sync,
and one message to the event loop answers them all.

INVARIANT: a record that was taken is either in the file or still in the queue; the queue is bounded; what could not
be taken is counted in `lost` or refused with AuditUnavailable. While the disk fails, waiters are refused at once,
`healthy` is False, and the writer keeps trying with what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from .chain import Head, Key
from .record import AuditUnavailable, Entry, Record, encode
from .store import SqliteStore, Store

Waiter = asyncio.Future[None]
Item = tuple[Entry | None, Waiter | None]

BATCH = 2048
"""Most records in one commit."""
LAZY = 0.02
"""Seconds that records without a waiter may wait for company."""
BACKOFF = (0.05, 0.5)
"""Seconds before the first and between the later attempts on a failing disk."""
_SHORTEST = 0.0001
"""Seconds: a shorter sleep costs more than it saves."""


class Audit:
    """See the module. All methods belong to the event loop that opened it; counters may be read anywhere.

    `lost`: records not taken or given up. `failed`: `durable` calls that were refused. `written`: records on disk.
    """

    def __init__(
        self,
        store: Store,
        *,
        capacity: int = 8192,
        capacity_bytes: int = 64 << 20,
        patience: float = 5.0,
        gather: float = 0.001,
    ) -> None:
        """`capacity` and `capacity_bytes` bound the queue, `patience` is how long a silent disk is waited for
        (seconds). After a commit that was shared the writer waits for company half as long as that commit took, at
        most `gather` seconds: a sync costs far more than a record."""
        self._store, self._patience, self._gather = store, patience, gather
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._batch: list[Item] = []
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._rung = self._soon = False
        self._closing = False
        self._deadline = float("inf")
        self._since: float | None = None
        self._lazy: asyncio.TimerHandle | None = None
        self._fault: AuditUnavailable | None = None
        self._ended: Waiter = self._loop.create_future()
        self.waiting = 0
        self.waiting_bytes = 0
        self.written = 0
        self.commits = 0
        self.lost = 0
        self.failed = 0
        self.head: Head | None = None
        self._watch = self._loop.call_later(patience / 4, self._look)
        # A daemon: a disk that hangs for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        key: Key | None = None,
        capacity: int = 8192,
        capacity_bytes: int = 64 << 20,
        patience: float = 5.0,
        gather: float = 0.001,
    ) -> Audit:
        """Open or make the SQLite log at `path` and mark what dead writers left open. Raises AuditUnavailable."""
        store = await asyncio.to_thread(SqliteStore.open, path, key, patience=patience)
        limits = {"capacity": capacity, "capacity_bytes": capacity_bytes}
        return cls(store, **limits, patience=patience, gather=gather)

    # ---- on the event loop

    @property
    def healthy(self) -> bool:
        """False while the disk fails, the queue is full, or after `close`."""
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
        entry = encode(record)
        if not self._room(entry):
            self.failed += 1
            raise (self._fault or _CLOSED).again()
        waiter = self._loop.create_future()
        self._queue.append((entry, waiter))
        if not self._rung and not self._soon:
            # Not at once: what else this turn of the loop brings shall share the commit, and the writer's thread
            # would take the interpreter lock from the loop. It makes commits four times as large under load.
            self._soon = True
            self._loop.call_soon(self._ring_soon)
        return waiter

    def append(self, record: Record) -> bool:
        """Queue the record; it is on the disk some 20 ms later. False where the queue is full or closed: the record
        is counted in `lost`. Raises ValueError for a record that is not JSON-able."""
        entry = encode(record)
        if self._closing or not self._room(entry):
            self.lost += 1
            return False
        self._queue.append((entry, None))
        if self._lazy is None and not self._rung:
            self._lazy = self._loop.call_later(LAZY, self._ring)
        return True

    async def probe(self) -> None:
        """Prove with a small synced write that the log can be written. Raises AuditUnavailable."""
        if self._closing:
            raise _CLOSED.again()
        waiter = self._loop.create_future()
        self._queue.append((None, waiter))
        self._ring()
        await waiter

    async def close(self, within: float = 5.0) -> None:
        """Write what is queued, mark what is still open as aborted, end the thread; at most `within` seconds.

        Raises AuditUnavailable, and counts in `lost`, where records could not be written."""
        if not self._closing:
            self._closing = True
            self._deadline = time.monotonic() + within
            self._watch.cancel()
            self._bell.put(None)
        await asyncio.wait([self._ended], timeout=within + BACKOFF[1])
        if self._lazy is not None:
            self._lazy.cancel()
        self._end()
        if self.waiting:
            left, self.waiting, self.waiting_bytes = self.waiting, 0, 0
            self.lost += left
            why = f": {self._fault.problem}" if self._fault else ""
            self._refuse(_CLOSED)
            raise AuditUnavailable(f"{left} record(s) could not be written before the end{why}")

    def _room(self, entry: Entry) -> bool:
        size = len(entry.body)
        if self.waiting >= self._capacity or self.waiting_bytes + size > self._capacity_bytes:
            if self._fault is None:
                mend = "the disk is too slow for this load"
                self._fault = AuditUnavailable(f"the queue is full ({self.waiting} records wait)", mend)
            return False
        self.waiting += 1
        self.waiting_bytes += size
        return True

    def _ring(self) -> None:
        self._lazy = None
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def _ring_soon(self) -> None:
        self._soon = False
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def _settle(self, batch: list[Item], head: Head) -> None:
        """A batch is on the disk: once per commit."""
        records = size = 0
        for entry, waiter in batch:
            if entry is not None:
                records += 1
                size += len(entry.body)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        if self._ended.done():
            return
        self.waiting -= records
        self.waiting_bytes -= size
        self.written += records
        self.commits += 1
        self.head = head
        if self._fault is not None and 2 * self.waiting <= self._capacity:
            self._fault = None

    def _refuse(self, fault: AuditUnavailable) -> None:
        self._fault = fault
        # Copies are made in one step under the interpreter lock; the writer may be taking from both.
        for _, waiter in list(self._batch) + list(self._queue):
            if waiter is not None and not waiter.done():
                self.failed += 1
                waiter.set_exception(fault.again())

    def _look(self) -> None:
        """A disk that hangs raises nothing: somebody must look at the clock."""
        since = self._since
        if since is not None and time.monotonic() - since > self._patience:
            self._refuse(AuditUnavailable(f"the disk has not answered for {self._patience:g} s", "check the disk"))
        self._watch = self._loop.call_later(self._patience / 4, self._look)

    def _end(self) -> None:
        if not self._closing:
            self._refuse(AuditUnavailable("the writer ended", "restart the proxy"))
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- on the writer's thread

    def _run(self) -> None:
        pause = 0.0
        try:
            while True:
                if not self._queue:
                    if self._closing:
                        break
                    self._bell.get()
                else:
                    with contextlib.suppress(Empty):
                        self._bell.get_nowait()  # the ring that came while the last commit was made
                if pause > _SHORTEST:
                    time.sleep(pause)
                self._rung = False
                self._batch = batch = self._take()
                if not batch:
                    pause = 0.0
                    continue
                began = time.monotonic()
                if not self._commit(batch):
                    break
                pause = min((time.monotonic() - began) / 2, self._gather) if len(batch) > 1 else 0.0
        finally:
            self._store.close()
            self._tell(self._end)

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        queue = self._queue
        while queue and len(batch) < BATCH:
            batch.append(queue.popleft())
        return batch

    def _commit(self, batch: list[Item]) -> bool:
        """Try until the batch is written. False where the log was closed and its time is over."""
        entries = [entry for entry, _ in batch if entry is not None]
        pause, most = BACKOFF
        while True:
            self._since = time.monotonic()
            try:
                head = self._store.write(entries)
            except Exception as error:  # whatever it is, the batch is kept and the proxy hears of it
                unknown = AuditUnavailable(f"cannot write: {type(error).__name__}", "see the log of the proxy")
                self._tell(self._refuse, error if isinstance(error, AuditUnavailable) else unknown)
            else:
                self._since = None
                self._tell(self._settle, batch, head)
                self._store.tidy()
                return True
            self._since = None
            left = self._deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, most)

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(call, *args)


_CLOSED = AuditUnavailable("the log is closed", "the proxy is stopping")
