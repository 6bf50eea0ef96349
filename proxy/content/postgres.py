"""The stores in PostgreSQL, in a schema of their own that all replicas share.

What was destroyed is overwritten in the tables at once; the server's write-ahead log, its archive and its backups keep
the wrapped keys for as long as they are kept themselves. Whoever cannot wait for that puts the keys into another
database (`content_keys_database`) whose backups live shorter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, ClassVar, LiteralString, Self

import psycopg

from ..audit.entry import AuditUnavailable
from ..audit.postgres_schema import connect, explain
from .seal import ContentUnavailable, NothingKept
from .store import Contents, Keys, Row, SubjectKey

if TYPE_CHECKING:
    from ..audit.postgres_schema import Connection

PATIENCE = 5.0
"""Seconds that the server and the locks of others are waited for."""
AT_ONCE = 500
"""Rows that are fetched at once of many."""
_MAKING = 0x5053434E
"""The number of the advisory lock under which tables are made."""

_ROWS: LiteralString = """
CREATE SCHEMA IF NOT EXISTS penstock_content;
CREATE TABLE IF NOT EXISTS penstock_content.content (
  id text PRIMARY KEY, at float8 NOT NULL, keys bigint[] NOT NULL, body bytea
);
CREATE INDEX IF NOT EXISTS content_at ON penstock_content.content (at);
CREATE TABLE IF NOT EXISTS penstock_content.sealed (key bigint NOT NULL, id text NOT NULL, PRIMARY KEY (key, id));
CREATE TABLE IF NOT EXISTS penstock_content.erased (subject text NOT NULL, at float8 NOT NULL);
"""
_KEYS: LiteralString = """
CREATE SCHEMA IF NOT EXISTS penstock_content;
CREATE TABLE IF NOT EXISTS penstock_content.meta (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE IF NOT EXISTS penstock_content.keys (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, subject text NOT NULL, wrapped bytea, made float8 NOT NULL
);
CREATE INDEX IF NOT EXISTS keys_subject ON penstock_content.keys (subject, made);
"""


class _Database:
    """A connection to one database, made anew after an error."""

    tables: ClassVar[LiteralString]

    def __init__(self, url: str) -> None:
        self._url = url
        self._db: Connection | None = None

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Self:
        """Raises ContentUnavailable, also where there are no tables and `create` does not make them."""
        store = cls(url)
        try:
            with store._using() as db:
                there = db.execute(
                    "SELECT to_regclass('penstock_content.keys'), to_regclass('penstock_content.content')"
                )
                if not create and there.fetchone() == (None, None):
                    raise NothingKept("there is nothing in the database", "no content was ever kept here")
                with db.transaction():
                    db.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
                    db.execute(cls.tables)
        except BaseException:
            store.close()
            raise
        return store

    @contextlib.contextmanager
    def _using(self) -> Iterator[Connection]:
        try:
            if self._db is None:
                self._db = connect(self._url, PATIENCE, "penstock content")
                self._db.execute("SET search_path = penstock_content")
            yield self._db
        except (psycopg.Error, AuditUnavailable) as error:
            self.close()  # nothing about it is certain now
            told = explain(error, self._url)
            raise ContentUnavailable(
                told.problem, told.mend.replace("writing goes on", "keeping goes on"), told.state
            ) from None

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(psycopg.Error):
                db.close()


class PostgresKeys(_Database, Keys):
    """See Keys."""

    tables = _KEYS

    def begin(self, fingerprint: str) -> str:
        with self._using() as db:
            db.execute("INSERT INTO meta VALUES ('master', %s) ON CONFLICT DO NOTHING", (fingerprint,))
            found = db.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()
            return str(found[0]) if found is not None else ""

    def master(self) -> str:
        with self._using() as db:
            found = db.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()
        return "" if found is None else str(found[0])

    def rewrap(self, fingerprint: str, wrapped: Callable[[SubjectKey], bytes]) -> int:
        sql: LiteralString = "SELECT number, subject, wrapped, made FROM keys WHERE wrapped IS NOT NULL FOR UPDATE"
        with self._using() as db:
            with db.transaction(), db.cursor() as cursor:
                # Nobody adds one under the old master key meanwhile.
                db.execute("LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE")
                keys = [SubjectKey(*row) for row in db.execute(sql)]
                rows = [(wrapped(key), key.number) for key in keys]
                cursor.executemany("UPDATE keys SET wrapped = %s WHERE number = %s", rows)
                db.execute("UPDATE meta SET value = %s WHERE name = 'master'", (fingerprint,))
            _write_anew(db)
        return len(rows)

    def newest(self, subject: str, since: float) -> SubjectKey | None:
        sql: LiteralString = (
            "SELECT number, subject, wrapped, made FROM keys WHERE subject = %s AND made >= %s "
            "AND wrapped IS NOT NULL ORDER BY made DESC, number DESC LIMIT 1"
        )
        with self._using() as db:
            found = db.execute(sql, (subject, since)).fetchone()
        return None if found is None else SubjectKey(*found)

    def add(self, fresh: Sequence[tuple[str, bytes]], made: float) -> list[int]:
        numbers = []
        with self._using() as db, db.transaction():
            for subject, wrapped in fresh:
                sql: LiteralString = "INSERT INTO keys (subject, wrapped, made) VALUES (%s, %s, %s) RETURNING number"
                found = db.execute(sql, (subject, wrapped, made)).fetchone()
                assert found is not None  # RETURNING
                numbers.append(int(found[0]))
        return numbers

    def find(self, numbers: Collection[int]) -> list[SubjectKey]:
        sql: LiteralString = "SELECT number, subject, wrapped, made FROM keys WHERE number = ANY(%s)"
        with self._using() as db:
            return [SubjectKey(*row) for row in db.execute(sql, (list(numbers),))]

    def of(self, subject: str) -> list[SubjectKey]:
        sql: LiteralString = "SELECT number, subject, wrapped, made FROM keys WHERE subject = %s ORDER BY number"
        with self._using() as db:
            return [SubjectKey(*row) for row in db.execute(sql, (subject,))]

    def destroy(self, subject: str, before: float) -> int:
        with self._using() as db:
            sql: LiteralString = (
                "UPDATE keys SET wrapped = NULL WHERE subject = %s AND made < %s AND wrapped IS NOT NULL"
            )
            count = db.execute(sql, (subject, before)).rowcount
            if count or before == inf:  # somebody asked: perhaps again, since this was not reached
                _write_anew(db)
            return count

    def expire(self, before: float) -> None:
        with self._using() as db:
            db.execute("DELETE FROM keys WHERE made < %s", (before,))


class PostgresContents(_Database, Contents):
    """See Contents."""

    tables = _ROWS

    def write(self, rows: Sequence[Row]) -> None:
        sql: LiteralString = (
            "WITH put AS (INSERT INTO content VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING id, keys) "
            "INSERT INTO sealed SELECT unnest(keys), id FROM put"
        )
        with self._using() as db, db.transaction(), db.cursor() as cursor:
            cursor.executemany(sql, [(row.id, row.at, list(row.keys), row.body) for row in rows])

    def read(self, id: str) -> Row | None:
        with self._using() as db:
            found = db.execute("SELECT id, at, keys, body FROM content WHERE id = %s", (id,)).fetchone()
        return None if found is None else _row(*found)

    def since(self, at: float) -> Iterator[Row]:
        # On the server's side, for else all rows would come at once.
        with self._using() as db, db.transaction(), db.cursor("since") as cursor:
            cursor.itersize = AT_ONCE
            cursor.execute("SELECT id, at, keys, body FROM content WHERE at >= %s ORDER BY at, id", (at,))
            for found in cursor:
                yield _row(*found)

    def empty(self, keys: Collection[int]) -> int:
        sql: LiteralString = (
            "UPDATE content SET body = NULL WHERE body IS NOT NULL "
            "AND id IN (SELECT id FROM sealed WHERE key = ANY(%s))"
        )
        with self._using() as db:
            return db.execute(sql, (list(keys),)).rowcount

    def erase(self, subject: str, at: float) -> None:
        with self._using() as db:
            db.execute("INSERT INTO erased VALUES (%s, %s)", (subject, at))

    def erased(self) -> list[tuple[str, float]]:
        with self._using() as db:
            return [(subject, at) for subject, at in db.execute("SELECT subject, at FROM erased")]

    def expire(self, before: float, most: int) -> int:
        # Of several replicas that do this at once each takes other rows.
        sql: LiteralString = (
            "WITH old AS (SELECT id FROM content WHERE at < %s ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED), "
            "gone AS (DELETE FROM content USING old WHERE content.id = old.id RETURNING content.id, content.keys), "
            "links AS (DELETE FROM sealed USING (SELECT id, unnest(keys) AS key FROM gone) AS g "
            "WHERE sealed.key = g.key AND sealed.id = g.id) SELECT count(*) FROM gone"
        )
        with self._using() as db:
            db.execute("DELETE FROM erased WHERE at < %s", (before,))
            found = db.execute(sql, (before, most)).fetchone()
        return int(found[0]) if found is not None else 0


def _write_anew(db: Connection) -> None:
    """Write the table of keys anew: the rows of before are in it no more."""
    db.execute("SET statement_timeout = 0")
    db.execute("VACUUM FULL keys")
    db.execute("SET statement_timeout = 5000")  # PATIENCE, as `connect` has set it


def _row(id: str, at: float, keys: list[int], body: bytes | None) -> Row:
    return Row(id, at, tuple(keys), body)
