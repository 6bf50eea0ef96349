"""Calls that wait equally long share a timer."""

from __future__ import annotations

import asyncio

from proxy.later import Later, Pending


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
