"""Calls that wait equally long share a timer; pieces of a stream are gathered, and none is kept for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from proxy import upstream as module
from proxy.later import Later, Pending
from proxy.upstream import WAKE, Upstream
from tests.upstream import Upstream as Simulator
from tests.upstream import replies


async def test_calls_come_in_order_and_cancelled_ones_never() -> None:
    later, seen = Later(0.01), list[int]()
    pending = [later.add(lambda number=number: seen.append(number)) for number in range(5)]  # type: ignore[misc]
    pending[0].cancel()
    pending[3].cancel()
    await asyncio.sleep(0.1)
    assert seen == [1, 2, 4]
    later.add(lambda: seen.append(9))  # the timer begins again
    await asyncio.sleep(0.1)
    assert seen == [1, 2, 4, 9]


async def test_what_is_cancelled_when_the_clock_has_struck_does_not_come() -> None:
    """An intent would be written behind its outcome, and look as if it were open."""
    later, seen = Later(0.01), list[int]()
    pending: list[Pending] = []

    def first() -> None:
        seen.append(0)
        pending[1].cancel()

    pending += [later.add(first), later.add(lambda: seen.append(1))]
    await asyncio.sleep(0.1)
    assert seen == [0]


async def test_nothing_comes_after_the_end() -> None:
    later, seen = Later(0.01), list[int]()
    later.add(lambda: seen.append(1))
    later.close()
    await asyncio.sleep(0.05)
    assert seen == []


async def lumps(
    reply: list[Any], *, appetite: int, wake_at: int = 1 << 30, tasted: Sequence[asyncio.Event] = ()
) -> list[int]:
    """The sizes of what a taste gets that would like `appetite` bytes at once. Of `tasted`, one is set each time."""
    sizes: list[int] = []

    def taste(data: bytes) -> int:
        sizes.append(len(data))
        if len(sizes) <= len(tasted):
            tasted[len(sizes) - 1].set()
        return WAKE if sum(sizes) >= wake_at else appetite

    async with Simulator(reply) as simulator:
        upstream = Upstream(simulator.url)
        response = await upstream.send(upstream.head(b"POST", b"/v1/chat/completions", []), b"{}")
        while await response.pump(taste):
            pass
        await upstream.close()
    return sizes


PIECE = b"data: " + b"x" * 92 + b"\n\n"


def slow(count: int, gaps: Sequence[asyncio.Event] = ()) -> list[Any]:
    """That many pieces; the next comes after a while, or when its event is set."""
    out: list[Any] = [replies.sse([])[0]]
    for number in range(count):
        out += [replies.chunk(PIECE), gaps[number] if gaps else 0.005]
    return [*out, b"0\r\n\r\n"]


async def test_pieces_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 30.0)
    sizes = await lumps(slow(40), appetite=1000)
    assert sum(sizes) == 4000
    assert len(sizes) <= 12


async def test_who_wants_every_piece_gets_it() -> None:
    tasted = [asyncio.Event() for _ in range(20)]
    assert await lumps(slow(20, tasted), appetite=0, tasted=tasted) == [len(PIECE)] * 20


async def test_a_larger_piece_is_not_kept() -> None:
    large = [*slow(6)[:-1], replies.chunk(PIECE * 5), 0.2, b"0\r\n\r\n"]
    assert 500 <= max(await lumps(large, appetite=1 << 20)) <= 1100


async def test_nothing_is_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    tasted = [asyncio.Event() for _ in range(4)]
    assert await lumps(slow(4, tasted), appetite=1 << 20, tasted=tasted) == [len(PIECE)] * 4


async def test_the_end_brings_what_is_left() -> None:
    assert sum(await lumps(slow(5), appetite=1 << 20)) == 500


async def test_a_task_that_was_woken_goes_on_where_it_was() -> None:
    assert sum(await lumps(slow(20), appetite=300, wake_at=900)) == 2000
