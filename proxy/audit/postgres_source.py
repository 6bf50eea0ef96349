"""Reading a log in PostgreSQL while replicas write it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import psycopg

from .entry import AuditUnavailable, Plain
from .head import unpack
from .postgres_schema import connect, explain, open_meta, text_columns, there
from .record import columns
from .seal import Head, Sealer
from .source import Source
from .target import shown

PATIENCE = 5.0
AT_ONCE = 2000
"""Rows that are fetched at once of many."""


class PostgresSource(Source):
    """See Source. `head` is the file in which a replica of this machine notes the newest head."""

    def __init__(self, url: str, head: str = "") -> None:
        self.name, self._url, self._head = shown(url), url, head
        self._names = count()
        self._inside = False
        with self._explained():
            self._db = connect(url, PATIENCE, "penstock audit reader")
        try:
            with self._explained():
                # Searches read the index that is made for them, from its newest end, and most end early. To compile
                # such a query takes longer than to run it.
                self._db.execute(
                    "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; "
                    "SET default_transaction_read_only = on; SET cursor_tuple_fraction = 0.0001; SET jit = off; "
                    "SET enable_seqscan = off; SET enable_bitmapscan = off"
                )
                if not there(self._db):
                    raise AuditUnavailable(f"there is no audit log in {self.name}", "name it with --path", "missing")
        except BaseException:
            self._db.close()
            raise

    def rows(self, sql: str, values: Sequence[object] = (), *, few: bool = False) -> Iterator[tuple[Any, ...]]:
        sql = sql.replace("%", "%%").replace("?", "%s")
        with self._explained():
            if few or not self._inside:
                yield from self._db.execute(sql, values or None)
                return
            # On the server's side, for else all rows would come at once.
            with self._db.cursor(f"c{next(self._names)}") as cursor:
                cursor.itersize = AT_ONCE
                cursor.execute(sql, values or None)
                yield from cursor

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            with contextlib.suppress(psycopg.Error):
                self._db.execute("ROLLBACK")

    def opened(self, seal: Sealer) -> tuple[str, str]:
        with self._explained():
            meta = open_meta(self._db, self._url, seal)
        return meta["uuid"], meta.get("pruned", "")

    def noted(self, seal: Sealer) -> Head | None:
        try:
            with open(self._head, "rb") as file:
                return unpack(file.read(1024), seal)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain(error, self._url) from None

    def columns(self, body: dict[str, Any]) -> tuple[Plain, ...]:
        return text_columns(columns(body))

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise explain(error, self._url) from None
