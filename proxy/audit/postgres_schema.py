"""The tables in PostgreSQL, how they are reached, and what an operator reads when they are not.

They stand in a schema of their own, `penstock_audit`, which is made where it is missing. Columns are text: PostgreSQL
knows no column of any type, no letter NUL and no large key of an index, so values are shown in it as `text_columns` has
them. The chain covers bodies only, which are kept as they are.
"""

from __future__ import annotations

import logging
import os
import time

import psycopg

from .entry import COLUMNS, AuditUnavailable, Plain
from .seal import Sealer
from .target import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, LiteralString

    Connection = psycopg.Connection[tuple[Any, ...]]

logging.getLogger("psycopg").addHandler(logging.NullHandler())  # what it warns of, it raises as well
SCHEMA = "penstock_audit"
VERSION = 1
OLDEST_SERVER = 130000
"""Server versions as numbers: 13 is the first that keeps an index-only scan fast where rows are only added."""
CHAIN, WRITERS = 0x50534155, 0x50534156
"""The first numbers of our advisory locks: of the chain (the second is 0), and of each writer (its own number)."""
_WIDEST, _INDEXED = 200, 2400
"""Letters of one column, and bytes of all: an entry of an index has room for 2,704."""

_TABLES: LiteralString = """
CREATE SCHEMA IF NOT EXISTS penstock_audit;
CREATE TABLE penstock_audit.meta (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE penstock_audit.writers (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, token text NOT NULL UNIQUE, pid int NOT NULL, host text NOT NULL,
  started float8 NOT NULL, seen float8 NOT NULL, stopped float8,
  low bigint NOT NULL  -- no intent of this writer before this row is still open
);
CREATE TABLE penstock_audit.records (
  seq bigint PRIMARY KEY, id text NOT NULL, kind text NOT NULL, at float8 NOT NULL, writer int NOT NULL,
  action text, rule text, policy text, model text, account text, status text, stage text, request text, fired text,
  error text, body text NOT NULL, hash bytea NOT NULL
)  -- an index alone answers for rows that a vacuum has seen: it comes often, and finds little to do
WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX records_id ON penstock_audit.records (id);
CREATE INDEX records_found ON penstock_audit.records
  (at, action, rule, policy, model, account, status, stage, request, fired, error) INCLUDE (seq, id);
"""

_STATES = {
    "53100": ("full", "the disk of {where} is full", "free space there"),
    "25006": ("read_only", "{where} takes no writes", "name the primary server, or lift default_transaction_read_only"),
    "25P03": ("slow", "{where} waited too long for this process", "see what slows this machine"),
    "28": ("forbidden", "{where} refuses this user or password", "set audit_database to a user that may log in"),
    "3D000": ("missing", "{where} does not exist", "make it: createdb"),
    "42501": ("forbidden", "this user may not write in {where}", "GRANT CREATE ON DATABASE ... TO this user"),
    "42P01": ("damaged", "the tables of {where} are gone", "put them back; `penstock audit verify` says what is there"),
    "53300": ("busy", "{where} takes no more connections", "raise its max_connections, or end what holds them"),
    "53": ("busy", "{where} is short of resources", "see the server's log"),
    "55P03": ("busy", "another writer holds {where}", "see pg_stat_activity for who waits in a transaction"),
    "57014": ("slow", "{where} did not answer in time", "see what the server is waiting for"),
    "57P": ("missing", "{where} is starting or stopping", "start it; writing goes on by itself"),
    "58": ("failing", "the disk of {where} reports an error", "check it"),
    "XX": ("damaged", "{where} reports damage", "see the server's log, and `penstock audit verify`"),
    "08": ("missing", "the connection to {where} is lost", "start the server; writing goes on by itself"),
}
_SAID = (
    ("password", "28"), ("no pg_hba.conf entry", "28"), ("role", "28"), ("does not exist", "3D000"),
    ("too many", "53300"), ("remaining connection slots", "53300"), ("starting up", "57P"), ("shutting down", "57P"),
)  # fmt: skip
"""Of an attempt to connect libpq keeps the words of the server, and not its code."""


def explain(error: Exception, url: str) -> AuditUnavailable:
    """The error as one line for an operator, never with a password in it."""
    if isinstance(error, AuditUnavailable):
        return error
    if isinstance(error, OSError):  # of the file in which the head is noted
        from .schema import explain as of_file

        return of_file(error, error.filename or "the file of the newest head")
    where = shown(url)
    code = getattr(error, "sqlstate", None) or ""
    if not code and isinstance(error, psycopg.OperationalError):
        said = str(error)
        code = next((code for words, code in _SAID if words in said), "")
        if not code and ("ailed" in said or "timeout" in said) and "server closed" not in said:
            mend = "start the server, and see host and port; writing goes on by itself"
            return AuditUnavailable(f"nobody answers at {where}", mend, "missing")
        code = code or "08"
    for known in (code, code[:3], code[:2]):
        if known in _STATES:
            state, problem, mend = _STATES[known]
            return AuditUnavailable(problem.format(where=where), mend, state)
    return AuditUnavailable(f"{where}: {type(error).__name__} {code}".strip(), "see the server's log")


def connect(url: str, patience: float, name: str = "penstock audit") -> Connection:
    """A connection outside of any transaction. Raises psycopg.Error, AuditUnavailable."""
    db = psycopg.connect(
        url, autocommit=True, connect_timeout=max(2, int(patience)), application_name=name,
        keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=15_000,
    )  # fmt: skip
    try:
        if db.info.server_version < OLDEST_SERVER:
            problem = f"{shown(url)} is PostgreSQL {db.info.server_version // 10000}"
            raise AuditUnavailable(problem, f"name a server of version {OLDEST_SERVER // 10000} or later", "version")
        encoding = db.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            mend = "make another: createdb --template=template0 --encoding=UTF8"
            raise AuditUnavailable(
                f"{shown(url)} has the encoding {encoding}, which not every text has", mend, "version"
            )
        wait = int(patience * 1000)
        # The server's side too: a client that vanished holds a lock for as long as the server believes in it.
        db.execute(
            f"SET search_path = {SCHEMA}; SET lock_timeout = {wait}; SET statement_timeout = {wait}; "
            f"SET idle_in_transaction_session_timeout = {wait}; "
            "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
        )  # fmt: skip
        return db
    except BaseException:
        db.close()
        raise


def create(db: Connection, url: str, seal: Sealer) -> str:
    """The log's uuid; its tables are made where there are none. In a transaction, under the chain's lock."""
    if not there(db):
        db.execute(_TABLES)
        meta = {
            "uuid": os.urandom(16).hex(), "key": seal.fingerprint, "created": str(time.time()), "version": str(VERSION),
        }  # fmt: skip
        for item in meta.items():
            db.execute("INSERT INTO meta VALUES (%s, %s)", item)
    return open_meta(db, url, seal)["uuid"]


def there(db: Connection) -> bool:
    """Whether the tables are."""
    return db.execute("SELECT to_regclass('penstock_audit.meta') IS NOT NULL").fetchone() == (True,)


def open_meta(db: Connection, url: str, seal: Sealer) -> dict[str, str]:
    """What the log says of itself, after its version and key were found to be right. Raises AuditUnavailable."""
    meta: dict[str, str] = dict(db.execute("SELECT name, value FROM meta").fetchall())
    where = shown(url)
    if meta.get("version") != str(VERSION):
        problem = f"{where} has schema {meta.get('version')}, this Penstock knows {VERSION}"
        raise AuditUnavailable(problem, "run the Penstock that made it, or name another database", "version")
    have, want = seal.fingerprint, meta.get("key", "")
    if have != want:
        if not want:
            mend = "leave the key out or begin a new log"
            raise AuditUnavailable(f"{where} was begun without a key", mend, "forbidden")
        problem = "was written with another key" if have else "was written with a key"
        mend = "give every replica the same audit_key, or name another database"
        raise AuditUnavailable(f"{where} {problem}", mend, "forbidden")
    return meta


def text_columns(values: Iterable[Plain]) -> tuple[str | None, ...]:
    """Columns as they are kept here."""
    texts = [None if value is None else str(value).replace("\0", "\ufffd")[:_WIDEST] for value in values]
    if sum(len(text.encode("utf-8", "replace")) for text in texts if text) > _INDEXED:
        texts = [text and text[: _INDEXED // len(COLUMNS) // 4] for text in texts]
    return tuple(texts)
