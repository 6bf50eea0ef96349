"""P6 and the clock: whatever the audit's disk does, new work is refused or waits, nothing is lost or torn, and it goes
on by itself; whatever the clock says, nothing is late, lost or twice."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from proxy.audit import Key, Reader
from proxy.audit import writer as writing
from proxy.audit.entry import Entry
from proxy.audit.schema import explain
from proxy.audit.seal import Head
from proxy.audit.store import Store
from proxy.audit.wire import Opened, Opening
from tests.proxy.audit_lines import Thread
from tests.proxy.conftest import Make, Stand
from tests.upstream import replies, shapes


class Disk:
    """What the disk does: nothing special, or with each write wait so long (seconds) or fail by a code of SQLite's."""

    def __init__(self) -> None:
        self.delay, self.code = 0.0, 0

    def open(self, opening: Opening) -> tuple[Store, Opened]:
        store, opened = writing._open(opening)
        real = store.write

        def write(entries: Sequence[Entry]) -> Head:
            if self.delay:
                time.sleep(self.delay)
            if self.code:
                error = sqlite3.OperationalError("as the test wants it")
                error.sqlite_errorcode = self.code
                raise explain(error, opening[0]) from None
            return real(entries)

        store.write = write  # type: ignore[method-assign]
        return store, opened


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk()
    monkeypatch.setattr("proxy.audit.process.Process.start", lambda: Thread(made.open))
    yield made
    made.delay = made.code = 0


def whole(s: Stand) -> dict[str, Any]:
    """Every exchange by its id, once the chain was found whole."""
    with Reader(s.data / "audit.db") as log:
        verdict = log.verify(Key.load(s.data / "audit.key", create=False))
        assert verdict.broken is None, verdict
        return {each.id: each for each in log.latest(1000)}


async def until_ready(s: Stand, ready: bool) -> dict[str, str]:
    async with asyncio.timeout(20):
        while True:
            answer = await s.client.get(s.admin_url + "/readyz")
            if (answer.status_code == 200) == ready:
                return dict(answer.json()["checks"])
            await asyncio.sleep(0.02)


FAULTS = {
    "full": (sqlite3.SQLITE_FULL, "full"),
    "an error of the device": (sqlite3.SQLITE_IOERR_FSYNC, "disk reports an error"),
    "read-only": (sqlite3.SQLITE_READONLY, "read-only"),
    "gone": (sqlite3.SQLITE_CANTOPEN, ""),
    "damaged": (sqlite3.SQLITE_CORRUPT, ""),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_disk_that_fails(stand: Make, disk: Disk, name: str) -> None:
    code, words = FAULTS[name]
    seen: list[str] = []
    hold = asyncio.Event()
    async with stand(settings={"decision_headers": True, "drain_timeout": 5}) as s:
        events = shapes.stream("word " * 40)
        s.upstream.reply = replies.sse([*events[:8], hold, *events[8:]])
        async with s.client.stream("POST", "/v1/chat/completions", json=asking(True)) as busy:
            seen.append(busy.headers["x-penstock-decision"])
            disk.code = code
            checks = await until_ready(s, False)
            assert words in checks["audit"]
            asked = len(s.upstream.requests)
            s.upstream.reply = replies.json(shapes.completion("Fine."))
            for stream in (False, True):
                answer = await s.client.post("/v1/chat/completions", json=asking(stream))
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")
            assert len(s.upstream.requests) == asked
            assert "penstock_audit_healthy 0.0" in (await s.client.get(s.admin_url + "/metrics")).text
            hold.set()  # what had begun may end: its decision is on the disk, its outcome will be
            assert b"[DONE]" in await busy.aread()
        disk.code = 0
        await until_ready(s, True)
        answer = await s.client.post("/v1/chat/completions", json=asking(False))
        assert answer.status_code == 200
        seen.append(answer.headers["x-penstock-decision"])
        assert s.running.audit.lost == 0
    rows = whole(s)
    assert [rows[id].outcome["status"] for id in seen] == ["released", "released"]


def asking(stream: bool) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disk_that_is_slow(stand: Make, disk: Disk, stream: bool) -> None:
    """Nothing leaves before its decision is on the disk, and all who wait share the waiting."""
    async with stand(settings={"decision_headers": True}) as s:
        s.upstream.reply = replies.sse(shapes.stream("Fine.")) if stream else replies.json(shapes.completion("Fine."))
        disk.delay = 0.3
        began = time.monotonic()

        async def ask() -> tuple[float, str]:
            async with s.client.stream("POST", "/v1/chat/completions", json=asking(stream)) as answer:
                await anext(answer.aiter_raw())
                assert answer.status_code == 200
                return time.monotonic() - began, answer.headers["x-penstock-decision"]

        said = await asyncio.gather(*(ask() for _ in range(40)))
        assert min(first for first, _ in said) >= 0.3
        assert s.running.audit.commits < 40
        disk.delay = 0
    assert {id for _, id in said} <= set(whole(s))


JUMPS = [0.0, 3600.0, -3600.0, -86_400.0 * 400, 86_400.0 * 400, 0.0]
"""Seconds by which the clock is wrong, one after the other."""


async def test_a_clock_that_jumps(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, real, real_ns = 0.0, time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + wrong)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(wrong * 1e9))
    hold = [asyncio.Event() for _ in JUMPS]
    async with stand(settings={"decision_headers": True, "first_byte_timeout": 60, "receive_timeout": 30}) as s:
        turns = itertools.chain(hold, itertools.repeat(None))

        def script(_: object) -> Any:
            waited = next(turns)
            return [*([waited] if waited else []), *replies.json(shapes.completion("Fine."))]

        s.upstream.reply = script
        busy = [asyncio.create_task(s.client.post("/v1/chat/completions", json=asking(False))) for _ in JUMPS]
        await s.upstream.arrived(len(JUMPS))
        ids = []
        for seconds, held in zip(JUMPS, hold, strict=True):
            wrong = seconds
            answer = await s.client.post("/v1/chat/completions", json=asking(False))  # begun after the jump
            assert answer.status_code == 200
            ids.append(answer.headers["x-penstock-decision"])
            held.set()  # and one that was under way
            assert await until_ready(s, True) == {}
        for answer in await asyncio.gather(*busy):
            assert answer.status_code == 200
            ids.append(answer.headers["x-penstock-decision"])
        page = (await s.client.get(s.admin_url + "/metrics")).text
        sums = [line for line in page.splitlines() if "_seconds_sum" in line]
        assert sums
        assert all(0 <= float(line.rpartition(" ")[2]) < 600 for line in sums), sums
    rows = whole(s)
    assert len(set(ids)) == len(ids) == 2 * len(JUMPS)
    assert [rows[id].outcome["status"] for id in ids] == ["released"] * len(ids)
