"""Reading the log while the proxy writes it: the exchanges that are looked for, one exchange, all of them, and the walk
along the chain. The same for every database: see `source`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from .chain import Break, Row, Verdict, verify
from .entry import COLUMNS, AuditUnavailable
from .head import PRUNED, BadHead, unpack
from .key import Key, sealer
from .seal import Head, Sealer, genesis
from .search import Search
from .source import Damaged, open_source

_ROW = "SELECT seq, id, kind, at, writer, body, hash, " + ", ".join(COLUMNS) + " FROM records "  # noqa: S608 - our own words
_HALVES = "SELECT kind, at, body FROM records WHERE id = ? ORDER BY seq"
_DAMAGED = AuditUnavailable("a row is damaged", "see `penstock audit verify`")
EVERYTHING = Search()
LAST = (
    "NOT (kind = 'outcome' AND EXISTS (SELECT 1 FROM records AS later "
    "WHERE later.id = records.id AND later.seq > records.seq AND later.kind = 'outcome'))"
)
"""Of the outcomes of one exchange only the last: an answer that waited for the first one to be durable, and was refused
when that took too long, has a second one behind it; so has what was taken for aborted and was not."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Both halves of one exchange: `at` is when it began and `ended` when it did (unix seconds), `intent` and `outcome`
    are the bodies or None."""

    id: str
    at: float
    intent: dict[str, Any] | None
    outcome: dict[str, Any] | None
    ended: float | None = None

    def __getitem__(self, name: str) -> Any:
        """What the outcome says, else what the intent said."""
        for half in (self.outcome, self.intent):
            if half is not None and half.get(name) is not None:
                return half[name]
        return None


class Reader:
    """A read-only view of one log, at a path or the URL of a database. A context manager; every method raises
    AuditUnavailable. `head` is the file in which a replica noted the head of a database (`Settings.audit_head`)."""

    def __init__(self, where: str | Path, head: str | Path = "") -> None:
        self._source = open_source(where, head)
        self.name = self._source.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    def last_seq(self) -> int:
        """The newest row's number, 0 for an empty log."""
        ((seq,),) = self._source.rows("SELECT coalesce(max(seq), 0) FROM records", few=True)
        return int(seq)

    def latest(self, limit: int, search: Search = EVERYTHING) -> list[Exchange]:
        """The newest `limit` exchanges that are looked for, oldest first."""
        found: dict[str, Exchange] = {}
        where, values = search.where()
        newest = f"SELECT id FROM records WHERE {where} ORDER BY at DESC, seq DESC"  # noqa: S608 - our own words
        with self._source.snapshot(), self._source.searching(search.span):
            for (id,) in self._source.rows(newest, values):
                if len(found) >= limit:
                    break
                if id not in found and (exchange := self.exchange(id)) and search.match(exchange):
                    found[id] = exchange
        return sorted(found.values(), key=lambda exchange: exchange.at)

    def after(self, seq: int, search: Search = EVERYTHING) -> tuple[int, list[Exchange]]:
        """Exchanges that ended after row `seq`, in order, and the row to ask from next."""
        newer = "SELECT seq, id, kind FROM records WHERE seq > ? ORDER BY seq LIMIT 1000"
        rows = list(self._source.rows(newer, (seq,), few=True))
        last = dict.fromkeys(id for _, id, kind in rows if kind == "outcome")
        ended = [exchange for id in last if (exchange := self.exchange(id))]
        return (rows[-1][0] if rows else seq), [exchange for exchange in ended if search.match(exchange)]

    def exchange(self, id: str) -> Exchange | None:
        """The exchange of this id."""
        return _joined(id, list(self._source.rows(_HALVES, (id,), few=True)))

    def walk(self, search: Search = EVERYTHING) -> Iterator[Exchange]:
        """All exchanges that are looked for, in the order in which they ended, and at last those that have not; in one
        pass. What is kept in memory meanwhile is those that have begun and not ended."""
        begun: dict[str, list[tuple[str, float, str]]] = {}
        tests, values = ["kind IN ('intent', 'outcome')", LAST], list[object]()
        if search.since is not None:
            tests.append("at >= ?")
            values.append(search.since)
        sql = f"SELECT id, kind, at, body FROM records WHERE {' AND '.join(tests)} ORDER BY seq"  # noqa: S608 - our own words
        with self._source.snapshot():
            for id, *half in self._source.rows(sql, values):
                if half[0] == "intent":
                    begun.setdefault(id, []).append(tuple(half))
                    continue
                first = begun.pop(id, None)
                # Where the walk does not begin with the log, the intent may stand before it.
                whole = (
                    self.exchange(id)
                    if first is None and search.since is not None
                    else _joined(id, [*(first or ()), half])
                )
                if whole is not None and search.match(whole):
                    yield whole
            for id, halves in begun.items():
                if (whole := _joined(id, halves)) is not None and search.match(whole):
                    yield whole

    def select(self, sql: str, values: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query on the table `records`, one after the other."""
        with self._source.snapshot():
            yield from self._source.rows(sql, values)

    def verify(self, key: Key | None = None, noted: Head | None = None) -> Verdict:
        """Walk the whole chain, from where it was pruned. `noted` is a head that was written down elsewhere."""
        seal, source = sealer(key), self._source
        uuid, _ = source.opened(seal)
        origin = genesis(seal, uuid)
        anchors, notes = [noted] if noted else [], list[str]()
        # First the noted head, then the table: what is written in between only makes the table longer.
        try:
            head = source.noted(seal)
        except BadHead as error:
            return Verdict(0, origin, Break("head", 0, "-", f"the head of {source.name}: {error}"))
        if head is None:
            notes.append("the head that was noted beside it is missing: rows cut off the end would not be seen")
        else:
            anchors.append(head)
        rows = _Rows(self)
        try:
            with source.snapshot():
                try:
                    start = _start(origin, source.opened(seal)[1], seal)
                except BadHead as error:
                    return Verdict(0, origin, Break("head", 0, "-", f"the note of what was pruned: {error}"))
                if start.seq:
                    notes.append(f"rows 1 to {start.seq} were pruned")
                early = [anchor for anchor in anchors if anchor.seq < start.seq]
                notes += [f"the noted head, row {anchor.seq}, was pruned" for anchor in early]
                later = [anchor for anchor in anchors if anchor not in early]
                verdict = verify(rows, seal, start, later, source.columns)
        except Damaged as error:
            broken = Break("corrupt", rows.seq + 1, "-", f"the file is damaged after row {rows.seq}: {error.problem}")
            return Verdict(rows.seq, origin, broken, tuple(notes))
        return Verdict(verdict.rows, verdict.head, verdict.broken, (*notes, *verdict.notes))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Every row as it is, in order: seq, id, kind, at, writer, body, hash, then COLUMNS."""
        return self._source.rows(_ROW + "ORDER BY seq")


def _start(origin: Head, pruned: str, seal: Sealer) -> Head:
    """Where the chain begins. Raises BadHead where the note was not made with the key."""
    return unpack(pruned.encode(), seal, PRUNED) if pruned else origin


def _joined(id: str, halves: list[Any]) -> Exchange | None:
    """The exchange that rows of one id (kind, at, body) make up. Raises AuditUnavailable for a body that is no JSON."""
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, float] = {}
    try:
        for kind, at, body in halves:
            if kind in ("intent", "outcome"):
                found[kind] = orjson.loads(body)
                times[kind] = at if kind == "outcome" else times.get(kind, at)
    except ValueError:
        raise _DAMAGED.again() from None
    if not found:
        return None
    ended = times.get("outcome")
    return Exchange(id, times.get("intent", ended or 0.0), found.get("intent"), found.get("outcome"), ended)


class _Rows:
    """The rows in order; `seq` is how far the latest walk came."""

    def __init__(self, log: Reader) -> None:
        self._log, self.seq = log, 0

    def __call__(self) -> Iterator[Row]:
        for seq, id, kind, at, writer, body, hash_, *plain in self._log.rows():
            yield Row(seq, id, kind, at, writer, body, hash_, tuple(plain))
            self.seq = seq
