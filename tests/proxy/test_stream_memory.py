"""An open stream may last: what was asked is not kept for as long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.dialects.base import Request
from tests.proxy.conftest import Make
from tests.upstream import replies, shapes

SAID = "Once upon a time there was a harbour town. " * 1000


def locals_of(task: asyncio.Task[None]) -> list[Any]:
    """What the frames of a waiting task hold."""
    found: list[Any] = []
    waits: Any = task.get_coro()
    while hasattr(waits, "cr_frame"):
        found += waits.cr_frame.f_locals.values()
        waits = waits.cr_await
    return found


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_long_request_is_let_go(stand: Make, path: str) -> None:
    async with stand() as s:
        s.upstream.reply = replies.sse([shapes.stream("Some honest words.")[0], asyncio.Event()])
        key = "input" if path.endswith("responses") else "messages"
        body = {"model": "m", "stream": True, key: [{"role": "user", "content": SAID}]}
        sending = asyncio.create_task(s.client.post(path, json=body))
        request = await s.upstream.arrived()
        assert SAID.encode() in request.body
        (task,) = s.running.plane.in_flight
        async with asyncio.timeout(30):
            while not any(type(value).__name__ == "Streamed" for value in locals_of(task)):
                await asyncio.sleep(0.005)
        large = [value for value in locals_of(task) if isinstance(value, str | bytes) and len(value) >= len(SAID)]
        assert large == []
        asked = [value for value in locals_of(task) if isinstance(value, Request)]
        assert [(one.messages, one.tree) for one in asked] == [([], None)] * len(asked) != []
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
