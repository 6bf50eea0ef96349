"""The Responses dialect reads all that a body says, whole and in pieces, and ends a stream as clients expect."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Role
from proxy.dialects.base import BadRequest, Refusal, Request
from proxy.dialects.responses import Responses
from proxy.dialects.responses_stream import ResponsesReader
from proxy.gate import Gate, Kind, Mask, Part
from proxy.sse import Decoder, read
from proxy.strict import Malformed
from tests.proxy.leaves import MARK, variants
from tests.upstream import responses, shapes

FOLDER = Path(__file__).parent.parent / "fixtures" / "openai_responses"
REQUEST: dict[str, Any] = json.loads((FOLDER / "request.json").read_text("utf-8"))
ANSWER: dict[str, Any] = json.loads((FOLDER / "response.json").read_text("utf-8"))
OPAQUE = ("/file_data", "/input_audio/data", "/result", "/partial_image_b64")
REFUSAL = Refusal("No.", "content_policy_violation", "demo", "output", "pn_1")
EVERYTHING = [
    responses.reasoning("They ask for a place.", "So a lookup is due."),
    responses.message(
        responses.text(
            "It is mild, they say.", annotations=[{"type": "url_citation", "title": "The page", "url": "u"}]
        ),
        responses.refusal("But I name nobody."),
    ),
    responses.call(),
    responses.custom(),
    {"id": "ci", "type": "code_interpreter_call", "code": "print(1)", "outputs": [{"type": "logs", "logs": "one"}]},
    {"id": "mc", "type": "mcp_call", "name": "route", "server_label": "maps", "arguments": "{}", "output": "left"},
    {"id": "ws", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "Paris"}},
]


def told(body: Any) -> str:
    return "\n".join(message.text for message in body.messages)


def test_every_leaf_and_key_of_a_request_is_read() -> None:
    count = 0
    for place, tree in variants(REQUEST):
        try:
            request = Responses().read_request(tree)
        except BadRequest:
            continue
        count += 1
        if place.endswith(OPAQUE):
            assert any(place.startswith(origin) for origin, _ in request.unscannable), place
        else:
            assert MARK in told(request), place
    assert count > 600


def test_every_leaf_and_key_of_an_answer_is_read() -> None:
    for place, tree in variants(ANSWER):
        body = Responses().read_response(tree)
        if place.endswith(OPAQUE):
            assert any(place.startswith(origin) for origin, _ in body.unscannable), place
        else:
            assert MARK in told(body), place


def parts(*events: bytes, request: Request | None = None) -> tuple[ResponsesReader, list[Part]]:
    reader = Responses().reader(request or Request(model="m", stream=True, tree={}))
    return reader, [reader.read(event) for event in Decoder().feed(b"".join(events))]


def test_every_leaf_and_key_of_every_event_is_read() -> None:
    """Each event by itself, changed in one place: what it says of itself is in its pieces."""
    count = 0
    for raw in responses.stream(*EVERYTHING, size=40, padded=True):
        for place, tree in variants(orjson.loads(read(raw).data or "")):
            _, (part,) = parts(shapes.event(tree))
            count += 1
            assert MARK in "\n".join(piece.text for piece in part.pieces), (tree["type"], place)
    assert count > 1000


@pytest.mark.parametrize("frame", ["response.created", "response.completed", "response.failed"])
def test_every_leaf_and_key_of_a_response_in_a_stream_is_read(frame: str) -> None:
    for place, tree in variants(ANSWER):
        _, (part,) = parts(shapes.event({"type": frame, "response": tree}))
        if place.endswith(OPAQUE):
            assert any(("/response" + place).startswith(origin) for origin, _ in part.unscannable), place
        else:
            assert MARK in "\n".join(piece.text for piece in part.pieces), place


def test_what_the_caller_said_itself_is_not_judged_again() -> None:
    asked: dict[str, Any] = {"instructions": "a long system prompt", "tools": [{"type": "function", "name": "f"}]}
    for echo, found in ((asked, False), ({**asked, "instructions": "another"}, True)):
        event = shapes.event({"type": "response.created", "response": responses.response(**echo)})
        _, (part,) = parts(event, request=Request(model="m", tree=asked))
        assert any(piece.text in {"\na long system prompt", "\nanother"} for piece in part.pieces) is found


SHAPES: dict[str, tuple[Any, str | None]] = {
    "no object": ([], None),
    "model no string": ({"model": 5, "input": "x"}, "model"),
    "input no list": ({"model": "m", "input": {}}, "input"),
    "item no object": ({"model": "m", "input": ["x"]}, "input[0]"),
    "stream no boolean": ({"model": "m", "input": "x", "stream": "true"}, "stream"),
    "background": ({"model": "m", "input": "x", "background": True}, "background"),
    "background of another type": ({"model": "m", "input": "x", "background": "true"}, "background"),
    "a stored response": ({"model": "m", "input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
    "an empty id": ({"model": "m", "input": "x", "previous_response_id": ""}, "previous_response_id"),
    "a conversation": ({"model": "m", "input": "x", "conversation": {"id": "conv_1"}}, "conversation"),
    "a template": ({"model": "m", "prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}, "prompt"),
    "a stored item that says something": (
        {"model": "m", "input": [{"type": "item_reference", "id": "msg_1", "content": "Hi"}]},
        "input[0]",
    ),
    "a stored item without a type": ({"model": "m", "input": [{"id": "msg_1", "content": None}]}, "input[0]"),
    "a stored image": ({"model": "m", "input": [{"type": "image_generation_call", "id": "ig_1"}]}, "input[0]"),
    "a stored item": ({"model": "m", "input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    "a stored item without its type": ({"model": "m", "input": [{"id": "msg_1"}]}, "input[0]"),
}


@pytest.mark.parametrize(("tree", "param"), SHAPES.values(), ids=SHAPES.keys())
def test_wrong_shapes_and_what_is_stored_elsewhere_name_their_field(tree: Any, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        Responses().read_request(tree)
    assert caught.value.param == param


ROLES = [
    ("x", Role.USER),
    ({"role": "user", "content": "x"}, Role.USER),
    ({"role": "system", "content": [{"type": "input_text", "text": "x"}]}, Role.SYSTEM),
    ({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}, Role.ASSISTANT),
    ({"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "x"}]}, Role.REFUSAL),
    ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}, Role.REASONING),
    ({"type": "function_call", "name": "f", "arguments": "x"}, Role.TOOL_CALL),
    ({"type": "function_call_output", "output": "x"}, Role.TOOL_RESULT),
    ({"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}]}, Role.TOOL_RESULT),
    ({"type": "mcp_call", "arguments": "{}", "output": "x"}, Role.TOOL_RESULT),
    ({"type": "mcp_list_tools", "tools": [{"name": "f", "description": "x"}]}, Role.TOOL_DEFINITION),
    ({"type": "shell_call", "action": {"commands": ["x"]}}, Role.TOOL_CALL),
    ({"role": "narrator", "content": "x"}, Role.USER),
]


@pytest.mark.parametrize(("item", "role"), ROLES)
def test_who_speaks(item: Any, role: Role) -> None:
    request = Responses().read_request({"model": "m", "input": item if isinstance(item, str) else [item]})
    assert [message.role for message in request.messages if message.text == "x"] == [role]


def test_a_model_may_be_left_out() -> None:
    """The upstream says whether it wants one."""
    assert Responses().read_request({"input": "x"}).model == ""


def test_text_that_is_split_is_read_as_one() -> None:
    pieces = [{"type": "input_text", "text": "MA"}, {"type": "input_text", "text": "RK"}]
    assert MARK in told(Responses().read_request({"model": "m", "input": [{"role": "user", "content": pieces}]}))
    items = [responses.message(responses.text("MA")), responses.message(responses.text("RK"), id="msg_2")]
    assert MARK in told(Responses().read_response(responses.response(*items)))


def test_channels_are_places_in_the_answer_and_calls_are_held() -> None:
    _, read_parts = parts(*responses.stream(*EVERYTHING, size=3))
    flowing: dict[str, str] = {}
    for part in read_parts:
        for piece in part.pieces:
            if piece.kind is Kind.FLOW:
                flowing[piece.channel] = flowing.get(piece.channel, "") + piece.text
            if piece.group == 2:
                assert piece.kind is Kind.CALL
    assert flowing["/output/1/content/0/text"] == "It is mild, they say."
    assert flowing["/output/1/content/1/refusal"] == "But I name nobody."
    assert flowing["/output/0/summary/0/text"] == "They ask for a place."
    assert flowing["/output/0/content/0/text"] == "So a lookup is due."
    assert [part.closes for part in read_parts if part.closes] == [(n,) for n in range(7)] + [(*range(7), -4)]


@pytest.mark.parametrize(
    "data", [b"x", b"[]", b'"text"', b'{"a":1,"a":2}', b'{"type":"response.output_text.delta","delta":NaN}']
)
def test_events_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(Malformed):
        parts(b"data: " + data + b"\n\n")


@pytest.mark.parametrize("strange", [[], {}, 7, None, True])
def test_members_of_another_kind_are_no_fault_of_ours(strange: Any) -> None:
    for key in ("type", "item", "part", "delta", "output_index", "content_index", "response", "sequence_number"):
        for raw in responses.stream(*EVERYTHING[1:3], size=40):
            reader, (part,) = parts(shapes.event({**orjson.loads(read(raw).data or ""), key: strange}))
            reader.released(part)
            assert bool(reader.ending(REFUSAL)) is not reader.finished
    for key in ("type", "role", "content", "id"):
        item = {"type": "message", "role": "user", "content": "MARK", "id": "MARK", key: strange}
        assert MARK in told(Responses().read_request({"model": "m", "input": [item]}))


def test_a_text_does_not_go_on_when_it_is_done() -> None:
    events = responses.stream(responses.message(responses.text("MA")))
    late = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "RK"}
    with pytest.raises(Malformed):
        parts(*events[:-1], shapes.event(late))


def test_nothing_comes_behind_the_end() -> None:
    reader, found = parts(*responses.stream(EVERYTHING[1]), shapes.event({"type": "x", "delta": "MARK"}), shapes.DONE)
    assert (found[-2].raw, found[-2].pieces) == (b"", ())
    assert found[-1].raw == shapes.DONE
    assert reader.complete


def told_of(part: Part) -> list[Any]:
    """The pieces, but for the numbers in the channels of copies."""
    return [piece[1:] for piece in part.pieces]


def test_deltas_are_parsed_once_or_twice_and_mean_the_same() -> None:
    words = 'Some honest words and many more of them, on and on, \\ and "so" on. \u00e9\U0001f600 ' * 8
    for padded in (False, True):
        quick, parsed = Responses().reader(Request(model="m", tree={})), 0
        slow = Responses().reader(Request(model="m", tree={}))
        for raw in responses.stream(responses.message(responses.text(words)), size=3, padded=padded):
            expected = slow.read(read(raw))
            part = quick.repeat(raw)
            if part is None:
                parsed += 1
                part = quick.read(read(raw))
            assert part.raw == expected.raw
            assert sorted(map(repr, told_of(part))) == sorted(map(repr, told_of(expected)))
            quick.released(part)
            slow.released(expected)
            assert quick._told.sequence == slow._told.sequence
        assert parsed <= 13


def judged(events: list[bytes], masked: str = "SECRET") -> tuple[bytes, bool]:
    """What leaves of a stream that is judged for MARK and masked for a word: (bytes, whether it was blocked)."""
    reader, gate, out = Responses().reader(Request(model="m", tree={})), Gate(8), b""
    decoder = Decoder()

    def look(*, everything: bool = False) -> bool:
        nonlocal out
        question = gate.question(everything=everything)
        if any(MARK in message.text for message in question.messages):
            return False
        masks = []
        for index, message in enumerate(question.messages):
            at = message.text.find(masked)
            while at >= 0:
                masks.append((index, Mask(at, at + len(masked), "[X]")))
                at = message.text.find(masked, at + 1)
        gate.answer(question, masks)
        return True

    def leave() -> None:
        nonlocal out
        for release in gate.release():
            reader.released(release.part)
            out += reader.rewritten(release.part, release.edits) if release.edits else release.part.raw

    for piece in events:
        for raw in decoder.frames(piece):
            gate.push(reader.repeat(raw) or reader.read(read(raw)))
        if gate.due() and not look():
            return out + reader.ending(REFUSAL), True
        leave()
    gate.finish(clean=reader.complete or reader.finished)
    if gate.question().messages and not look():
        return out + reader.ending(REFUSAL), True
    leave()
    assert not gate.held
    return out, False


def trees(raw: bytes) -> list[Any]:
    return [orjson.loads(event.data) for event in Decoder().feed(raw) if event.data and event.data != "[DONE]"]


def test_masks_reach_every_copy() -> None:
    items = [
        responses.reasoning("a SECRET thought", "and a SECRET more"),
        responses.message(responses.text("the SECRET word")),
        responses.call(arguments='{"a":"SECRET"}'),
        responses.custom(input="say SECRET"),
    ]
    for size in (1, 2, 5, 50):
        raw, blocked = judged(responses.stream(*items, size=size))
        assert not blocked
        assert b"SECRET" not in raw
        found = trees(raw)
        for name, said in (("output_text", "the [X] word"), ("function_call_arguments", '{"a":"[X]"}')):
            deltas = [tree["delta"] for tree in found if tree["type"] == f"response.{name}.delta"]
            assert "".join(deltas) == said
        assert found[-1]["response"]["output"][1]["content"][0]["text"] == "the [X] word"
        assert found[-1]["response"]["output"][2]["arguments"] == '{"a":"[X]"}'
        assert [tree["sequence_number"] for tree in found] == list(range(len(found)))


@given(st.lists(st.integers(0, 4000), max_size=12), st.integers(1, 9), st.booleans())
def test_however_a_stream_is_cut_the_same_leaves(cuts: list[int], size: int, bad: bool) -> None:
    text = "Some honest words that go on and on, a SECRET too, so that some have left" + (" MARK" if bad else "")
    items = [responses.message(responses.text(text)), responses.call()]
    raw = b"".join(responses.stream(*items, size=size))
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    out, blocked = judged([raw[a:b] for a, b in itertools.pairwise(edges)])
    assert blocked is bad
    assert b"MARK" not in out
    assert b"SECRET" not in out
    assert b"get_weather" not in out if bad else b"get_weather" in out
    if not bad:
        assert out == judged([raw])[0]
    found = trees(out)
    assert [tree["sequence_number"] for tree in found] == list(range(len(found)))


@pytest.mark.parametrize("item", [responses.call(arguments='{"a":"MARK"}'), responses.custom(input="MARK"),
    responses.call(name="MARK"), {"id": "sh", "type": "shell_call", "action": {"commands": ["MARK"]}}])  # fmt: skip
def test_no_byte_of_a_blocked_call_leaves(item: Any) -> None:
    for before in ([], [responses.message(responses.text("Let me look at that for you, it takes a moment."))]):
        out, blocked = judged(responses.stream(*before, item, size=2))
        assert blocked
        assert MARK.encode() not in out
        assert item["type"].encode() not in out


def test_a_call_that_is_cut_does_not_leave() -> None:
    events = responses.stream(responses.call(), size=3)
    for end in range(3, len(events) - 2):
        out, _ = judged(events[:end])
        assert b"function_call" not in out


def test_a_block_before_anything_was_said_is_an_answer() -> None:
    for said in (0, 2):
        reader, found = parts(*responses.stream(responses.message(responses.text("x"))))
        for part in found[:said]:
            reader.released(part)
        events = trees(reader.ending(REFUSAL))
        assert events[-1]["type"] == "response.completed"
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "No."
        assert events[-1]["response"]["penstock"]["decision_id"] == "pn_1"
        assert [tree["sequence_number"] for tree in events] == list(range(said, said + len(events)))
        assert len({tree["response"]["id"] for tree in events if "response" in tree}) == 1


def test_a_block_in_the_middle_closes_what_is_open() -> None:
    events = responses.stream(
        responses.reasoning("Some thought."), responses.message(responses.text("one two three")), size=4
    )
    reader, found = parts(*events)
    for part in found[:-5]:  # one delta, and all that is done, stay behind
        reader.released(part)
    closing = trees(reader.ending(REFUSAL))
    assert [tree["type"].removeprefix("response.") for tree in closing] == [
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "failed",
    ]  # fmt: skip
    assert closing[1]["text"] == "one two thre\n\nNo."
    assert closing[3]["item"]["content"][0]["text"] == closing[1]["text"]
    failed = closing[-1]["response"]
    assert (failed["status"], failed["error"]) == ("failed", {"code": "invalid_prompt", "message": "No."})
    assert [item["type"] for item in failed["output"]] == ["reasoning", "message"]


def bare(events: list[bytes]) -> list[bytes]:
    """As llama.cpp says it: items are known by their ids, and nothing is numbered."""
    out = []
    for raw in events:
        tree = orjson.loads(read(raw).data or "")
        for key in ("sequence_number", "output_index", "content_index"):
            tree.pop(key, None)
        out.append(shapes.event(tree, name=tree["type"]))
    return out


def test_servers_that_number_nothing() -> None:
    events = bare(responses.stream(responses.message(responses.text("one two three")), size=4))
    reader = Responses().reader(Request(model="m", stream=True, tree={}))
    parsed = 0
    for raw in events[:7]:
        part = reader.repeat(raw)
        parsed += part is None
        reader.released(part or reader.read(read(raw)))
    assert parsed < 7
    closing = trees(reader.ending(REFUSAL))
    assert closing[1]["text"] == "one two thre\n\nNo."
    assert closing[-1]["response"]["status"] == "failed"
    assert all("output_index" not in tree for tree in closing)
    raw, blocked = judged(bare(responses.stream(responses.message(responses.text("a SECRET")), responses.call())))
    assert not blocked
    assert b"SECRET" not in raw
    raw, blocked = judged(bare(responses.stream(responses.call(arguments='{"a":"MARK"}'))))
    assert blocked
    assert b"function_call" not in raw


def test_a_fault_is_told_in_the_next_event() -> None:
    reader, found = parts(*responses.stream(responses.message(responses.text("x"))))
    for part in found[:4]:
        reader.released(part)
    (error,) = trees(reader.broken("It broke.", "upstream_error"))
    assert (error["type"], error["sequence_number"], error["code"]) == ("error", 4, "upstream_error")
    for part in found[4:]:
        reader.released(part)
    assert reader.broken("It broke.", "upstream_error") == b""
