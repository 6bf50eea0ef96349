"""The chat dialect reads all that a body says, whole and in pieces, and ends a stream as clients expect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from classifiers.base import Role
from proxy.dialects.base import BadRequest, Refusal, Request
from proxy.dialects.chat import Chat
from proxy.dialects.chat_stream import ChatReader
from proxy.gate import Kind, Part
from proxy.sse import Decoder
from proxy.strict import Malformed
from tests.proxy.leaves import MARK, variants
from tests.upstream import shapes

FOLDER = Path(__file__).parent.parent / "conformance"
REQUEST: dict[str, Any] = json.loads((FOLDER / "chat_request.json").read_text("utf-8"))
ANSWER: dict[str, Any] = json.loads((FOLDER / "chat_answer.json").read_text("utf-8"))
OPAQUE = ("/input_audio/data", "/file/file_data", "/message/audio/data", "/delta/audio/data")
REFUSAL = Refusal("No.", "content_policy_violation", "demo", "output", "pn_1")


def chunk(*choices: Any, **more: Any) -> bytes:
    return shapes.event({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": list(choices), **more})


def delta(index: int = 0, finish: Any = None, **change: Any) -> dict[str, Any]:
    return {"index": index, "delta": change, "finish_reason": finish}


def read(*events: bytes, request: Request | None = None) -> tuple[ChatReader, list[Part]]:
    reader = Chat().reader(request or Request(model="m", stream=True))
    return reader, [reader.read(event) for event in Decoder().feed(b"".join(events))]


def told(tree: Any) -> tuple[str, list[str]]:
    """All that a request was heard to say, and what in it is opaque."""
    request = Chat().read_request(tree)
    return "\n".join(message.text for message in request.messages), [origin for origin, _ in request.unscannable]


def test_every_leaf_and_key_of_a_request_is_read() -> None:
    """T18, all at once; the conformance suite sends each of them."""
    for place, tree in variants(REQUEST):
        try:
            text, opaque = told(tree)
        except BadRequest:
            continue
        if place.endswith(OPAQUE):
            assert any(place.startswith(origin) for origin in opaque), place
        else:
            assert MARK in text, place


def test_every_leaf_and_key_of_an_answer_is_read() -> None:
    for place, tree in variants(ANSWER):
        body = Chat().read_response(tree)
        if place.endswith(OPAQUE):
            assert any(place.startswith(origin) for origin, _ in body.unscannable), place
        else:
            assert MARK in "\n".join(message.text for message in body.messages), place


def streamed(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as if it were one chunk."""
    text = json.dumps(answer).replace('"message": {', '"delta": {')
    tree: dict[str, Any] = json.loads(text)
    return tree


def test_every_leaf_and_key_of_a_chunk_is_read() -> None:
    for place, tree in variants(streamed(ANSWER)):
        if place.endswith("/index") and "/delta/" not in place:
            with pytest.raises(Malformed):
                read(shapes.event(tree))
            continue
        _, (part,) = read(shapes.event(tree))
        if place.endswith(OPAQUE):
            assert any(place.replace("/delta", "").startswith(origin) for origin, _ in part.unscannable)
        else:
            assert MARK in "\n".join(piece.text for piece in part.pieces), place


@pytest.mark.parametrize("field", ["comment", "event", "id"])
def test_what_stands_around_the_data_is_read(field: str) -> None:
    lines = {"comment": b": MARK\n", "event": b"event: MARK\n", "id": b"id: MARK\n"}
    _, (part,) = read(lines[field] + chunk(delta(content="x")))
    assert [piece.text for piece in part.pieces if MARK in piece.text] == [MARK]


SHAPES: dict[str, tuple[Any, str | None]] = {
    "no object": ([], None),
    "no model": ({"messages": []}, "model"),
    "model no string": ({"model": 1, "messages": []}, "model"),
    "model empty": ({"model": "", "messages": []}, "model"),
    "no messages": ({"model": "m"}, "messages"),
    "messages no list": ({"model": "m", "messages": {}}, "messages"),
    "message no object": ({"model": "m", "messages": ["x"]}, "messages[0]"),
    "role no string": ({"model": "m", "messages": [{"role": ["user"]}]}, "messages[0].role"),
    "role null": ({"model": "m", "messages": [{"role": None}]}, "messages[0].role"),
    "stream no boolean": ({"model": "m", "messages": [], "stream": "true"}, "stream"),
    "stream a number": ({"model": "m", "messages": [], "stream": 1}, "stream"),
    "stream_options no object": ({"model": "m", "messages": [], "stream_options": True}, "stream_options"),
    "n a boolean": ({"model": "m", "messages": [], "n": True}, "n"),
    "n nought": ({"model": "m", "messages": [], "n": 0}, "n"),
    "n huge": ({"model": "m", "messages": [], "n": 10**9}, "n"),
}


@pytest.mark.parametrize(("tree", "param"), SHAPES.values(), ids=SHAPES.keys())
def test_wrong_shapes_name_their_field(tree: Any, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        Chat().read_request(tree)
    assert caught.value.param == param


ROLES = [
    ({"role": "system", "content": "x"}, Role.SYSTEM),
    ({"role": "developer", "content": "x"}, Role.SYSTEM),
    ({"role": "user", "content": [{"type": "text", "text": "x"}]}, Role.USER),
    ({"role": "tool", "content": "x"}, Role.TOOL_RESULT),
    ({"role": "function", "content": "x"}, Role.TOOL_RESULT),
    ({"role": "assistant", "content": "x"}, Role.ASSISTANT),
    ({"role": "assistant", "refusal": "x"}, Role.REFUSAL),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "x"}]}, Role.REFUSAL),
    ({"role": "assistant", "reasoning_content": "x"}, Role.REASONING),
    ({"role": "assistant", "tool_calls": [{"function": {"arguments": "x"}}]}, Role.TOOL_CALL),
    ({"role": "assistant", "function_call": {"name": "x"}}, Role.TOOL_CALL),
    ({"content": "x"}, Role.USER),
    ({"role": "user", "content": {"text": "x"}}, Role.USER),
]


@pytest.mark.parametrize(("message", "role"), ROLES)
def test_who_speaks(message: dict[str, Any], role: Role) -> None:
    request = Chat().read_request({"model": "m", "messages": [message]})
    assert role in [item.role for item in request.messages if item.text == "x"]


ESCAPED = {
    "plain JSON": r'{"a":"\u004dARK"}',
    "as a key": r'{"\u004dARK":1}',
    "nested": r'{"a":[{"b":"M\u0041RK"}]}',
    "beside a duplicate key": r'{"a":"x","a":"\u004dARK"}',
    "beside NaN": r'{"n":NaN,"a":"\u004dARK"}',
    "beside a huge number": r'{"n":1e999,"a":"\u004dARK"}',
    "cut": r'{"a":"\u004dARK"',
    "in a fence": "```json\n" + r'{"a":"\u004dARK"}' + "\n```",
    "too deep": "[" * 200 + r'"\u004dARK"' + "]" * 200,
    "beside a lone surrogate": r'{"a":"\ud800 \u004dARK"}',
}


@pytest.mark.parametrize("arguments", ESCAPED.values(), ids=ESCAPED.keys())
def test_escapes_in_arguments_are_undone(arguments: str) -> None:
    """However the text is broken: some client's parser is more lenient than ours."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = Chat().read_response({"choices": [{"message": {"tool_calls": [call]}}]})
    assert any(MARK in message.text for message in body.messages)


def kinds(*events: bytes) -> dict[str, Kind]:
    return {piece.channel: piece.kind for part in read(*events)[1] for piece in part.pieces}


def test_channels_keep_apart_what_clients_keep_apart() -> None:
    events = [
        chunk(delta(0, content="M"), delta(1, content="M")),
        chunk(delta(1, content="ARK", reasoning_content="x")),
        chunk(delta(0, tool_calls=[{"index": 1, "id": "call", "function": {"name": "f", "arguments": "{"}}])),
        chunk(delta(0, tool_calls=[{"index": 1, "function": {"arguments": "}"}}])),
    ]
    _, parts = read(*events)
    texts: dict[str, str] = {}
    for part in parts:
        for piece in part.pieces:
            texts[piece.channel] = texts.get(piece.channel, "") + piece.text
    assert texts["/choices/0/content"] == "M"
    assert texts["/choices/1/content"] == "MARK"
    assert texts["/choices/0/tool_calls/1/function/arguments"] == "{}"
    found = kinds(*events)
    assert {kind for channel, kind in found.items() if "tool_calls" in channel} == {Kind.CALL}
    assert found["/choices/1/reasoning_content"] is Kind.FLOW


FINISHES = {"none": None, "empty": "", "stop": "stop", "tool_calls": "tool_calls"}


@pytest.mark.parametrize("finish", FINISHES.values(), ids=FINISHES.keys())
def test_a_choice_is_over_when_the_stream_is(finish: str | None) -> None:
    """Clients go on reading behind a finish reason, and some servers send an empty one in each chunk."""
    reader, parts = read(chunk(delta(content="MA", finish=finish)), chunk(delta(content="RK")))
    assert [part.closes for part in parts] == [(), ()]
    assert reader.finished is bool(finish)


@pytest.mark.parametrize("data", [b"[DONE]", b"[DONE] ", b"[DONE]x"])
def test_what_ends_a_stream(data: bytes) -> None:
    reader, parts = read(chunk(delta(content="x")), b"data: " + data + b"\n\n", b"data: [DONE]\n\n")
    assert reader.complete
    assert parts[1].closes == (0,)


@pytest.mark.parametrize("raw", [b"data:\n\n", b"data\n\n", b"data: \n\n"])
def test_an_event_without_data_says_nothing(raw: bytes) -> None:
    """By the specification no client sees it; some gateways send it to keep the connection alive."""
    _, (part,) = read(raw)
    assert (part.raw, part.pieces) == (raw, ())


@pytest.mark.parametrize(
    "data", [b"x", b"[]", b'"text"', b'{"choices":[1]}', b'{"a":1,"a":2}', b'{"choices":[{"index":"0"}]}']
)
def test_chunks_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(b"data: " + data + b"\n\n")


def test_only_texts_with_a_place_can_be_masked() -> None:
    """A text without a path cannot be rewritten: its channel says so behind a '#', and the guard blocks instead."""
    for _, tree in variants(streamed(ANSWER)):
        try:
            _, (part,) = read(shapes.event(tree))
        except Malformed:
            continue
        for piece in part.pieces:
            assert piece.path or "#" in piece.channel, piece.channel


def test_masked_text_is_rewritten_and_log_probabilities_are_dropped() -> None:
    logprobs = {"content": [{"token": "SECRET", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
    event = chunk(
        {"index": 0, "delta": {"content": "a SECRET"}, "logprobs": logprobs, "finish_reason": None},
        usage=None,
        seed=7,
    ).replace(b'"seed":7', b'"seed":%d' % (2**70 + 1))
    reader, (part,) = read(event)
    (piece,) = [piece for piece in part.pieces if piece.channel.endswith("/content")]
    tree = json.loads(reader.rewritten(part, [(piece, "a [X]")]).removeprefix(b"data: "))
    assert tree["seed"] == 2**70 + 1  # no float
    assert tree["choices"] == [{"index": 0, "delta": {"content": "a [X]"}, "logprobs": None, "finish_reason": None}]
    assert tree["usage"] is None


def ending(released: int, *events: bytes, n: int = 1, usage: bool = False) -> list[Any]:
    """What a block says after the first `released` parts have left."""
    reader, parts = read(*events, request=Request(model="m", stream=True, choices=n, usage_wanted=usage))
    for part in parts[:released]:
        reader.released(part)
    data = [event.data for event in Decoder().feed(reader.ending(REFUSAL))]
    assert data[-1] == "[DONE]"
    return [orjson.loads(item) for item in data[:-1] if item]


def finishes(chunks: list[Any]) -> dict[int, str]:
    return {c["index"]: c["finish_reason"] for item in chunks for c in item["choices"] if c["finish_reason"]}


ENDINGS: dict[str, tuple[int, list[bytes], int, dict[int, str]]] = {
    "nothing read": (0, [], 1, {0: "content_filter"}),
    "nothing read, two choices": (0, [], 2, {0: "content_filter", 1: "content_filter"}),
    "one open": (1, [chunk(delta(content="x"))], 1, {0: "content_filter"}),
    "finish read, not released": (
        1,
        [chunk(delta(content="x")), chunk(delta(finish="stop"))],
        1,
        {0: "content_filter"},
    ),
    "one of two finished and released": (
        2,
        [
            chunk(delta(0, content="x"), delta(1, content="y")),
            chunk(delta(0, finish="stop")),
            chunk(delta(1, content="z")),
        ],
        2,
        {1: "content_filter"},
    ),
    "one of two finished, not released": (
        1,
        [
            chunk(delta(0, content="x"), delta(1, content="y")),
            chunk(delta(0, finish="stop")),
            chunk(delta(1, content="z")),
        ],
        2,
        {0: "content_filter", 1: "content_filter"},
    ),
    "one of two not yet seen": (1, [chunk(delta(0, content="x"))], 2, {0: "content_filter", 1: "content_filter"}),
}


@pytest.mark.parametrize(("released", "events", "n", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
def test_a_block_finishes_every_open_choice(
    released: int, events: list[bytes], n: int, expected: dict[int, str]
) -> None:
    chunks = ending(released, *events, n=n)
    assert finishes(chunks) == expected
    said = {
        c["index"] for item in chunks for c in item["choices"] if REFUSAL.message in (c["delta"].get("content") or "")
    }
    assert said == set(expected)


def test_a_block_gives_the_usage_that_was_asked_for() -> None:
    chunks = ending(1, chunk(delta(content="x"), usage=None), usage=True)
    assert [item["usage"] for item in chunks[:-1]] == [None, None]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 0


def test_a_block_speaks_as_the_stream_did() -> None:
    chunks = ending(1, chunk(delta(content="x"), system_fingerprint="fp", created=7))
    assert {(item["id"], item["model"], item["system_fingerprint"], item["created"]) for item in chunks} == {
        ("c", "m", "fp", 7)
    }
