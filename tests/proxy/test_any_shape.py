"""Whatever stands where: each body and event is read or refused as unreadable, and no word of it goes unread."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.facts import ANONYMOUS
from proxy.accounts.stored import minted, referred
from proxy.dialects.base import BadRequest, Dialect, Request
from proxy.dialects.chat import Chat
from proxy.dialects.completions import Completions
from proxy.dialects.messages import Messages
from proxy.dialects.responses import Responses
from proxy.facts import calls_of, facts_of
from proxy.gate import Kind
from proxy.sse import read
from proxy.strict import Malformed
from tests.proxy.leaves import places
from tests.upstream import responses, shapes

NAMES = st.sampled_from(
    ["index", "id", "type", "text", "content", "name", "arguments", "function", "input", "delta", "summary", "thinking",
     "data", "role", "format", "other", "new"]
)  # fmt: skip
WORDS = st.sampled_from(["qa", "qb", "qc", "text", "function", ""])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats(0, 2) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def _chat(key: str, tree: Any) -> list[Any]:
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "x"}}]}
    choice = {"index": 0, "delta": {}, key: tree} if key in {"text", "new"} else {"index": 0, "delta": {key: tree}}
    return [chunk, *[{"id": "c", "choices": [choice]}] * 3]


def _messages(key: str, tree: Any) -> list[Any]:
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "x"}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", key: tree}}
    return [
        start,
        *[delta] * 3,
        {"type": "content_block_start", "index": 1, "content_block": {"type": "new", key: tree}},
    ]


def _responses(key: str, tree: Any) -> list[Any]:
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "x", key: tree}
    item = {"type": "response.output_item.added", "output_index": 1, "item": {"type": "new_call", key: tree}}
    return [delta, delta, delta, item, {"type": "response.new_call.delta", "output_index": 1, key: tree}]


Events = Callable[[str, Any], list[Any]]
READERS: dict[str, tuple[Dialect, Events]] = {
    "chat": (Chat(), _chat),
    "completions": (Completions(), _chat),
    "messages": (Messages(), _messages),
    "responses": (Responses(), _responses),
}


def words(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from words(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from words(value)


@pytest.mark.parametrize("dialect", READERS)
@settings(max_examples=60)
@given(key=NAMES | st.sampled_from(["tool_calls", "audio", "reasoning_details", "logprobs"]), tree=TREES)
def test_any_event(dialect: str, key: str, tree: Any) -> None:
    speaker, events = READERS[dialect]
    reader = speaker.reader(Request(tree={}, model="m", stream=True))
    said: list[str] = []
    try:
        for event in events(key, tree):
            raw = shapes.event(event, name=event.get("type"))
            part = reader.repeat(raw) or reader.read(read(raw))
            said += [piece.text for piece in part.pieces]
            for piece in part.pieces:
                if piece.path and piece.kind is not Kind.ATOM:  # it may be masked
                    assert b"[MASKED]" in reader.rewritten(part, [(piece, "[MASKED]")]) or "logprobs" in piece.path
            reader.released(part)
            if part.unscannable:
                return
    except Malformed:
        return
    together = "\n".join(said)
    for word in words(tree):
        assert word not in {"qa", "qb", "qc", "other", "new"} or word in together, word


ODD: tuple[Any, ...] = (7, [["x"]], {"type": ["x"]})
FOLDER = Path(__file__).parent.parent / "conformance"


def swapped(tree: Any) -> Iterator[Any]:
    """The tree with each part of it in turn replaced by each odd thing; it is the same tree each time."""
    for _, container, key, value in list(places(tree)):
        for odd in ODD:
            container[key] = odd
            yield tree
        container[key] = value


def bodies(dialect: str, way: str) -> Any:
    if dialect != "responses":
        return json.loads((FOLDER / f"{dialect}_{way}.json").read_text("utf-8"))
    called, said = responses.call(), responses.message(responses.text("Hi."))
    answer = responses.response(responses.reasoning("So."), said, called)
    given = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain,x"}
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}, given]}, *answer["output"]]
    ends = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]}
    tools = [{"type": "mcp", "server_label": "a", "server_url": "b"}]
    asked = {"model": "m", "input": [*items, ends], "tools": tools, "thread": {"type": "create"}}
    return asked if way == "request" else answer


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
@pytest.mark.parametrize("way", ["request", "answer"])
def test_any_shape(dialect: str, way: str) -> None:
    speaker, _ = READERS[dialect]
    read_it = speaker.read_request if way == "request" else speaker.read_response
    for tree in swapped(bodies(dialect, way)):
        with contextlib.suppress(BadRequest, Malformed):
            body = read_it(tree)
            if isinstance(body, Request):
                body.others()
                list(referred(body.tree))
                facts_of(body, dialect, ANONYMOUS, lambda value: value.encode().hex())
            else:
                list(minted(tree, kept=True))
                calls_of(tree)
