"""Which account a stored response, conversation or file belongs to.

The provider knows one account, the operator's; so what one caller stored there, any other could name. With keys an id
may be used by the account that it was minted for through this Penstock. To all others it is as if it were not there.

Decision: what is not in the table is nobody's, wherever it is named. Why: a table that forgets must not give away.
Cost: an id older than KEPT, or minted elsewhere, is not found. The table is one machine's: replicas that share no
data directory need callers that come back to the same one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from ..audit.steady import Steady
from ..logs import get_logger

log = get_logger("penstock.owned")

KEPT = 90 * 86_400.0
"""Seconds that an id is remembered."""
MOST = 1_000_000
"""Ids that are remembered."""
TIDY = 1000
"""How many new ids come between two looks at what is too old or too many."""

TOGETHER = 500
"""How many ids are looked up at once."""
PATIENCE = 0.25
"""Seconds that another process's write is waited for: the event loop waits, too."""

_SCHEMA = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "CREATE TABLE IF NOT EXISTS owned (id BLOB PRIMARY KEY, account BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS owned_at ON owned (at)",
)
_OLDEST = "DELETE FROM owned WHERE id IN (SELECT id FROM owned ORDER BY at LIMIT ?)"
_LONGEST = 512


class Owned:
    """The table: keyed hashes of ids and accounts, in an SQLite file that several processes may share."""

    def __init__(
        self,
        path: Path,
        hashed: Callable[[str], str],
        shared: Collection[str] = (),
        *,
        kept: float = KEPT,
        most: int = MOST,
    ) -> None:
        """The file is opened, or made, when it is first needed. `shared` ids are everybody's."""
        self._path, self._hashed, self._shared = path, hashed, frozenset(shared)
        self._kept, self._most = kept, most
        self._fresh, self._clock = 0, Steady()
        self._db: sqlite3.Connection | None = None
        self._inode = 0

    def _open(self) -> sqlite3.Connection:
        """The file that lies there now: SQLite would go on in one that was taken away, each process in its own. Raises
        sqlite3.Error."""
        if self._db is not None and _inode(self._path) != self._inode:
            mend = "put it back: what it held is nobody's until then"
            log.error("the table of who owns which id was taken away or replaced", path=str(self._path), mend=mend)
            self.close()
        if self._db is None:
            made = not os.path.exists(self._path)
            db = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
            if made:
                self._path.chmod(0o600)
            for line in _SCHEMA:
                db.execute(line)
            self._db, self._inode = db, _inode(self._path)
        return self._db

    def mint(self, account: str, ids: Iterable[str]) -> bool:
        """`ids` belong to `account` from now on, where they belong to nobody. What cannot be written is nobody's: then
        it is False."""
        names = [name for name in ids if 0 < len(name) <= _LONGEST]
        if not names:
            return True
        now, owner = self._clock.now(), self._hash("account", account)
        rows = [(self._hash("id", name), owner, now) for name in names]
        try:
            self._open().executemany("INSERT OR IGNORE INTO owned VALUES (?, ?, ?)", rows)
            self._fresh += len(rows)
            if self._fresh >= TIDY:
                self._fresh = 0
                self._tidy(self._clock.now())
        except (sqlite3.Error, OSError) as error:
            if all(self._owner(name) for name in names):  # there was nothing to write
                return True
            log.error("who owns an id was not written down", problem=str(error))
            return False
        return True

    def owns(self, account: str, name: str) -> bool:
        """Whether the id `name` belongs to `account`, or to everybody."""
        return name in self._shared or self._owner(name) == self._hash("account", account)

    def lacks(self, account: str, names: Iterable[str]) -> bool:
        """Whether one of these ids is neither this account's nor everybody's."""
        owner, since = self._hash("account", account), self._clock.now() - self._kept
        hashes = list({self._hash("id", name) for name in names if name not in self._shared})
        try:
            for at in range(0, len(hashes), TOGETHER):
                some = hashes[at : at + TOGETHER]
                marks = ",".join("?" * len(some))
                asked = f"SELECT count(*) FROM owned WHERE id IN ({marks}) AND at > ? AND account = ?"  # noqa: S608 - no word
                (count,) = self._open().execute(asked, (*some, since, owner)).fetchone()
                if count != len(some):
                    return True
        except (sqlite3.Error, OSError) as error:
            log.error("who owns an id cannot be read", problem=str(error))
            return True
        return False

    def foreign(self, account: str, names: Iterable[str]) -> bool:
        """Whether one of these ids is known to belong to somebody else."""
        owner, since = self._hash("account", account), self._clock.now() - self._kept
        hashes = [self._hash("id", name) for name in names]
        try:
            for at in range(0, len(hashes), TOGETHER):
                some = hashes[at : at + TOGETHER]
                marks = ",".join("?" * len(some))
                asked = f"SELECT 1 FROM owned WHERE id IN ({marks}) AND at > ? AND account != ? LIMIT 1"  # noqa: S608 - no word
                if self._open().execute(asked, (*some, since, owner)).fetchone() is not None:
                    return True
        except (sqlite3.Error, OSError) as error:
            log.error("who owns an id cannot be read", problem=str(error))
            return True
        return False

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _owner(self, name: str) -> bytes | None:
        try:
            since = self._clock.now() - self._kept
            found = (
                self._open()
                .execute("SELECT account FROM owned WHERE id = ? AND at > ?", (self._hash("id", name), since))
                .fetchone()
            )
        except (sqlite3.Error, OSError) as error:
            log.error("who owns an id cannot be read", problem=str(error))
            return b""  # somebody's, and not this account's
        return None if found is None else bytes(found[0])

    def _tidy(self, now: float) -> None:
        db = self._open()
        db.execute("DELETE FROM owned WHERE at <= ?", (now - self._kept,))
        (count,) = db.execute("SELECT count(*) FROM owned").fetchone()
        if count > self._most:
            db.execute(_OLDEST, (count - self._most,))

    def _hash(self, kind: str, value: str) -> bytes:
        return bytes.fromhex(self._hashed(f"owned {kind}\0{value}"))


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
