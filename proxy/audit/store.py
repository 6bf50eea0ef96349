"""The SQLite store: one file, one chain, any number of processes that write to it.

INVARIANT: when `write` returns, its entries are in the file, in order, chained, synced and covered by the head file.
A call that raised is repeated with the same entries until it returns; it never writes them twice, also where the
failed attempt had reached the disk after all: rows of this writer after the newest one it knows of are that attempt.

Each writer has a place: a row, and a lock on a file of its own (`PATH-writers/TOKEN`), shared between its process and
the proxy that it writes for. Whoever opens the log next and gets that lock alone knows that both are gone, whatever
their process numbers mean by now, and marks what they left open. Where only the writer's process died, the next one
takes over the place.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import sqlite3
import time
from abc import ABC, abstractmethod

from .entry import COLUMNS, AuditUnavailable, Entry
from .head import PRUNED, BadHead, HeadFile, pack, path_of
from .keeping import BATCH, OLDEST, Keeping
from .schema import FilePath, connect, create, explain, inspect, is_roomy, open_meta
from .seal import Head, Sealer, genesis, sealed
from .wire import Opened, Place
from .written import aborted, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKPOINT = 8 << 20
"""Bytes, roughly, after which the write-ahead log is folded into the file."""
_PRUNED = 100 * 4096
"""What taking BATCH rows away writes to the write-ahead log, roughly."""
_PAGES = 3 * 4096
"""What a commit writes besides the bodies: the pages that it changes are written whole."""


class Store(ABC):
    """What a database must do to hold the log. Called from one thread at a time."""

    @abstractmethod
    def write(self, entries: Sequence[Entry]) -> Head:
        """Durable, chained and in order when it returns; repeated with the same entries after it raised
        AuditUnavailable. An empty list proves that the store can be written."""

    def has_room(self) -> bool:
        """False where a write succeeded on what was full a moment ago, and the next may well fail again."""
        return True

    @abstractmethod
    def tidy(self) -> None:
        """Upkeep between writes, when nobody waits. Never raises."""

    @abstractmethod
    def close(self, why: str) -> None:
        """Mark what is still open as aborted, for that reason, and let go. Never raises."""


class SqliteStore(Store):
    """See Store. Made by `SqliteStore.open`."""

    def __init__(self, path: str, db: sqlite3.Connection, head: HeadFile, seal: Sealer) -> None:
        self.path, self._head, self._seal = path, head, seal
        self._db: sqlite3.Connection | None = db
        self._uuid = open_meta(db, path, seal)
        self._inode = os.stat(path).st_ino
        self._folder = f"{path}-writers"
        self._known, self._doubt = 0, False
        self._wal, self._stays = 0, False
        self._full = False
        self._open: dict[str, int] = {}
        self._token, self._writer = os.urandom(8).hex(), 0
        self._noted = 0.0
        self._bytes = 0
        self._folding = self._folded = False
        self._lock: int | None = None
        self._keeping: Keeping | None = None
        self.opened: Opened = (self._token, 0, genesis(seal, self._uuid), 0)

    @classmethod
    def open(
        cls, path: FilePath, seal: Sealer, *, patience: float = 5.0, place: Place | None = None, keep: float = 0.0
    ) -> SqliteStore:
        """Open or make the log, mark what dead writers left open; `place` is taken over, rows are kept for `keep`
        seconds (0: for ever). Raises AuditUnavailable."""
        path = os.path.abspath(os.fspath(path))
        head: HeadFile | None = None
        db: sqlite3.Connection | None = None
        try:
            if place is not None:
                os.stat(path)  # what was there a moment ago is not begun anew
            inspect(path, seal)
            head = HeadFile(path_of(path), seal)
            with head.turn(patience):
                db = create(path, seal, patience)
                store = cls(path, db, head, seal)
                store._keeping = Keeping(keep, store._when(db)) if keep else None
                store._enter(place)
                return store
        except (OSError, sqlite3.Error, AuditUnavailable) as error:
            if db is not None:
                db.close()
            if head is not None:
                head.close()
            raise explain(error, path) from None

    # ---- opening: the head, the writers, what they left behind

    def _enter(self, place: Place | None) -> None:
        """Take a place among the writers, check the head, recover. Under the head lock."""
        db = self._db
        assert db is not None
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        if place is not None:
            self._token = place[0]
        mine = os.path.join(self._folder, self._token)
        self._lock = os.open(mine, os.O_RDWR | os.O_CLOEXEC | (0 if place else os.O_CREAT | os.O_EXCL), 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            db.execute("BEGIN IMMEDIATE")
            last = self._last(db)
            fresh = self._check_head(db, last)
            kept, dead = 0, list[str]()
            if place is None:
                self._join(db, last)
                if fresh and last.seq:
                    last = self._insert(db, last, [note(self._token, _HEAD_GONE)])
                last, dead = self._recover(db, last)
            else:
                # Nothing of our own is written here: what follows the newest row that the owner knows of is its own.
                kept = self._take_over(db, place)
            db.execute("COMMIT")
            self._head.write(last)
            if fresh:
                self._head.sync()
            for path in dead:
                _unlink(path)
        except BaseException:
            if place is None:
                _unlink(mine)
            os.close(self._lock)
            raise
        self._known = last.seq
        self.opened = (self._token, self._writer, last, kept)

    def _join(self, db: sqlite3.Connection, last: Head) -> None:
        row = (self._token, os.getpid(), os.uname().nodename, time.time(), last.seq + 1)
        sql = "INSERT INTO writers (token, pid, host, started, low) VALUES (?, ?, ?, ?, ?)"
        self._writer = db.execute(sql, row).lastrowid or 0

    def _take_over(self, db: sqlite3.Connection, place: Place) -> int:
        """How many rows of this place came after the newest one that its owner knows of."""
        token, self._writer, seq, hash = place
        mine = "SELECT low FROM writers WHERE id = ? AND token = ? AND stopped IS NULL"
        low = db.execute(mine, (self._writer, token)).fetchone()
        known = db.execute("SELECT hash FROM records WHERE seq = ?", (seq,)).fetchone()
        if low is None or (known[0] if known else genesis(self._seal, self._uuid).hash) != hash:
            raise AuditUnavailable(f"{self.path} is not what this proxy wrote", "see `penstock audit verify`")
        # For its sync: what the one before wrote may not have been synced before it was killed.
        db.execute("UPDATE writers SET pid = ?, seen = ? WHERE id = ?", (os.getpid(), time.time(), self._writer))
        kept = "SELECT count(*) FROM records WHERE seq > ? AND writer = ?"
        found = int(db.execute(kept, (seq, self._writer)).fetchone()[0])
        for seq, id in db.execute("SELECT seq, id " + _LEFT_OPEN, (*low, self._writer)):
            self._open[id] = seq
        return found

    def _check_head(self, db: sqlite3.Connection, last: Head) -> bool:
        """True where there is no head file yet. Raises AuditUnavailable where it and the table disagree."""
        mend = (
            f"see `penstock audit verify --path {self.path}`; to begin a new log, move {self.path} and "
            f"{self._head.path} away together"
        )
        try:
            noted = self._head.read()
        except BadHead as error:
            raise AuditUnavailable(f"{self._head.path}: {error}", mend) from None
        if noted is None:
            return True
        if noted.seq > last.seq:
            gone = noted.seq - last.seq
            raise AuditUnavailable(f"the newest {gone} row(s) of {self.path} are gone", mend)
        found = db.execute("SELECT hash FROM records WHERE seq = ?", (noted.seq,)).fetchone()
        if (found[0] if found else genesis(self._seal, self._uuid).hash) != noted.hash:
            raise AuditUnavailable(f"{self.path} and its head file are not of one piece", mend)
        return False

    def _recover(self, db: sqlite3.Connection, last: Head) -> tuple[Head, list[str]]:
        dead: list[str] = []
        for writer, token, low in db.execute(
            "SELECT id, token, low FROM writers WHERE stopped IS NULL AND id <> ?", (self._writer,)
        ).fetchall():
            path = os.path.join(self._folder, token)
            if not gone(path):
                continue
            dead.append(path)
            ended = db.execute(_ABORTED + _LEFT_OPEN, ("its process ended", low, writer)).fetchall()
            last = self._insert(db, last, [aborted(*row) for row in ended])
            db.execute("UPDATE writers SET stopped = ? WHERE id = ?", (time.time(), writer))
        return last, dead

    # ---- writing

    def write(self, entries: Sequence[Entry]) -> Head:
        try:
            with self._head.turn():
                return self._write(entries)
        except (OSError, sqlite3.Error, AuditUnavailable) as error:
            self._drop()
            told = explain(error, self.path)
            self._full = self._full or told.state == "full"
            raise told from None

    def has_room(self) -> bool:
        self._full = self._full and not is_roomy(self.path)
        return not self._full

    def _write(self, entries: Sequence[Entry]) -> Head:
        db = self._db
        if db is None:
            db = self._db = connect(self.path, 5.0)
        self._check_place(db)
        db.execute("BEGIN IMMEDIATE")
        last = self._last(db)
        if last.seq < self._known:
            gone = f"the newest {self._known - last.seq} row(s) of {self.path} are gone"
            raise AuditUnavailable(
                gone, f"put the file back; see `penstock audit verify --path {self.path}`", "damaged"
            )
        first = self._written(db) if self._doubt else None
        if first is None:
            first = last.seq + 1
            last = self._insert(db, last, entries)
        now = time.monotonic()
        # In doubt also for its sync: that what was found can be read does not say that it is on the disk.
        if self._doubt or not entries or now - self._noted > 1.0:
            low = next(iter(self._open.values()), first)
            db.execute("UPDATE writers SET low = ?, seen = ? WHERE id = ?", (low, time.time(), self._writer))
            self._noted = now
        self._doubt = True
        db.execute("COMMIT")
        self._head.write(last)
        self._doubt, self._known = False, last.seq
        self._wal = self._wal or _inode(f"{self.path}-wal")
        self._remember(entries, first)
        if self._keeping is not None:
            self._keeping.wrote(len(entries))
        return last

    def _check_place(self, db: sqlite3.Connection) -> None:
        """Raises AuditUnavailable where somebody took away or emptied what is in use."""
        found = os.stat(self.path)
        if found.st_ino != self._inode or not found.st_size:
            mend = f"put the file back, or restart to begin a new one (move {self._head.path} away too)"
            raise AuditUnavailable(f"{self.path} was replaced while in use", mend, "damaged")
        if self._wal and _inode(f"{self.path}-wal") != self._wal:
            # What it holds is brought into the file. Nobody begins another one while some process still has the old.
            db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            self._stays = True
            mend = f"restart: what it held is saved, as `penstock audit verify --path {self.path}` says"
            raise AuditUnavailable(f"{self.path}-wal was taken away while in use", mend, "damaged")
        self._stays = False

    def _written(self, db: sqlite3.Connection) -> int | None:
        """The first row of an attempt that had reached the file."""
        sql = "SELECT min(seq) FROM records WHERE seq > ? AND writer = ?"
        found = db.execute(sql, (self._known, self._writer)).fetchone()[0]
        return None if found is None else int(found)

    def _remember(self, entries: Sequence[Entry], first: int) -> None:
        self._bytes += _PAGES
        for seq, entry in enumerate(entries, first):
            if entry[2] == "intent":
                self._open.setdefault(entry[1], seq)
            else:
                self._open.pop(entry[1], None)
            self._bytes += len(entry[4])

    def _when(self, db: sqlite3.Connection) -> float:
        """When the newest row was written; 0 where there is none."""
        row = db.execute("SELECT at FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        return float(row[0]) if row else 0.0

    def _last(self, db: sqlite3.Connection) -> Head:
        row = db.execute("SELECT seq, hash, id FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        return Head(*row) if row else genesis(self._seal, self._uuid)

    def _insert(self, db: sqlite3.Connection, last: Head, entries: Sequence[Entry]) -> Head:
        seal, writer, (seq, prev, _) = self._seal, self._writer, last
        rows = []
        for entry in entries:
            seq += 1
            stamp, *plain = entry
            prev = sealed(seal, prev, seq, stamp, writer, entry[4])
            rows.append((seq, writer, prev, *plain))
        db.executemany(_INSERT, rows)
        return Head(seq, prev, entries[-1][1] if entries else last.id)

    def _drop(self) -> None:
        """After an error nothing about the connection is certain: begin the next attempt with a new one."""
        if self._stays:
            return
        db, self._db = self._db, None
        self._wal = 0
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    # ---- upkeep and the end

    def tidy(self) -> None:
        if self._stays:
            return
        if self._keeping is not None and self._db is not None and not self._doubt and self._keeping.due():
            self._prune(self._db, self._keeping)
        if self._folded and self._db is not None:
            # What came meanwhile is little; once it is folded too, the write-ahead log begins anew.
            self._folded = False
            _checkpoint(self._db)
        elif self._bytes >= CHECKPOINT and not self._folding:
            self._bytes, self._folding = 0, True
            _thread.start_new_thread(self._fold, ())

    def _prune(self, db: sqlite3.Connection, keeping: Keeping) -> None:
        """Take a few of the oldest rows away, where they are older than is kept."""
        try:
            with self._head.turn():
                db.execute("PRAGMA synchronous = NORMAL")  # it may be lost with the power, and is done again
                db.execute("BEGIN IMMEDIATE")
                gone = keeping.prefix(db.execute(OLDEST, (BATCH + 1,)).fetchall())
                if gone is not None:
                    db.execute("DELETE FROM records WHERE seq <= ?", (gone.seq,))
                    sealed_note = pack(gone, self._seal, PRUNED).decode()
                    db.execute("INSERT OR REPLACE INTO meta VALUES ('pruned', ?)", (sealed_note,))
                    self._bytes += _PRUNED
                db.execute("COMMIT")
                db.execute("PRAGMA synchronous = FULL")
        except (OSError, sqlite3.Error):  # what stands in the way of commits is told by the next one
            self._drop()
            keeping.later()

    def _fold(self) -> None:
        """Bring the write-ahead log into the file, in a thread: commits go on, and need not wait some 15 ms for it."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(self.path, 5.0)) as db:
            _checkpoint(db)
        self._folded, self._folding = True, False

    def close(self, why: str = "the proxy stopped before it ended") -> None:
        with contextlib.suppress(AuditUnavailable):
            if not self._doubt and self._db is not None:
                self._leave(self._db, why)
        self._stays = False
        self._drop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            self._head.close()

    def _leave(self, db: sqlite3.Connection, why: str) -> None:
        try:
            one = _ABORTED + "FROM records AS r WHERE seq = ?"
            rows = [db.execute(one, (why, seq)).fetchone() for seq in self._open.values()]
            if rows:
                self.write([aborted(*row) for row in rows])
            db.execute("UPDATE writers SET stopped = ? WHERE id = ?", (time.time(), self._writer))
            _unlink(os.path.join(self._folder, self._token))
        except (OSError, sqlite3.Error) as error:
            raise explain(error, self.path) from None


_INSERT = (
    f"INSERT INTO records (seq, writer, hash, id, kind, at, body, {', '.join(COLUMNS)}) "  # noqa: S608 - our own words
    f"VALUES (?, ?, ?, ?, ?, ?, CAST(? AS TEXT){', ?' * len(COLUMNS)})"
)
_HEAD_GONE = "the head file was missing when the log was opened; newer rows may have been cut off"
_LEFT_OPEN = (
    "FROM records AS r WHERE seq >= ? AND writer = ? AND kind = 'intent' AND NOT EXISTS "
    "(SELECT 1 FROM records AS o WHERE o.id = r.id AND o.kind = 'outcome') ORDER BY seq"
)
"""Intents without an outcome: from which row, of which writer."""
_ABORTED = (
    "SELECT id, policy, model, account, json_object('policy', policy, 'model', model, 'account', account, "
    "'status', 'aborted', 'reason', ?) "
)
"""SQLite's JSON: an import of Python's would be a tenth of the writer's memory."""


def _checkpoint(db: sqlite3.Connection) -> None:
    # A full disk shows in the next commit, which is the one that matters.
    with contextlib.suppress(sqlite3.Error):
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def _inode(path: str) -> int:
    """Which file it is; 0 where there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def gone(path: str) -> bool:
    """True where no living process holds the writer's lock."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
