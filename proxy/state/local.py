"""The store of one machine: an SQLite file that its processes share, and what Redis has not been told yet.

Reading and writing take microseconds and no sync: a commit is in the kernel's hands, and survives the end of the
process. The log is folded into the file by `tidy`, in a thread.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path

from ..audit.schema import is_roomy
from ..audit.steady import Steady
from .base import KEPT, MOST, Fault, Flag, StateUnavailable, Strike

PATIENCE = 0.25
"""Seconds that another process's write is waited for: the event loop waits, too."""
TOGETHER = 100
"""Strikes that are told Redis at once."""
SLICE = 1000
"""Strikes that are looked at in one go where all are to be told anew: others wait some milliseconds."""
Key = tuple[str, str, str]
"""Account, name and decision of a strike."""

_SCHEMA = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA wal_autocheckpoint = 0",
    "CREATE TABLE IF NOT EXISTS strikes (account TEXT, name TEXT, decision TEXT, at REAL NOT NULL, until REAL NOT NULL,"
    " sent INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (account, name, decision)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS strikes_at ON strikes (account, name, at)",
    "CREATE INDEX IF NOT EXISTS strikes_until ON strikes (until)",
    "CREATE INDEX IF NOT EXISTS strikes_unsent ON strikes (account) WHERE sent = 0",
    "CREATE TABLE IF NOT EXISTS flags (account TEXT, name TEXT, until REAL, at REAL NOT NULL, who TEXT NOT NULL,"
    " sent INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (account, name)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS told (one INTEGER PRIMARY KEY CHECK (one = 1), born TEXT NOT NULL)",
)
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM strikes WHERE account = ? AND name = ? AND at > ? LIMIT ?)"
_OLDEST = (
    "DELETE FROM strikes WHERE account = ? AND name = ? AND at <"
    " (SELECT at FROM strikes WHERE account = ? AND name = ? ORDER BY at DESC LIMIT 1 OFFSET ?)"
)
_UNSENT = "SELECT account, name, decision, at FROM strikes WHERE sent = 0"
_KEYS = "SELECT account, name, decision FROM strikes"
_FLAG = (
    "INSERT INTO flags VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " until = excluded.until, at = excluded.at, who = excluded.who, sent = excluded.sent WHERE CASE"
    " WHEN excluded.who NOT GLOB 'rule *' AND excluded.at >= at THEN 1"
    " WHEN who NOT GLOB 'rule *' AND at > excluded.at THEN 0"
    " ELSE until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > until) END"
)
"""`Flag.over`, here: only the file knows what another process wrote in this very second."""


class Local:
    """The file at `path`, opened or made when it is first needed. Calls may come from several threads."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, Steady()
        self._db: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._full = False
        self._inode = 0
        self._own = 0  # what this process changed: SQLite tells of the others only

    # ---- the contract of a store

    async def strike(self, strikes: Sequence[Strike]) -> None:
        self.put(strikes)

    async def counts(self, account: str, since: Mapping[str, float], first: Sequence[Strike] = ()) -> dict[str, int]:
        self.put(first)
        return self.counted(account, since)

    async def kept(self, account: str) -> dict[str, int]:
        with self._using() as db:
            return dict(db.execute("SELECT name, count(*) FROM strikes WHERE account = ? GROUP BY name", (account,)))

    async def flag(self, flags: Sequence[Flag]) -> None:
        self.mark(flags)

    async def unflag(self, account: str, name: str) -> bool:
        with self._using() as db:
            self._own += 1
            return bool(db.execute("DELETE FROM flags WHERE account = ? AND name = ?", (account, name)).rowcount)

    async def flags(self) -> list[Flag]:
        return self.marked()

    async def version(self) -> object:
        return self.changes()

    async def reset(self, account: str, at: float) -> None:
        with self._using() as db:
            self._own += 1
            _forget(db, account, at)

    # ---- the same, at once

    def put(self, strikes: Iterable[Strike]) -> None:
        """Keep strikes. Raises StateUnavailable."""
        rows = [(each.account, each.name, each.decision, each.at, each.at + KEPT) for each in strikes]
        if rows:
            with self._using() as db:
                _all(db, "INSERT OR IGNORE INTO strikes VALUES (?, ?, ?, ?, ?, 0)", rows)

    def counted(self, account: str, since: Mapping[str, float]) -> dict[str, int]:
        """See `Store.counts`."""
        with self._using() as db:
            found = {n: db.execute(_COUNT, (account, n, at, MOST)).fetchone()[0] for n, at in since.items()}
        return {name: count for name, count in found.items() if count}

    def mark(self, flags: Iterable[Flag]) -> None:
        """Mark accounts. Raises StateUnavailable."""
        rows = [(f.account, f.name, None if f.until == inf else f.until, f.at, f.by, 0) for f in flags]
        if rows:
            with self._using() as db:
                self._own += 1
                _all(db, _FLAG, rows)

    def marked(self, *, unsent: bool = False) -> list[Flag]:
        """Every mark that has not ended; or those that Redis was not told of."""
        only = " AND sent = 0" if unsent else ""
        with self._using() as db:
            rows = db.execute(
                f"SELECT account, name, until, at, who FROM flags WHERE (until IS NULL OR until > ?){only}",  # noqa: S608
                (self.clock.now(),),
            ).fetchall()
        return [Flag(account, name, inf if until is None else until, at, by) for account, name, until, at, by in rows]

    def changes(self) -> object:
        """What changes whenever the file does. Raises StateUnavailable also where it was taken away."""
        with self._using() as db:
            if self._inode != (os.stat(self.path).st_ino if os.path.exists(self.path) else 0):
                mend = "stop Penstock, put it back, start again: what is known holds until then"
                raise StateUnavailable(Fault.AWAY, f"{self.path} was taken away while in use", mend)
            return self._own, db.execute("PRAGMA data_version").fetchone()[0]

    # ---- what Redis was not told yet

    def unsent(self, account: str, since: Mapping[str, float]) -> list[Strike]:
        """The strikes of an account that Redis was not told of, of these names and after these times (unix seconds)."""
        with self._using() as db:
            rows = [
                row
                for name, at in since.items()
                for row in db.execute(f"{_UNSENT} AND account = ? AND name = ? AND at > ?", (account, name, at))
            ]
        return [Strike(*row) for row in rows]

    def some_unsent(self) -> list[Strike]:
        """Some strikes of anybody's that Redis was not told of."""
        with self._using() as db:
            return [Strike(*row) for row in db.execute(f"{_UNSENT} LIMIT ?", (TOGETHER,))]

    def sent(self, strikes: Iterable[Strike]) -> None:
        """Redis has these."""
        rows = [each[:3] for each in strikes]
        if rows:
            with self._using() as db:
                _all(db, "UPDATE strikes SET sent = 1 WHERE account = ? AND name = ? AND decision = ?", rows)

    def sent_flags(self, flags: Iterable[Flag]) -> None:
        """Redis has these, unless they were changed meanwhile."""
        rows = [(each.account, each.name, each.at) for each in flags]
        with self._using() as db:
            _all(db, "UPDATE flags SET sent = 1 WHERE account = ? AND name = ? AND at = ?", rows)

    def knows(self, born: str) -> bool:
        """Whether Redis, which is this memory now, is the one that was told what is sent."""
        with self._using() as db:
            return db.execute("SELECT 1 FROM told WHERE born = ?", (born,)).fetchone() is not None

    def untell(self, after: Key | None) -> Key | None:
        """Redis was not told of the next strikes in order, those behind `after`: the last one of them, and nothing once
        there are no more. For a thread; whoever else wants the file waits for a slice and no longer."""
        first = "" if after is None else " WHERE (account, name, decision) > (?, ?, ?)"
        with self._using() as db:
            rows = db.execute(
                f"{_KEYS}{first} ORDER BY account, name, decision LIMIT ?", (*(after or ()), SLICE)
            ).fetchall()
            if rows:
                _all(
                    db, "UPDATE strikes SET sent = 0 WHERE account = ? AND name = ? AND decision = ? AND sent = 1", rows
                )
        return rows[-1] if rows else None

    def telling(self, born: str) -> None:
        """From now on Redis is this memory. It is to be told every mark; of the strikes `untell` has seen to that."""
        with self._using() as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE flags SET sent = 0")
            db.execute("INSERT OR REPLACE INTO told VALUES (1, ?)", (born,))
            db.execute("COMMIT")

    def told(self) -> list[tuple[str, str, float]]:
        """The marks (account, name, since) that Redis was told of. Ask before Redis is read, for `mirror`."""
        with self._using() as db:
            return db.execute("SELECT account, name, at FROM flags WHERE sent = 1").fetchall()

    def mirror(
        self, flags: Iterable[Flag], resets: Mapping[str, float], told: Iterable[tuple[str, str, float]]
    ) -> None:
        """Redis, when it was read, had these marks and of those that it was `told` before no others, and forgot what
        these accounts did up to then. What another process has told it since stays."""
        with self._using() as db:
            db.execute("BEGIN IMMEDIATE")
            self._own += 1
            for account, at in resets.items():
                _forget(db, account, at)
            db.executemany("DELETE FROM flags WHERE account = ? AND name = ? AND at = ? AND sent = 1", told)
            rows = [(f.account, f.name, None if f.until == inf else f.until, f.at, f.by, 1) for f in flags]
            db.executemany(_FLAG, rows)
            db.execute("COMMIT")

    def waiting(self) -> int:
        """How much Redis was not told yet."""
        with self._using() as db:
            (strikes,) = db.execute("SELECT count(*) FROM strikes WHERE sent = 0").fetchone()
            (flags,) = db.execute("SELECT count(*) FROM flags WHERE sent = 0").fetchone()
        return int(strikes + flags)

    # ---- the file

    def tidy(self) -> None:
        """Forget what counts no more, and fold the log into the file. Takes as long as a disk does; for a thread."""
        now = self.clock.now()
        with self._using() as db:
            db.execute("DELETE FROM strikes WHERE until <= ?", (now,))
            db.execute("DELETE FROM flags WHERE until <= ?", (now,))
        other = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        with contextlib.closing(other), _told(self.path):
            many = other.execute(
                "SELECT account, name FROM strikes GROUP BY account, name HAVING count(*) > ?", (MOST,)
            ).fetchall()
            for account, name in many:
                other.execute(_OLDEST, (account, name, account, name, MOST - 1))
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def has_room(self) -> bool:
        """False on a disk that was full until there is room for more than the next row."""
        with contextlib.suppress(OSError):  # of a disk that is gone the next write tells
            self._full = self._full and not is_roomy(self.path)
        return not self._full

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The open file. Raises StateUnavailable for whatever is wrong with it."""
        try:
            with self._lock, _told(self.path):
                if self._db is None:
                    self._db = _opened(self.path)
                    self._inode = os.stat(self.path).st_ino
                try:
                    yield self._db
                except sqlite3.Error as error:
                    if _broken(error):
                        self._db.close()  # a good copy that is put in its place is to be seen
                        self._db = None
                    elif self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
        except StateUnavailable as error:
            self._full = self._full or error.fault is Fault.FULL
            raise


def _opened(path: Path) -> sqlite3.Connection:
    made = not os.path.exists(path)
    db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        if made:
            path.chmod(0o600)
            if os.geteuid() == 0:
                # Made by root for a server that is not: it belongs to whom the data directory belongs.
                owner = path.parent.stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        for line in _SCHEMA:
            db.execute(line)
    except BaseException:
        db.close()
        raise
    return db


def _broken(error: Exception) -> bool:
    """Whether what lies there is no database, or no whole one."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        fault = Fault.READ_ONLY if "readonly" in str(error) else Fault.FULL if "full" in str(error) else Fault.AWAY
        mend = f"this user must be able to write {path.parent}, and the disk must have room"
        if _broken(error):
            mend = "put a good copy back, or move it away: strikes and flags of this machine are in it"
        raise StateUnavailable(fault, f"{path}: {error}", mend) from None


def _all(db: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """All rows or none."""
    db.execute("BEGIN IMMEDIATE")
    db.executemany(statement, rows)
    db.execute("COMMIT")


def _forget(db: sqlite3.Connection, account: str, at: float) -> None:
    db.execute("DELETE FROM strikes WHERE account = ? AND at <= ?", (account, at))
    db.execute("DELETE FROM flags WHERE account = ? AND at <= ?", (account, at))
