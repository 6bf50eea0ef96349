"""Responses say each text up to five times; slow classifiers read it once, and every copy is masked or stopped."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx2
import pytest

from classifiers.base import Message
from tests.proxy.conftest import Make, Stand
from tests.upstream import replies, responses

SAID = "It stays as warm as it was, says the weather in Paris."
SLOW = {"options": "inline: false"}


async def streamed(s: Stand, events: list[bytes]) -> httpx2.Response:
    s.upstream.reply = replies.sse(events)
    return await s.client.post("/v1/responses", json={"model": "m", "input": "How warm?", "stream": True})


def read(s: Stand) -> list[Message]:
    """What the slow classifier was asked about."""
    canary: Any = s.running.plane.guard.policies.classifiers["canary"]
    return list(canary.read)


@pytest.mark.parametrize("stream", ["whole", "{hold_back: 8}", "{hold_back: 1000}"])
async def test_a_text_that_comes_again_is_read_once(stand: Make, stream: str) -> None:
    async with stand(stream=stream, **SLOW) as s:
        events = responses.stream(responses.message(responses.text(SAID)))
        answer = await streamed(s, events)
        assert answer.content == b"".join(events)
        asked = Counter((message.role, message.text) for message in read(s))
        assert max(asked.values()) == 1
        assert sum(text == SAID for _, text in asked) == 1


async def test_every_copy_is_masked(stand: Make) -> None:
    async with stand(action="mask", stream="whole", options="inline: false, word: FALCON") as s:
        events = responses.stream(responses.message(responses.text(SAID + " FALCON, FALCON")), size=100)
        answer = await streamed(s, events)
        assert answer.text.count(SAID + " [MARK], [MARK]") == 5
        assert "FALCON" not in answer.text
        assert sum("FALCON" in message.text for message in read(s)) == 1


@pytest.mark.parametrize("copy", range(4))
@pytest.mark.parametrize("stream", ["whole", "{hold_back: 8}"])
async def test_a_copy_that_differs_is_judged(stand: Make, copy: int, stream: str) -> None:
    """The deltas and all copies but one say something else by one letter."""
    events = responses.stream(responses.message(responses.text(SAID + " MARX")), size=100)
    copies = [place for place, event in enumerate(events) if b"MARX" in event and b".delta" not in event]
    assert len(copies) == 4
    events[copies[copy]] = events[copies[copy]].replace(b"MARX", b"MARK")
    async with stand(stream=stream, **SLOW) as s:
        answer = await streamed(s, events)
        assert "MARK" not in answer.text
        assert [row["status"] for row in await s.rows()] == ["blocked"]


async def test_another_exchange_reads_it_anew(stand: Make) -> None:
    async with stand(**SLOW) as s:
        for number in (1, 2):
            await streamed(s, responses.stream(responses.message(responses.text(SAID))))
            assert sum(message.text == SAID for message in read(s)) == number
