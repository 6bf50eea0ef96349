"""Reading a log in SQLite while the proxy writes it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from .ahead import Ahead
from .entry import AuditUnavailable
from .head import path_of, unpack
from .schema import check_version, connect, explain, open_meta
from .seal import Head, Sealer
from .source import Damaged, Source


class SqliteSource(Source):
    """See Source."""

    def __init__(self, path: Path) -> None:
        path = path.absolute()
        self.name, self._path = str(path), path
        if os.path.isdir(path):
            raise AuditUnavailable(f"{path} is a directory", "name the log in it")
        if not _size(path):  # empty: a start ended before its first record
            raise AuditUnavailable(f"there is no audit log at {path}", "name it with --path")
        with self._explained():
            self._db = _connect(path)

    def rows(self, sql: str, values: Sequence[object] = (), *, few: bool = False) -> Iterator[tuple[Any, ...]]:
        with self._explained():
            yield from self._db.execute(sql, values)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def searching(self, span: tuple[float, float]) -> AbstractContextManager[object]:
        return Ahead(partial(_connect, Path(self._path)), span)

    def opened(self, seal: Sealer) -> tuple[str, str]:
        with self._explained():
            uuid = open_meta(self._db, self.name, seal)
            found = self._db.execute("SELECT value FROM meta WHERE name = 'pruned'").fetchone()
        return uuid, str(found[0]) if found else ""

    def noted(self, seal: Sealer) -> Head | None:
        try:
            return unpack(Path(path_of(self._path)).read_bytes(), seal)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain(error, self.name) from None

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            told = explain(error, self.name)
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                raise Damaged(told.problem, told.mend) from None
            raise told from None


def _size(path: Path) -> int:
    """0 where there is no file. Raises AuditUnavailable where this user may not look."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise explain(error, path) from None


def _connect(path: Path) -> sqlite3.Connection:
    last: sqlite3.Error | None = None
    # A log at rest in a directory that this user cannot write needs `immutable`: there is no write-ahead log to miss.
    at_rest = not Path(f"{path}-wal").exists()
    for mode in ("ro", "ro&immutable=1") if at_rest else ("ro",):
        db = connect(path, 5.0, mode)
        # Text that is not UTF-8 must reach `verify` as a wrong value instead of stopping it.
        db.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        try:
            check_version(db, path)
            return db
        except sqlite3.Error as error:
            db.close()
            last = error
        except AuditUnavailable:
            db.close()
            raise
    assert last is not None
    raise last
