"""The clock of a live process jumps ahead and back, by an hour and a day: nothing is late, lost, twice or let go.

Debian's libfaketime moves the clock of the process as an operator's hand would: the wall clock jumps, the steady one
does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.audit import Key, Reader
from proxy.audit.keeping import Keeping
from proxy.audit.steady import HOLD, LEAP, SLACK, Steady
from proxy.state.base import Flag
from proxy.state.local import Local
from tests.bench.candidates import BenchError, tool
from tests.proxy.keyring import give
from tests.proxy.served import Served, served
from tests.proxy.test_accounts_remembered import RULES
from tests.upstream import Upstream, replies, shapes

HOUR, DAY = 3600, 86_400
JUMPS = (HOUR, DAY, -HOUR, -DAY, 0)
"""Seconds by which the clock is wrong, one after the other."""
CASES = """
cases:
  - {name: bad, text: MARK, expect: {action: block, rule: no-mark}}
  - {name: good, text: Hello, expect: {action: pass}}
"""


class Clock:
    """The clock of a process that was started with `environment`."""

    def __init__(self, folder: Path) -> None:
        try:
            tool("faketime")
        except BenchError as error:
            pytest.skip(str(error))
        self._file = folder / "clock"
        self.jump(0)
        library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")))
        self.environment = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip

    def jump(self, seconds: int) -> None:
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{seconds:+d}\n")
        aside.replace(self._file)


@contextlib.asynccontextmanager
async def live(folder: Path, upstream: Upstream, clock: Clock) -> AsyncIterator[tuple[Served, dict[str, str]]]:
    """A Penstock whose clock is `clock`, and its keys: `brief` is good for half an hour, and `ben` banned for it."""
    soon, data = time.time() + HOUR / 2, folder / "data"
    keys = {name: give(data, name) for name in ("ann", "ben", "cat")}
    keys["brief"] = give(data, "brief", expires=soon)
    file = Local(data / "state.db")
    file.mark([Flag("ben", "banned", soon, time.time(), "a person")])
    file.close()
    settings = {
        "credentials": "keys", "audit_keep": "12h", "heartbeat_interval": 0.2, "first_byte_timeout": 60,
        "receive_timeout": 60,
    }  # fmt: skip
    patched = {"proxy.outside.LOOK": 0.1}
    async with served(
        folder, upstream.url, policy=RULES + CASES, settings=settings, patched=patched, environment=clock.environment
    ) as s:
        yield s, keys


async def test_a_live_process_whose_clock_jumps(tmp_path: Path) -> None:
    clock, held = Clock(tmp_path), [asyncio.Event() for _ in JUMPS]
    turns: Any = itertools.chain(held, itertools.repeat(None))

    def script(_: object) -> Any:
        return [*([wait] if (wait := next(turns)) else []), *replies.json(shapes.completion("Fine."))]

    async with (
        Upstream() as upstream,
        live(tmp_path, upstream, clock) as (s, keys),
        httpx2.AsyncClient(timeout=30, trust_env=False) as web,
    ):

        async def ask(who: str, text: str = "Hi") -> httpx2.Response:
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            return await web.post(
                s.url + "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {keys[who]}"}
            )

        upstream.reply = script
        busy = [asyncio.create_task(ask("ann")) for _ in JUMPS]
        await upstream.arrived(len(JUMPS))
        ids, beats = [], 0.0
        assert (await ask("cat", "MARK")).status_code == 400  # a strike, of which three within an hour ban
        for seconds, wait in zip(JUMPS, held, strict=True):
            clock.jump(seconds)
            answer = await ask("ann")  # on a connection that was idle over the jump
            assert answer.status_code == 200
            ids.append(answer.headers["x-penstock-decision"])
            assert (await ask("brief")).status_code == (401 if seconds > HOUR / 2 else 200)
            assert (await ask("ben")).json()["error"]["penstock"]["reason"] == "account_banned"
            assert (await ask("cat", "MARK")).status_code == 400
            # Back is believed at once, and from there it is ahead again.
            await clock_is(s, web, "ready" if seconds < 0 else "ahead: it jumped ahead by")
            if seconds != HOUR:  # it was the third, or came after it
                assert (await ask("cat")).json()["error"]["penstock"]["reason"] == "account_banned"
            wait.set()  # and one that was under way
            assert await s.ready(web) == {}
            before, figures = beats, await s.metrics(web)
            while (beats := _beat(figures)) == before:  # the next beat comes, by a clock that does not jump
                await asyncio.sleep(0.05)
                figures = await s.metrics(web)
            assert {each for name, each in figures.items() if name.startswith("penstock_guard_heartbeat{")} == {1.0}
            assert all(0 <= each < 600 for name, each in figures.items() if "_seconds_sum" in name)
        for done in await asyncio.gather(*busy):
            assert done.status_code == 200
            ids.append(done.headers["x-penstock-decision"])
        sockets = {request.connection for request in upstream.requests}
        s.process.terminate()
        await s.process.wait()
    assert len(sockets) <= len(JUMPS) + 1
    with Reader(tmp_path / "data" / "audit.db") as log:
        assert log.verify(Key.load(tmp_path / "data" / "audit.key", create=False)).broken is None
        found = {each.id: each for each in log.latest(1000)}
    assert len(set(ids)) == 2 * len(JUMPS)
    assert [(found[id].outcome or {})["status"] for id in ids] == ["released"] * len(ids)  # none was pruned as too old


async def clock_is(s: Served, web: httpx2.AsyncClient, state: str) -> None:
    async with asyncio.timeout(30):
        while not (await web.get(s.admin + "/readyz")).json()["parts"].get("clock", "").startswith(state):
            await asyncio.sleep(0.02)


def _beat(figures: dict[str, float]) -> float:
    return sum(value for name, value in figures.items() if name.startswith("penstock_guard_heartbeat_success"))


class Hands:
    """Both clocks, as a test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.passed = 1e9, 50.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.passed)

    def go(self, seconds: float, jump: float = 0.0) -> None:
        self.passed += seconds
        self.wall += seconds + jump


def test_a_steady_clock_goes_back_at_once_and_ahead_when_that_has_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(monkeypatch)
    clock, right = Steady(), hands.wall
    for _ in range(100):  # adjusted by little, often
        hands.go(10, jump=0.5)
        assert clock.now() == hands.wall
    hands.go(10, jump=DAY)
    right = hands.wall - DAY
    assert clock.now() == right
    hands.go(HOLD / 2)
    assert clock.now() == right + HOLD / 2
    hands.go(10, jump=DAY)  # and further: that is another clock again
    assert clock.now() == hands.wall - 2 * DAY
    hands.go(HOLD - 1)
    assert clock.now() == hands.wall - 2 * DAY
    hands.go(2)
    assert clock.now() == hands.wall
    hands.go(1, jump=-DAY)
    assert clock.now() == hands.wall
    hands.go(1, jump=SLACK - 1)
    assert clock.now() == hands.wall


@pytest.mark.parametrize(("ago", "doubted"), [(0, False), (LEAP - 1, False), (LEAP + 1, True), (-LEAP, False)])
def test_a_clock_far_ahead_of_the_newest_record_prunes_nothing_at_first(
    monkeypatch: pytest.MonkeyPatch, ago: float, doubted: bool
) -> None:
    hands = Hands(monkeypatch)
    last = hands.wall - ago
    keeping = Keeping(10.0, last)
    rows = [(1, b"", "a", last - 20), (2, b"", "b", last)]
    gone = keeping.prefix([*rows, (3, b"", "c", last)])
    assert gone is None or gone.id == ("a" if doubted or not ago else "b" if ago > 0 else "")
    assert (keeping._clock.now() == last) is (doubted or not ago)
    hands.go(HOLD + 1)
    keeping.prefix([*rows, (3, b"", "c", last)])
    assert keeping._clock.now() == hands.wall
