"""P9: an exchange has an end, however steadily its upstream drips, and however slowly it is read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.flight import InFlight, fate
from tests.conformance.cases import Answer, Send
from tests.conformance.speak import PATHS, reply, request
from tests.conformance.test_conformance import codes, told
from tests.proxy.conftest import Make
from tests.proxy.endure import narrow, post
from tests.upstream import replies

STREAMED = sorted(name for name in PATHS if name != "embeddings")
SHORT = {"exchange_timeout": 1.0}


@pytest.mark.parametrize("dialect", STREAMED)
async def test_a_stream_that_drips_for_ever(stand: Make, dialect: str) -> None:
    async with stand(settings=SHORT) as s:
        steps = list(reply(dialect, Answer(text="word " * 2000, size=10), True))
        s.upstream.reply = [part for step in steps for part in (step, 0.02)]
        _, target, body, headers = request(dialect, Send(), True)
        answer = await s.client.post(target, content=body, headers=headers)
        assert answer.status_code == 200
        assert codes(told(answer.content, True))[-1:] == ["exchange_timeout"]
        await asyncio.wait_for(s.upstream.requests[0].gone.wait(), 30)
        assert [row["status"] for row in await s.rows()] == ["exchange_timeout"]
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert f'dialect="{dialect}",model="other",outcome="exchange_timeout"}} 1.0' in page


@pytest.mark.parametrize("dialect", sorted(PATHS))
async def test_an_answer_that_does_not_come(stand: Make, dialect: str) -> None:
    async with stand(settings=SHORT) as s:
        s.upstream.reply = replies.drip(reply(dialect, Answer(text="word " * 200), False), rate=200)
        _, target, body, headers = request(dialect, Send(), False)
        answer = await s.client.post(target, content=body, headers=headers)
        assert answer.status_code == 504
        assert codes([answer.json()]) == ["exchange_timeout"]
        assert [row["status"] for row in await s.rows()] == ["exchange_timeout"]


async def test_a_reader_that_does_not_read(stand: Make) -> None:
    async with stand(settings=SHORT) as s:
        steps = list(reply("chat", Answer(text="word " * 200, size=1000), True))
        s.upstream.reply = replies.Forever(steps[:1], [*steps[1:2], 0.001])
        _, writer = await narrow(s.running.address)
        writer.write(post("chat"))
        request = await s.upstream.arrived()
        await asyncio.wait_for(request.gone.wait(), 30)
        while s.running.plane.in_flight:
            await asyncio.sleep(0.005)
        assert [row["status"] for row in await s.rows()] == ["exchange_timeout"]
        writer.transport.abort()


async def test_who_ends_in_time_is_left_alone() -> None:
    flying = InFlight(0.1)
    ended: list[str] = []

    async def fly(name: str, seconds: float, caller: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        flying.add(task, caller)
        try:
            await asyncio.sleep(seconds)
            ended.append(name)
        except asyncio.CancelledError:
            ended.append(f"{name} {fate(caller)}")
        finally:
            flying.discard(task)

    def caller() -> Any:
        return SimpleNamespace(late=False, gone=False)

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("quick", 0), ("first", 60), ("second", 60), ("soon", 0.01)):
            group.create_task(fly(name, seconds, caller()))
        await asyncio.sleep(0.02)
        assert len(flying) == 2
    assert sorted(ended) == ["first exchange_timeout", "quick", "second exchange_timeout", "soon"]
    async with asyncio.TaskGroup() as group:  # and the timer rings again
        group.create_task(fly("third", 60, caller()))
    assert ended[-1] == "third exchange_timeout"
    assert (len(flying), list(flying)) == (0, [])
