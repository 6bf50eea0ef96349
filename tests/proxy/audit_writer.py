"""Processes for `test_audit_crash`: they write to a log until they are killed, or until the disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.audit import Audit, AuditUnavailable, Key, Reader, Record, new_id
from proxy.audit.process import Process

KEY = Key(b"k" * 32)


def until_killed(path: str, acks: str) -> None:
    """Write exchanges for ever; note each id in the file `acks` once its intent is acknowledged."""
    asyncio.run(_exchanges(path, acks, None))


def some(path: str, acks: str, count: int) -> None:
    """Write `count` exchanges, then close."""
    asyncio.run(_exchanges(path, acks, count))


async def _exchanges(path: str, acks: str, count: int | None) -> None:
    audit = await Audit.open(path, key=KEY)
    out = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def client() -> None:
        done = 0
        while count is None or done < count // 8:
            done += 1
            id = new_id()
            await audit.durable(Record(id, "intent", time.time(), {"action": "pass", "pid": os.getpid()}))
            os.write(out, id.encode() + b"\n")  # what a client saw: the first byte of the answer
            await asyncio.sleep(0.001)
            audit.append(Record(id, "outcome", time.time(), {"status": 200}))

    await asyncio.gather(*(client() for _ in range(8)))
    await audit.close()


async def fill(path: Path, free: Callable[[Audit], None]) -> int:
    """Write until it is refused, make room, go on. Returns how many intents were acknowledged."""
    audit = await Audit.open(path, key=KEY)
    acknowledged = 0
    body = {"action": "pass", "pad": "x" * 2000}

    async def flood() -> None:
        nonlocal acknowledged
        while True:
            await audit.durable(Record(new_id(), "intent", time.time(), body))
            acknowledged += 1

    # A reader at the same time: else the writer's next attempt would fold its log into the file and find room.
    with Reader(path):
        with pytest.raises(AuditUnavailable) as error:
            await flood()
        assert error.value.mend
        assert not audit.healthy
        assert audit.append(Record(new_id(), "outcome", time.time(), {"status": 200}))  # of one under way
        with pytest.raises(AuditUnavailable):
            await audit.probe()
    free(audit)
    async with asyncio.timeout(30):
        while not audit.healthy:
            await asyncio.sleep(0.01)
    await audit.durable(Record(new_id(), "intent", time.time(), body))
    await audit.close()
    assert audit.lost == 0
    return acknowledged + 1


def limited(path: str) -> None:
    """The largest file may have 300 kB: writes beyond fail as on a full disk."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    count = asyncio.run(fill(Path(path), lambda audit: _lift(audit, hard)))
    Path(path + ".count").write_text(str(count))


def _lift(audit: Audit, limit: int) -> None:
    process = audit._line
    assert isinstance(process, Process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))


async def settle(folder: Path) -> list[str]:
    """What is said of a disk on which little is left, large records and small ones beside each other, until there is
    room; ends once it is well."""
    audit, said = await Audit.open(folder / "b.db", key=KEY), list[str]()
    audit.observer = lambda fault: said.append("well" if fault is None else fault.state)
    found = os.statvfs(folder)
    (folder / "ballast").write_bytes(bytes(found.f_bavail * found.f_frsize - 24_000))
    until = time.monotonic() + 0.6
    while time.monotonic() < until or not said:
        with contextlib.suppress(AuditUnavailable):
            await audit.durable(Record(new_id(), "intent", time.time(), {"pad": "x" * 800}))
        audit.append(Record(new_id(), "outcome", time.time(), {"status": "refused"}))
        with contextlib.suppress(AuditUnavailable):
            await audit.probe()
        await asyncio.sleep(0.01)
    assert not audit.healthy
    (folder / "ballast").unlink()
    async with asyncio.timeout(30):
        while not audit.healthy:
            await asyncio.sleep(0.01)
    await audit.close()
    assert audit.lost == 0
    return said


def main() -> None:
    """`python -m tests.proxy.audit_writer FOLDER`: FOLDER is a small file system, its file `ballast` makes room."""
    folder = Path(sys.argv[1])
    said = asyncio.run(settle(folder))
    assert [*dict.fromkeys(said)] == ["full", "well"], said  # once, however many tell it meanwhile
    assert said.count("well") == 1, said
    (folder / "ballast").write_bytes(bytes(int(sys.argv[2])))
    count = asyncio.run(fill(folder / "a.db", lambda audit: (folder / "ballast").unlink()))
    (folder / "a.db.count").write_text(str(count))


if __name__ == "__main__":
    main()
