"""Is the database that shall hold the audit there, may it be written, and does it keep what it acknowledged?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..audit import AuditUnavailable
from ..audit.target import check_driver, shown
from .base import Finding, Place, State
from .disk import NAME, SLOW, TOO_SLOW, verified

if TYPE_CHECKING:
    from ..audit.postgres_schema import Connection

COMMITS = 5


def check_database(place: Place) -> Iterator[Finding]:
    """The setting audit_database. Leaves nothing there."""
    if place.settings.audit_database is None:
        return
    url = place.settings.audit_database.get_secret_value()
    try:
        check_driver()
    except AuditUnavailable as error:
        yield Finding(NAME, State.WRONG, error.problem, error.mend)
        return
    import psycopg

    from ..audit.postgres_schema import connect, explain, there

    where = shown(url)
    try:
        with connect(url, 5.0, "penstock doctor") as db:
            found = there(db)
            _try(db, found)
            version = f"{db.info.server_version // 10000}.{db.info.server_version % 10000}"
            rest = "" if found else "; the log will be made"
            yield Finding(NAME, State.WELL, f"{where} is PostgreSQL {version} and can be written{rest}")
            yield _speed(db, where)
            yield from _forgets(db, where)
            row = db.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            if row is not None:
                place.skews.append((where, time.time() - float(row[0])))
    except (psycopg.Error, AuditUnavailable) as error:
        told = explain(error, url)
        yield Finding(NAME, State.WRONG, told.problem, told.mend)
        return
    if found:
        yield from verified(place.settings)


def _try(db: Connection, found: bool) -> None:
    """Write, in a transaction that is taken back. Raises psycopg.Error."""
    import psycopg

    with db.transaction() as transaction:
        if found:
            db.execute("UPDATE writers SET seen = seen WHERE id = 0")
            db.execute("INSERT INTO meta VALUES ('doctor', '')")
        else:
            db.execute("CREATE SCHEMA IF NOT EXISTS penstock_audit")
        # A full disk shows when a table grows.
        db.execute("CREATE TEMP TABLE penstock_doctor (x text)")
        db.execute("INSERT INTO penstock_doctor SELECT repeat(md5(n::text), 60) FROM generate_series(1, 500) AS n")
        raise psycopg.Rollback(transaction)


def _speed(db: Connection, where: str) -> Finding:
    """How long it takes to be sure."""
    times = []
    for _ in range(COMMITS):
        began = time.perf_counter()
        db.execute("SELECT pg_logical_emit_message(true, 'penstock', 'doctor')")  # goes to the log, and to no table
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    state = State.WRONG if median > TOO_SLOW else State.WARNING if median > SLOW else State.WELL
    mend = (
        "move it nearer, or give it faster disks; each exchange waits for a commit" if state is not State.WELL else ""
    )
    return Finding(NAME, state, f"{where}: a commit takes {median * 1000:.1f} ms", mend)


def _forgets(db: Connection, where: str) -> Iterator[Finding]:
    """Settings under which what was acknowledged may be gone."""
    for name in ("fsync", "full_page_writes"):
        row = db.execute("SELECT current_setting(%s)", (name,)).fetchone()
        if row == ("off",):
            detail = f"{where} runs with {name} off: what was acknowledged may be gone after a power cut"
            yield Finding(NAME, State.WARNING, detail, f"ALTER SYSTEM SET {name} = on")
