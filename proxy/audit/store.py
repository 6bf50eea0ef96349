"""The SQLite store: one file, one chain, any number of processes that write to it.

INVARIANT: when `write` returns, its entries are in the file, in order, chained, synced and covered by the head file.
A call that raised is repeated with the same entries until it returns; it never writes them twice, also where the
failed attempt had reached the disk after all.

Each writer holds a lock on a file of its own (`PATH-writers/TOKEN`) while it lives. Whoever opens the log next and
gets that lock knows that the writer is gone, whatever its process number means by now, and marks what it left open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import orjson

from .chain import Head, Key, genesis, link, sealer
from .head import BadHead, HeadFile, path_of
from .record import COLUMNS, AuditUnavailable, Entry, columns
from .schema import connect, create, explain, inspect, open_meta

CHECKPOINT = 4 << 20
"""Bytes of bodies after which the write-ahead log is folded into the file, after the waiters were answered."""


class Store(Protocol):
    """What a database must do to hold the log. Called from one thread at a time; methods raise AuditUnavailable."""

    def write(self, entries: Sequence[Entry]) -> Head:
        """Durable, chained and in order when it returns; repeated with the same entries after it raised.
        An empty list proves that the store can be written."""

    def tidy(self) -> None:
        """Upkeep between writes, when nobody waits. Never raises."""

    def close(self) -> None:
        """Mark what is still open as aborted and let go. Never raises after a failed `write`."""


class SqliteStore:
    """See Store. Made by `SqliteStore.open`."""

    def __init__(self, path: Path, db: sqlite3.Connection, head: HeadFile, key: Key | None, uuid: str) -> None:
        self.path, self._head, self._uuid = path, head, uuid
        self._db: sqlite3.Connection | None = db
        self._seal = sealer(key)
        self._inode = path.stat().st_ino
        self._attempt: Head | None = None
        self._open: dict[str, int] = {}
        self._writer = 0
        self._noted = 0.0
        self._bytes = 0
        self._lock: int | None = None
        self._token = secrets.token_hex(8)

    @classmethod
    def open(cls, path: str | Path, key: Key | None = None, *, patience: float = 5.0) -> SqliteStore:
        """Open or make the log, mark what dead writers left open. Raises AuditUnavailable."""
        path = Path(path).absolute()
        head: HeadFile | None = None
        db: sqlite3.Connection | None = None
        try:
            inspect(path, key)
            head = HeadFile(path_of(path), sealer(key))
            with head.turn(patience):
                db = create(path, key, patience)
                store = cls(path, db, head, key, open_meta(db, path, key))
                store._enter()
                return store
        except (OSError, sqlite3.Error, AuditUnavailable) as error:
            if db is not None:
                db.close()
            if head is not None:
                head.close()
            raise explain(error, path) from None

    # ---- opening: the head, the writers, what they left behind

    def _enter(self) -> None:
        """Take a place among the writers, check the head, recover. Under the head lock."""
        db = self._db
        assert db is not None
        folder = Path(f"{self.path}-writers")
        folder.mkdir(mode=0o700, exist_ok=True)
        mine = folder / self._token
        self._lock = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            db.execute("BEGIN IMMEDIATE")
            last = self._last(db)
            fresh = self._check_head(db, last)
            row = (self._token, os.getpid(), socket.gethostname(), time.time(), last.seq + 1)
            sql = "INSERT INTO writers (token, pid, host, started, low) VALUES (?, ?, ?, ?, ?)"
            self._writer = db.execute(sql, row).lastrowid or 0
            if fresh and last.seq:
                body = '{"note":"the head file was missing when the log was opened; newer rows may have been cut off"}'
                entry = Entry("note-" + self._token, "note", time.time(), body, (None,) * len(COLUMNS))
                last = self._insert(db, last, [entry])
            last, dead = self._recover(db, last, folder)
            db.execute("COMMIT")
            self._head.write(last)
            if fresh:
                self._head.sync()
            for path in dead:
                path.unlink(missing_ok=True)
        except BaseException:
            mine.unlink(missing_ok=True)
            os.close(self._lock)
            raise

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

    def _recover(self, db: sqlite3.Connection, last: Head, folder: Path) -> tuple[Head, list[Path]]:
        dead: list[Path] = []
        for writer, token, low in db.execute(
            "SELECT id, token, low FROM writers WHERE stopped IS NULL AND id <> ?", (self._writer,)
        ).fetchall():
            path = folder / token
            if not _gone(path):
                continue
            dead.append(path)
            left = db.execute(
                "SELECT id, body FROM records AS r WHERE seq >= ? AND writer = ? AND kind = 'intent' AND NOT EXISTS "
                "(SELECT 1 FROM records AS o WHERE o.id = r.id AND o.kind = 'outcome') ORDER BY seq",
                (low, writer),
            ).fetchall()
            last = self._insert(db, last, [_aborted(id, body, "its process ended") for id, body in left])
            db.execute("UPDATE writers SET stopped = ? WHERE id = ?", (time.time(), writer))
        return last, dead

    # ---- writing

    def write(self, entries: Sequence[Entry]) -> Head:
        try:
            with self._head.turn():
                return self._write(entries)
        except (OSError, sqlite3.Error, AuditUnavailable) as error:
            self._drop()
            raise explain(error, self.path) from None

    def _write(self, entries: Sequence[Entry]) -> Head:
        db = self._db
        if db is None:
            db = self._db = connect(self.path, 5.0)
        if os.stat(self.path).st_ino != self._inode:
            mend = f"put the file back, or restart to begin a new one (move {self._head.path} away too)"
            raise AuditUnavailable(f"{self.path} was replaced while in use", mend)
        db.execute("BEGIN IMMEDIATE")
        last = self._last(db)
        attempt = self._attempt
        if attempt is not None and self._wrote(db, attempt):
            db.execute("ROLLBACK")
        else:
            now = time.monotonic()
            if now - self._noted > 1.0 or not entries:
                low = next(iter(self._open.values()), last.seq + 1)
                db.execute("UPDATE writers SET low = ?, seen = ? WHERE id = ?", (low, time.time(), self._writer))
                self._noted = now
            last = self._insert(db, last, entries)
            attempt = self._attempt = last if entries else None
            db.execute("COMMIT")
        self._head.write(last)
        self._attempt = None
        if attempt is not None:
            self._remember(entries, attempt.seq - len(entries) + 1)
        return last

    @staticmethod
    def _wrote(db: sqlite3.Connection, attempt: Head) -> bool:
        sql = "SELECT 1 FROM records WHERE seq = ? AND hash = ?"
        return db.execute(sql, (attempt.seq, attempt.hash)).fetchone() is not None

    def _remember(self, entries: Sequence[Entry], seq: int) -> None:
        for n, entry in enumerate(entries, seq):
            if entry.kind == "intent":
                self._open.setdefault(entry.id, n)
            else:
                self._open.pop(entry.id, None)
            self._bytes += len(entry.body)

    def _last(self, db: sqlite3.Connection) -> Head:
        row = db.execute("SELECT seq, hash, id FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        return Head(*row) if row else genesis(self._seal, self._uuid)

    def _insert(self, db: sqlite3.Connection, last: Head, entries: Sequence[Entry]) -> Head:
        seal, writer, (seq, prev, final) = self._seal, self._writer, last
        rows: list[object] = []
        for id, kind, at, body, plain in entries:
            seq += 1
            prev = link(seal, prev, seq, id, kind, at, writer, body)
            rows += (seq, id, kind, at, writer, body, prev, *plain)
            final = id
        # Few statements with many rows: each one gives up the interpreter lock and must win it back from the event
        # loop. Powers of two, so that the statements stay prepared.
        start, left = 0, len(entries)
        while left:
            size = min(64, 1 << left.bit_length() - 1)
            db.execute(_INSERT[size], rows[start : (start := start + size * _WIDTH)])
            left -= size
        return Head(seq, prev, final)

    def _drop(self) -> None:
        """After an error nothing about the connection is certain: begin the next attempt with a new one."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    # ---- upkeep and the end

    def tidy(self) -> None:
        if self._bytes < CHECKPOINT or self._db is None:
            return
        self._bytes = 0
        # A full disk shows in the next commit, which is the one that matters.
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        with contextlib.suppress(AuditUnavailable):
            if self._attempt is None and self._db is not None:
                self._leave(self._db)
        self._drop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            self._head.close()

    def _leave(self, db: sqlite3.Connection) -> None:
        try:
            ids = list(self._open)
            found = [
                db.execute("SELECT id, body FROM records WHERE id = ? AND kind = 'intent'", (id,)).fetchone()
                for id in ids
            ]
            if found:
                self.write([_aborted(id, body, "the proxy stopped before it ended") for id, body in found])
            db.execute("UPDATE writers SET stopped = ? WHERE id = ?", (time.time(), self._writer))
            Path(f"{self.path}-writers", self._token).unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            raise explain(error, self.path) from None


_WIDTH = 7 + len(COLUMNS)
_NAMES = ", ".join(("seq", "id", "kind", "at", "writer", "body", "hash", *COLUMNS))
_VALUES = "(" + ", ".join("?" * _WIDTH) + ")"
_INSERT = {
    size: f"INSERT INTO records ({_NAMES}) VALUES " + ", ".join([_VALUES] * size)  # noqa: S608 - our own words
    for size in (1, 2, 4, 8, 16, 32, 64)
}


def _gone(path: Path) -> bool:
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


def _aborted(id: str, intent: str, why: str) -> Entry:
    """The outcome of an exchange that nobody finished, with what the intent says about where it belongs."""
    said = orjson.loads(intent)
    body = {name: said[name] for name in ("policy", "model", "account") if name in said}
    body |= {"status": "aborted", "reason": why}
    return Entry(id, "outcome", time.time(), orjson.dumps(body).decode(), columns(body))
