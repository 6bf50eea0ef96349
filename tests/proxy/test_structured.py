"""Who asks for JSON or for a call is refused by an error, as long as nothing has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.dialects.structured import FRAMES, structured
from proxy.sse import Decoder
from tests.conformance.speak_completions import legacy, legacy_event
from tests.proxy.conftest import Make, Stand
from tests.proxy.test_transparency import OBSERVE
from tests.upstream import Reply, messages, replies, responses, shapes

WORDS = "I'm sorry, but I can't help with that request"
LONG = '{"city":"' + "A city with a long and honest name. " * 4
SCHEMA = {"name": "x", "schema": {"type": "object"}}
JSON: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    {"response_format": {"type": "json_object"}},
    {"text": {"format": {"type": "json_schema", **SCHEMA}, "verbosity": "low"}},
    {"output_format": {"type": "json_schema", "schema": {}}},
    {"output_config": {"format": {"type": "json_schema", "schema": {}}, "effort": "low"}},
    {"tool_choice": "required"},
    {"tool_choice": "any"},
    {"tool_choice": {"type": "function", "function": {"name": "x"}}},
    {"tool_choice": {"type": "function", "name": "x"}},
    {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}},
    {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}},
    {"tool_choice": {"type": "any"}},
    {"tool_choice": {"type": "tool", "name": "x"}},
    {"function_call": {"name": "x"}},
    {"guided_json": {"type": "object"}},
    {"structured_outputs": {"choice": ["a", "b"]}},
    {"grammar": "root ::= [0-9]+"},
]
PROSE: list[dict[str, Any]] = [
    {},
    {"response_format": None, "text": None, "output_format": None, "output_config": None, "tool_choice": None},
    {"response_format": {"type": "text"}, "text": {"format": {"type": "text"}}, "output_config": {"effort": "low"}},
    {"response_format": "json_object", "text": "json", "output_config": []},
    {"tool_choice": "auto", "function_call": "auto"},
    {"tool_choice": "none", "function_call": "none"},
    {"tool_choice": {"type": "auto"}},
    {"tool_choice": {"type": "none"}},
    {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
    {"tool_choice": {"type": "allowed_tools", "allowed_tools": None}},
    {"tool_choice": 1},
    {"guided_json": None, "grammar": "", "structured_outputs": {}},
]
PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "completions": "/v1/completions",
}
ASKS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "json_object"}},
    "responses": {"input": "Hi", "text": {"format": {"type": "json_object"}}},
    "messages": {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "output_config": {"format": {"type": "json_schema", "schema": {}}},
    },
    "completions": {"prompt": "Hi", "response_format": {"type": "json_object"}},
}
dialects = pytest.mark.parametrize("dialect", PATHS)


@pytest.mark.parametrize("tree", JSON, ids=json.dumps)
def test_what_asks_for_json_or_a_call(tree: dict[str, Any]) -> None:
    assert structured(tree)


@pytest.mark.parametrize("tree", PROSE, ids=json.dumps)
def test_what_does_not(tree: dict[str, Any]) -> None:
    assert not structured(tree)


def events(dialect: str, text: str) -> list[bytes]:
    match dialect:
        case "chat":
            return shapes.stream([text], size=8)
        case "responses":
            return responses.stream(responses.message(responses.text(text)), size=8)
        case "completions":
            return [legacy_event(event) for event in shapes.stream([text], size=8)]
    return messages.stream(messages.text(text), size=8)


def whole(dialect: str, text: str) -> Reply:
    match dialect:
        case "chat":
            return replies.json(shapes.completion([text]))
        case "responses":
            return replies.json(responses.response(responses.message(responses.text(text))))
        case "completions":
            return replies.json(legacy(shapes.completion([text])))
    return replies.json(messages.message(messages.text(text)))


async def asked(s: Stand, dialect: str, reply: Reply, **more: Any) -> Any:
    s.upstream.reply = reply
    return await s.client.post(PATHS[dialect], json={"model": "m", **ASKS[dialect], **more})


def trees(raw: bytes) -> list[Any]:
    return [json.loads(event.data) for event in Decoder().feed(raw) if event.data and event.data != "[DONE]"]


@dialects
async def test_a_blocked_answer_is_an_error(stand: Make, dialect: str) -> None:
    async with stand() as s:
        for reply in (whole(dialect, "MARK"), replies.sse(events(dialect, '{"a":"MARK"}'))):
            answer = await asked(s, dialect, reply, stream=len(s.upstream.requests) == 1)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["penstock"]["stage"]) == (400, "invalid_prompt", "output")
            assert error["message"].startswith(WORDS)
            assert b"MARK" not in answer.content
        assert [(row["status"], row["action"]) for row in await s.rows()] == [("blocked", "block")] * 2


@dialects
async def test_who_sets_a_message_has_words(stand: Make, dialect: str) -> None:
    async with stand(on_block="message") as s:
        for stream in (False, True):
            reply = replies.sse(events(dialect, "MARK")) if stream else whole(dialect, "MARK")
            answer = await asked(s, dialect, reply, stream=stream)
            assert answer.status_code == 200
            assert WORDS in answer.text


@dialects
async def test_json_that_has_begun_does_not_go_on_in_words(stand: Make, dialect: str) -> None:
    """Clients parse as they read: words within a string of theirs, or its early end, are a broken answer to them."""
    wait = asyncio.Event()
    async with stand() as s:
        s.upstream.reply = replies.sse(replies.halted(events(dialect, LONG + "MARK"), wait, 0.6))
        body = {"model": "m", **ASKS[dialect], "stream": True}
        async with s.client.stream("POST", PATHS[dialect], json=body) as response:
            raw = response.aiter_raw()
            left = await asyncio.wait_for(anext(raw), 30)
            wait.set()
            left += b"".join([piece async for piece in raw])
        assert b"MARK" not in left
        said = trees(left)
        match dialect:
            case "chat":
                text = "".join(c["delta"].get("content") or "" for tree in said for c in tree["choices"])
                refusal = "".join(c["delta"].get("refusal") or "" for tree in said for c in tree["choices"])
                assert LONG.startswith(text)
                assert text
                assert refusal.startswith(WORDS)
                assert said[-1]["choices"][0]["finish_reason"] == "content_filter"
            case "responses":
                assert not [tree for tree in said if tree["type"].endswith("text.done")]
                assert said[-1]["type"] == "response.failed"
                assert said[-1]["response"]["error"]["message"].startswith(WORDS)
                assert [tree["sequence_number"] for tree in said] == list(range(len(said)))
            case "messages":
                deltas = [tree["delta"] for tree in said if tree["type"] == "content_block_delta"]
                text = "".join(delta["text"] for delta in deltas)
                assert LONG.startswith(text)
                assert text
                assert "content_block_stop" not in [tree["type"] for tree in said]
                assert said[-2]["delta"]["stop_reason"] == "refusal"
                assert said[-2]["penstock"]["stage"] == "output"
            case "completions":
                text = "".join(c["text"] for tree in said for c in tree["choices"])
                assert LONG.startswith(text)
                assert text
                assert said[-1]["choices"][0]["finish_reason"] == "content_filter"
                assert said[-1]["penstock"]["stage"] == "output"


@dialects
@pytest.mark.parametrize("text", ["", "{}", LONG + '"}'])
async def test_what_is_allowed_is_as_it_came(stand: Make, dialect: str, text: str) -> None:
    async with stand() as s:
        for cut in (None, -1):
            sent = events(dialect, text)[:cut]
            answer = await asked(s, dialect, replies.sse(sent, gap=0.0005), stream=True)
            assert answer.content == b"".join(sent)


async def first(s: Stand, dialect: str, sent: Sequence[bytes | asyncio.Event]) -> bytes:
    s.upstream.reply = replies.sse(sent)
    body = {"model": "m", **ASKS[dialect], "stream": True}
    async with s.client.stream("POST", PATHS[dialect], json=body) as response:
        return await asyncio.wait_for(anext(response.aiter_raw()), 30)


@dialects
async def test_frames_do_not_wait_for_ever(stand: Make, dialect: str) -> None:
    wait = asyncio.Event()
    async with stand() as s:
        frame, *_ = events(dialect, "{}")
        assert await first(s, dialect, [frame, *[b": still here\n\n"] * FRAMES, wait])
        wait.set()
    async with stand(policy=OBSERVE) as s:  # where nothing can be stopped nothing waits
        wait.clear()
        assert await first(s, dialect, [frame, wait]) == frame
        wait.set()
