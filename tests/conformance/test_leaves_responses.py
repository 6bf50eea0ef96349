"""T18, T24: MARK in each leaf and as each key of Responses' requests and answers, over HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import Make, _canary, stand  # noqa: F401 - pytest finds fixtures by name
from tests.proxy.leaves import UNSCANNABLE, variants
from tests.upstream import Reply, Request, replies, responses

FOLDER = Path(__file__).parent.parent / "fixtures" / "openai_responses"
REQUEST: dict[str, Any] = json.loads((FOLDER / "request.json").read_text("utf-8"))
ANSWER: dict[str, Any] = json.loads((FOLDER / "response.json").read_text("utf-8"))
OPAQUE = ("/input_audio/data", "/file_data", "/result")
"""Encoded bytes: no classifier reads them, a rule on `surface.unscannable` decides about them."""
PATH = "/v1/responses"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_whole_request_passes(stand: Make, stream: bool) -> None:  # noqa: F811
    async with stand() as s:
        s.upstream.reply = replies.json(responses.response())
        body = json.dumps({**REQUEST, "stream": stream}).encode()
        answer = await s.client.post(PATH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200
        assert s.upstream.requests[0].body == body


@pytest.mark.parametrize("stream", [False, True])
async def test_each_leaf_and_key_of_a_request(stand: Make, stream: bool) -> None:  # noqa: F811
    async with stand() as s:
        room = asyncio.Semaphore(16)

        async def one(place: str, tree: dict[str, Any]) -> None:
            async with room:
                answer = await s.client.post(PATH, json={"stream": stream, **tree})
            assert answer.status_code == 400, place
            assert answer.json()["error"]["code"] in {"invalid_prompt", "invalid_request"}, place
            assert b"MARK" not in answer.content, place

        cases = [case for case in variants(REQUEST) if not case[0].endswith(OPAQUE)]
        await asyncio.gather(*(one(*case) for case in cases))
        assert s.upstream.requests == []
        assert len(await s.rows()) == min(len(cases), 1000)
        assert len(cases) > 600


@pytest.mark.parametrize("frame", ["", "response.created", "response.completed"])
async def test_each_leaf_and_key_of_an_answer(stand: Make, frame: str) -> None:  # noqa: F811
    cases = [case for case in variants(ANSWER) if not case[0].endswith(OPAQUE)]

    def reply(request: Request) -> Reply:
        tree = cases[int(request.json()["input"])][1]
        return replies.sse(responses.numbered([{"type": frame, "response": tree}])) if frame else replies.json(tree)

    async with stand() as s:
        s.upstream.reply = reply
        room = asyncio.Semaphore(16)

        async def one(number: int, place: str) -> None:
            async with room:
                body = {"model": "m", "input": str(number), "stream": bool(frame)}
                answer = await s.client.post(PATH, json=body)
            assert b"MARK" not in answer.content, place
            assert b"I'm sorry" in answer.content or answer.status_code == 502, place

        await asyncio.gather(*(one(number, place) for number, (place, _) in enumerate(cases)))
        assert len(s.upstream.requests) == len(cases) > 400


PARTS: dict[str, Any] = {
    "image": {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}]},
    "remote image": {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/cat.png"}]},
    "image by id": {"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]},
    "file": {"role": "user", "content": [{"type": "input_file", "file_data": "JVBERi0x", "filename": "a.pdf"}]},
    "audio": {
        "role": "user",
        "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}],
    },
    "screenshot": {"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "f"}},
    "encrypted reasoning": {"type": "reasoning", "summary": [], "encrypted_content": "Z0FBQUFB"},
    "reasoning by its id": {"type": "reasoning", "id": "rs_1", "summary": []},
    "compaction": {"type": "compaction", "encrypted_content": "Z0FBQUFB"},
}


@pytest.mark.parametrize("name", PARTS)
async def test_what_nobody_can_read_is_decided_on(stand: Make, name: str) -> None:  # noqa: F811
    """T15, T23: nothing to scan is not nothing to decide."""
    async with stand(UNSCANNABLE) as s:
        answer = await s.client.post(PATH, json={"model": "m", "input": [PARTS[name]]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_prompt")
        assert s.upstream.requests == []


async def test_what_nobody_can_read_in_an_answer_is_decided_on(stand: Make) -> None:  # noqa: F811
    items: list[dict[str, Any]] = [
        {"id": "i", "type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo="},
        {"id": "r", "type": "reasoning", "summary": [], "encrypted_content": "iVBORw0KGgo="},
    ]
    async with stand(UNSCANNABLE) as s:
        for item in items:
            partial = {"type": "response.image_generation_call.partial_image", "item_id": "i", "output_index": 0,
                       "partial_image_index": 0, "partial_image_b64": "iVBORw0KGgo="}  # fmt: skip
            audio = {"type": "response.audio.delta", "delta": "iVBORw0KGgo="}
            streams = [responses.stream(item), responses.numbered([partial]), responses.numbered([audio])]
            replied = [replies.json(responses.response(item)), *(replies.sse(events) for events in streams)]
            for number, reply in enumerate(replied):
                s.upstream.reply = reply
                answer = await s.client.post(PATH, json={"model": "m", "input": "Hi", "stream": number > 0})
                assert b"iVBORw0KGgo" not in answer.content
                assert b"I'm sorry" in answer.content
