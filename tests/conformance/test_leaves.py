"""T18, T24: MARK in each leaf and as each key of a request with every documented field, and of an answer likewise."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import Make, _canary, stand  # noqa: F401 - pytest finds fixtures by name
from tests.proxy.leaves import UNSCANNABLE, variants
from tests.upstream import Reply, Request, messages, replies, shapes

FOLDER = Path(__file__).parent
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
REQUESTS: dict[str, Any] = {name: json.loads((FOLDER / f"{name}_request.json").read_text("utf-8")) for name in PATHS}
ANSWERS: dict[str, Any] = {name: json.loads((FOLDER / f"{name}_answer.json").read_text("utf-8")) for name in PATHS}
OPAQUE = {
    "chat": ("/input_audio/data", "/file/file_data", "/message/audio/data", "/delta/audio/data"),
    "messages": ("/content/1/source/data", "/content/6/source/data"),
}
"""Encoded bytes: no classifier reads them, a rule on `surface.unscannable` decides about them."""
REFUSED = {"chat": b'"content_filter"', "messages": b'"refusal"'}
dialects = pytest.mark.parametrize("dialect", PATHS)


@dialects
@pytest.mark.parametrize("stream", [False, True])
async def test_the_whole_request_passes(stand: Make, stream: bool, dialect: str) -> None:  # noqa: F811
    async with stand() as s:
        s.upstream.reply = replies.json({})
        body = json.dumps({**REQUESTS[dialect], "stream": stream}).encode()
        response = await s.client.post(PATHS[dialect], content=body, headers={"content-type": "application/json"})
        assert response.status_code == 200
        assert s.upstream.requests[0].body == body


@dialects
@pytest.mark.parametrize("stream", [False, True])
async def test_each_leaf_and_key_of_a_request(stand: Make, stream: bool, dialect: str) -> None:  # noqa: F811
    async with stand() as s:
        room = asyncio.Semaphore(16)

        async def one(place: str, tree: dict[str, Any]) -> None:
            async with room:
                response = await s.client.post(PATHS[dialect], json={"stream": stream, **tree})
            assert response.status_code == 400, place
            assert response.json()["error"]["code"] in {"invalid_prompt", "invalid_request"}, place
            assert b"MARK" not in response.content, place

        cases = [case for case in variants(REQUESTS[dialect]) if not case[0].endswith(OPAQUE[dialect])]
        await asyncio.gather(*(one(*case) for case in cases))
        assert s.upstream.requests == []
        assert len(await s.rows()) == len(cases)
        assert len(cases) > 400


@dialects
@pytest.mark.parametrize("streamed", [False, True])
async def test_each_leaf_and_key_of_an_answer(stand: Make, streamed: bool, dialect: str) -> None:  # noqa: F811
    cases = [case for case in variants(ANSWERS[dialect]) if not case[0].endswith(OPAQUE[dialect])]

    def reply(request: Request) -> Reply:
        tree = cases[int(request.json()["messages"][0]["content"])][1]
        text = json.dumps(tree)
        if streamed and dialect == "messages":
            return replies.sse(messages.spread(tree))
        if streamed:
            text = text.replace('"message": {', '"delta": {')
            return replies.sse([shapes.event(text.encode()), shapes.DONE])
        return replies.json(text.encode())

    async with stand() as s:
        s.upstream.reply = reply
        room = asyncio.Semaphore(16)

        async def one(number: int, place: str) -> None:
            async with room:
                turns = [{"role": "user", "content": str(number)}]
                body = {"model": "m", "messages": turns, "stream": streamed}
                response = await s.client.post(PATHS[dialect], json=body)
            assert b"MARK" not in response.content, place
            assert REFUSED[dialect] in response.content or response.status_code == 502, place

        await asyncio.gather(*(one(number, place) for number, (place, _) in enumerate(cases)))
        assert len(s.upstream.requests) == len(cases) > 150


def parts() -> dict[str, Any]:
    audio = {"id": "a", "data": "UklGRg==", "expires_at": 1, "transcript": "words"}
    return {
        "image": {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        "remote image": {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
        "audio": {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        "file": {"type": "file", "file": {"file_data": "JVBERi0x", "filename": "a.pdf"}},
        "file by id": {"type": "file", "file": {"file_id": "file-1"}},
        "an answer's audio": audio,
    }


@pytest.mark.parametrize("name", parts())
async def test_what_nobody_can_read_is_decided_on(stand: Make, name: str) -> None:  # noqa: F811
    """T18's and T24's other half: nothing to scan is not nothing to decide, whole or in a stream."""
    part = parts()[name]
    async with stand(UNSCANNABLE) as s:
        if "type" in part:
            response = await s.chat({"role": "user", "content": [{"type": "text", "text": "Look:"}, part]})
            assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_prompt")
            assert s.upstream.requests == []
            return
        whole = shapes.completion(None)
        whole["choices"][0]["message"]["audio"] = part
        chunk = {"choices": [{"index": 0, "delta": {"audio": {"id": "a", "data": "UklGRg=="}}, "finish_reason": None}]}
        for reply, stream in ((replies.json(whole), False), (replies.sse([shapes.event(chunk), shapes.DONE]), True)):
            s.upstream.reply = reply
            response = await s.chat("Hi", stream=stream)
            assert b"UklGRg" not in response.content
            assert b"content_filter" in response.content
