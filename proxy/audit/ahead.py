"""Reading the index of a log in SQLite ahead of whoever searches it.

Decision: a search that goes on is joined by threads, which read older parts of the index that it will come to. Why: a
disk answers many questions at once as fast as one, and a search asks one after the other: of a million rows that no
memory holds, .9 s in place of 3. Cost: a connection for each thread; none where a search ends soon or finds its pages
in memory, as the kernel's count of blocks that were read says.
"""

from __future__ import annotations

import contextlib
import queue
import resource
import sqlite3
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Self

from .entry import AuditUnavailable

Span = tuple[float, float]
PATIENCE = 0.03
"""Seconds after which a search is one that goes on."""
FEW = 256
"""Blocks (of 512 bytes) that may be read in that time by a search that finds its pages in memory."""
THREADS = 8
PARTS = 128
"""Into so many the index is cut, each as many rows."""
_ENDS = "SELECT (SELECT min(seq) FROM records), (SELECT max(seq) FROM records)"
_EDGE = "SELECT at FROM records WHERE seq >= ? ORDER BY seq LIMIT 1"
_READ = "SELECT count(*) FROM records INDEXED BY records_found WHERE at >= ? AND at < ? AND request = ''"


class Ahead:
    """Reads ahead while the block lasts: of rows whose `at` is within `span`, the newest first. `connect` opens the
    log for reading. Tells of no fault: who searches meets it as well."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], span: Span) -> None:
        self._connect, self._span = connect, span
        self._over = threading.Event()
        self._parts: queue.SimpleQueue[Span] = queue.SimpleQueue()
        self._readers: list[threading.Thread] = []
        self._begin = threading.Thread(target=self._run, name="audit ahead", daemon=True)

    def __enter__(self) -> Self:
        self._begin.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._begin.join()
        for reader in self._readers:
            reader.join()

    def _run(self) -> None:
        before = _blocks()
        if self._over.wait(PATIENCE) or _blocks() - before < FEW:
            return
        with contextlib.suppress(sqlite3.Error, AuditUnavailable), contextlib.closing(self._connect()) as db:
            self._cut(db)
            for _ in range(THREADS):
                reader = threading.Thread(target=self._read, name="audit ahead", daemon=True)
                self._readers.append(reader)
                reader.start()

    def _cut(self, db: sqlite3.Connection) -> None:
        """By rows, not by time: a clock that jumped, or a quiet week, must not make one part of all."""
        first, last = db.execute(_ENDS).fetchone()
        if first is None:
            return
        low, high = self._span
        steps = {first + (last - first) * part // PARTS for part in range(PARTS)}
        edges = {at for step in steps for (at,) in db.execute(_EDGE, (step,)) if low < at < high}
        for older, newer in reversed(list(pairwise([low, *sorted(edges), high]))):
            self._parts.put((older, newer))

    def _read(self) -> None:
        with (
            contextlib.suppress(sqlite3.Error, AuditUnavailable, queue.Empty),
            contextlib.closing(self._connect()) as db,
        ):
            while not self._over.is_set():
                db.execute(_READ, self._parts.get_nowait()).fetchone()


def _blocks() -> int:
    """How many blocks this process has had read from disks."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock
