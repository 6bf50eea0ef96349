"""What every store of the audit promises, on a SQLite file and on a real PostgreSQL server alike."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import time
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from proxy.audit import Audit, AuditUnavailable, Key, Reader, Record, ahead, new_id
from proxy.audit import keeping as keeping_of
from proxy.audit.export import write
from proxy.audit.keeping import BATCH, Keeping
from proxy.audit.postgres import PostgresStore
from proxy.audit.process import Process
from proxy.audit.record import encode
from proxy.audit.search import Search
from proxy.audit.store import SqliteStore
from proxy.cli import app as cli
from proxy.recorded import recorded
from tests.proxy.audit_lines import until
from tests.servers.postgres import Postgres

KEY = Key(b"k" * 32)
AnyStore = SqliteStore | PostgresStore


@dataclass
class Place:
    """One log, still to be made."""

    where: str
    head: str

    async def audit(self, **options: Any) -> Audit:
        return await Audit.open(self.where, key=KEY, head=self.head, **options)

    def store(self, keep: float = 0.0) -> AnyStore:
        if self.database:
            return PostgresStore.open(self.where, KEY.seal, keep=keep, head=self.head)
        return SqliteStore.open(self.where, KEY.seal, keep=keep)

    def reader(self) -> Reader:
        return Reader(self.where, self.head)

    @property
    def database(self) -> bool:
        return self.where.startswith("postgresql://")

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        if self.database:
            with psycopg.connect(self.where, autocommit=True) as db:
                db.execute("SET search_path = penstock_audit")
                for statement in statements:
                    done = db.execute(statement)
                    rows = done.fetchall() if done.description else []
            return rows
        lite = sqlite3.connect(self.where, isolation_level=None)
        for statement in statements:
            rows = lite.execute(statement).fetchall()
        lite.close()
        return rows


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(str(tmp_path / "a.db"), "")
    postgres: Postgres = request.getfixturevalue("postgres")
    return Place(postgres.emptied(), str(tmp_path / "head"))


def intent(id: str = "", **body: Any) -> Record:
    return Record(id or new_id(), "intent", time.time(), {"action": "pass", "model": "m", **body})


def outcome(id: str, **body: Any) -> Record:
    return Record(id, "outcome", time.time(), {"status": "released", **body})


async def test_what_was_acknowledged_is_there_before_anything_else_happens(log: Place) -> None:
    audit = await log.audit()
    record = intent(scores={"injection": 0.2})
    await audit.durable(record)
    with log.reader() as reader:
        found = reader.exchange(record.id)
        assert found is not None
        assert (found.intent, found.outcome) == (record.body, None)
    assert audit.append(outcome(record.id, milliseconds={"total": 5.5}))
    await audit.close()
    with log.reader() as reader:
        found = reader.exchange(record.id)
        assert found is not None
        assert found.outcome == {"status": "released", "milliseconds": {"total": 5.5}}
        assert reader.verify(KEY).rows == 2
    assert (audit.written, audit.lost, audit.failed, audit.waiting) == (2, 0, 0, 0)


async def test_many_share_a_commit_and_keep_their_order(log: Place) -> None:
    audit = await log.audit()
    records = [outcome(new_id()) for _ in range(200)]
    await asyncio.gather(*map(audit.durable, records))
    await audit.close()
    assert audit.commits <= 20
    with log.reader() as reader:
        assert [id for (id,) in reader.select("SELECT id FROM records ORDER BY seq")] == [each.id for each in records]


async def test_several_writers_make_one_chain(log: Place) -> None:
    audits = [await log.audit() for _ in range(3)]
    records = [intent() for _ in range(60)]
    turns = list(zip(audits * 20, records, strict=True))
    await asyncio.gather(*(audit.durable(record) for audit, record in turns))
    for audit, record in turns:
        audit.append(outcome(record.id))
    for audit in audits:
        await audit.close()
    with log.reader() as reader:
        verdict = reader.verify(KEY)
        assert (verdict.broken, verdict.rows) == (None, 120)
        assert all(each.outcome for each in reader.latest(100))
        assert len({row for (row,) in reader.select("SELECT writer FROM records")}) == 3


async def test_of_several_outcomes_the_last_one_counts(log: Place) -> None:
    """As where an answer waited for its record, was refused when that took too long, and the disk wrote both."""
    audit = await log.audit()
    first, alone = intent(), new_id()
    body: dict[str, Any] = {"action": "pass", "rule": None, "revision": "r", "input": {}, "dialect": "chat"}
    await audit.durable(first)
    for id in (first.id, alone):
        await audit.durable(outcome(id, **body))
    (after, told) = await asyncio.to_thread(_told_after, log, 0)
    assert [each.outcome["status"] for each in told] == ["released", "released"]
    for id in (first.id, alone):
        ended = {"status": "refused", "detail": "audit_unavailable", "instead_of": "released"}
        await audit.durable(Record(id, "outcome", time.time(), {**body, **ended}))
    await audit.close()
    assert len(_told_after(log, 0)[1]) == 2
    assert [each.outcome["status"] for each in _told_after(log, after)[1]] == ["refused", "refused"]
    with log.reader() as reader:
        shown = {each.id: each for each in reader.latest(10)}
        assert {id: each.outcome["status"] for id, each in shown.items() if each.outcome} == {
            first.id: "refused",
            alone: "refused",
        }
        assert shown == {each.id: each for each in reader.walk()} == {id: reader.exchange(id) for id in shown}
        assert len(list(reader.walk())) == len(list(reader.walk(Search(since=1.0)))) == 2
        for search, count in (
            (Search(status="released"), 0),
            (Search(status="refused"), 2),
            (Search(error="audit_unavailable"), 2),
        ):
            assert len(reader.latest(10, search)) == len(list(reader.walk(search))) == count
        assert sorted(id for rows in recorded(reader) for id in rows.ids) == sorted(shown)
        assert reader.verify(KEY).broken is None


def _told_after(log: Place, seq: int) -> tuple[int, list[Any]]:
    with log.reader() as reader:
        return reader.after(seq)


async def test_what_close_finds_open_is_aborted(log: Place) -> None:
    audit = await log.audit()
    record = intent(policy="p@1", account="acc", text_length=5)
    await audit.durable(record)
    await audit.close()
    with log.reader() as reader:
        found = reader.exchange(record.id)
        assert found is not None
        assert found.outcome is not None
        assert found.outcome["status"] == "aborted"
        assert found.outcome["account"] == "acc"
        assert reader.verify(KEY).broken is None


def _until_killed(where: str, head: str, acks: str) -> None:
    """Write for ever; what was acknowledged is noted in a file."""

    async def exchanges() -> None:
        audit = await Audit.open(where, key=KEY, head=head)
        assert isinstance(audit._line, Process)
        Path(acks + ".pid").write_text(str(audit._line.pid))
        out = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        async def client() -> None:
            while True:
                record = intent()
                await audit.durable(record)
                os.write(out, record.id.encode() + b"\n")
                await asyncio.sleep(0.001)
                audit.append(outcome(record.id))

        await asyncio.gather(*(client() for _ in range(8)))

    asyncio.run(exchanges())


@pytest.mark.parametrize("whole", [False, True], ids=["the proxy", "the proxy and its writer"])
def test_what_a_client_saw_survives_kill_9(
    log: Place, tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.audit.postgres.LEASE", 0.0)
    acks = tmp_path / "acks"
    context = multiprocessing.get_context("spawn")
    for round in range(2):
        before = acks.stat().st_size if acks.exists() else 0
        process = context.Process(target=_until_killed, args=(log.where, log.head, str(acks)), daemon=True)
        process.start()
        limit = time.monotonic() + 60
        while (not acks.exists() or acks.stat().st_size < before + 600) and time.monotonic() < limit:
            time.sleep(0.005)
        process.kill()
        if whole:
            os.kill(int(Path(f"{acks}.pid").read_text()), signal.SIGKILL)
        process.join()
        assert acks.stat().st_size > before, round
    ids = set(acks.read_text().split())
    writers = "SELECT count(*) FROM writers WHERE stopped IS NULL"
    limit = time.monotonic() + 30
    # Of those killed with their proxy, the next one finds the one before: in a file at once, in a database later.
    left = (2 if log.database else 1) if whole else 0
    while log.sql(writers) != [(left,)] and time.monotonic() < limit:  # a writer outlives its proxy by what it has
        time.sleep(0.02)
    log.store().close()  # whoever opens it next marks what is open
    assert log.sql(writers) == [(0,)]
    with log.reader() as reader:
        assert reader.verify(KEY).broken is None
        found = {exchange.id: exchange for exchange in reader.latest(1_000_000)}
    assert ids <= set(found)
    ends = {exchange.outcome["status"] for exchange in found.values() if exchange.outcome is not None}
    assert ends == {"released", "aborted"}
    assert all(exchange.outcome is not None for exchange in found.values())


@pytest.mark.parametrize("committed", [False, True], ids=["before the commit", "after it"])
def test_a_repeated_batch_is_written_once(log: Place, monkeypatch: pytest.MonkeyPatch, committed: bool) -> None:
    store = log.store()
    store.write([encode(outcome(new_id()))])
    batch = [encode(intent()) for _ in range(3)]
    name = ("_note" if log.database else "_head") if committed else "_insert"
    good = getattr(store, name)

    def fail(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    bad = type("Head", (), {"write": fail, "turn": getattr(good, "turn", None)})() if name == "_head" else fail
    monkeypatch.setattr(store, name, bad)
    with pytest.raises(AuditUnavailable):
        store.write(batch)
    monkeypatch.setattr(store, name, good)
    other = log.store()  # somebody else goes on meanwhile
    other.write([encode(outcome(new_id()))])
    store.write(batch)
    store.close()
    other.close()
    with log.reader() as reader:
        assert reader.verify(KEY).broken is None
        wanted = [entry[1] for entry in batch]
        assert [id for (id,) in reader.select("SELECT id FROM records WHERE kind = 'intent' ORDER BY seq")] == wanted


def test_a_connection_that_breaks_in_the_middle_costs_nothing(log: Place) -> None:
    store = log.store()
    first, second = encode(outcome(new_id())), encode(outcome(new_id()))
    store.write([first])
    assert store._db is not None
    store._db.close()
    with pytest.raises(AuditUnavailable):
        store.write([second])
    assert store.write([second]).seq == 2
    store.close()
    with log.reader() as reader:
        assert reader.verify(KEY).rows == 2


def test_who_is_gone_is_found_out_and_who_lives_is_left_alone(log: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.audit.postgres.LEASE", 0.0)
    early, long, late, living = new_id(), new_id(), new_id(), new_id()
    gone, alive = log.store(), log.store()
    alive.write([encode(intent(living))])
    for record in (intent(early), intent(long), outcome(early), intent(late)):
        gone.write([encode(record)])
        gone.write([])  # notes now, instead of once a second, how far back it has something open
    gone._drop()
    if isinstance(gone, SqliteStore):
        assert gone._lock is not None
        os.close(gone._lock)  # as the kernel does for a process that died
    log.store().close()
    with log.reader() as reader:
        ends = {each.id: each.outcome and each.outcome["status"] for each in reader.latest(10)}
        assert reader.verify(KEY).broken is None
    assert ends == {early: "released", long: "aborted", late: "aborted", living: None}
    alive.close()


async def test_a_writer_that_is_killed_is_replaced_and_nothing_is_lost_or_doubled(log: Place) -> None:
    audit = await log.audit()
    first, second, third = outcome(new_id()), outcome(new_id()), outcome(new_id())
    await audit.durable(first)
    assert isinstance(audit._line, Process)
    os.kill(audit._line.pid, signal.SIGSTOP)  # what is sent now is not written
    waiter = audit.submit(second)
    await asyncio.sleep(0.01)
    os.kill(audit._line.pid, signal.SIGKILL)
    with pytest.raises(AuditUnavailable, match="process ended"):
        await waiter
    assert audit.append(third)
    await until(lambda: audit.healthy and not audit.waiting)
    await audit.close()
    with log.reader() as reader:
        found = [id for (id,) in reader.select("SELECT id FROM records ORDER BY seq")]
        assert found == [first.id, second.id, third.id]
        assert reader.verify(KEY).broken is None


@pytest.mark.parametrize("rows", [0, 2])
def test_a_place_is_taken_over_with_what_was_written_and_not_answered(log: Place, rows: int) -> None:
    store = log.store()
    token, writer, head, _ = store.opened
    open_one = new_id()
    if rows:
        store.write([encode(intent(open_one)), encode(outcome(new_id()))])
    store._drop()
    place = token, writer, head.seq, head.hash
    if log.database:
        next_: AnyStore = PostgresStore.open(log.where, KEY.seal, place=place, head=log.head)
    else:
        next_ = SqliteStore.open(log.where, KEY.seal, place=place)
    assert next_.opened[:2] == (token, writer)
    assert next_.opened[3] == rows
    next_.close()
    with log.reader() as reader:
        found = reader.exchange(open_one)
        assert (found is not None and found.outcome is not None and found.outcome["status"] == "aborted") == bool(rows)
        assert reader.verify(KEY).broken is None


TAMPERING: dict[str, tuple[str, str, int]] = {
    "a body": ("UPDATE records SET body = replace(body, 'model-5', 'model-6') WHERE seq = 5", "edited", 5),
    "a body that is no JSON": ("UPDATE records SET body = '{' WHERE seq = 5", "edited", 5),
    "a column": ("UPDATE records SET action = 'block' WHERE seq = 5", "edited", 5),
    "a column of its own": ("UPDATE records SET fired = ' x=enforce ' WHERE seq = 5", "edited", 5),
    "a time": ("UPDATE records SET at = at + 60 WHERE seq = 7", "edited", 7),
    "a row gone": ("DELETE FROM records WHERE seq = 6", "deleted", 6),
    "the first gone": ("DELETE FROM records WHERE seq = 1", "deleted", 1),
    "the newest gone": ("DELETE FROM records WHERE seq > 10", "truncated", 11),
    "all gone": ("DELETE FROM records", "truncated", 1),
    "a row put elsewhere": ("UPDATE records SET seq = 99 WHERE seq = 4", "deleted", 4),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_verify_names_the_first_break(log: Place, name: str) -> None:
    store = log.store()
    store.write([encode(outcome(f"pn_{n}", model=f"model-{n}", action="pass")) for n in range(1, 13)])
    store.close()
    with log.reader() as reader:
        verdict = reader.verify(KEY)
        assert (verdict.broken, verdict.rows) == (None, 12)
    statement, what, seq = TAMPERING[name]
    log.sql(statement)
    with log.reader() as reader:
        broken = reader.verify(KEY).broken
    assert broken is not None
    assert (broken.what, broken.seq) == (what, seq)
    if "newest" in name or "all" in name:
        with pytest.raises(AuditUnavailable, match="are gone"):
            log.store()


def test_a_log_of_another_key_is_not_opened(log: Place) -> None:
    log.store().close()
    other = Key(b"o" * 32)
    with log.reader() as reader, pytest.raises(AuditUnavailable, match="another key"):
        reader.verify(other)
    kind = PostgresStore if log.database else SqliteStore
    with pytest.raises(AuditUnavailable, match="another key"):
        kind.open(log.where, other.seal)


HOSTILE = {
    "nothing": "a\0b", "wide": "\U0001f600" * 200, "right to left": "\u202eabc", "quotes": "'; DROP TABLE records; --",
    "percent": "%s %d %", "long": "x" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_any_text_is_kept_and_found(log: Place, name: str) -> None:
    text = HOSTILE[name]
    store = log.store()
    body = dict.fromkeys(("action", "rule", "policy", "model", "account", "stage", "request", "detail"), text)
    store.write([encode(outcome("pn_1", **body, input={"rules": {"y" * 64 + str(n): "block" for n in range(50)}}))])
    store.close()
    with log.reader() as reader:
        assert reader.verify(KEY).broken is None
        (found,) = reader.latest(5)
        assert found["model"] == text
        if name in {"right to left", "quotes", "percent"}:
            assert [each.id for each in reader.latest(5, Search(model=text, account=text))] == ["pn_1"]


# ---- searching

NOW = 1_800_000_000.0
SEEN = {"rules": {"no-mark": "block", "tone": "log"}, "canary": ["tone"], "shadow": {"pii": "mask"}}
PAST: list[tuple[str, float, dict[str, Any] | None, dict[str, Any] | None]] = [
    ("e0", 0, {"action": "pass", "model": "gpt-4o", "account": "a"}, {"action": "pass", "model": "gpt-4o",
        "account": "a", "status": "released", "request": "req_1"}),
    ("e1", 100, None, {"action": "block", "rule": "no-mark", "stage": "input", "model": "gpt-4o-mini",
        "account": "a", "status": "blocked", "policy": "base", "input": SEEN}),
    ("e2", 200, {"action": "pass", "model": "claude_3"}, {"action": "block", "rule": "late", "stage": "output",
        "model": "claude_3", "status": "blocked", "output": {"rules": {"late": "block"}}}),
    ("e3", 300, {"action": "pass", "model": "claude-3", "input": {"failures": {"guard": "timeout"}}},
        {"action": "pass", "model": "claude-3", "status": "upstream_fault", "detail": "connect",
        "input": {"failures": {"guard": "timeout"}}}),
    ("e4", 400, {"action": "log", "rule": "tone", "model": "x", "account": "b", "input": {"rules": {"tone": "log"}}},
        None),
    ("e5", 500, {"action": "block", "model": "x"}, {"status": "aborted", "model": "x", "reason": "its process ended"}),
]  # fmt: skip

SEARCHES: dict[str, tuple[dict[str, Any], str]] = {
    "everything": ({}, "e0 e1 e2 e3 e4 e5"),
    "action": ({"action": "block"}, "e1 e2 e5"),
    "what was passed first and blocked later": ({"action": "pass"}, "e0 e3"),
    "the rule that decided": ({"rule": "late"}, "e2"),
    "a rule that fired beside it": ({"rule": "tone"}, "e1 e4"),
    "a rule in shadow": ({"rule": "pii"}, "e1"),
    "any in shadow": ({"mode": "shadow"}, "e1"),
    "any in canary": ({"mode": "canary"}, "e1"),
    "a rule in a mode": ({"rule": "tone", "mode": "enforce"}, "e4"),
    "a rule in another": ({"rule": "no-mark", "mode": "shadow"}, ""),
    "rules by a star": ({"rule": "*a*"}, "e1 e2"),
    "stage": ({"stage": "output"}, "e2"),
    "policy": ({"policy": "base"}, "e1"),
    "account": ({"account": "a"}, "e0 e1"),
    "account of one open": ({"account": "b"}, "e4"),
    "models by a star": ({"model": "gpt-*"}, "e0 e1"),
    "an underscore is no star": ({"model": "claude_*"}, "e2"),
    "letters count": ({"model": "GPT-4o"}, ""),
    "letters count by a star": ({"model": "GPT-*"}, ""),
    "status": ({"status": "aborted"}, "e5"),
    "what an aborted one had been": ({"status": "aborted", "action": "block"}, "e5"),
    "and had not": ({"status": "abort*", "action": "pass"}, ""),
    "request": ({"request": "req_1"}, "e0"),
    "an error's code": ({"error": "connect"}, "e3"),
    "a silent classifier": ({"error": "guard"}, "e3"),
    "any error": ({"error": "any"}, "e3"),
    "since": ({"since": 200}, "e2 e3 e4 e5"),
    "since between both halves": ({"since": 200.5}, "e3 e4 e5"),
    "until": ({"until": 300}, "e0 e1 e2"),
    "until between both halves": ({"until": 200.5, "rule": "late"}, "e2"),
    "both": ({"since": 100, "until": 300}, "e1 e2"),
    "two at once": ({"action": "block", "model": "x"}, "e5"),
    "nothing": ({"account": "nobody"}, ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> list[Place]:
    """Both logs with the same past."""
    folder = tmp_path_factory.mktemp("searched")
    logs = [Place(str(folder / "a.db"), ""), Place(postgres.database(), str(folder / "head"))]
    for each in logs:
        store = each.store()
        for id, at, begun, ended in PAST:
            if begun is not None:
                store.write([encode(Record(id, "intent", NOW + at, begun))])
            if ended is not None:
                store.write([encode(Record(id, "outcome", NOW + at + (1 if begun else 0), ended))])
        store._open.clear()  # what is open stays so, as under a living proxy
        store.close()
    return logs


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_find_the_same_in_every_store_and_every_way(searched: list[Place], name: str) -> None:
    asked, expected = SEARCHES[name]
    times: dict[str, Any] = {key: NOW + asked[key] for key in ("since", "until") if key in asked}
    search = Search(**{**asked, **times})
    for each in searched:
        with each.reader() as reader:
            assert " ".join(exchange.id for exchange in reader.latest(10, search)) == expected
            assert {exchange.id for exchange in reader.walk(search)} == set(expected.split())
            assert [exchange.id for exchange in reader.latest(1, search)] == expected.split()[-1:]


@pytest.mark.parametrize(
    "asked", [{"rule": "x"}, {"account": "x", "action": "block"}, {"error": "any"}, {"mode": "shadow"}]
)
def test_a_search_reads_the_index_and_not_the_rows(searched: list[Place], asked: dict[str, Any]) -> None:
    where, values = Search(**asked).where()
    for each in searched:
        query = f"SELECT id FROM records WHERE {where} ORDER BY at DESC, seq DESC".replace("?", "'{}'").format(*values)
        if each.database:
            with each.reader() as reader, reader._source.snapshot():
                plan = "\n".join(line for (line,) in reader._source.rows(f"EXPLAIN {query}", few=True))
            assert "Index Only Scan Backward using records_found" in plan
        else:
            plan = "\n".join(str(line) for line in each.sql(f"EXPLAIN QUERY PLAN {query}"))
            assert "SCAN records USING INDEX records_found" in plan


@pytest.mark.parametrize("span", [(-inf, inf), (NOW + 100.0, NOW + 400.0), (NOW + 9000, inf)])
async def test_the_index_is_read_ahead_once_and_whole(
    searched: list[Place], monkeypatch: pytest.MonkeyPatch, span: tuple[float, float]
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE", 0)
    monkeypatch.setattr(ahead, "FEW", 0)
    parts: list[tuple[float, float]] = []

    class Told(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == ahead._READ:
                parts.extend(values)
            return super().execute(sql, *values)

    reading = ahead.Ahead(lambda: sqlite3.connect(searched[0].where, factory=Told), span)
    with reading:
        await asyncio.to_thread(reading._begin.join)
        await until(reading._parts.empty)
    parts.sort()
    assert (parts[0][0], parts[-1][1]) == span
    assert all(older[1] == newer[0] for older, newer in pairwise(parts))
    ats = {at for (at,) in searched[0].sql("SELECT at FROM records")}
    assert len(parts) >= sum(span[0] < at < span[1] for at in ats)


def test_a_search_that_is_read_ahead_finds_the_same(searched: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PATIENCE", 0)
    monkeypatch.setattr(ahead, "FEW", 0)
    with searched[0].reader() as reader:
        found = reader.latest(10, Search(action="block"))
        with reader._source.searching((-inf, inf)):
            assert reader.latest(10, Search(action="block")) == found
    assert [exchange.id for exchange in found] == ["e1", "e2", "e5"]


def test_a_backtest_reads_the_same_from_every_store(searched: list[Place]) -> None:
    found = []
    for each in searched:
        with each.reader() as reader:
            found.append([(rows.ids, rows.actions, rows.rules, rows.scopes) for rows in recorded(reader, NOW)])
    assert found[0] == found[1]
    assert [id for ids, *_ in found[0] for id in ids] == ["e0", "e1", "e2", "e3", "e4", "e5"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_holds_every_exchange_once(searched: list[Place], tmp_path: Path, form: str) -> None:
    read: list[list[dict[str, Any]]] = []
    for number, each in enumerate(searched):
        to = tmp_path / f"{number}.{form}"
        with each.reader() as reader:
            assert write(reader.walk(), to, form) == len(PAST)
        if form == "jsonl":
            read.append([json.loads(line) for line in to.read_text().splitlines()])
        else:
            from pyarrow import parquet

            read.append(parquet.read_table(to).to_pylist())
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert read[0] == read[1]
    rows = {row["id"]: row for row in read[0]}
    assert set(rows) == {id for id, *_ in PAST}
    assert rows["e1"]["rule"] == "no-mark"
    assert rows["e1"]["input_rules"] == ["no-mark", "tone"]
    assert rows["e1"]["input_shadow"] == ["pii"]
    assert dict(rows["e3"]["input_failures"]) == {"guard": "timeout"}
    assert rows["e4"]["ended"] is None
    assert rows["e5"]["action"] == "block"


def test_the_commands_read_either(searched: list[Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.key").write_text("6b" * 32)
    (tmp_path / "audit.key").chmod(0o600)
    said: list[list[str]] = []
    for each in searched:
        monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path))
        path = [] if each.database else ["--path", each.where]
        if each.database:
            monkeypatch.setenv("PENSTOCK_AUDIT_DATABASE", each.where)
            shutil.copy(each.head, tmp_path / "audit-database-head")
        else:
            shutil.copy(tmp_path / "audit.key", Path(each.where).with_suffix(".key"))
        runs = [
            CliRunner().invoke(cli, command)
            for command in (
                ["audit", "tail", *path], ["audit", "show", "e1", *path], ["audit", "verify", *path],
                ["audit", "export", "--to", "-", *path],
                ["backtest", "observe", "--since", "2020-01-01", *(["--audit", each.where] if path else [])],
            )
        ]  # fmt: skip
        assert [run.exit_code for run in runs] == [0] * len(runs), [run.output for run in runs]
        said.append([re.sub(r"[0-9a-f]{64}", "HASH", run.output) for run in runs])
    assert said[0] == said[1]
    assert "whole: 10 rows" in said[0][2]
    assert "of 6 decisions" in said[0][4]


# ---- retention


def _aged(store: AnyStore, count: int, at: float) -> None:
    store.write([encode(Record(new_id(), "outcome", at, {"status": "released", "model": "m"})) for _ in range(count)])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping_of, "PAUSE", 0.0)


@pytest.mark.usefixtures("impatient")
def test_old_rows_go_a_few_at_a_time_and_the_chain_stays_whole(log: Place) -> None:
    store = log.store(keep=3600.0)
    now = time.time()
    _aged(store, 600, now - 7200)
    _aged(store, 50, now)
    _aged(store, 5, now - 7200)  # behind newer ones: a clock that went back takes nothing away
    counts = []
    for _ in range(8):
        counts.append(log.sql("SELECT count(*) FROM records")[0][0])
        store.tidy()
    assert [before - after for before, after in pairwise(counts)] == [BATCH, BATCH, 88, 0, 0, 0, 0]
    _aged(store, 1, now)
    store.close()
    with log.reader() as reader:
        verdict = reader.verify(KEY)
        assert (verdict.broken, verdict.rows, verdict.head.seq) == (None, 56, 656)
        assert "rows 1 to 600 were pruned" in verdict.notes
    log.store(keep=3600.0).close()  # and it is opened again


@pytest.mark.usefixtures("impatient")
def test_pruning_folds_the_write_ahead_log_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, KEY.seal, keep=3600.0)
    for _ in range(20):
        _aged(store, 256, time.time() - 7200)
    monkeypatch.setattr("proxy.audit.store.CHECKPOINT", 1_000_000)
    folded: list[sqlite3.Connection] = []
    monkeypatch.setattr("proxy.audit.store._checkpoint", folded.append)
    for _ in range(20):
        store.tidy()
        limit = time.monotonic() + 10
        while store._folding and time.monotonic() < limit:
            time.sleep(0.001)
    assert Place(str(path), "").sql("SELECT count(*) FROM records") == [(1,)]
    assert len(folded) >= 4
    store.close()


@pytest.mark.usefixtures("impatient")
def test_the_newest_row_is_kept_whatever_its_age(log: Place) -> None:
    store = log.store(keep=3600.0)
    _aged(store, 3, time.time() - 7200)
    for _ in range(3):
        store.tidy()
    assert log.sql("SELECT seq FROM records") == [(3,)]
    _aged(store, 1, time.time())
    store.close()
    with log.reader() as reader:
        assert reader.verify(KEY).rows == 2


FORGED = {
    "more rows taken than noted": ["DELETE FROM records WHERE seq < 305"],
    "another beginning noted": [
        "DELETE FROM records WHERE seq < 305",
        "UPDATE meta SET value = replace(value, '0000000300 ', '0000000304 ') WHERE name = 'pruned'",
    ],
    "no beginning noted": ["DELETE FROM meta WHERE name = 'pruned'"],
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", FORGED)
def test_only_the_key_can_prune(log: Place, name: str) -> None:
    store = log.store(keep=3600.0)
    _aged(store, 300, time.time() - 7200)
    _aged(store, 20, time.time())
    for _ in range(4):
        store.tidy()
    store.close()
    with log.reader() as reader:
        assert reader.verify(KEY).rows == 20
    log.sql(*FORGED[name])
    with log.reader() as reader:
        assert reader.verify(KEY).broken is not None


@pytest.mark.usefixtures("impatient")
def test_a_head_noted_before_the_pruning_is_told(log: Place) -> None:
    store = log.store(keep=3600.0)
    _aged(store, 5, time.time() - 7200)
    with log.reader() as reader:
        early = reader.verify(KEY).head
    _aged(store, 2, time.time())
    with log.reader() as reader:
        middle = reader.verify(KEY).head
    for _ in range(2):
        store.tidy()
    _aged(store, 1, time.time())
    store.close()
    with log.reader() as reader:
        assert reader.verify(KEY, early._replace(seq=4)).notes[-1] == "the noted head, row 4, was pruned"
        assert reader.verify(KEY, early).broken is None  # the last that was pruned is where the chain begins
        assert reader.verify(KEY, middle).broken is None
        assert reader.verify(KEY, early._replace(hash=bytes(32))).broken is not None


async def test_an_idle_writer_prunes_as_well(log: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.audit.process.IDLE", 1)
    store = log.store()
    _aged(store, 20, time.time() - 7200)
    store.close()
    audit = await log.audit(keep=3600.0)
    async with asyncio.timeout(30):
        while log.sql("SELECT count(*) FROM records") != [(1,)]:
            await asyncio.sleep(0.05)
    await audit.close()


def test_no_jump_of_the_clock_takes_anything_away(monkeypatch: pytest.MonkeyPatch) -> None:
    keeping, now = Keeping(3600.0), time.time()
    rows = [(n, b"", "id", now) for n in range(10)]
    monkeypatch.setattr(time, "time", lambda: now + 1e8)
    assert keeping.prefix(rows) is None
