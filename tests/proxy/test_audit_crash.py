"""What was acknowledged survives `kill -9`, two writers at once, and a full disk."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from proxy.audit import Exchange, Reader, Record, new_id
from proxy.audit.record import encode
from proxy.audit.store import SqliteStore
from tests.proxy import audit_writer
from tests.proxy.audit_writer import KEY

ROUNDS = 30


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.proxy.audit_writer"])
    return context


def start(context: ForkServerContext, target: object, *args: object) -> ForkServerProcess:
    process = context.Process(target=target, args=args, daemon=True)  # type: ignore[arg-type]
    process.start()
    return process


def acknowledged(path: Path) -> list[str]:
    return [line for line in path.read_text().split("\n")[:-1] if line] if path.exists() else []


def exchanges(path: Path) -> dict[str, Exchange]:
    with Reader(path) as log:
        assert log.verify(KEY).broken is None
        return {exchange.id: exchange for exchange in log.latest(1_000_000)}


def wait_for_writers(path: Path, left: int) -> None:
    """A writer outlives its proxy by what it has received."""
    limit = time.monotonic() + 20
    while len(list(Path(f"{path}-writers").iterdir())) > left and time.monotonic() < limit:
        time.sleep(0.005)


def test_kill_loop(tmp_path: Path, processes: ForkServerContext) -> None:
    path, acks = tmp_path / "a.db", tmp_path / "acks"
    alive = SqliteStore.open(path, KEY.seal)
    mine = new_id()
    alive.write([encode(Record(mine, "intent", time.time(), {"action": "pass"}))])
    chance = random.Random(7)
    for _ in range(ROUNDS):
        before = acks.stat().st_size if acks.exists() else 0
        process = start(processes, audit_writer.until_killed, str(path), str(acks))
        limit = time.monotonic() + 20
        while not (acks.exists() and acks.stat().st_size > before) and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.join()
        assert process.exitcode == -9
    ids = acknowledged(acks)
    assert len(ids) >= ROUNDS
    wait_for_writers(path, 1)
    SqliteStore.open(path, KEY.seal).close()  # marks what the last one left
    found = exchanges(path)
    assert set(ids) <= set(found)
    ends = {id: found[id].outcome for id in ids}
    assert all(end is not None for end in ends.values())
    assert {end["status"] for end in ends.values() if end} == {200, "aborted"}
    assert found[mine].outcome is None  # its process lives
    alive.write([encode(Record(mine, "outcome", time.time(), {"status": 200}))])
    alive.close()
    assert exchanges(path)[mine].outcome == {"status": 200}
    assert list(Path(f"{path}-writers").iterdir()) == []


def test_two_processes_write_one_chain(tmp_path: Path, processes: ForkServerContext) -> None:
    path = tmp_path / "a.db"
    acks = [tmp_path / "one", tmp_path / "two"]
    writers = [start(processes, audit_writer.some, str(path), str(each), 240) for each in acks]
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    ids = [acknowledged(each) for each in acks]
    found = exchanges(path)
    assert [len(each) for each in ids] == [240, 240]
    assert set(found) == set(ids[0]) | set(ids[1])
    assert all(exchange.outcome == {"status": 200} for exchange in found.values())
    assert len({exchange.intent["pid"] for exchange in found.values() if exchange.intent}) == 2


def check_filled(path: Path) -> None:
    count = int(Path(f"{path}.count").read_text())
    found = exchanges(path)
    intents = [e for e in found.values() if e.intent is not None]
    assert count > 5
    assert len(intents) == count + 1  # the one that was refused is kept as history
    assert all(e.outcome is not None for e in found.values())
    assert sum(e.intent is None for e in found.values()) == 1  # the one under way while the disk was full


def test_a_file_that_may_not_grow(tmp_path: Path, processes: ForkServerContext) -> None:
    path = tmp_path / "a.db"
    writer = start(processes, audit_writer.limited, str(path))
    writer.join(60)
    assert writer.exitcode == 0
    check_filled(path)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root to mount a small file system"
)
def test_a_full_file_system(tmp_path: Path) -> None:
    small, out = tmp_path / "small", tmp_path / "out"
    small.mkdir()
    out.mkdir()
    script = (
        'mount -t tmpfs -o size=1m tmpfs "$1" || exit 77; "$3" -m tests.proxy.audit_writer "$1" 450000 '
        '&& cp -r "$1/." "$2"'
    )
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(small), str(out), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this container may not mount")
    assert done.returncode == 0, done.stderr
    check_filled(out / "a.db")
