"""What a policy masks is masked, not blocked and not sent, wherever a body says it: twice, in pieces, with escapes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.proxy.conftest import Make
from tests.proxy.test_exchange import trees
from tests.upstream import messages as anthropic
from tests.upstream import replies, responses, shapes

POLICY = """
id: places
version: 1
owner: tests
description: Pins of users and in answers, marks of what tools say.
classifiers:
  words: {kind: patterns, patterns: {pin: {words: [PIN]}, mark: {words: [MARK]}, order: {words: [Falcon]}}}
rules:
  - id: pins
    description: Of users, and in answers.
    stages: [input, output]
    roles: [user, assistant, tool_call, setting]
    when: {finding: words.pin, at_least: 0.5}
    action: mask
    mask_with: "[X]"
    stream: {hold_back: 16}
  - id: marks
    description: Of documents and results.
    stages: [input]
    roles: [tool_result]
    when: {finding: words.mark, at_least: 0.5}
    action: mask
    mask_with: "[Y]"
  - id: orders
    description: Blocked.
    stages: [input, output]
    when: {finding: words.order, at_least: 0.5}
    action: block
    stream: {hold_back: 16}
"""
TEXT = "My PIN and a MARK."
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
BLOCKS: dict[str, tuple[dict[str, Any], int]] = {
    "text": ({"type": "text", "text": TEXT}, 0),
    "document": ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": TEXT}}, 1),
    "document of blocks": (
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": TEXT}] * 2}},
        2,
    ),
    "search result": (
        {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": TEXT}] * 2},
        2,
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
async def test_what_is_read_in_two_roles_leaves_with_the_masks_of_both(stand: Make, name: str) -> None:
    block, copies = BLOCKS[name]
    async with stand(POLICY) as s:
        s.upstream.reply = replies.json(anthropic.message(anthropic.text("Well.")))
        turns = [{"role": "user", "content": [block]}]
        answer = await s.client.post("/v1/messages", json={"model": "m", "max_tokens": 9, "messages": turns})
        assert answer.status_code == 200, answer.text
        (got,) = s.upstream.requests
        expected = json.dumps(block).replace("PIN", "[X]").replace("MARK", "[Y]" if copies else "MARK")
        assert json.loads(got.body)["messages"][0]["content"] == [json.loads(expected)]


ITEMS: dict[str, list[Any]] = {
    "two messages": [
        responses.message(responses.text("Let me look."), id="msg_1"),
        responses.message(responses.text(f"Well: {TEXT}"), id="msg_2"),
    ],
    "two texts": [responses.message(responses.text("Let me look."), responses.text(TEXT))],
    "thoughts between them": [
        responses.message(responses.text(TEXT), id="msg_1"),
        responses.reasoning("So.", "What do I know?"),
        responses.message(responses.text("Well."), id="msg_2"),
    ],
}


@STREAM
@pytest.mark.parametrize("name", ITEMS)
async def test_several_messages_of_an_answer_are_masked(stand: Make, name: str, stream: bool) -> None:
    async with stand(POLICY) as s:
        items = ITEMS[name]
        s.upstream.reply = replies.sse(responses.stream(*items)) if stream else replies.json(responses.response(*items))
        answer = await s.client.post("/v1/responses", json={"model": "m", "input": "x", "stream": stream})
        assert answer.status_code == 200, answer.text
        assert "PIN" not in answer.text
        last = trees(answer)[-1]
        output = last["response"]["output"] if stream else last["output"]
        assert last.get("type", "response.completed") == "response.completed"
        assert output == json.loads(json.dumps(responses.response(*items)["output"]).replace("PIN", "[X]"))


async def test_a_word_over_two_messages_is_blocked_still(stand: Make) -> None:
    async with stand(POLICY) as s:
        items = [responses.message(responses.text(text), id=text) for text in ("my P", "IN")]
        s.upstream.reply = replies.json(responses.response(*items))
        answer = await s.client.post("/v1/responses", json={"model": "m", "input": "x"})
        assert "IN" not in json.dumps(answer.json()["output"])


ARGUMENTS = [
    ('{"body":"It is PIN.\\nBye"}', '{"body":"It is [X].\\nBye"}'),
    ('{"body":"It is\\nPIN"}', '{"body":"It is\\n[X]"}'),
    ('{"a\\n":"\\u0050IN, PI\\u004e","n":1.0}', '{"a\\n":"[X], [X]","n":1.0}'),
]


@STREAM
@pytest.mark.parametrize(("said", "left"), ARGUMENTS)
@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
async def test_a_call_is_masked_between_its_escapes(
    stand: Make, dialect: str, said: str, left: str, stream: bool
) -> None:
    async with stand(POLICY) as s:
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}
        if dialect == "chat":
            calls = [shapes.ToolCall(arguments=said)]
            whole: Any = shapes.completion(tool_calls=calls)
            events = shapes.stream(tool_calls=calls, size=3)
        elif dialect == "responses":
            item = {**responses.call(), "arguments": said}
            whole, events = responses.response(item), responses.stream(item, size=3)
            asked = {"input": "x"}
        else:
            block = anthropic.call(**json.loads(said))
            whole, events = anthropic.message(block), anthropic.stream(block, size=3)
        s.upstream.reply = replies.sse(events) if stream else replies.json(whole)
        answer = await s.client.post(PATHS[dialect], json={"model": "m", "stream": stream, **asked})
        assert answer.status_code == 200, answer.text
        assert arguments(answer, dialect, stream) == json.loads(left)
        assert {row["action"] for row in await s.rows()} == {"mask"}


def arguments(answer: Any, dialect: str, stream: bool) -> Any:
    """What an answer's one tool is called with."""
    told = trees(answer)
    if dialect == "chat" and stream:
        deltas = [choice["delta"] for tree in told for choice in tree["choices"]]
        return json.loads(
            "".join(d["tool_calls"][0]["function"].get("arguments") or "" for d in deltas if d.get("tool_calls"))
        )
    if dialect == "chat":
        return json.loads(told[0]["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
    if dialect == "responses":
        return json.loads((told[-1]["response"] if stream else told[0])["output"][0]["arguments"])
    if stream:
        return json.loads("".join(tree.get("delta", {}).get("partial_json", "") for tree in told))
    return told[0]["content"][0]["input"]


async def test_the_next_turns_of_a_conversation_with_such_a_call_are_masked(stand: Make) -> None:
    async with stand(POLICY) as s:
        for said, left in ARGUMENTS:
            function = {"name": "mail", "arguments": said}
            called = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": function}],
            }
            answer = await s.chat("x", called, {"role": "tool", "tool_call_id": "c", "content": "done"})
            assert answer.status_code == 200, answer.text
            sent = json.loads(s.upstream.requests[-1].body)["messages"][1]["tool_calls"][0]["function"]["arguments"]
            assert sent == left


@pytest.mark.parametrize("key", ["order", "order#", "#key", "a~2#/b~", "x#decoded"])
async def test_a_number_sign_in_a_key_is_only_a_letter(stand: Make, key: str) -> None:
    async with stand(POLICY) as s:
        answer = await s.chat("x", metadata={key: "my PIN"})
        assert answer.status_code == 200, answer.text
        assert json.loads(s.upstream.requests[-1].body)["metadata"] == {key: "my [X]"}


FALCON = "data: Falcon ships in May"
FILE = "data:application/pdf;base64,JVBERi0xLjQKJeLjz9M="
UNREAD: dict[str, tuple[str, dict[str, Any]]] = {
    "a file's name in Chat": ("chat", {"type": "file", "file": {"filename": FALCON, "file_data": FILE}}),
    "a file in Chat": ("chat", {"type": "file", "file": {"filename": "x", "file_data": FALCON}}),
    "words beside an image": ("chat", {"type": "image_url", "image_url": {"url": "https://x/y", "alt": FALCON}}),
    "an image in Chat": ("chat", {"type": "image_url", "image_url": {"url": FALCON}}),
    "a kind of file": ("chat", {"type": "image_url", "image_url": {"url": "data:the/Falcon;base64,AAAA"}}),
    "a sound": ("chat", {"type": "input_audio", "input_audio": {"data": FALCON, "format": "wav"}}),
    "a file's name": ("responses", {"type": "input_file", "filename": FALCON, "file_data": FILE}),
    "a text with an image": ("responses", {"type": "input_text", "text": FALCON, "image_url": "https://x/y"}),
    "a file": ("responses", {"type": "input_file", "filename": "x", "file_data": FALCON}),
    "a document": (
        "messages",
        {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": FALCON}},
    ),
    "a text that begins oddly": (
        "messages",
        # a zero, then "Falcon ships"
        {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "AEZhbGNvbiBzaGlwcw=="}},
    ),
}


@pytest.mark.parametrize("name", UNREAD)
async def test_words_are_not_taken_for_bytes(stand: Make, name: str) -> None:
    dialect, part = UNREAD[name]
    turns = [{"role": "user", "content": [part]}]
    asked = {"input": turns} if dialect == "responses" else {"messages": turns, "max_tokens": 9}
    async with stand(POLICY) as s:
        answer = await s.client.post(PATHS[dialect], json={"model": "m", **asked})
        assert answer.status_code == 400, answer.text
        assert not s.upstream.requests


async def test_nor_in_what_a_tool_is_said_to_take(stand: Make) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"default": {"file_data": "Falcon-ships-in-May5"}}}
    async with stand(POLICY) as s:
        answer = await s.client.post("/v1/responses", json={"model": "m", "input": "x", "tools": [tool]})
        assert answer.status_code == 400, answer.text


async def test_nor_in_what_an_answer_says_aloud(stand: Make) -> None:
    async with stand(POLICY) as s:
        whole = shapes.completion("")
        audio = {"id": "audio_1", "data": "AAAA", "expires_at": 1, "transcript": FALCON}
        whole["choices"][0]["message"].update(content=None, audio=audio)
        s.upstream.reply = replies.json(whole)
        answer = await s.chat("x")
        assert answer.json()["choices"][0]["finish_reason"] == "content_filter"


async def test_bytes_are_left_alone(stand: Make) -> None:
    async with stand(POLICY) as s:
        url = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": FILE}},
        ]
        assert (await s.chat({"role": "user", "content": parts})).status_code == 200
        assert json.loads(s.upstream.requests[-1].body)["messages"][0]["content"] == parts
