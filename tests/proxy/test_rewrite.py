"""Words in the model's place, and notes for the model, in every dialect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tests.conformance.cases import Answer, Send
from tests.conformance.speak import _STREAMS, reply, request
from tests.conformance.test_conformance import finishes
from tests.proxy.conftest import Make, Stand
from tests.proxy.test_exchange import settled, trees
from tests.proxy.test_restoring import PROSE, STREAM, ask, heard
from tests.upstream import replies, shapes

POLICY = """
id: kind
version: 1
owner: tests
description: Some questions and answers have words of ours.
classifiers:
  words: {{kind: patterns, patterns: {{sad: {{words: [SAD]}}, mark: {{words: [MARK]}}, pin: {{words: [PIN]}}}}}}
rules:
  - id: kind-words
    description: Words of ours in place of the model's.
    stages: [input, output]
    roles: [user, assistant]
    when: {{finding: words.sad, at_least: 0.5}}
    action: rewrite
    rewrite_with: "You are not alone. Reference: {{decision_id}}."
    stream: {stream}
  - id: veil
    description: A mask beside it.
    stages: [input, output]
    when: {{finding: words.pin, at_least: 0.5}}
    action: mask
    stream: {stream}
  - id: no-mark
    description: A block goes before it.
    stages: [input, output]
    when: {{finding: words.mark, at_least: 0.5}}
    action: block
    stream: {stream}
"""
NOTE = """
id: notes
version: 1
owner: tests
description: Notes for the model.
classifiers:
  words: {kind: patterns, patterns: {law: {words: [law]}, code: {words: [code]}}}
rules:
  - id: no-lawyer
    description: A note.
    stages: [input]
    when: {finding: words.law, at_least: 0.5}
    action: advise
    advice: You are no lawyer.
  - id: no-root
    description: Another one.
    stages: [input]
    when: {finding: words.code, at_least: 0.5}
    action: advise
    advice: Never run as root.
"""


@PROSE
@STREAM
@pytest.mark.parametrize("also", ["", " my PIN"])
async def test_the_model_is_not_asked(stand: Make, dialect: str, stream: bool, also: str) -> None:
    async with stand(POLICY.format(stream="whole")) as s:
        response = await ask(s, dialect, stream, Send(text="I am SAD" + also), Answer())
        (row,) = await settled(s)
        assert heard(response, dialect, stream) == f"You are not alone. Reference: {row.id}."
        assert ended(response, dialect) == {"stop"}
        assert not s.upstream.requests
        assert (row["status"], row["action"], row["input"]["rules"]["kind-words"]) == (
            "rewritten",
            "rewrite",
            "rewrite",
        )


@PROSE
@STREAM
async def test_the_answer_is_replaced(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY.format(stream="whole")) as s:
        response = await ask(s, dialect, stream, Send(), Answer(text="It makes me so SAD.", size=2))
        (row,) = await settled(s)
        assert heard(response, dialect, stream) == f"You are not alone. Reference: {row.id}."
        assert "so" not in response.text.split()
        assert ended(response, dialect) == {"stop"}
        assert (row["status"], row["action"], row["stage"]) == ("rewritten", "rewrite", "output")
        if not stream:
            tree = response.json()
            assert sum(_numbers(tree["usage"])) >= 36


async def begun(s: Stand, dialect: str, answer: Answer) -> httpx2.Response:
    """A streamed answer whose second half is sent once a line of the first was read."""
    left = asyncio.Event()
    s.upstream.reply = replies.sse(replies.halted(_STREAMS[dialect](answer), left, 0.5))
    method, path, body, headers = request(dialect, Send(), True)
    async with s.client.stream(method, path, content=body, headers=headers) as response:
        raw = b""
        async for piece in response.aiter_raw():
            raw += piece
            read = httpx2.Response(response.status_code, headers=response.headers, content=raw)
            if len(heard(read, dialect, True)) > 60:
                left.set()
    return read


def ended(response: httpx2.Response, dialect: str) -> set[str]:
    """Why the answer ended; `stop` where it says that it is complete."""
    told = trees(response)
    if dialect != "responses":
        return finishes(told)
    over = [tree.get("response", tree) for tree in told][-1]
    return {"stop" if (over["status"], over["error"]) == ("completed", None) else str(over["status"])}


def _numbers(usage: dict[str, Any]) -> list[int]:
    return [value for value in usage.values() if type(value) is int]


@PROSE
async def test_in_mid_stream_the_words_come_behind_what_has_left(stand: Make, dialect: str) -> None:
    async with stand(POLICY.format(stream="{hold_back: 4}")) as s:
        said = "Some honest words, and more of them, and still some more of them. " * 3
        response = await begun(s, dialect, Answer(text=said + "SAD it is.", size=8))
        got = heard(response, dialect, True)
        left, gap, words = got.partition("\n\n")
        assert said.startswith(left)
        assert len(left) > 60
        assert (gap, words.partition(" Ref")[0]) == ("\n\n", "You are not alone.")
        assert "SAD" not in response.text
        assert ended(response, dialect) == {"stop"}


async def test_every_choice_is_replaced_and_usage_comes_where_it_was_asked_for(stand: Make) -> None:
    async with stand(POLICY.format(stream="whole")) as s:
        s.upstream.reply = replies.json(shapes.completion(["One.", "SAD", "Three."], n=3))
        choices = (await s.chat("Hi", n=3)).json()["choices"]
        assert [choice["message"]["content"][:7] for choice in choices] == ["You are"] * 3
        s.upstream.reply = replies.sse(shapes.stream("SAD"))
        events = trees(await s.chat("Hi", stream=True, stream_options={"include_usage": True}))
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["total_tokens"] == 0


@PROSE
@STREAM
async def test_a_block_goes_before_it(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY.format(stream="whole")) as s:
        response = await ask(s, dialect, stream, Send(text="SAD MARK"), Answer())
        assert response.status_code == 400
        response = await ask(s, dialect, stream, Send(), Answer(text="SAD MARK", size=3))
        assert "not alone" not in response.text
        assert [row["status"] for row in await settled(s)] == ["blocked", "blocked"]


async def test_what_holds_no_words_is_refused(stand: Make) -> None:
    async with stand(POLICY.format(stream="whole")) as s:
        response = await s.client.post("/v1/embeddings", json={"model": "m", "input": "SAD"})
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith("You are not alone.")


# Notes

_NOTE = "You are no lawyer."
PLACES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat without a system message": (
        "chat",
        {"messages": [{"role": "user", "content": "law"}]},
        {"messages": [{"role": "system", "content": _NOTE}, {"role": "user", "content": "law"}]},
    ),
    "chat with one": (
        "chat",
        {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "law"}]},
        {"messages": [{"role": "developer", "content": f"Be kind.\n\n{_NOTE}"}, {"role": "user", "content": "law"}]},
    ),
    "chat with one in parts": (
        "chat",
        {"messages": [{"role": "system", "content": [{"type": "text", "text": "law"}]}]},
        {"messages": [{"role": "system", "content": [{"type": "text", "text": t} for t in ("law", _NOTE)]}]},
    ),
    "messages without system": (
        "messages",
        {"max_tokens": 9, "messages": [{"role": "user", "content": "law"}]},
        {"system": _NOTE, "messages": [{"role": "user", "content": "law"}]},
    ),
    "messages with system": (
        "messages",
        {"max_tokens": 9, "system": "Be kind.", "messages": [{"role": "user", "content": "law"}]},
        {"system": f"Be kind.\n\n{_NOTE}"},
    ),
    "messages with blocks": (
        "messages",
        {"system": [{"type": "text", "text": "law", "cache_control": {"type": "ephemeral"}}], "messages": []},
        {
            "system": [
                {"type": "text", "text": "law", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": _NOTE},
            ]
        },
    ),
    "responses with a text": (
        "responses",
        {"instructions": "Be kind.", "input": "law"},
        {
            "instructions": "Be kind.",
            "input": [{"role": "developer", "content": _NOTE}, {"role": "user", "content": "law"}],
        },
    ),
    "responses with items": (
        "responses",
        {"input": [{"role": "user", "content": "law"}]},
        {"input": [{"role": "developer", "content": _NOTE}, {"role": "user", "content": "law"}]},
    ),
    "completions": ("completions", {"prompt": "law"}, {"prompt": f"{_NOTE}\n\nlaw"}),
    "completions of two": ("completions", {"prompt": ["law", ""]}, {"prompt": [f"{_NOTE}\n\nlaw", f"{_NOTE}\n\n"]}),
    "completions of numbers": ("completions", {"prompt": [1, 2], "suffix": "law"}, {"prompt": [1, 2]}),
    "embeddings": ("embeddings", {"input": "law"}, {"input": "law"}),
}


@pytest.mark.parametrize(("dialect", "asked", "sent"), PLACES.values(), ids=PLACES.keys())
async def test_a_note_has_its_place(stand: Make, dialect: str, asked: dict[str, Any], sent: dict[str, Any]) -> None:
    async with stand(NOTE) as s:
        s.upstream.reply = reply(dialect, Answer(text="Well."), False)
        path = {"chat": "chat/completions"}.get(dialect, dialect)
        response = await s.client.post(f"/v1/{path}", json={"model": "m", **asked})
        assert response.status_code == 200, response.text
        got = json.loads(s.upstream.requests[-1].body)
        assert {key: got[key] for key in sent} == sent
        assert got.keys() == {"model", *asked, *sent}
        (row,) = await settled(s)
        assert (row["action"], row["rule"], row["status"]) == ("advise", "no-lawyer", "released")


async def test_notes_add_up_and_the_answer_leaves_as_it_came(stand: Make) -> None:
    async with stand(NOTE) as s:
        s.upstream.reply = replies.json(body := shapes.completion("Well."))
        response = await s.chat("law and code", x=12345678901234567890123)
        got = json.loads(s.upstream.requests[-1].body)
        assert got["messages"][0]["content"] == "You are no lawyer.\n\nNever run as root."
        assert got["x"] == 12345678901234567890123
        assert response.json() == body
        await s.chat("Hi")
        assert len(json.loads(s.upstream.requests[-1].body)["messages"]) == 1
