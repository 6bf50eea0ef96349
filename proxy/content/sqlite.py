"""The stores in SQLite: two files, one for the rows and one for the keys, that several processes may share.

What was deleted from the file of keys is overwritten with zeros, and it has no write-ahead log that could remember.

Decision: the rows have none either. Why: its index is memory that all processes map (`-shm`), and whoever truncates
that file ends each of them. Cost: a commit of eight rows takes 0.6 ms more of a core and 15 ms of the disk, four times
a second and beside all exchanges; who reads many rows reads them in pages, for nothing is written meanwhile.

With each use it is looked whether the file still lies there: SQLite goes on in one that was taken away.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Self

from ..audit.schema import explain, is_roomy
from .seal import ContentUnavailable, NothingKept
from .store import Contents, Keys, Row, SubjectKey

PATIENCE = 5.0
"""Seconds that another process's write is waited for."""
PAGE = 64
"""Rows that are read at once, one of them to know where to go on."""
VERSION = 1
_APPLICATION = 0x5053434E  # "PSCN": tells our files from anybody else's

_ROWS = """
CREATE TABLE content (id TEXT PRIMARY KEY, at REAL NOT NULL, keys TEXT NOT NULL, body BLOB);
CREATE INDEX content_at ON content (at);
CREATE TABLE sealed (key INTEGER NOT NULL, id TEXT NOT NULL, PRIMARY KEY (key, id)) WITHOUT ROWID;
CREATE TABLE erased (subject TEXT NOT NULL, at REAL NOT NULL);
"""
_KEYS = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE keys (
  number INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL, wrapped BLOB, made REAL NOT NULL
);
CREATE INDEX keys_subject ON keys (subject, made);
"""
_EXPIRED = "SELECT id, keys FROM content WHERE at < ? ORDER BY at LIMIT ?"


class _File:
    """A connection to one file. `_using` and `_reading` turn errors into ContentUnavailable; `_using` is one
    transaction."""

    tables: str
    pragmas: tuple[str, ...]

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path, self._db, self._full, self._inode = path, db, False, 0

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Self:
        """Raises ContentUnavailable, also where there is no file and `create` does not make one."""
        if not create and not os.path.exists(path):
            raise NothingKept(f"there is nothing at {path}", "no content was ever kept here, or it was moved")
        try:
            if not os.path.exists(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            db = _connected(path)
        except (OSError, sqlite3.Error) as error:
            raise _explained(error, path) from None
        file = cls(path, db)
        try:
            file._prepare()
        except BaseException:
            db.close()
            raise
        return file

    def _prepare(self) -> None:
        try:
            for pragma in self.pragmas:
                self._db.execute(f"PRAGMA {pragma}").fetchone()
            inode = os.stat(self.path).st_ino
        except (sqlite3.Error, OSError) as error:
            raise _explained(error, self.path) from None
        with self._transaction():
            if self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
                for statement in self.tables.strip().rstrip(";").split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            (application,), (version,) = (
                self._db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
            )
            if (application, version) != (_APPLICATION, VERSION):
                problem = f"{self.path} is not kept content, or of another version of Penstock"
                raise ContentUnavailable(problem, "name another directory, or move it away")
        self._inode = inode

    def _look(self) -> None:
        """Follow the file where another was put in its place. Raises ContentUnavailable where nothing is there."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            mend = "put it back, or restart, which begins a new one"
            raise ContentUnavailable(f"{self.path} was taken away while in use", mend, "missing") from None
        except OSError as error:
            raise _explained(error, self.path) from None
        if not found.st_size:
            mend = "put a copy back, or move it away and restart, which begins a new one"
            raise ContentUnavailable(f"{self.path} was emptied while in use", mend, "missing")
        if found.st_ino != self._inode:
            self._db.close()
            self._inode = 0
            try:
                self._db = _connected(self.path)
            except sqlite3.Error as error:
                raise _explained(error, self.path) from None
            self._prepare()

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        self._look()
        with self._transaction() as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            told = _explained(error, self.path)
            self._full = self._full or told.state == "full"
            raise told from None

    def has_room(self) -> bool:
        """False on a disk that was full until there is room for more than the next row."""
        with contextlib.suppress(OSError):  # of a disk that is gone the next write tells
            self._full = self._full and not is_roomy(self.path)
        return not self._full

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._look()
        try:
            yield self._db
        except sqlite3.Error as error:
            raise _explained(error, self.path) from None

    def close(self) -> None:
        self._db.close()


class SqliteKeys(_File, Keys):
    """See Keys."""

    tables = _KEYS
    # A journal that is deleted, where a write-ahead log would keep the page of a key that was destroyed.
    pragmas = ("journal_mode = DELETE", "synchronous = FULL", "secure_delete = ON")

    def begin(self, fingerprint: str) -> str:
        with self._using() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('master', ?)", (fingerprint,))
            return str(db.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()[0])

    def master(self) -> str:
        with self._reading() as db:
            found = db.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()
        return "" if found is None else str(found[0])

    def rewrap(self, fingerprint: str, wrapped: Callable[[SubjectKey], bytes]) -> int:
        with self._using() as db:
            keys = [SubjectKey(*row) for row in db.execute(f"{_KEY}WHERE wrapped IS NOT NULL").fetchall()]
            rows = [(wrapped(key), key.number) for key in keys]
            db.executemany("UPDATE keys SET wrapped = ? WHERE number = ?", rows)
            db.execute("UPDATE meta SET value = ? WHERE name = 'master'", (fingerprint,))
            return len(rows)

    def newest(self, subject: str, since: float) -> SubjectKey | None:
        sql = _KEY + "WHERE subject = ? AND made >= ? AND wrapped IS NOT NULL ORDER BY made DESC, number DESC LIMIT 1"
        with self._reading() as db:
            found = db.execute(sql, (subject, since)).fetchone()
        return None if found is None else SubjectKey(*found)

    def add(self, fresh: Sequence[tuple[str, bytes]], made: float) -> list[int]:
        sql = "INSERT INTO keys (subject, wrapped, made) VALUES (?, ?, ?)"
        with self._using() as db:
            return [db.execute(sql, (subject, wrapped, made)).lastrowid or 0 for subject, wrapped in fresh]

    def find(self, numbers: Collection[int]) -> list[SubjectKey]:
        marks = ", ".join("?" * len(numbers))
        with self._reading() as db:
            rows = db.execute(f"{_KEY}WHERE number IN ({marks})", tuple(numbers)).fetchall()
        return [SubjectKey(*row) for row in rows]

    def of(self, subject: str) -> list[SubjectKey]:
        with self._reading() as db:
            rows = db.execute(f"{_KEY}WHERE subject = ? ORDER BY number", (subject,)).fetchall()
        return [SubjectKey(*row) for row in rows]

    def destroy(self, subject: str, before: float) -> int:
        with self._using() as db:
            sql = "UPDATE keys SET wrapped = NULL WHERE subject = ? AND made < ? AND wrapped IS NOT NULL"
            return db.execute(sql, (subject, before)).rowcount

    def expire(self, before: float) -> None:
        with self._using() as db:
            db.execute("DELETE FROM keys WHERE made < ?", (before,))


class SqliteContents(_File, Contents):
    """See Contents. A power cut may take the last rows: nothing waits for them."""

    tables = _ROWS
    pragmas = ("journal_mode = TRUNCATE", "synchronous = NORMAL")

    def write(self, rows: Sequence[Row]) -> None:
        with self._using() as db:
            for row in rows:
                names = " ".join(map(str, row.keys))
                put = db.execute("INSERT OR IGNORE INTO content VALUES (?, ?, ?, ?)", (row.id, row.at, names, row.body))
                if put.rowcount:
                    db.executemany("INSERT INTO sealed VALUES (?, ?)", [(key, row.id) for key in row.keys])

    def read(self, id: str) -> Row | None:
        with self._reading() as db:
            found = db.execute(f"{_ROW}WHERE id = ?", (id,)).fetchone()
        return None if found is None else _row(*found)

    def since(self, at: float) -> Iterator[Row]:
        place: tuple[float, str] = (at, "")
        while True:
            with self._reading() as db:
                sql = f"{_ROW}WHERE (at, id) >= (?, ?) ORDER BY at, id LIMIT {PAGE}"
                page = [_row(*found) for found in db.execute(sql, place).fetchall()]
            yield from page[: PAGE - 1]
            if len(page) < PAGE:
                return
            place = page[-1].at, page[-1].id

    def empty(self, keys: Collection[int]) -> int:
        with self._using() as db:
            sql = (
                "UPDATE content SET body = NULL WHERE body IS NOT NULL AND id IN (SELECT id FROM sealed WHERE key = ?)"
            )
            return sum(db.execute(sql, (key,)).rowcount for key in keys)

    def erase(self, subject: str, at: float) -> None:
        with self._using() as db:
            db.execute("INSERT INTO erased VALUES (?, ?)", (subject, at))

    def erased(self) -> list[tuple[str, float]]:
        with self._reading() as db:
            return db.execute("SELECT subject, at FROM erased").fetchall()

    def expire(self, before: float, most: int) -> int:
        with self._using() as db:
            db.execute("DELETE FROM erased WHERE at < ?", (before,))
            # Of all keys of a row at once: what is left of a day goes with it.
            gone = db.execute(_EXPIRED, (before, most)).fetchall()
            links = [(int(key), id) for id, keys in gone for key in keys.split()]
            db.executemany("DELETE FROM sealed WHERE key = ? AND id = ?", links)
            db.executemany("DELETE FROM content WHERE id = ?", [(id,) for id, _ in gone])
            return len(gone)


_KEY = "SELECT number, subject, wrapped, made FROM keys "
_ROW = "SELECT id, at, keys, body FROM content "


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _row(id: str, at: float, keys: str, body: bytes | None) -> Row:
    return Row(id, at, tuple(map(int, keys.split())), body)


def _explained(error: Exception, path: Path) -> ContentUnavailable:
    told = explain(error, path)
    mend = "" if "verify" in told.mend else told.mend.replace(" and its -head file", "").replace("keep them, ", "")
    return ContentUnavailable(told.problem.replace("an audit log", "kept content"), mend, told.state)
