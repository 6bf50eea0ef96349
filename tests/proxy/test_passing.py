"""Where nothing can be stopped, events leave before they are read; all of them are read and judged all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy import stream
from tests.proxy.conftest import DEFAULTS, RULES, Make
from tests.proxy.test_exchange import hanging, settled
from tests.upstream import End, replies, shapes

WATCHING = RULES.format(**{**DEFAULTS, "action": "log", "on_error": "log"}).partition("  - id: veil-secret")[0]
TEXT = "Some honest words, then the word MARK, and then some more that are as honest as the first ones were."
GAP = 0.003
"""Seconds between two events: each comes by itself."""


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What has left unread. Little of it is kept at once."""
    seen: list[bytes] = []
    passes = stream.Streamed._passes

    def passing(self: stream.Streamed, chunk: bytes) -> bool:
        done = passes(self, chunk)
        seen.extend([chunk] * done)
        return done

    monkeypatch.setattr(stream.Streamed, "_passes", passing)
    monkeypatch.setattr(stream, "LATER", 2000)
    return seen


async def test_they_leave_as_they_came_and_are_judged(stand: Make, passed: list[bytes]) -> None:
    events = shapes.stream(TEXT, size=4)
    async with stand(policy=WATCHING) as s:
        s.upstream.reply = replies.sse(events, gap=GAP)
        response = await s.chat("Hi", stream=True)
        assert response.content == b"".join(events)
        [row] = await settled(s)
        assert (row["status"], row["action"], row["rule"]) == ("released", "log", "no-mark")
    assert len(passed) > len(events) / 2
    assert not any(b"[DONE]" in each for each in passed)


@pytest.mark.parametrize("cut", ["client", "upstream", "unreadable"])
async def test_what_left_is_judged_where_the_stream_is_cut(
    stand: Make, passed: list[bytes], monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    monkeypatch.setattr(stream, "LATER", 1 << 20)
    events = shapes.stream(TEXT, size=4)[:-2]
    left, begin = asyncio.Event(), events[-1][: stream.ALIKE]
    ends: dict[str, list[Any]] = {
        "client": [asyncio.Event()],
        "upstream": [End.RESET],
        "unreadable": [replies.chunk(begin + b'"twice":1,"twice":2}\n\n'), asyncio.Event()],
    }
    async with stand(policy=WATCHING) as s:
        s.upstream.reply = [*replies.sse(events, gap=GAP)[:-1], left, *ends[cut]]
        async with hanging(s) as reader:
            await reader.readuntil(events[-1])
            assert passed[-1] == events[-1]
            left.set()
            if cut == "upstream":
                await settled(s)
        [row] = await settled(s)
        assert (row["action"], row["rule"]) == ("log", "no-mark")


async def test_a_reader_sees_where_a_stream_could_not_be_read(stand: Make, passed: list[bytes]) -> None:
    events = shapes.stream(TEXT, size=4)[:-2]
    broken = events[-1][: stream.ALIKE] + b'"twice":1,"twice":2}\n\n'
    async with stand(policy=WATCHING) as s:
        s.upstream.reply = replies.sse([*events, broken, *[events[-1]] * 20], gap=GAP)
        response = await s.chat("Hi", stream=True)
        [row] = await settled(s)
        assert (row["status"], row["detail"]) == ("upstream_fault", "unreadable")
        assert response.content.startswith(b"".join(events))
        assert b"upstream_error" in response.content.rpartition(b"data: {")[2]
    assert broken in passed
