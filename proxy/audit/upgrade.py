"""Bringing a log that an older Penstock wrote to the schema of this one.

INVARIANT: all of it or nothing, in one transaction, and no row's body, place or hash is touched: the chain and every
head that was noted of it stay as they are. What the older one kept beside a body must be what the body says, or nothing
is done: an edit must not be smoothed over.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson

from .entry import COLUMNS, AuditUnavailable
from .head import HeadFile, path_of
from .key import sealer
from .record import columns
from .schema import APPLICATION, INDEX, OLDER, VERSION, FilePath, check_version, connect, explain
from .store import gone

BATCH = 1000
_OLD = ("action", "rule", "policy", "model", "account", "status")
"""The columns of schema 1."""
_NEW = tuple(name for name in COLUMNS if name not in _OLD)
_Row = tuple[Any, ...]


def upgrade(path: FilePath) -> int:
    """How many rows were brought to this schema; 0 where it has it already. Nobody may write meanwhile. Raises
    AuditUnavailable."""
    path = os.path.abspath(os.fspath(path))
    try:
        os.stat(path)
        with closing(connect(path, 5.0)) as db:
            return _upgraded(path, db)
    except (OSError, sqlite3.Error) as error:
        raise explain(error, path) from None


def _upgraded(path: str, db: sqlite3.Connection) -> int:
    (application,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    if application != APPLICATION or version != OLDER:
        check_version(db, path)
        return 0
    head = HeadFile(path_of(path), sealer(None))
    try:
        with head.turn(5.0):
            _alone(path)
            db.execute("BEGIN IMMEDIATE")
            try:
                rows = _rewritten(path, db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk has ended it already
                    db.execute("ROLLBACK")
                raise
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return rows
    finally:
        head.close()


def _alone(path: str) -> None:
    """Raises AuditUnavailable where somebody writes."""
    folder = f"{path}-writers"
    for token in os.listdir(folder) if os.path.isdir(folder) else ():
        if not gone(os.path.join(folder, token)):
            raise AuditUnavailable(f"a Penstock is writing {path}", "stop it first", "busy")


def _rewritten(path: str, db: sqlite3.Connection) -> int:
    for name in _NEW:
        db.execute(f"ALTER TABLE records ADD COLUMN {name}")
    count, put = 0, f"UPDATE records SET {', '.join(f'{name} = ?' for name in _NEW)} WHERE seq = ?"  # noqa: S608 - our own words
    for batch in _batches(db):
        count += len(batch)
        db.executemany(put, [(*_derived(path, row), row[0]) for row in batch if row[1] in ("intent", "outcome")])
    db.execute(INDEX)
    db.execute(f"PRAGMA user_version = {VERSION}")
    return count


def _batches(db: sqlite3.Connection) -> Iterator[list[_Row]]:
    seq = 0
    sql = f"SELECT seq, kind, body, {', '.join(_OLD)} FROM records WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - our own words
    while batch := db.execute(sql, (seq, BATCH)).fetchall():
        yield batch
        seq = batch[-1][0]


def _derived(path: str, row: _Row) -> tuple[object, ...]:
    """What the body says for the columns that are new."""
    seq, _, body, *old = row
    try:
        found = dict(zip(COLUMNS, columns(orjson.loads(body)), strict=True))
    except ValueError:
        found = {}
    if not found or old != [found[name] for name in _OLD]:
        mend = "nothing was changed: see `penstock audit verify` of the Penstock that wrote it"
        raise AuditUnavailable(f"row {seq} of {path} was edited", mend, "damaged")
    return tuple(found[name] for name in _NEW)
