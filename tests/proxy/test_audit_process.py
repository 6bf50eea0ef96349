"""The audit's writer as a process: it dies, hangs and is sent signals; what was taken is in the file once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit import Audit, AuditUnavailable, Key, Reader, Record, new_id
from proxy.audit.entry import Entry
from proxy.audit.process import ROOT, Process
from proxy.audit.record import encode
from proxy.audit.seal import Head
from proxy.audit.store import SqliteStore, Store
from proxy.audit.wire import Frames, Opened, Opening, pack
from tests.proxy.audit_lines import Thread, until

KEY = Key(b"k" * 32)


def intent(id: str = "") -> Record:
    return Record(id or new_id(), "intent", time.time(), {"action": "pass"})


def outcome(id: str) -> Record:
    return Record(id, "outcome", time.time(), {"status": "released"})


def pid(audit: Audit) -> int:
    assert isinstance(audit._line, Process)
    return audit._line.pid


async def test_a_killed_writer_is_noticed_replaced_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    audit = await Audit.open(path, key=KEY)
    first, second, third = intent(), intent(), intent()
    await audit.durable(first)
    old = pid(audit)
    os.kill(old, signal.SIGSTOP)  # what is sent now is not written
    waiter = audit.submit(second)
    await asyncio.sleep(0.01)
    os.kill(old, signal.SIGKILL)
    with pytest.raises(AuditUnavailable, match="process ended"):
        await waiter
    assert not audit.healthy
    with pytest.raises(AuditUnavailable):
        audit.submit(intent())
    with pytest.raises(AuditUnavailable):
        await audit.probe()
    assert audit.append(outcome(first.id))  # of an exchange under way
    await until(lambda: audit.healthy)
    assert pid(audit) != old
    await audit.durable(third)
    await audit.close()
    assert (audit.lost, audit.waiting, audit.written) == (0, 0, 4)
    with Reader(path) as log:
        verdict = log.verify(KEY)
        ends = {e.id: e.outcome and e.outcome["status"] for e in log.latest(9)}
    assert verdict.broken is None
    assert verdict.rows == 6  # with two that `close` marked
    assert ends == {first.id: "released", second.id: "aborted", third.id: "aborted"}


async def test_writers_killed_at_any_moment_write_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.audit.log.RESTART", (0.001, 0.001))
    path = tmp_path / "a.db"
    audit = await Audit.open(path, key=KEY)
    chance = random.Random(3)
    taken: list[str] = []
    acknowledged: set[str] = set()
    over = False

    async def client() -> None:
        while not over:
            record = intent()
            try:
                waiter = audit.submit(record)
            except AuditUnavailable:
                await asyncio.sleep(0.002)
                continue
            taken.append(record.id)
            try:
                await waiter
                acknowledged.add(record.id)
            except AuditUnavailable:
                pass
            assert audit.append(outcome(record.id))

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for _ in range(15):
        before = audit.written
        await until(lambda before=before: audit.healthy and audit.written > before + 8)  # type: ignore[misc]
        await asyncio.sleep(chance.random() * 0.01)
        os.kill(pid(audit), signal.SIGKILL)
        await until(lambda: not audit.healthy)
    over = True
    await asyncio.gather(*clients)
    await until(lambda: audit.healthy)
    await audit.close()
    with Reader(path) as log:
        verdict = log.verify(KEY)
        found = {e.id: e for e in log.latest(1_000_000)}
    assert verdict.broken is None
    assert len(taken) > 100
    assert acknowledged <= set(taken) == set(found)
    assert all(e.intent and e.outcome == {"status": "released"} for e in found.values())
    assert verdict.rows == 2 * len(taken) == audit.written
    assert audit.lost == 0


class Dying(Store):
    """A real store whose writer dies after its second commit, before it can answer."""

    def __init__(self, store: SqliteStore, lives: list[int]) -> None:
        self._store, self._lives = store, lives

    def write(self, entries: Sequence[Entry]) -> Head:
        head = self._store.write(entries)
        self._lives[0] -= 1
        if not self._lives[0]:
            self._store._drop()
            assert self._store._lock is not None
            os.close(self._store._lock)
            raise SystemExit
        return head

    def tidy(self) -> None:
        self._store.tidy()

    def close(self, why: str) -> None:
        self._store.close(why)


async def test_what_was_written_but_not_answered_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.audit.log.RESTART", (0.3, 0.3))
    path = tmp_path / "a.db"
    lives = [2]

    def open_store(opening: Opening) -> tuple[Store, Opened]:
        store = SqliteStore.open(opening[0], KEY.seal, place=opening[3])
        return Dying(store, lives), store.opened

    audit = Audit(lambda: Thread(open_store), str(path))
    await audit.begin()
    first, second, third = intent(), intent(), intent()
    await audit.durable(first)
    with pytest.raises(AuditUnavailable):
        await audit.durable(second)
    audit.append(outcome(second.id))
    other = SqliteStore.open(path, KEY.seal)  # another proxy opens the log, and leaves what is ours alone
    other.write([encode(intent("other"))])
    other.close()
    await until(lambda: audit.healthy)
    assert audit.written >= 2
    await audit.durable(third)
    await audit.close()
    with Reader(path) as log:
        verdict = log.verify(KEY)
        ends = {e.id: e.outcome and e.outcome["status"] for e in log.latest(9)}
    assert verdict.broken is None
    assert verdict.rows == 8
    assert ends == {first.id: "aborted", second.id: "released", "other": "aborted", third.id: "aborted"}


async def test_a_writer_that_hangs_is_noticed_and_forgiven(tmp_path: Path) -> None:
    audit = await Audit.open(tmp_path / "a.db", patience=0.1)
    os.kill(pid(audit), signal.SIGSTOP)
    with pytest.raises(AuditUnavailable, match="has not answered"):
        await audit.durable(intent())
    assert not audit.healthy
    os.kill(pid(audit), signal.SIGCONT)
    await until(lambda: audit.healthy)
    await audit.durable(intent())
    await audit.close()
    assert audit.written == 2


async def test_close_ends_a_writer_that_hangs(tmp_path: Path) -> None:
    audit = await Audit.open(tmp_path / "a.db")
    writer = pid(audit)
    os.kill(writer, signal.SIGSTOP)
    audit.append(outcome("x"))
    with pytest.raises(AuditUnavailable, match="could not be written"):
        await audit.close(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(writer, 0)


async def test_close_outlasts_the_death_of_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    audit = await Audit.open(path, key=KEY)
    records = [outcome(new_id()) for _ in range(3)]
    os.kill(pid(audit), signal.SIGSTOP)
    assert audit.append(records[0])
    audit._flush()
    assert audit.append(records[1])
    os.kill(pid(audit), signal.SIGKILL)
    assert audit.append(records[2])
    await audit.close(10)
    assert (audit.lost, audit.written) == (0, 3)
    with Reader(path) as log:
        assert [e.id for e in log.latest(9)] == [record.id for record in records]


async def test_a_batch_has_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.audit.log.BATCH", 10)
    path = tmp_path / "a.db"
    audit = await Audit.open(path)
    records = [outcome(new_id()) for _ in range(45)]
    async with asyncio.timeout(30):
        await asyncio.gather(*map(audit.durable, records))
    assert audit.commits == 5
    assert (audit.waiting, audit.waiting_bytes) == (0, 0)
    await audit.close()
    with Reader(path) as log:
        assert [e.id for e in log.latest(99)] == [record.id for record in records]


async def test_a_log_that_is_no_longer_ours_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer died, and the file is another one than the proxy knows."""
    monkeypatch.setattr("proxy.audit.log.RESTART", (0.01, 0.01))
    path = tmp_path / "a.db"
    audit = await Audit.open(path)
    await audit.durable(intent())
    aside = await Audit.open(tmp_path / "b.db")
    await aside.close()
    for name in ("", "-wal", "-shm", "-head"):
        Path(f"{path}{name}").unlink(missing_ok=True)
        if Path(f"{tmp_path / 'b.db'}{name}").exists():
            Path(f"{tmp_path / 'b.db'}{name}").rename(f"{path}{name}")
    os.kill(pid(audit), signal.SIGKILL)
    await until(lambda: audit.fault is not None and "not what this proxy wrote" in audit.fault.problem)
    assert not audit.healthy
    with pytest.raises(AuditUnavailable):
        audit.submit(intent())
    await audit.close(0.1)
    assert audit.lost == 0


async def test_signals_to_the_group_do_not_end_the_writer(tmp_path: Path) -> None:
    audit = await Audit.open(tmp_path / "a.db")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(pid(audit), number)
    await audit.durable(intent())
    assert audit.healthy
    await audit.close()


async def test_more_than_the_socket_holds_is_kept_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    audit = await Audit.open(path)
    os.kill(pid(audit), signal.SIGSTOP)
    records = [Record(new_id(), "outcome", time.time(), {"pad": "x" * 50_000}) for _ in range(60)]
    for record in records:
        assert audit.append(record)
        audit._flush()
    await asyncio.sleep(0.02)
    assert audit.waiting == 60
    os.kill(pid(audit), signal.SIGCONT)
    await until(lambda: audit.waiting == 0)
    await audit.close()
    with Reader(path) as log:
        assert [e.id for e in log.latest(100)] == [record.id for record in records]


async def test_a_writer_that_cannot_start_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(AuditUnavailable, match="cannot be started"):
        await Audit.open(tmp_path / "a.db")
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(AuditUnavailable, match="ended before"):
        await Audit.open(tmp_path / "a.db")


async def test_the_writer_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    audit = await Audit.open(tmp_path / "a.db", key=KEY)
    proc = Path(f"/proc/{pid(audit)}")
    seen = proc.joinpath("environ").read_bytes() + proc.joinpath("cmdline").read_bytes()
    await audit.close()
    assert b"canary" not in seen
    assert KEY.seal.key is not None
    assert KEY.seal.key.hex().encode() not in seen


def test_the_writer_imports_little() -> None:
    """Each of these is a tenth of its memory or more."""
    code = "import sys, proxy.audit.writer; print(*sys.modules)"
    command = [sys.executable, "-S", "-P", "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    heavy = {
        "typing",
        "re",
        "asyncio",
        "orjson",
        "dataclasses",
        "pathlib",
        "json",
        "socket",
        "subprocess",
        "inspect",
        "_hashlib",
    }
    assert not heavy & set(done.stdout.split())


messages: st.SearchStrategy[Any] = st.none() | st.lists(
    st.tuples(st.text(max_size=9), st.integers(), st.none() | st.floats(allow_nan=False), st.binary(max_size=300))
)


@given(st.lists(messages), st.lists(st.integers(1, 50)))
def test_messages_arrive_as_they_were_sent_however_they_are_cut(sent: list[Any], cuts: list[int]) -> None:
    raw, frames, got = b"".join(map(pack, sent)), Frames(), []
    for cut in cuts:
        got += frames.feed(raw[:cut])
        raw = raw[cut:]
    got += frames.feed(raw)
    assert got == sent
