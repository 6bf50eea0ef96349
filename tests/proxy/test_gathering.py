"""Pieces of a stream are gathered on a beat, and none is kept for long."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from proxy import gathering as module
from proxy.upstream import WAKE, Response, Upstream
from tests.upstream import End, replies
from tests.upstream import Upstream as Simulator

PIECE = b"data: " + b"x" * 92 + b"\n\n"
WHOLE = 1 << 20
"""More than ever comes."""


class Taster:
    """Would like `appetite` bytes at once, and wakes whoever pumps when `wake_at` bytes were had. Each time one of
    `tasted` is set."""

    def __init__(self, appetite: int, wake_at: int = WHOLE, tasted: Sequence[asyncio.Event] = ()) -> None:
        self.sizes: list[int] = []
        self._appetite, self._wake_at, self._tasted = appetite, wake_at, tasted

    def __call__(self, data: bytes) -> int:
        self.sizes.append(len(data))
        if len(self.sizes) <= len(self._tasted):
            self._tasted[len(self.sizes) - 1].set()
        return WAKE if sum(self.sizes) >= self._wake_at else self._appetite


async def asked(upstream: Upstream) -> Response:
    return await upstream.send(upstream.head(b"POST", b"/v1/chat/completions", []), b"{}")


async def lumps(
    reply: list[Any], *, appetite: int, wake_at: int = WHOLE, tasted: Sequence[asyncio.Event] = ()
) -> list[int]:
    """The sizes of what such a taster gets."""
    taster = Taster(appetite, wake_at, tasted)
    async with Simulator(reply) as simulator:
        upstream = Upstream(simulator.url)
        response = await asked(upstream)
        while await response.pump(taster):
            pass
        await upstream.close()
    return taster.sizes


def slow(
    count: int, gaps: float | Sequence[asyncio.Event] = 0.005, end: Any = b"0\r\n\r\n", *, chunked: bool = True
) -> list[Any]:
    """That many pieces; the next comes after a while, or when its event is set."""
    out: list[Any] = [replies.sse([], chunked=chunked)[0]]
    for number in range(count):
        gap = gaps if isinstance(gaps, float) else gaps[number]
        out += [replies.chunk(PIECE) if chunked else PIECE, gap]
    return [*out, end]


async def test_pieces_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOWEST", 30.0)  # on a busy machine their pace is anybody's
    sizes = await lumps(slow(40), appetite=1000)
    assert sum(sizes) == 4000
    assert len(sizes) <= 20


async def test_who_wants_every_piece_gets_it() -> None:
    tasted = [asyncio.Event() for _ in range(20)]
    assert await lumps(slow(20, tasted), appetite=0, tasted=tasted) == [len(PIECE)] * 20


async def test_a_slow_stream_is_read_as_it_comes() -> None:
    assert len(await lumps(slow(6, 0.25), appetite=WHOLE)) >= 4


async def test_a_pause_brings_what_there_is() -> None:
    """The upstream waits for it, so that nothing else can."""
    go = asyncio.Event()
    taster = Taster(WHOLE)
    async with Simulator([*slow(12)[:-1], go, b"0\r\n\r\n"]) as simulator:
        upstream = Upstream(simulator.url)
        pumping = asyncio.ensure_future((await asked(upstream)).pump(taster))
        async with asyncio.timeout(30):
            while sum(taster.sizes) < 1200:
                await asyncio.sleep(0.01)
        go.set()
        assert await pumping is False
        await upstream.close()


async def test_nothing_is_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    assert len(await lumps(slow(60), appetite=WHOLE)) > 4


@pytest.mark.parametrize("chunked", [True, False])
async def test_the_end_brings_what_is_left(chunked: bool) -> None:
    end = b"0\r\n\r\n" if chunked else End.CLOSE
    assert sum(await lumps(slow(5, end=end, chunked=chunked), appetite=WHOLE)) == 500


async def test_a_task_that_was_woken_goes_on_where_it_was() -> None:
    assert sum(await lumps(slow(20), appetite=300, wake_at=900)) == 2000


async def test_the_next_answer_on_the_connection_comes_at_once() -> None:
    """Or the kernel would keep small answers to itself for ever."""
    answers = itertools.cycle([slow(30), replies.json({"short": True})])
    async with Simulator(lambda _: next(answers)) as simulator:
        upstream = Upstream(simulator.url)
        taster = Taster(WHOLE)
        while await (await asked(upstream)).pump(taster):
            pass
        async with asyncio.timeout(30):
            assert await (await asked(upstream)).read(1000) == b'{"short":true}'
        assert simulator.connections == 1
        await upstream.close()


async def test_what_is_left_with_the_kernel_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.6)
    taster = Taster(WHOLE)
    async with Simulator(slow(50, 0.03)) as simulator:
        upstream = Upstream(simulator.url, gap=0.3)
        assert await (await asked(upstream)).pump(taster) is False
        await upstream.close()
    assert sum(taster.sizes) == 5000


async def test_who_leaves_is_not_looked_at() -> None:
    """The number of its socket may be another's by then."""
    async with Simulator(slow(100)) as simulator:
        upstream = Upstream(simulator.url)
        response = await asked(upstream)
        taster = Taster(WHOLE, wake_at=500)
        assert await response.pump(taster)
        response.abort()
        had = list(taster.sizes)
        await asyncio.sleep(0.1)
        assert taster.sizes == had
        await upstream.close()


async def test_what_is_due_comes_on_one_beat_and_in_order() -> None:
    beat, seen, ends = module.Beat(), list[int](), socket.socketpair()

    class Looked(module.Gathering):
        def look(self, now: float) -> None:
            seen.append(self.number)

        number = 0

    async def made(number: int, delay: float) -> Looked:
        looked = Looked(ends[0], beat, lambda more: None)
        looked.number = number
        looked.at = beat.add(looked, delay)
        return looked

    last, first = await made(2, 0.06), await made(0, 0.0)
    second, never = await made(1, 0.0), await made(9, 0.0)
    never.cancel()
    async with asyncio.timeout(30):
        while len(seen) < 3:
            await asyncio.sleep(0.01)
    assert seen == [0, 1, 2]
    assert first.at == second.at < last.at
    late = await made(3, 0.0)
    beat.close()
    await asyncio.sleep(0.05)
    assert late.at
    assert seen == [0, 1, 2]
    for end in ends:
        end.close()
