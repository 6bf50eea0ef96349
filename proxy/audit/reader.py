"""Reading the log while the proxy writes it: the latest exchanges, one exchange, and the walk along the chain."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from .chain import Break, Row, Verdict, verify
from .entry import COLUMNS, AuditUnavailable
from .head import BadHead, path_of, unpack
from .key import Key, sealer
from .schema import check_version, connect, explain, open_meta
from .seal import Head, genesis

_ROW = "SELECT seq, id, kind, at, writer, body, hash, " + ", ".join(COLUMNS) + " FROM records "  # noqa: S608 - our own words


@dataclass(frozen=True, slots=True)
class Exchange:
    """Both halves of one exchange: `at` is when it began, `intent` and `outcome` are the bodies or None."""

    id: str
    at: float
    intent: dict[str, Any] | None
    outcome: dict[str, Any] | None

    def __getitem__(self, name: str) -> Any:
        """What the outcome says, else what the intent said."""
        for half in (self.outcome, self.intent):
            if half is not None and half.get(name) is not None:
                return half[name]
        return None


class Reader:
    """A read-only view of one log. A context manager; every method raises AuditUnavailable."""

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path).absolute()
        if path.is_dir():
            raise AuditUnavailable(f"{path} is a directory", "name the log in it")
        if not path.exists():
            raise AuditUnavailable(f"there is no audit log at {path}", "name it with --path")
        try:
            self._db = _connect(path)
        except sqlite3.Error as error:
            raise explain(error, path) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def last_seq(self) -> int:
        """The newest row's number, 0 for an empty log."""
        return int(self._query("SELECT coalesce(max(seq), 0) FROM records")[0][0])

    def latest(
        self, limit: int, *, action: str | None = None, rule: str | None = None, since: float | None = None
    ) -> list[Exchange]:
        """The newest `limit` exchanges that match, oldest first. `since` is unix seconds."""
        where, values = _where(action, rule, since)
        found: dict[str, Exchange] = {}
        with self._reading():
            newest = f"SELECT id FROM records {where} ORDER BY seq DESC"  # noqa: S608 - our own words
            for (id,) in self._db.execute(newest, values):
                if len(found) >= limit:
                    break
                if id not in found and (exchange := self._exchange(id)) and _match(exchange, action, rule, since):
                    found[id] = exchange
        return list(found.values())[::-1]

    def after(self, seq: int, *, action: str | None = None, rule: str | None = None) -> tuple[int, list[Exchange]]:
        """Exchanges that ended after row `seq`, in order, and the row to ask from next."""
        rows = self._query("SELECT seq, id, kind FROM records WHERE seq > ? ORDER BY seq LIMIT 1000", (seq,))
        ended = [exchange for _, id, kind in rows if kind == "outcome" and (exchange := self.exchange(id))]
        return (rows[-1][0] if rows else seq), [e for e in ended if _match(e, action, rule, None)]

    def exchange(self, id: str) -> Exchange | None:
        with self._reading():
            return self._exchange(id)

    def select(self, sql: str, values: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query on the table `records`, one after the other."""
        with self._reading():
            yield from self._db.execute(sql, values)

    def verify(self, key: Key | None = None, noted: Head | None = None) -> Verdict:
        """Walk the whole chain. `noted` is a head that was written down elsewhere."""
        seal = sealer(key)
        with self._reading():
            uuid = open_meta(self._db, self.path, seal)
        start = genesis(seal, uuid)
        anchors = [noted] if noted else []
        notes: tuple[str, ...] = ()
        # First the head file, then the table: what is written in between only makes the table longer.
        try:
            anchors.append(unpack(Path(path_of(self.path)).read_bytes(), seal))
        except FileNotFoundError:
            notes = (f"{path_of(self.path)} is missing: rows cut off the end would not be seen",)
        except OSError as error:
            raise explain(error, self.path) from None
        except BadHead as error:
            return Verdict(0, start, Break("head", 0, "-", f"{path_of(self.path)}: {error}"))
        rows = _Rows(self._db)
        try:
            self._db.execute("BEGIN")
            try:
                verdict = verify(rows, seal, start, anchors)
            finally:
                self._db.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise explain(error, self.path) from None
        except sqlite3.DatabaseError as error:
            broken = Break("corrupt", rows.seq + 1, "-", f"the file is damaged after row {rows.seq}: {error}")
            return Verdict(rows.seq, start, broken, notes)
        return Verdict(verdict.rows, verdict.head, verdict.broken, notes + verdict.notes)

    def _exchange(self, id: str) -> Exchange | None:
        halves: dict[str, dict[str, Any]] = {}
        began = 0.0
        for kind, at, body in self._db.execute("SELECT kind, at, body FROM records WHERE id = ? ORDER BY seq", (id,)):
            if kind in ("intent", "outcome"):
                began = began or at
                halves[kind] = orjson.loads(body)
        if not halves:
            return None
        return Exchange(id, began, halves.get("intent"), halves.get("outcome"))

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._reading():
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explain(error, self.path) from None
        except ValueError:  # a body that is no JSON
            raise AuditUnavailable(f"{self.path} holds a damaged row", "see `penstock audit verify`") from None


class _Rows:
    """The rows in order; `seq` is how far the latest walk came."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db, self.seq = db, 0

    def __call__(self) -> Iterator[Row]:
        for seq, id, kind, at, writer, body, hash_, *plain in self._db.execute(_ROW + "ORDER BY seq"):
            yield Row(seq, id, kind, at, writer, body, hash_, tuple(plain))
            self.seq = seq


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


def _where(action: str | None, rule: str | None, since: float | None) -> tuple[str, list[object]]:
    # An exchange is matched by either half here and as a whole by `_match`.
    tests, values = ["kind IN ('intent', 'outcome')"], list[object]()
    for test, value in (("action = ?", action), ("rule = ?", rule), ("at >= ?", since)):
        if value is not None:
            tests.append(test)
            values.append(value)
    return "WHERE " + " AND ".join(tests), values


def _match(exchange: Exchange, action: str | None, rule: str | None, since: float | None) -> bool:
    return (
        (action is None or exchange["action"] == action)
        and (rule is None or exchange["rule"] == rule)
        and (since is None or exchange.at >= since)
    )
