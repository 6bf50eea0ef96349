"""What is masked in a request has a name for the model, and its value again for the caller, in every dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import httpx2
import pytest

from classifiers.base import Message, Role
from policies.model import Stage
from proxy.batches.records import Recorded
from proxy.dialects.chat import Chat
from tests.conformance.cases import Answer, Send
from tests.conformance.speak import reply, request
from tests.proxy.conftest import Make, Stand
from tests.proxy.test_exchange import trees

POLICY = """
id: names
version: 1
owner: tests
description: Addresses have names for the model.
classifiers:
  mail: {kind: patterns, patterns: {email: {regex: '[a-z"\\\\]{1,20}@x\\.example', ignore_case: false}}}
  words: {kind: patterns, patterns: {ann: {words: [ann]}, mark: {words: [MARK]}}}
rules:
  - id: mail
    description: An address is a name for the model, and an address again for the caller.
    stages: [input, output]
    when: {finding: mail.email, at_least: 0.5}
    action: mask
    mask_with: "<{LABEL}_{n}>"
    restore: true
    stream: {hold_back: 40}
  - id: ann
    description: The answer is judged before anything is put back.
    stages: [output]
    when: {finding: words.ann, at_least: 0.5}
    action: block
    stream: {hold_back: 4}
"""
PROSE = pytest.mark.parametrize("dialect", ["chat", "completions", "messages", "responses"])
CALLS = pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])

READ: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "chat": (
        lambda tree: tree["choices"][0]["message"]["content"],
        lambda tree: tree["choices"][0]["delta"].get("content") if tree["choices"] else "",
    ),
    "completions": (lambda tree: tree["choices"][0]["text"], lambda tree: tree["choices"][0]["text"]),
    "messages": (
        lambda tree: tree["content"][0]["text"],
        lambda tree: tree.get("delta", {}).get("text"),
    ),
    "responses": (
        lambda tree: tree["output"][0]["content"][0]["text"],
        lambda tree: tree["delta"] if tree["type"] == "response.output_text.delta" else "",
    ),
}
"""What an answer says, and what an event adds to it."""
ARGUMENTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "chat": (
        lambda tree: tree["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
        lambda tree: (tree["choices"][0]["delta"].get("tool_calls") or [{"function": {}}])[0]["function"].get(
            "arguments"
        ),
    ),
    "messages": (
        lambda tree: json.dumps(tree["content"][0]["input"]),
        lambda tree: tree.get("delta", {}).get("partial_json"),
    ),
    "responses": (
        lambda tree: tree["output"][0]["arguments"],
        lambda tree: tree["delta"] if tree["type"] == "response.function_call_arguments.delta" else "",
    ),
}


def heard(response: httpx2.Response, dialect: str, stream: bool, where: Any = READ) -> str:
    whole, piece = where[dialect]
    assert response.status_code == 200, response.text
    return "".join((piece if stream else whole)(tree) or "" for tree in trees(response))


async def ask(s: Stand, dialect: str, stream: bool, send: Send, answer: Answer) -> httpx2.Response:
    s.upstream.reply = reply(dialect, answer, stream)
    method, path, body, headers = request(dialect, send, stream)
    return await s.client.request(method, path, content=body, headers=headers)


ASKED = Send(text="Write to ann@x.example and bob@x.example, not ann@x.example.")


@PROSE
@STREAM
async def test_names_for_the_model_and_values_for_the_caller(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY) as s:
        for size in (1, 3, 100) if stream else (4,):
            said = "To <EMAIL_2>, then <EMAIL_1>; <EMAIL_9> and <EMAIL_ 1> are nobody."
            response = await ask(s, dialect, stream, ASKED, Answer(text=said, size=size))
            got = s.upstream.requests[-1].body.decode()
            assert "Write to <EMAIL_1> and <EMAIL_2>, not <EMAIL_1>." in got
            assert "x.example" not in got
            expected = "To bob@x.example, then ann@x.example; <EMAIL_9> and <EMAIL_ 1> are nobody."
            assert heard(response, dialect, stream) == expected, size
            assert b"<EMAIL_1>" not in response.content
        assert {row["action"] for row in await s.rows()} == {"mask"}
        assert "x.example" not in repr(await s.rows())


@CALLS
@STREAM
async def test_values_are_escaped_in_arguments(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY) as s:
        send = Send(text='Write to o"neil@x.example.')
        for part in ("arguments", "escaped arguments"):
            answer = Answer(text="to <EMAIL_1> MY", part=part, size=2)
            response = await ask(s, dialect, stream, send, answer)
            got = json.loads(heard(response, dialect, stream, ARGUMENTS))
            assert list(got.values()) == ['to o"neil@x.example MY']


@PROSE
@STREAM
async def test_what_the_model_says_itself_is_masked(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY) as s:
        answer = Answer(text="Not <EMAIL_1> but eve@x.example, bob@x.example.", size=3)
        response = await ask(s, dialect, stream, ASKED, answer)
        said = heard(response, dialect, stream)
        assert said.startswith("Not ann@x.example but <EMAIL_3")
        assert "eve@" not in response.text
        assert said.endswith(", <EMAIL_2>.")


@PROSE
@STREAM
async def test_names_of_another_conversation_lead_nowhere(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY) as s:
        await ask(s, dialect, stream, ASKED, Answer(text="Well."))
        response = await ask(s, dialect, stream, Send(text="Who is <EMAIL_1>?"), Answer(text="It is <EMAIL_1>."))
        assert heard(response, dialect, stream) == "It is <EMAIL_1>."
        send = Send(text="<EMAIL_1> is not cid@x.example")
        response = await ask(s, dialect, stream, send, Answer(text="<EMAIL_1>, <EMAIL_2>."))
        assert heard(response, dialect, stream) == "<EMAIL_1>, cid@x.example."


async def test_a_value_keeps_its_name_in_later_turns(stand: Make) -> None:
    async with stand(POLICY) as s:
        turns: list[Any] = [{"role": "user", "content": "I am ann@x.example."}]
        for name in ("bob", "cid", "ann"):
            turns += [{"role": "assistant", "content": "Hi ann@x.example, <EMAIL_9>."}]
            turns += [{"role": "user", "content": f"And {name}@x.example?"}]
            await s.chat(*turns)
            sent = [turn["content"] for turn in json.loads(s.upstream.requests[-1].body)["messages"]]
            assert sent[0] == "I am <EMAIL_1>."
            assert sent[1] == "Hi <EMAIL_1>, <EMAIL_9>."
            assert sent[2] == "And <EMAIL_2>?"
        assert sent[4:] == ["And <EMAIL_3>?", "Hi <EMAIL_1>, <EMAIL_9>.", "And <EMAIL_1>?"]


@STREAM
async def test_without_any_rule_for_answers_it_is_put_back_too(stand: Make, stream: bool) -> None:
    policy = POLICY.partition("  - id: ann")[0].replace("[input, output]", "[input]").replace(
        "    stream: {hold_back: 40}\n", ""
    )  # fmt: skip
    async with stand(policy) as s:
        for size in (1, 5, 100):
            answer = Answer(text="To <EMAIL_1>.", size=size)
            response = await ask(s, "chat", stream, ASKED, answer)
            assert heard(response, "chat", stream) == "To ann@x.example."


async def test_rows_of_files_keep_what_is_masked_in_them(stand: Make) -> None:
    """A row's own words must not bring back what is masked beside them."""
    async with stand(POLICY) as s:
        exchange = Recorded(Chat(), s.running.plane.guard, s.running.plane._shared, Mock(), Mock())
        row = [
            Message(Role.ASSISTANT, "eve@x.example, or <EMAIL_1>", "/a"),
            Message(Role.ASSISTANT, "eve@x.example", "/b"),
        ]
        decision = await exchange.decide(Stage.OUTPUT, row)
        assert [mask.replacement for mask in decision.masks] == ["<EMAIL_1>", "<EMAIL_1>"]
        assert exchange.restoring() is None
