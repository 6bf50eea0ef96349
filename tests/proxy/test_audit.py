"""The asyncio face of the audit log, on a real file and on stores that fail on command."""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.audit import Audit, AuditUnavailable, Key, Reader, Record, new_id
from proxy.audit.chain import Head
from proxy.audit.entry import COLUMNS, Entry
from proxy.audit.head import path_of
from proxy.audit.key import sealer
from proxy.audit.record import MAX_BODY, encode
from proxy.audit.schema import explain
from proxy.audit.store import SqliteStore, Store
from proxy.audit.wire import Opened, Opening
from tests.proxy.audit_lines import Thread, until

KEY = Key(b"k" * 32)
SEAL, UNSEALED = sealer(KEY), sealer(None)
ACTION = 5 + COLUMNS.index("action")
"""Its place in an entry."""


def intent(id: str = "", **body: Any) -> Record:
    return Record(id or new_id(), "intent", time.time(), {"action": "pass", "model": "m", **body})


def outcome(id: str, **body: Any) -> Record:
    return Record(id, "outcome", time.time(), {"status": 200, **body})


class FakeStore(Store):
    """Holds entries in a list; `faults` are raised by the next writes, one each; `gate` stops the disk."""

    def __init__(self) -> None:
        self.rows: list[Entry] = []
        self.faults: list[Exception] = []
        self.broken: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.commits: list[int] = []
        self.threads: set[int] = set()
        self.closed = False
        self.room = True

    def has_room(self) -> bool:
        return self.room

    def write(self, entries: Sequence[Entry]) -> Head:
        self.gate.wait(20)
        self.threads.add(threading.get_ident())
        if self.faults:
            raise self.faults.pop(0)
        if self.broken is not None:
            raise self.broken
        self.rows.extend(entries)
        self.commits.append(len(entries))
        return Head(len(self.rows), b"")

    def tidy(self) -> None:
        pass

    def close(self, why: str) -> None:
        self.closed = True


async def begun(store: FakeStore, patience: float = 5.0, **limits: int) -> Audit:
    def open_store(opening: Opening) -> tuple[Store, Opened]:
        return store, ("", 1, Head(0, b""), 0)

    audit = Audit(lambda: Thread(open_store), "", None, patience=patience, **limits)  # type: ignore[arg-type]
    await audit.begin()
    return audit


@asynccontextmanager
async def opened(store: FakeStore, **options: Any) -> AsyncIterator[Audit]:
    audit = await begun(store, **options)
    try:
        yield audit
    finally:
        store.gate.set()
        store.broken = None
        await audit.close()


FULL = AuditUnavailable("the disk is full", "free space")


async def test_an_exchange_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    audit = await Audit.open(path, key=KEY)
    id = new_id()
    await audit.durable(intent(id, scores={"injection": 0.2}))
    with Reader(path) as log:  # what `durable` acknowledged is in the file
        found = log.exchange(id)
        assert found is not None
        assert found.intent is not None
        assert found.intent["scores"] == {"injection": 0.2}
        assert found.outcome is None
    assert audit.append(outcome(id, timings={"upstream": 0.5}))
    await audit.close()
    with Reader(path) as log:
        found = log.exchange(id)
        assert found is not None
        assert found.outcome == {"status": 200, "timings": {"upstream": 0.5}}
        assert log.verify(KEY).rows == 2
    assert (audit.written, audit.lost, audit.failed, audit.waiting) == (2, 0, 0, 0)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_waiters_share_commits_and_nobody_is_answered_early() -> None:
    store = FakeStore()
    async with opened(store) as audit:
        store.gate.clear()
        tasks = [asyncio.create_task(audit.durable(intent())) for _ in range(100)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in tasks)
        store.gate.set()
        await asyncio.gather(*tasks)
        assert len(store.rows) == 100
        assert len(store.commits) <= 3
        assert threading.get_ident() not in store.threads


async def test_the_order_is_kept_and_a_cancelled_call_is_written() -> None:
    store = FakeStore()
    async with opened(store) as audit:
        store.gate.clear()
        records = [intent() for _ in range(20)]
        tasks = [asyncio.create_task(audit.durable(record)) for record in records]
        await asyncio.sleep(0.01)
        tasks[7].cancel()
        store.gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[7], asyncio.CancelledError)
        await until(lambda: audit.waiting == 0)
        assert [row[1] for row in store.rows] == [record.id for record in records]


async def test_a_failing_disk_refuses_keeps_and_recovers() -> None:
    store = FakeStore()
    async with opened(store) as audit:
        store.broken = FULL
        first, second = intent(), outcome(new_id())
        with pytest.raises(AuditUnavailable, match="the disk is full") as error:
            await audit.durable(first)
        assert error.value.mend == "free space"
        assert not audit.healthy
        assert audit.fault is not None
        with pytest.raises(AuditUnavailable):  # new work is refused at once, without touching the disk
            await audit.durable(intent())
        assert audit.append(second)  # what is already under way is kept
        assert audit.failed == 2
        store.broken = None
        await until(lambda: audit.healthy and audit.waiting == 0)
        assert [row[1] for row in store.rows] == [first.id, second.id]
        await audit.durable(intent())
        assert audit.lost == 0


async def test_a_disk_that_has_hardly_room_is_full_until_it_has() -> None:
    """What fits is written, and nothing new is taken: else it would be well and full by turns."""
    store = FakeStore()
    async with opened(store) as audit:
        seen: list[str] = []
        audit.observer = lambda fault: seen.append("well" if fault is None else fault.problem)
        store.faults, store.room = [FULL], False
        with pytest.raises(AuditUnavailable, match="the disk is full"):
            await audit.durable(intent())
        for written in (2, 3):
            assert audit.append(outcome(new_id()))
            await until(lambda written=written: len(store.rows) == written and audit.waiting == 0)  # type: ignore[misc]
            with pytest.raises(AuditUnavailable, match="the disk is full"):
                await audit.durable(intent())
            with pytest.raises(AuditUnavailable, match="the disk is full"):
                await audit.probe()
        assert set(seen) == {"the disk is full"}
        store.room = True
        await until(lambda: audit.healthy)  # nobody asks, and nothing is to be written
        await audit.durable(intent())
        assert seen[-1] == "well"


async def test_all_who_wait_are_refused_not_only_the_batch() -> None:
    store = FakeStore()
    async with opened(store) as audit:
        store.gate.clear()
        store.broken = FULL
        first = asyncio.create_task(audit.durable(intent()))
        await asyncio.sleep(0.02)  # it is the batch by now
        rest = [asyncio.create_task(audit.durable(intent())) for _ in range(5)]
        await asyncio.sleep(0.02)
        store.gate.set()
        done = await asyncio.gather(first, *rest, return_exceptions=True)
        assert all(isinstance(error, AuditUnavailable) for error in done)
        store.broken = None
        await until(lambda: audit.healthy and audit.waiting == 0)
        assert len(store.rows) == 6


async def test_a_bug_in_the_store_is_a_fault_like_any_other() -> None:
    store = FakeStore()
    async with opened(store) as audit:
        store.faults = [ZeroDivisionError("boom")]
        with pytest.raises(AuditUnavailable, match="ZeroDivisionError"):
            await audit.durable(intent())
        await until(lambda: audit.healthy)
        assert len(store.rows) == 1


@pytest.mark.parametrize("options", [{"capacity": 10}, {"capacity_bytes": 10 * len('{"status":200}')}])
async def test_a_full_queue_counts_what_it_loses_and_refuses_work(options: dict[str, int]) -> None:
    store = FakeStore()
    async with opened(store, **options) as audit:
        store.gate.clear()
        taken = [audit.append(outcome(new_id())) for _ in range(15)]
        assert taken == [True] * 10 + [False] * 5
        assert audit.lost == 5
        assert not audit.healthy
        with pytest.raises(AuditUnavailable, match="queue is full"):
            await audit.durable(intent())
        assert audit.failed == 1
        store.gate.set()
        await until(lambda: audit.healthy and audit.waiting == 0)
        assert len(store.rows) == 10
        await audit.durable(Record("x", "intent", 0.0, {}))


async def test_a_disk_that_hangs_is_noticed_and_forgiven() -> None:
    store = FakeStore()
    async with opened(store, patience=0.1) as audit:
        store.gate.clear()
        with pytest.raises(AuditUnavailable, match="has not answered"):
            await audit.durable(intent())
        assert not audit.healthy
        store.gate.set()
        await until(lambda: audit.healthy)
        assert len(store.rows) == 1


async def test_probe_tells_whether_it_can_be_written() -> None:
    store = FakeStore()
    async with opened(store) as audit:
        await audit.probe()
        assert store.commits == [0]
        store.faults = [FULL]
        with pytest.raises(AuditUnavailable, match="full"):
            await audit.probe()
        await until(lambda: audit.healthy)


async def test_close_is_bounded_and_counts_what_it_gives_up() -> None:
    store = FakeStore()
    audit = await begun(store, patience=0.1)
    store.broken = FULL
    audit.append(outcome(new_id()))
    with pytest.raises(AuditUnavailable, match=r"1 record\(s\) could not be written .*the disk is full"):
        await audit.close(0.2)
    assert audit.lost == 1
    await until(lambda: store.closed)
    with pytest.raises(AuditUnavailable, match="closed"):
        await audit.durable(intent())
    with pytest.raises(AuditUnavailable, match="closed"):
        await audit.probe()
    assert not audit.append(outcome(new_id()))
    assert audit.lost == 2
    await audit.close()


async def test_close_does_not_wait_for_a_hanging_disk() -> None:
    store = FakeStore()
    audit = await begun(store)
    store.gate.clear()
    waiter = asyncio.create_task(audit.durable(intent()))
    await asyncio.sleep(0.02)
    with pytest.raises(AuditUnavailable, match="could not be written"):
        await audit.close(0.1)
    with pytest.raises(AuditUnavailable):
        await waiter
    store.gate.set()
    await asyncio.sleep(0.05)  # a late answer changes no counter
    assert (audit.waiting, audit.lost) == (0, 1)


async def test_many_refusals_share_no_traceback() -> None:
    """One exception raised again and again would hold every frame that it passed."""
    store = FakeStore()
    async with opened(store) as audit:
        store.broken = FULL
        for _ in range(500):
            with pytest.raises(AuditUnavailable):
                await audit.durable(intent())
        depth, trace = 0, FULL.__traceback__
        while trace is not None:
            depth, trace = depth + 1, trace.tb_next
        assert depth < 200  # only the retries of the writer itself


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "column"),
    [
        ("text", "text"),
        (Colour.RED, "red"),
        (200, 200),
        (True, 1),
        (None, None),
        (1.5, None),
        (2**64 - 1, None),
        (["a"], None),
        (np.int64(7), 7),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ],
)
def test_columns_are_what_json_says(tmp_path: Path, value: object, column: object) -> None:
    """Else `verify` would call an honest row edited."""
    entry = encode(Record("x", "outcome", 0.0, {"action": value}))
    assert entry[ACTION] == column
    store = SqliteStore.open(tmp_path / "a.db", UNSEALED)
    store.write([entry])
    store.close()
    with Reader(tmp_path / "a.db") as log:
        assert log.verify().broken is None


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (Record("", "intent", 0.0, {}), "id must be"),
        (Record("a\nb", "intent", 0.0, {}), "id must be"),
        (Record("x" * 65, "intent", 0.0, {}), "id must be"),
        (Record("x", "note", 0.0, {}), "kind"),  # type: ignore[arg-type]
        (Record("x", "intent", float("nan"), {}), "finite"),
        (Record("x", "intent", 0.0, {"a": object()}), "not JSON-able"),
        (Record("x", "intent", 0.0, {"a": "\ud800SECRET"}), "not JSON-able"),
        (Record("x", "intent", 0.0, {"a": "x" * MAX_BODY}), "at most"),
    ],
)
async def test_what_could_not_be_kept_as_it_is_is_refused(record: Record, problem: str) -> None:
    store = FakeStore()
    async with opened(store) as audit:
        with pytest.raises(ValueError, match=problem) as error:
            await audit.durable(record)
        assert "SECRET" not in str(error.value)
        with pytest.raises(ValueError, match=problem):
            audit.append(record)
        assert audit.waiting == 0


def test_ids_are_distinct_and_grow_with_time() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(len(id) == 29 and id.startswith("pn_") for id in ids)
    time.sleep(0.002)
    assert new_id() > ids[0]


# ---- the SQLite store


async def test_two_logs_in_one_process_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    one, two = await Audit.open(path, key=KEY), await Audit.open(path, key=KEY)
    records = [intent() for _ in range(60)]
    await asyncio.gather(*(log.durable(r) for log, r in zip([one, two] * 30, records, strict=True)))
    for log, r in zip([one, two] * 30, records, strict=True):
        log.append(outcome(r.id))
    await one.close()
    await two.close()
    with Reader(path) as reader:
        verdict = reader.verify(KEY)
        assert verdict.broken is None
        assert verdict.rows == 120
        assert all(e.outcome == {"status": 200} for e in reader.latest(100))


async def test_what_close_finds_open_is_aborted(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    audit = await Audit.open(path)
    record = intent(policy="p@1", account="acc", text_length=5)
    await audit.durable(record)
    await audit.close()
    with Reader(path) as log:
        found = log.exchange(record.id)
    assert found is not None
    assert found.outcome is not None
    assert found.outcome["status"] == "aborted"
    assert found.outcome["account"] == "acc"
    assert "text_length" not in found.outcome


def test_an_exchange_open_for_long_is_still_found_when_its_writer_is_gone(tmp_path: Path) -> None:
    """Recovery does not read the whole table: each writer notes where its oldest open intent stands."""
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, SEAL)
    early, long, late = new_id(), new_id(), new_id()
    for record in (intent(early), intent(long), outcome(early), intent(late)):
        store.write([encode(record)])
        store.write([])  # notes it now instead of once a second
    assert store._db is not None
    assert store._db.execute("SELECT low FROM writers").fetchone() == (2,)
    store._drop()
    assert store._lock is not None
    os.close(store._lock)  # as the kernel does for a process that died
    SqliteStore.open(path, SEAL).close()
    with Reader(path) as log:
        ends = {e.id: e.outcome and e.outcome["status"] for e in log.latest(10)}
    assert ends == {early: 200, long: "aborted", late: "aborted"}


class Proxied:
    """A connection that fails on command, in front of the real one."""

    def __init__(self, db: sqlite3.Connection, statement: str, after: bool) -> None:
        self._db, self._statement, self._after = db, statement, after

    def executemany(self, sql: str, rows: Sequence[Any]) -> Any:
        if sql.startswith(self._statement):
            return self.execute(sql, rows[0])
        return self._db.executemany(sql, rows)

    def execute(self, sql: str, *values: Any) -> Any:
        if sql.startswith(self._statement):
            if self._after:
                self._db.execute(sql, *values)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return self._db.execute(sql, *values)

    def close(self) -> None:
        self._db.close()


@pytest.mark.parametrize(
    ("statement", "after"),
    [("BEGIN", False), ("SELECT", False), ("INSERT", False), ("COMMIT", False), ("COMMIT", True)],
)
def test_a_batch_is_written_once_whatever_failed(tmp_path: Path, statement: str, after: bool) -> None:
    """Also where the commit reached the disk and the error came afterwards."""
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, SEAL)
    store.write([encode(outcome(new_id()))])
    batch = [encode(intent()) for _ in range(3)]
    assert store._db is not None
    store._db = Proxied(store._db, statement, after)  # type: ignore[assignment]
    with pytest.raises(AuditUnavailable, match="disk reports an error"):
        store.write(batch)
    other = SqliteStore.open(path, SEAL)  # somebody else goes on meanwhile
    other.write([encode(outcome(new_id()))])
    store.write(batch)
    assert list(store._open) == [entry[1] for entry in batch]
    store.close()
    other.close()
    with Reader(path) as log:
        verdict = log.verify(KEY)
        assert verdict.broken is None
        assert verdict.rows == 1 + 3 + 1 + 3  # the last three: aborted at close
        assert [e.id for e in log.latest(10) if e.intent] == [entry[1] for entry in batch]


def test_a_head_file_that_cannot_be_written_holds_the_answer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, SEAL)
    batch = [encode(outcome(new_id()))]
    write = store._head.write

    def fail(head: Head) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._head, "write", fail)
    with pytest.raises(AuditUnavailable, match="disk is full"):
        store.write(batch)
    monkeypatch.setattr(store._head, "write", write)
    assert store.write(batch).seq == 1
    store.close()
    with Reader(path) as log:
        assert log.verify(KEY).rows == 1


async def test_a_file_replaced_under_us_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    audit = await Audit.open(path)
    await audit.durable(intent())
    path.rename(tmp_path / "b.db")
    with pytest.raises(AuditUnavailable):
        await audit.durable(intent())
    (tmp_path / "b.db").rename(path)
    await until(lambda: audit.healthy)
    await audit.durable(intent())
    await audit.close()
    with Reader(path) as log:
        assert log.verify().broken is None
        assert len([e for e in log.latest(10) if e.intent]) == 3


async def test_checkpoints_keep_the_write_ahead_log_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.audit.store.CHECKPOINT", 50_000)
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, UNSEALED)
    for _ in range(40):
        store.write([encode(outcome(new_id(), pad="x" * 10_000))])
        store.tidy()
        await until(lambda: not store._folding)
    assert Path(f"{path}-wal").stat().st_size < 400_000
    assert path.stat().st_size > 300_000
    store.close()


async def test_commits_go_on_while_the_log_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever becomes of that thread, the rows are there."""
    monkeypatch.setattr("proxy.audit.store.CHECKPOINT", 1)
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, SEAL)
    for n in range(300):
        store.write([encode(outcome(str(n)))])
        store.tidy()
    store.close()
    await until(lambda: not store._folding)
    with Reader(path) as log:
        verdict = log.verify(KEY)
    assert verdict.broken is None
    assert verdict.rows == 300


def _foreign(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (a)")
    db.close()


def _version(number: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        SqliteStore.open(path, SEAL).close()
        db = sqlite3.connect(path)
        db.execute(f"PRAGMA user_version = {number}")
        db.close()

    return make


def _folder_gone(path: Path) -> None:
    path.parent.rmdir()


def _folder_is_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("")


def _sealed_with(key: Key | None) -> Callable[[Path], None]:
    return lambda path: SqliteStore.open(path, sealer(key)).close()


def _bad_head(path: Path) -> None:
    SqliteStore.open(path, SEAL).close()
    Path(path_of(path)).write_bytes(b"zzz")


def _head_of_another(path: Path) -> None:
    SqliteStore.open(path, SEAL).close()
    path.unlink()


def _text(path: Path) -> None:
    path.write_bytes(b"hello world, this is a text" * 100)


BAD: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no directory": (_folder_gone, "no such directory", "mkdir -p"),
    "a directory": (Path.mkdir, "is a directory", "name a file"),
    "a file as directory": (_folder_is_file, "not a directory", "another path"),
    "foreign database": (_foreign, "not an audit log", "another path"),
    "no database": (_text, "not an audit log", "another path"),
    "newer": (_version(9), "schema 9", "upgrade"),
    "older": (_version(1), "schema 1", "audit upgrade"),
    "much older": (_version(0), "schema 0", "begin a new log"),
    "another key": (_sealed_with(Key(b"o" * 32)), "another key", "key file"),
    "no key": (_sealed_with(None), "without a key", "leave the key out"),
    "bad head": (_bad_head, "not a head file", "audit verify"),
    "other log's head": (_head_of_another, "not of one piece", "away together"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_log_that_cannot_be_opened_says_why_in_one_line(tmp_path: Path, name: str) -> None:
    prepare, problem, mend = BAD[name]
    path = tmp_path / "sub" / "a.db"
    path.parent.mkdir()
    prepare(path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(AuditUnavailable, match=problem) as error:
        await Audit.open(path, key=KEY, patience=0.2)
    assert mend in error.value.mend
    assert "\n" not in str(error.value)
    if "head" not in name:  # nothing is made or changed beside a file that is not ours
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


async def test_a_locked_file_is_said_to_be_locked(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SqliteStore.open(path, UNSEALED).close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    db.execute("DELETE FROM meta WHERE name = '-'")
    with pytest.raises(AuditUnavailable, match="locked by another process"):
        await Audit.open(path, patience=0.2)
    db.execute("ROLLBACK")
    db.close()
    await (await Audit.open(path)).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
async def test_a_read_only_file_is_said_to_be_read_only(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SqliteStore.open(path, UNSEALED).close()
    path.chmod(0o400)
    with pytest.raises(AuditUnavailable, match="may not be opened"):
        await Audit.open(path)


def test_a_file_that_is_gone_is_not_said_to_lack_its_directory(tmp_path: Path) -> None:
    told = explain(FileNotFoundError(errno.ENOENT, "no such file"), tmp_path / "a.db")
    assert told.problem == f"{tmp_path / 'a.db'} is gone"
    assert "put it back" in told.mend


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (sqlite3.SQLITE_FULL, "full"),
        (sqlite3.SQLITE_READONLY, "read-only"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "read-only"),
        (sqlite3.SQLITE_IOERR_FSYNC, "disk reports an error"),
        (sqlite3.SQLITE_CORRUPT, "damaged"),
        (sqlite3.SQLITE_MISUSE, "bad parameter"),
    ],
)
def test_every_error_has_words(code: int, says: str) -> None:
    error = sqlite3.OperationalError("bad parameter")
    error.sqlite_errorcode = code
    told = explain(error, Path("/x/a.db"))
    assert says in told.problem
    assert told.mend


@pytest.mark.parametrize("hurry", [False, True])
async def test_a_log_that_is_taken_away_while_in_use_is_noticed_and_saved(tmp_path: Path, hurry: bool) -> None:
    """Rows that were acknowledged are in what SQLite has not folded into the file yet: a tool that tidies up must not
    take them along unseen. `hurry`: an exchange is under way at the end."""
    path = tmp_path / "a.db"
    audit, ids = await Audit.open(path, key=KEY), [new_id() for _ in range(5)]
    for id in ids:
        await audit.durable(outcome(id))
    if hurry:
        await audit.durable(intent(ids[-1] + "x"))
    Path(f"{path}-wal").unlink()
    with pytest.raises(AuditUnavailable, match="taken away") as error:
        await audit.durable(outcome(new_id()))
    assert error.value.state == "damaged"
    assert "restart" in error.value.mend
    assert not audit.healthy
    with pytest.raises(AuditUnavailable):
        await audit.close()
    again = await Audit.open(path, key=KEY)
    await again.close()
    with Reader(path) as log:
        assert log.verify(KEY).broken is None
        assert {each.id for each in log.latest(100)} >= set(ids)


@pytest.mark.parametrize("how", ["rows", "file"])
async def test_rows_that_go_while_in_use_are_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, sealer(KEY))
    for _ in range(3):
        store.write([encode(outcome(new_id()))])
    if how == "file":
        os.truncate(path, 0)
    else:
        store._drop()  # as after any error: the next attempt opens it anew
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM records WHERE seq = 3")
        db.close()
    with pytest.raises(AuditUnavailable, match="replaced" if how == "file" else "newest 1 row") as error:
        store.write([encode(outcome(new_id()))])
    assert error.value.state == "damaged"
    store.close()
