"""The messages dialect reads all that a body says, whole and in pieces, and ends a stream as clients expect."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Role
from proxy.dialects.base import BadRequest, Refusal, Request
from proxy.dialects.messages import CountTokens, Messages
from proxy.dialects.messages_stream import MessagesReader
from proxy.gate import Gate, Kind, Mask, Part
from proxy.sse import Decoder, read
from proxy.strict import Malformed
from tests.proxy.leaves import MARK, variants
from tests.proxy.test_repeats import bodies
from tests.upstream import messages, shapes
from tests.upstream.messages import call, event, stream, text, thinking

FOLDER = Path(__file__).parent.parent / "conformance"
REQUEST: dict[str, Any] = json.loads((FOLDER / "messages_request.json").read_text("utf-8"))
ANSWER: dict[str, Any] = json.loads((FOLDER / "messages_answer.json").read_text("utf-8"))
REFUSAL = Refusal("No.", "content_policy_violation", "demo", "output", "pn_1")
ENCODED = re.compile(r"/(content/\d/source/data|content/\d/content/1/source/data)$")
"""Where encoded bytes stand in the two bodies, and one text that stands in the same place of a document."""
TEXTS = {"/messages/0/content/3/source/data", "/messages/2/content/1/content/2/source/data"}


def encoded(place: str) -> bool:
    return bool(ENCODED.search(place)) and place not in TEXTS


def parts_of(*events: bytes, request: Request | None = None) -> tuple[MessagesReader, list[Part]]:
    reader = Messages().reader(request or Request(model="m", stream=True))
    return reader, [reader.read(event) for event in Decoder().feed(b"".join(events))]


def start(index: int, block: dict[str, Any]) -> bytes:
    return event({"type": "content_block_start", "index": index, "content_block": block})


def delta(index: int, **change: Any) -> bytes:
    return event({"type": "content_block_delta", "index": index, "delta": change})


def stop(index: int) -> bytes:
    return event({"type": "content_block_stop", "index": index})


BEGIN = stream(text(""))[0]


def test_every_leaf_and_key_of_a_request_is_read() -> None:
    """T18, all at once; the conformance suite sends each of them."""
    seen = 0
    for place, tree in variants(REQUEST):
        try:
            request = Messages().read_request(tree)
        except BadRequest:
            continue
        said = "\n".join(message.text for message in request.messages)
        if encoded(place):
            seen += 1
            assert any(place.startswith(origin) for origin, _ in request.unscannable), place
        else:
            assert MARK in said, place
    assert seen == 3


def test_every_leaf_and_key_of_an_answer_is_read() -> None:
    for place, tree in variants(ANSWER):
        body = Messages().read_response(tree)
        if encoded(place):
            assert any(place.startswith(origin) for origin, _ in body.unscannable), place
        else:
            assert MARK in "\n".join(message.text for message in body.messages), place


def test_every_leaf_and_key_of_a_stream_is_read() -> None:
    """An answer as blocks that come whole, and as they are filled."""
    for place, tree in variants(ANSWER):
        if isinstance(tree.get("content"), list):
            try:
                events = messages.spread(tree)
            except (KeyError, TypeError, AttributeError):
                continue
            _, parts = parts_of(*events)
            found = any(MARK in piece.text for part in parts for piece in part.pieces)
            assert found or encoded(place), place


@pytest.mark.parametrize("field", ["comment", "event", "id"])
def test_what_stands_around_the_data_is_read(field: str) -> None:
    lines = {"comment": b": MARK\n", "event": b"event: MARK\n", "id": b"id: MARK\n"}
    _, (part,) = parts_of(lines[field] + b'data: {"type":"ping"}\n\n')
    assert [piece.text for piece in part.pieces if MARK in piece.text] == [MARK]


SHAPES: dict[str, tuple[Any, str | None]] = {
    "no object": ([], None),
    "no model": ({"messages": []}, "model"),
    "model no string": ({"model": 1, "messages": []}, "model"),
    "model empty": ({"model": "", "messages": []}, "model"),
    "no messages": ({"model": "m"}, "messages"),
    "messages no list": ({"model": "m", "messages": {}}, "messages"),
    "message no object": ({"model": "m", "messages": ["x"]}, "messages.0"),
    "role no string": ({"model": "m", "messages": [{"role": ["user"]}]}, "messages.0.role"),
    "role null": ({"model": "m", "messages": [{"role": None}]}, "messages.0.role"),
    "stream no boolean": ({"model": "m", "messages": [], "stream": "true"}, "stream"),
    "stream a number": ({"model": "m", "messages": [], "stream": 1}, "stream"),
}


@pytest.mark.parametrize(("tree", "param"), SHAPES.values(), ids=SHAPES.keys())
def test_wrong_shapes_name_their_field(tree: Any, param: str | None) -> None:
    for dialect in (Messages(), CountTokens()):
        with pytest.raises(BadRequest) as caught:
            dialect.read_request(tree)
        assert caught.value.param == param


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


DOCUMENT = {"type": "document", "source": {"type": "text", "data": "x"}}
ROLES: dict[str, tuple[dict[str, Any], set[Role]]] = {
    "system": ({"system": "x"}, {Role.SYSTEM}),
    "system blocks": ({"system": [text("x")]}, {Role.SYSTEM}),
    "system in a turn": ({"messages": [{"role": "system", "content": "x"}]}, {Role.SYSTEM}),
    "user": ({"messages": [{"role": "user", "content": "x"}]}, {Role.USER}),
    "user blocks": (user(text("x")), {Role.USER}),
    "a block alone": ({"messages": [{"role": "user", "content": text("x")}]}, {Role.USER}),
    "nobody": ({"messages": [{"content": "x"}]}, {Role.USER}),
    "assistant": ({"messages": [{"role": "assistant", "content": "x"}]}, {Role.ASSISTANT}),
    "thinking": ({"messages": [{"role": "assistant", "content": [thinking("x")]}]}, {Role.REASONING}),
    "call": ({"messages": [{"role": "assistant", "content": [call(a="x")]}]}, {Role.TOOL_CALL}),
    "result": (user({"type": "tool_result", "content": "x"}), {Role.TOOL_RESULT}),
    "result blocks": (user({"type": "tool_result", "content": [text("x")]}), {Role.TOOL_RESULT}),
    "document in a result": (user({"type": "tool_result", "content": [DOCUMENT]}), {Role.TOOL_RESULT}),
    "document": (user(DOCUMENT), {Role.USER, Role.TOOL_RESULT}),
    "search result": (user({"type": "search_result", "content": [text("x")]}), {Role.USER, Role.TOOL_RESULT}),
    "tools": ({"tools": [{"name": "f", "description": "x"}]}, {Role.TOOL_DEFINITION}),
    "metadata": ({"metadata": {"user_id": "x"}}, {Role.SETTING}),
}


@pytest.mark.parametrize(("fields", "roles"), ROLES.values(), ids=ROLES.keys())
def test_who_speaks(fields: dict[str, Any], roles: set[Role]) -> None:
    request = Messages().read_request({"model": "m", "messages": [], **fields})
    assert {item.role for item in request.messages if item.text == "x"} == roles


def source(kind: str, **more: Any) -> dict[str, Any]:
    return {"source": {"type": kind, **more}}


UNSCANNABLE: dict[str, tuple[dict[str, Any], str | None]] = {
    "image": ({"type": "image", **source("base64", data="aGk=")}, "image"),
    "image by url": ({"type": "image", **source("url", url="https://x")}, "image"),
    "image of nothing": ({"type": "image"}, "image"),
    "pdf": ({"type": "document", **source("base64", data="aGk=")}, "file"),
    "file": ({"type": "document", **source("file", file_id="f")}, "file"),
    "document of a new kind": ({"type": "document", **source("x_new")}, "file"),
    "upload": ({"type": "container_upload", "file_id": "f"}, "file"),
    "redacted": ({"type": "redacted_thinking", "data": "aGk="}, "encrypted"),
    "encrypted": ({"type": "web_search_result", "encrypted_content": "aGk="}, "encrypted"),
    "text document": (DOCUMENT, None),
    "text": (text("x"), None),
}


@pytest.mark.parametrize(("block", "kind"), UNSCANNABLE.values(), ids=UNSCANNABLE.keys())
def test_what_nobody_can_read_is_named(block: dict[str, Any], kind: str | None) -> None:
    wanted = [kind] if kind else []
    asked = Messages().read_request({"model": "m", **user(block)})
    assert [found for _, found in asked.unscannable] == wanted
    result = Messages().read_request({"model": "m", **user({"type": "tool_result", "content": [block]})})
    assert [found for _, found in result.unscannable] == wanted
    body = Messages().read_response({"content": [block]})
    assert [found for _, found in body.unscannable] == wanted
    _, parts = parts_of(BEGIN, start(0, block))
    assert [found for part in parts for _, found in part.unscannable] == wanted


def test_what_is_no_cipher_text_is_read() -> None:
    block = {"type": "redacted_thinking", "data": "aGk= MARK"}
    for said in (
        Messages().read_request({"model": "m", **user(block)}),
        Messages().read_response({"content": [block]}),
    ):
        assert any(MARK in message.text for message in said.messages)
    _, parts = parts_of(BEGIN, start(0, block), delta(0, encrypted_content="not MARK"))
    assert [MARK in piece.text for piece in parts[-1].pieces] == [True]


def test_a_search_that_comes_back_is_read_but_for_what_is_sealed() -> None:
    found = {"type": "web_search_result", "title": "A MARK", "url": "https://x/MARK", "page_age": "MARK days"}
    block = {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{**found, "encrypted_content": "QUJD"}],
    }
    said = Messages().read_request({"model": "m", "messages": [{"role": "assistant", "content": [block]}]})
    places = {m.origin.rpartition("/")[2] for m in said.messages if MARK in m.text and m.role is Role.TOOL_RESULT}
    assert places == {"title", "url", "page_age"}
    assert [kind for _, kind in said.unscannable] == ["encrypted"]


def test_split_over_blocks_is_one_text() -> None:
    for said in (Messages().read_request({"model": "m", **user(text("MA"), text("RK"))}),
                 Messages().read_response(messages.message(text("MA"), text("RK")))):  # fmt: skip
        assert any(MARK in message.text for message in said.messages)


def channels(parts: list[Part]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for part in parts:
        for piece in part.pieces:
            texts[piece.channel] = texts.get(piece.channel, "") + piece.text
    return texts


def test_a_sentence_runs_on_from_block_to_block() -> None:
    _, parts = parts_of(*stream(text("MA"), thinking("I mean MA"), text("RK"), thinking("RK")))
    found = channels(parts)
    assert (found["/content/text"], found["/content/thinking"]) == ("MARK", "I mean MARK")


def test_calls_are_held_until_the_message_says_why_it_stopped() -> None:
    """All of them: clients run the honest ones that came before a blocked one."""
    _, parts = parts_of(*stream(text("So."), call(name="f", id="i", a="x"), call(name="g", id="j", a="y"), size=2))
    calls = [piece for part in parts for piece in part.pieces if piece.kind is Kind.CALL]
    assert {piece.group for piece in calls} == {-4}
    assert {piece.channel for piece in calls} == {
        f"/content/{index}/{field}" for index in (1, 2) for field in ("id", "name", "partial_json")
    }
    assert [part.closes for part in parts if part.closes] == [(0,), (1,), (2,), (-4,), (-2, -3, -4)]


def test_a_call_is_one_wherever_it_comes() -> None:
    """Some client may read a call in a block of another type."""
    _, parts = parts_of(BEGIN, start(0, text("")), delta(0, type="input_json_delta", partial_json='{"a":1}'))
    assert [(piece.kind, piece.role) for piece in parts[-1].pieces] == [(Kind.CALL, Role.TOOL_CALL)]


DISORDER: dict[str, list[bytes]] = {
    "no JSON": [b"event: x\ndata: x\n\n"],
    "no object": [b"event: x\ndata: []\n\n"],
    "duplicate": [b'event: x\ndata: {"a":1,"a":2}\n\n'],
    "no message": [event({"type": "message_start"})],
    "no block": [event({"type": "content_block_start", "index": 0})],
    "no delta": [start(0, text("")), event({"type": "content_block_delta", "index": 0})],
    "no index": [event({"type": "content_block_start", "content_block": text("")})],
    "index no number": [event({"type": "content_block_start", "index": "0", "content_block": text("")})],
    "index a boolean": [event({"type": "content_block_start", "index": True, "content_block": text("")})],
    "begun twice": [start(0, text("")), start(0, call())],
    "begun again": [start(0, text("")), stop(0), start(0, call())],
    "never begun": [delta(0, type="text_delta", text="x")],
    "goes on when closed": [start(0, call()), stop(0), delta(0, type="input_json_delta", partial_json="x")],
    "error inside of a call": [start(0, call()), event({"type": "error", "error": {"message": "x"}})],
    "closed twice": [start(0, call()), stop(0), stop(0)],
}


@pytest.mark.parametrize("events", DISORDER.values(), ids=DISORDER.keys())
def test_events_that_cannot_be_read(events: list[bytes]) -> None:
    with pytest.raises(Malformed):
        parts_of(*events)


def test_a_closed_block_does_not_go_on_by_repetition() -> None:
    reader, _ = parts_of(BEGIN, start(0, text("")), *[delta(0, type="text_delta", text="x")] * 3)
    assert reader.repeat(delta(0, type="text_delta", text="y")) is not None
    reader.read(read(stop(0)))
    assert reader.repeat(delta(0, type="text_delta", text="z")) is None


@pytest.mark.parametrize("pad", [False, True])
def test_a_plain_stream_is_parsed_once(pad: bool) -> None:
    """Or the speed that this exists for is gone; padding against length side channels included."""
    reader, parsed = MessagesReader(Request(model="m")), 0
    for raw in stream(text("word " * 100), pad=pad):
        if reader.repeat(raw) is None:
            parsed += 1
            reader.read(read(raw))
    assert parsed <= 8


words = st.text(alphabet='MARK x\n"\\{}é😀', max_size=12)
blocks = st.one_of(
    words.map(text),
    words.map(thinking),
    st.builds(lambda said, name: call(name=name or "f", a=said), words, words),
    words.map(lambda said: {"type": "x_new", "words": said}),
)


@given(st.lists(blocks, min_size=1, max_size=4), st.integers(1, 5), st.booleans())
def test_repetition_reads_the_same(said: list[dict[str, Any]], size: int, pad: bool) -> None:
    quick, slow = (MessagesReader(Request(model="m")) for _ in range(2))
    for raw in stream(*said, size=size, pad=pad):
        expected = slow.read(read(raw))
        part = quick.repeat(raw) or quick.read(read(raw))
        assert (part.raw, part.pieces, part.closes) == (expected.raw, expected.pieces, expected.closes)


@given(st.lists(bodies, min_size=1, max_size=5), bodies, st.sampled_from([b"", b"  ", b',"x":" ', b'" ']))
def test_whatever_is_changed_in_an_event_it_reads_the_same(texts: list[bytes], key: bytes, behind: bytes) -> None:
    quick, slow = (parts_of(BEGIN, start(0, text("")))[0] for _ in range(2))
    form = b'"index":0,"delta":{"type":"text_delta","%btext":"%b"}%b}\n\n'
    for said in (b"one", b"two", b"three", *texts, *texts):
        raw = b'event: content_block_delta\ndata: {"type":"content_block_delta",' + form % (key, said, behind)
        try:
            expected: Part | None = slow.read(read(raw))
        except Malformed:
            expected = None
        part = quick.repeat(raw)
        if part is None and expected is not None:
            part = quick.read(read(raw))
        if part is None:
            return
        assert expected is not None
        assert (part.raw, part.pieces) == (expected.raw, expected.pieces)


def released(raw: bytes, cuts: list[int], hold: int | None) -> bytes:
    """What leaves of a stream that arrives in pieces, where MARK is masked."""
    reader, gate, decoder, out = MessagesReader(Request(model="m")), Gate(hold), Decoder(), b""
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})

    def judge() -> bytes:
        if gate.due():
            question = gate.question()
            masks = [
                (number, Mask(found.start(), found.end(), "-"))
                for number, message in enumerate(question.messages)
                for found in re.finditer(MARK, message.text)
                if "#" not in message.origin
            ]
            gate.answer(question, masks)
        left = b""
        for release in gate.release():
            reader.released(release.part)
            left += reader.rewritten(release.part, release.edits) if release.edits else release.part.raw
        return left

    for begin, end in itertools.pairwise(edges):
        for frame in decoder.frames(raw[begin:end]):
            gate.push(reader.repeat(frame) or reader.read(read(frame)))
        out += judge()
    gate.finish(clean=reader.complete)
    out += judge()
    assert gate.held == 0
    return out


@given(
    st.lists(blocks, min_size=1, max_size=3),
    st.integers(1, 5),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from([8, 40, None]),
)
def test_however_a_stream_is_cut_the_same_leaves(
    said: list[dict[str, Any]], size: int, cuts: list[int], hold: int | None
) -> None:
    raw = b"".join(stream(*said, size=size))
    cut, whole = released(raw, cuts, hold), released(raw, [], None)
    assert told(cut) == told(whole)
    if MARK not in json.dumps(said):
        assert cut == raw
    assert MARK not in "".join(block.get("text", "") for block in told(cut))


@pytest.mark.parametrize("first", [thinking("thought " * 9), text("words " * 9), {**call(), "type": "server_tool_use"}])
def test_what_came_before_does_not_hold_up_the_answer(first: dict[str, Any]) -> None:
    """Text leaves while it is written, whatever block stands before it; but for a call of the client's tools."""
    events = stream(first, text("word " * 40), size=5)
    raw = b"".join(events[:-6])
    reader, gate = MessagesReader(Request(model="m")), Gate(20)
    left = b""
    for frame in Decoder().frames(raw):
        gate.push(reader.repeat(frame) or reader.read(read(frame)))
        if gate.due():
            gate.answer(gate.question())
        left += b"".join(release.part.raw for release in gate.release())
    assert left.count(b'"text":"word "') > 20


def told(raw: bytes) -> list[dict[str, Any]]:
    """The blocks that a stream adds up to, as a client reads them."""
    found: dict[int, dict[str, Any]] = {}
    for item in Decoder().feed(raw):
        tree = orjson.loads(item.data or "{}")
        assert item.name == tree["type"]
        if tree["type"] == "content_block_start":
            assert tree["index"] == len(found)
            found[tree["index"]] = dict(tree["content_block"])
        elif tree["type"] == "content_block_delta":
            for key, value in tree["delta"].items():
                if key != "type":
                    block = found[tree["index"]]
                    block[key] = block.get(key, "") + value
    return list(found.values())


ENDINGS: dict[str, tuple[int, list[bytes], list[str], str]] = {
    "nothing read": (0, [], ["text"], "No."),
    "read, not released": (0, stream(text("Well.")), ["text"], "No."),
    "begun": (1, stream(text("Well.")), ["text"], "No."),
    "in a text": (4, stream(text("Well."), size=2), ["text"], "We\n\nNo."),
    "before a call": (5, stream(text("Well."), call(), size=9), ["text", "text"], "\n\nNo."),
    "in thoughts": (4, stream(thinking("So."), size=9), ["thinking", "text"], "No."),
    "behind all": (6, stream(text("Well."), size=9), ["text", "text"], "\n\nNo."),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_block_ends_the_message(name: str) -> None:
    count, events, kinds, last = ENDINGS[name]
    reader, parts = parts_of(*events)
    for part in parts[:count]:
        reader.released(part)
    out = b"".join([*(part.raw for part in parts[:count]), reader.ending(REFUSAL)])
    found = told(out)
    assert [block["type"] for block in found] == kinds
    assert found[-1]["text"] == last
    trees = [orjson.loads(item.data or "") for item in Decoder().feed(out)]
    names = [tree["type"] for tree in trees]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("message_start") == 1
    assert names.count("content_block_start") == names.count("content_block_stop")
    assert trees[-2]["delta"]["stop_reason"] == "refusal"
    assert trees[-2]["penstock"]["decision_id"] == "pn_1"


def test_errors_have_the_apis_shape() -> None:
    kinds = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
             405: "invalid_request_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error",
             502: "api_error", 503: "api_error", 504: "timeout_error", 529: "overloaded_error"}  # fmt: skip
    for status, kind in kinds.items():
        tree = orjson.loads(Messages().error(status, "some_code", "Words.", "messages"))
        error = {"type": kind, "message": "Words.", "code": "some_code"}
        assert tree == {"type": "error", "error": error, "request_id": None}
    assert orjson.loads(Messages().error(503, "overloaded", "x"))["error"]["type"] == "overloaded_error"
    refused = orjson.loads(Messages().refused(REFUSAL))
    assert refused["request_id"] == refused["error"]["penstock"]["decision_id"] == "pn_1"
    assert refused["error"]["type"] == "invalid_request_error"


def test_counting_tokens_never_answers_in_words() -> None:
    request = CountTokens().read_request({"model": "m", "messages": [], "stream": True})
    assert not request.stream
    assert CountTokens().answered(REFUSAL, request) is None


def test_a_block_does_not_go_on_behind_a_later_one() -> None:
    """All text is one channel, in the order in which it came; also where its events look like earlier ones."""
    reader = MessagesReader(Request())

    def put(kind: str, index: int, **more: Any) -> None:
        raw = shapes.event({"type": kind, "index": index, **more}, name=kind)
        if reader.repeat(raw) is None:
            reader.read(read(raw))

    for index in (0, 1):
        put("content_block_start", index, content_block={"type": "text", "text": ""})
    for index, said in ((0, "a"), (0, "b"), (1, "c"), (1, "d")):
        put("content_block_delta", index, delta={"type": "text_delta", "text": said})
    with pytest.raises(Malformed, match="behind a later one"):
        put("content_block_delta", 0, delta={"type": "text_delta", "text": "e"})
