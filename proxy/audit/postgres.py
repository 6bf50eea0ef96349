"""The PostgreSQL store: one chain in one database, written by any number of replicas.

INVARIANT: as of `store`: when `write` returns, its entries are in the database, in order, chained and committed; a call
that raised is repeated until it returns, and never writes twice.

Decision: all writers share one chain, and take turns by a lock that lasts one commit. Why: one order, one head and one
verdict, as in a file, and no chain that could vanish whole; commits are shared, so that a turn carries all that an
instance has gathered. Cost: the commits of all replicas stand in one line: a dozen replicas and a commit of 3 ms make
an intent wait 36 ms, behind the upstream's answer.

Each writer has a number, a session lock on it, and `seen`, which it renews. Whoever finds a lock free and `seen` older
than `LEASE` marks what that writer left open: the lock alone is free for a moment whenever the server restarts.

The newest head is noted in a file of each replica, as for SQLite: who rules the database cannot change that.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

import psycopg

from .entry import COLUMNS, AuditUnavailable, Entry
from .head import PRUNED, BadHead, HeadFile, pack
from .keeping import BATCH, OLDEST, Keeping
from .postgres_schema import CHAIN, WRITERS, connect, create, explain, text_columns
from .seal import Head, Sealer, genesis, sealed
from .store import Store
from .target import shown
from .wire import Opened, Place
from .written import aborted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import LiteralString

    from .postgres_schema import Connection

LEASE = 20.0
"""Seconds after which a writer that is not seen, and holds no lock, is gone."""
NOBODY = 0
"""Who writes what recovery writes: under a number of its own, nobody takes it for an attempt of theirs."""
TOUCH = 5.0
"""Seconds between two signs of life of a writer that has nothing to write."""


class PostgresStore(Store):
    """See Store. Made by `PostgresStore.open`."""

    def __init__(self, url: str, db: Connection, seal: Sealer, patience: float, head: HeadFile | None) -> None:
        self._url, self._seal, self._patience, self._head = url, seal, patience, head
        self.path = shown(url)
        self._db: Connection | None = db
        self._uuid = ""
        self._token, self._writer = os.urandom(8).hex(), 0
        self._known, self._doubt = 0, False
        self._open: dict[str, int] = {}
        self._noted = 0.0
        self._keeping: Keeping | None = None
        self.opened: Opened = (self._token, 0, Head(0, b""), 0)

    @classmethod
    def open(
        cls,
        url: str,
        seal: Sealer,
        *,
        patience: float = 5.0,
        place: Place | None = None,
        keep: float = 0.0,
        head: str = "",
    ) -> PostgresStore:
        """Open or make the log, mark what dead writers left open; `place` is taken over, rows are kept for `keep`
        seconds (0: for ever), `head` is the file of the newest head. Raises AuditUnavailable."""
        db: Connection | None = None
        file: HeadFile | None = None
        try:
            db = connect(url, patience)
            file = HeadFile(head, seal) if head else None
            store = cls(url, db, seal, patience, file)
            store._enter(place)
            store._keeping = Keeping(keep, store._when(db)) if keep else None
            return store
        except (OSError, psycopg.Error, AuditUnavailable) as error:
            if db is not None:
                db.close()
            if file is not None:
                file.close()
            raise explain(error, url) from None

    # ---- opening: the tables, the head, a place among the writers

    def _enter(self, place: Place | None) -> None:
        db = self._db
        assert db is not None
        with db.transaction():
            self._lock(db)
            self._uuid = create(db, self._url, self._seal)
            self._durable(db)
            last = self._last(db)
            self._check_head(db, last)
            if place is None:
                self._join(db, last)
                kept = 0
            else:
                kept = self._take_over(db, place)
        self._known = last.seq
        self._note(last)
        if self._head is not None:
            self._head.sync()
        self._hold(db)
        if place is None:
            last = self._recover(db) or last
        self.opened = (self._token, self._writer, last, kept)

    def _durable(self, db: Connection) -> None:
        """A commit that was answered is on a disk, whatever the role's own setting is."""
        row = db.execute("SHOW synchronous_commit").fetchone()
        if row == ("off",):
            db.execute("SET synchronous_commit = on")

    def _check_head(self, db: Connection, last: Head) -> None:
        """Raises AuditUnavailable where the newest head that was noted here is not in the chain."""
        if self._head is None:
            return
        mend = self._mend
        try:
            noted = self._head.read()
        except BadHead as error:
            raise AuditUnavailable(f"{self._head.path}: {error}", mend, "damaged") from None
        if noted is None or not noted.seq:
            return
        self._check_end(last, noted.seq)
        row = db.execute("SELECT hash FROM records WHERE seq = %s", (noted.seq,)).fetchone()
        if row is not None and row[0] != noted.hash:
            raise AuditUnavailable(f"{self.path} and {self._head.path} are not of one piece", mend, "damaged")

    @property
    def _mend(self) -> str:
        file = f"move {self._head.path} away, and " if self._head is not None else ""
        return f"see `penstock audit verify`; to go on all the same, {file}restart"

    def _check_end(self, last: Head, known: int) -> None:
        """Raises AuditUnavailable where rows that were acknowledged are not there any more."""
        if last.seq < known:
            gone = f"the newest {known - last.seq} row(s) of {self.path} are gone: rolled back, or never replicated"
            raise AuditUnavailable(gone, self._mend, "damaged")

    def _join(self, db: Connection, last: Head) -> None:
        row = (self._token, os.getpid(), os.uname().nodename, last.seq + 1)
        found = db.execute(_JOIN, row).fetchone()
        assert found is not None
        self._writer = int(found[0])

    def _take_over(self, db: Connection, place: Place) -> int:
        """How many rows of this place came after the newest one that its owner knows of."""
        self._token, self._writer, seq, hash = place
        mine = "SELECT low FROM writers WHERE id = %s AND token = %s"
        low = db.execute(mine, (self._writer, self._token)).fetchone()
        known = db.execute("SELECT hash FROM records WHERE seq = %s", (seq,)).fetchone()
        if low is None or (known[0] if known else genesis(self._seal, self._uuid).hash) != hash:
            raise AuditUnavailable(
                f"{self.path} is not what this proxy wrote", "see `penstock audit verify`", "damaged"
            )
        db.execute(_TAKE, (os.getpid(), self._writer))
        kept = "SELECT count(*) FROM records WHERE seq > %s AND writer = %s"
        found = db.execute(kept, (seq, self._writer)).fetchone()
        for row, id in db.execute("SELECT seq, id " + _LEFT_OPEN, (*low, self._writer)).fetchall():
            self._open[id] = row
        assert found is not None
        return int(found[0])

    def _hold(self, db: Connection) -> None:
        """The session lock that says this writer lives. A connection of ours that the server has not given up yet may
        still have it, and that is as good."""
        db.execute("SELECT pg_try_advisory_lock(%s, %s)", (WRITERS, self._writer))

    def _recover(self, db: Connection) -> Head | None:
        """Mark what dead writers left open. The new head, where there was something to do."""
        last = None
        for writer, low in db.execute(_LATE, (self._writer, LEASE)).fetchall():
            free = db.execute("SELECT pg_try_advisory_lock(%s, %s)", (WRITERS, writer)).fetchone()
            if free != (True,):
                continue
            try:
                with db.transaction():
                    self._lock(db)
                    ended = db.execute(_OPEN_OF, (low, writer)).fetchall()
                    if db.execute(_GONE, (writer,)).rowcount == 1:
                        entries = [_aborted("its process ended", *row) for row in ended]
                        last = self._insert(db, self._last(db), entries, NOBODY)
                if last is not None:
                    self._known = last.seq
                    self._note(last)
            finally:
                db.execute("SELECT pg_advisory_unlock(%s, %s)", (WRITERS, writer))
        return last

    # ---- writing

    def write(self, entries: Sequence[Entry]) -> Head:
        try:
            return self._write(self._connected(), entries)
        except (OSError, psycopg.Error, AuditUnavailable) as error:
            self._drop()
            raise explain(error, self._url) from None

    def _connected(self) -> Connection:
        db = self._db
        if db is None:
            db = connect(self._url, self._patience)
            self._durable(db)
            self._hold(db)
            self._db, self._noted = db, 0.0
        return db

    def _write(self, db: Connection, entries: Sequence[Entry]) -> Head:
        with db.pipeline():
            db.execute("BEGIN")
            self._lock(db)
            newest = db.execute(_LAST)
        row = newest.fetchone()
        last = Head(*row) if row else self._last(db)
        self._check_end(last, self._known)
        first = self._written(db) if self._doubt else None
        if not self._doubt:
            self._known = last.seq  # what comes after it under our number is this attempt
        now = time.monotonic()
        with db.pipeline():
            if first is None:
                first = last.seq + 1
                last = self._insert(db, last, entries, self._writer)
            if self._doubt or not entries or now - self._noted > 1.0:
                low = next(iter(self._open.values()), first)
                db.execute(_ALIVE, (low, self._writer))
                self._noted = now
            self._doubt = True
            db.execute("COMMIT")
        self._note(last)
        self._doubt, self._known = False, last.seq
        for seq, entry in enumerate(entries, first):
            if entry[2] == "intent":
                self._open.setdefault(entry[1], seq)
            else:
                self._open.pop(entry[1], None)
        if self._keeping is not None:
            self._keeping.wrote(len(entries))
        return last

    def _lock(self, db: Connection) -> None:
        """The turn to write, until the transaction ends."""
        db.execute("SELECT pg_advisory_xact_lock(%s, 0)", (CHAIN,))

    def _written(self, db: Connection) -> int | None:
        """The first row of an attempt that had been committed."""
        sql = "SELECT min(seq) FROM records WHERE seq > %s AND writer = %s"
        row = db.execute(sql, (self._known, self._writer)).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def _when(self, db: Connection) -> float:
        """When the newest row was written; 0 where there is none."""
        row = db.execute("SELECT at FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        return float(row[0]) if row else 0.0

    def _last(self, db: Connection) -> Head:
        row = db.execute(_LAST).fetchone()
        return Head(*row) if row else genesis(self._seal, self._uuid)

    def _insert(self, db: Connection, last: Head, entries: Sequence[Entry], writer: int) -> Head:
        if not entries:
            return last
        seal, (seq, prev, _) = self._seal, last
        rows = []
        for entry in entries:
            seq += 1
            stamp, id, kind, at, body, *plain = entry
            prev = sealed(seal, prev, seq, stamp, writer, body)
            row = {"s": seq, "i": id, "k": kind, "t": at, "b": body.decode(), "h": prev.hex()}
            row.update([pair for pair in zip(_NAMES, text_columns(plain), strict=True) if pair[1] is not None])
            rows.append(row)
        db.execute(_INSERT, (writer, json.dumps(rows)))
        return Head(seq, prev, entries[-1][1])

    def _note(self, head: Head) -> None:
        if self._head is not None:
            self._head.write(head)

    def _drop(self) -> None:
        """After an error nothing about the connection is certain."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(psycopg.Error):
                db.close()

    # ---- upkeep and the end

    def tidy(self) -> None:
        try:
            if time.monotonic() - self._noted > TOUCH:
                self.write([])
                self._recover(self._connected())
            if self._keeping is not None and self._keeping.due() and not self._doubt:
                self._prune(self._connected(), self._keeping)
        except (OSError, psycopg.Error, AuditUnavailable):  # the next write says what is wrong
            self._drop()
            if self._keeping is not None:
                self._keeping.later()

    def _prune(self, db: Connection, keeping: Keeping) -> None:
        """Take a few of the oldest rows away, where they are older than is kept: the first writer that comes."""
        with db.transaction():
            db.execute("SET LOCAL synchronous_commit = off")  # it may be lost, and is done again
            free = db.execute("SELECT pg_try_advisory_xact_lock(%s, 1)", (CHAIN,)).fetchone()
            if free != (True,):
                return keeping.later()
            gone = keeping.prefix(db.execute(OLDEST.replace("?", "%s"), (BATCH + 1,)).fetchall())
            if gone is not None:
                db.execute("DELETE FROM records WHERE seq <= %s", (gone.seq,))
                note = "INSERT INTO meta VALUES ('pruned', %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
                db.execute(note, (pack(gone, self._seal, PRUNED).decode(),))
        return None

    def close(self, why: str = "the proxy stopped before it ended") -> None:
        with contextlib.suppress(AuditUnavailable, psycopg.Error):
            if not self._doubt and self._db is not None:
                opened = "SELECT id, policy, model, account FROM records WHERE seq = ANY(%s) ORDER BY seq"
                rows = self._db.execute(opened, (list(self._open.values()),)).fetchall()
                if rows:
                    self.write([_aborted(why, *row) for row in rows])
                self._db.execute(_GONE, (self._writer,))
        self._drop()
        if self._head is not None:
            self._head.close()


def _timed(sql: LiteralString) -> LiteralString:
    """With the server's clock for NOW: those of the replicas may differ."""
    return sql.replace("NOW", "extract(epoch FROM clock_timestamp())::float8")


_JOIN = _timed(
    "INSERT INTO writers (token, pid, host, started, seen, low) VALUES (%s, %s, %s, NOW, NOW, %s) RETURNING id"
)
_TAKE = _timed("UPDATE writers SET pid = %s, seen = NOW, stopped = NULL WHERE id = %s")
_ALIVE = _timed("UPDATE writers SET low = %s, seen = NOW, stopped = NULL WHERE id = %s")
_LATE = _timed("SELECT id, low FROM writers WHERE stopped IS NULL AND id <> %s AND seen < NOW - %s")
_GONE = _timed("UPDATE writers SET stopped = NOW WHERE id = %s AND stopped IS NULL")
_LAST = "SELECT seq, hash, id FROM records ORDER BY seq DESC LIMIT 1"
_NAMES = tuple(f"c{number}" for number in range(len(COLUMNS)))
_INSERT = (
    f"INSERT INTO records (writer, seq, id, kind, at, body, hash, {', '.join(COLUMNS)}) "  # noqa: S608 - our own words
    f"SELECT %s, s, i, k, t, b, decode(h, 'hex'), {', '.join(_NAMES)} FROM json_to_recordset(%s::json) "
    f"AS rows (s bigint, i text, k text, t float8, b text, h text, {', '.join(f'{name} text' for name in _NAMES)})"
)
"""All rows as one value. Measured, as CPU of the writer for one row alone and for each of 200: 290 and 23 microseconds,
where arrays took 790 and 160, and a statement for each row 410 and 31."""
_LEFT_OPEN = (
    "FROM records AS r WHERE seq >= %s AND writer = %s AND kind = 'intent' AND NOT EXISTS "
    "(SELECT 1 FROM records AS o WHERE o.id = r.id AND o.kind = 'outcome') ORDER BY seq"
)
"""Intents without an outcome: from which row, of which writer."""
_OPEN_OF = "SELECT id, policy, model, account " + _LEFT_OPEN


def _aborted(why: str, id: str, policy: str | None, model: str | None, account: str | None) -> Entry:
    body = {"policy": policy, "model": model, "account": account, "status": "aborted", "reason": why}
    return aborted(id, policy, model, account, json.dumps(body))
