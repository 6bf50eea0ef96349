"""T18, T24, T33: what an API may bring tomorrow. An event, block, item or field that nobody knows yet passes byte for
byte where it is honest, each leaf and key of it is judged where it is not, and nobody gets a 500."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest

from tests.proxy.conftest import Make, _canary, stand  # noqa: F401 - pytest finds fixtures by name
from tests.proxy.leaves import places, variants
from tests.proxy.test_transparency_dialects import APIS, STREAMED, Api
from tests.upstream import Reply, Request, replies

THING: dict[str, Any] = {
    "type": "hologram",
    "id": "h_1",
    "index": 0,
    "output_index": 7,
    "delta": {"type": "hologram_delta", "light": "so bright", "beams": [[1, None, {"word": "a", "deep": ["b"]}]]},
    "text": {"value": "not a string here"},
    "content": [{"type": "glimmer", "glow": "c"}, "d", 5, None, ["e"]],
    "n": 1.50,
}
"""A thing of an unknown kind, with well-known names in unknown shapes."""
REFUSED = "content_policy_violation"


def stood(api: Api, thing: Any) -> list[list[Any]]:
    """The thing as the dialect's streams may bring it: an event by itself, and within a known one."""
    name = api.path.rpartition("/")[2]
    known = {key: value for key, value in thing.items() if key != "type"}
    if name == "completions":
        return [
            [{"choices": [], "hologram": thing}],
            [{**thing, "object": "chat.completion.hologram", "choices": []}],
            [{"choices": [{"index": 0, "delta": {"hologram": thing}, "finish_reason": None}]}],
            [{"choices": [{"index": 0, "delta": {"content": [thing]}, "hologram": thing, "finish_reason": None}]}],
        ]
    if name == "responses":
        return [
            [{**known, "type": "response.hologram.delta"}],
            [{"type": "response.output_item.added", "output_index": 9, "item": thing}],
            [{"type": "response.output_item.done", "output_index": 10, "item": thing}],
            [{"type": "response.content_part.added", "output_index": 11, "content_index": 0, "part": thing}],
            [{"type": "hologram", "response": {"id": "r", "output": [thing], "hologram": thing}}],
        ]
    start = {"type": "content_block_start", "index": 9, "content_block": {"type": "hologram"}}
    stop = {"type": "content_block_stop", "index": 9}
    return [
        [{**known, "type": "hologram_start"}],
        [{**start, "content_block": thing}, {**stop, "hologram": thing}],
        [{**start, "index": 8}, {"type": "content_block_delta", "index": 8, "delta": thing}, {**stop, "index": 8}],
    ]


def events(api: Api, trees: list[Any]) -> list[bytes]:
    """A stream of the dialect with these events behind its first one."""
    named = api.path in {"/v1/responses", "/v1/messages"}
    spelled = []
    for tree in trees:
        head = f"event: {tree['type']}\n".encode() if named else b""
        spelled.append(head + b"data: " + json.dumps(tree).encode() + b"\n\n")
    return [api.stream[0], *spelled, *api.stream[1:]]


@pytest.mark.parametrize("name", STREAMED)
async def test_new_events_pass_as_they_came(stand: Make, name: str) -> None:  # noqa: F811
    api = STREAMED[name]
    async with stand() as s:
        sent = events(api, [tree for trees in stood(api, THING) for tree in trees])
        for pieces in (sent, [b"".join(sent)], [bytes([byte]) for byte in b"".join(sent)[:3000]]):
            whole = b"".join(pieces)
            s.upstream.reply = replies.sse(pieces)
            answer = await s.client.post(api.path, json={**api.ask, "stream": True})
            assert answer.status_code == 200
            if len(pieces) <= len(sent):
                assert answer.content == whole
        assert all(row["status"] != "upstream_fault" for row in await s.rows(2))


@pytest.mark.parametrize("name", STREAMED)
async def test_each_leaf_and_key_of_new_events_is_judged(stand: Make, name: str) -> None:  # noqa: F811
    api = STREAMED[name]
    count = len(stood(api, THING))
    things = [tree for place, tree in variants(THING) if "#key" not in place or place.endswith("#key0")]
    every = [events(api, stood(api, thing)[at]) for at in range(count) for thing in things]
    streams = [stream for stream in every if b"MARK" in b"".join(stream)]

    def reply(request: Request) -> Reply:
        return replies.sse(streams[int(request.header("x-number") or 0)])

    async with stand() as s:
        s.upstream.reply = reply
        room = asyncio.Semaphore(16)

        async def one(number: int) -> None:
            async with room:
                headers = {"x-number": str(number)}
                answer = await s.client.post(api.path, json={**api.ask, "stream": True}, headers=headers)
            sent = b"".join(streams[number])
            assert b"MARK" not in answer.content, sent
            assert REFUSED in answer.text, sent

        await asyncio.gather(*map(one, range(len(streams))))
        assert len(streams) > 60


def within(tree: Any, thing: Any) -> list[Any]:
    """The thing in each list and under a new name in each object of a body."""
    found = []
    objects = [tree, *(value for _, _, _, value in places(tree) if isinstance(value, dict | list))]
    for number in range(len(objects)):
        changed = copy.deepcopy(tree)
        each = [changed, *(value for _, _, _, value in places(changed) if isinstance(value, dict | list))][number]
        if isinstance(each, list):
            each.append(thing)
        else:
            each["hologram"] = thing
        found.append(changed)
    return found


@pytest.mark.parametrize("name", APIS)
async def test_new_things_in_whole_bodies(stand: Make, name: str) -> None:  # noqa: F811
    """Honest ones pass as they came, in requests and answers; a word in them is found. Where a shape is impossible a
    request is refused as what it is."""
    api = APIS[name]
    bad = {**copy.deepcopy(THING), "delta": {"beams": [{"word": "say MARK now"}]}}
    async with stand() as s:
        for asked, marked in zip(within(api.ask, THING), within(api.ask, bad), strict=True):
            s.upstream.reply = replies.json(api.whole)
            body = json.dumps(asked, indent=1).encode()
            answer = await s.client.post(api.path, content=body, headers={"content-type": "application/json"})
            if answer.status_code == 200:
                assert s.upstream.requests[-1].body == body
            else:
                assert (answer.status_code, "invalid_request" in answer.text) == (400, True), body
            before = len(s.upstream.requests)
            answer = await s.client.post(api.path, json=marked)
            assert answer.status_code == 400, marked
            assert len(s.upstream.requests) == before
        for honest, marked in zip(within(api.whole, THING), within(api.whole, bad), strict=True):
            raw = json.dumps(honest, indent=1).encode()
            s.upstream.reply = replies.json(raw)
            answer = await s.client.post(api.path, json=api.ask)
            assert (answer.status_code, answer.content) == (200, raw)
            s.upstream.reply = replies.json(marked)
            answer = await s.client.post(api.path, json=api.ask)
            assert b"MARK" not in answer.content, marked
            assert REFUSED in answer.text, marked
