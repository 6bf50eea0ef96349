"""JSON that is masked, or that a value is put back into, is JSON afterwards: in requests, in whole answers, and in
streams where it is known to be JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from classifiers.base import Report
from policies.engine import Action, Stage, decide
from policies.load import load
from proxy.changes import masked
from proxy.dialects.chat import Chat
from tests.conformance.cases import Answer, Send
from tests.proxy.conftest import Make
from tests.proxy.test_restoring import ARGUMENTS, CALLS, PROSE, STREAM, ask, heard
from tests.upstream import replies, shapes

POLICY = r"""
id: names
version: 1
owner: tests
description: Paths have names for the model, and numbers of cards are for nobody.
classifiers:
  words:
    kind: patterns
    patterns:
      path: {regex: 'C:\\{1,2}[a-z"]{1,9}\\{1,2}[a-z"]{1,9}', ignore_case: false}
      card: {regex: '411[0-9]{13}', ignore_case: false}
rules:
  - id: paths
    description: A path is a name for the model, and a path again for the caller.
    stages: [input, output]
    when: {finding: words.path, at_least: 0.5}
    action: mask
    mask_with: "<PATH_{n}>"
    restore: true
    stream: {hold_back: 40}
  - id: cards
    description: Numbers of cards are masked.
    stages: [input, output]
    when: {finding: words.card, at_least: 0.5}
    action: mask
    mask_with: '"card"'
    stream: {hold_back: 40}
"""
VALUE = r"C:\temp\new"
ASKED = Send(text=f"Read {VALUE} please.")
STRUCTURED: dict[str, dict[str, Any]] = {
    "chat": {"response_format": {"type": "json_object"}},
    "completions": {"guided_json": {"type": "object"}},
    "messages": {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    "responses": {"text": {"format": {"type": "json_object"}}},
}
SAID = {
    "read": {"path": "<PATH_1>", "then": ["<PATH_1>, <PATH_1>", "<PATH_9>"], "n": 12.5, "ok": True},
    "card": 4111111111111111,
    "text": 'pay 4111111111111111 "now"\n',
    "cards": [4111111111111112, -1, None],
    "end": "x" * 90,
}
HEARD = {
    "read": {"path": VALUE, "then": [f"{VALUE}, {VALUE}", "<PATH_9>"], "n": 12.5, "ok": True},
    "card": '"card"',
    "text": 'pay "card" "now"\n',
    "cards": ['"card"', -1, None],
    "end": "x" * 90,
}


@PROSE
@STREAM
async def test_an_answer_that_is_json(stand: Make, dialect: str, stream: bool) -> None:
    """Demanded, it is known to be JSON from its beginning on; in one piece it is whoever demanded it or nobody."""
    async with stand(POLICY) as s:
        for indent in (None, 2):
            for size in (1, 7, 1000) if stream else (4,):
                for body in (STRUCTURED[dialect], {}) if not stream else (STRUCTURED[dialect],):
                    answer = Answer(text=json.dumps(SAID, indent=indent), size=size)
                    response = await ask(s, dialect, stream, ASKED.model_copy(update={"body": body}), answer)
                    got = heard(response, dialect, stream)
                    assert got == json.dumps(HEARD, indent=indent), (indent, size, body)
                    assert b"4111111111" not in response.content


@CALLS
@STREAM
async def test_what_a_tool_is_called_with(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY) as s:
        answer = Answer(text="open <PATH_1> and 4111111111111111", part="arguments", size=3)
        response = await ask(s, dialect, stream, ASKED, answer)
        (got,) = json.loads(heard(response, dialect, stream, ARGUMENTS)).values()
        assert got == f'open {VALUE} and "card"'


@STREAM
async def test_a_number_that_a_tool_is_called_with(stand: Make, stream: bool) -> None:
    async with stand(POLICY) as s:
        calls = [shapes.ToolCall(arguments='{"card": 4111111111111111, "path": "<PATH_1>"}')]
        whole, events = shapes.completion(None, tool_calls=calls), shapes.stream(None, tool_calls=calls)
        s.upstream.reply = replies.sse(events) if stream else replies.json(whole)
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": VALUE}]}
        response = await s.client.post("/v1/chat/completions", json=body)
        got = json.loads(heard(response, "chat", stream, ARGUMENTS))
        assert got == {"card": '"card"', "path": VALUE}


async def test_a_stream_that_waits_for_its_end_is_json_for_whoever_asked(stand: Make) -> None:
    async with stand(POLICY.replace("{hold_back: 40}", "whole")) as s:
        answer = Answer(text=json.dumps(SAID), size=5)
        assert json.loads(heard(await ask(s, "chat", True, ASKED, answer), "chat", True)) == HEARD


async def test_prose_in_a_stream_that_should_be_json(stand: Make) -> None:
    """And JSON that goes on in words: what is no JSON gets values as they are."""
    async with stand(POLICY) as s:
        send = ASKED.model_copy(update={"body": STRUCTURED["chat"]})
        for said in ('I read "<PATH_1>" for you, and it is empty.', '[1] "<PATH_1>" is empty, as it was before.'):
            response = await ask(s, "chat", True, send, Answer(text=said, size=3))
            assert heard(response, "chat", True) == said.replace("<PATH_1>", VALUE)


async def test_what_is_asked_in_json(stand: Make) -> None:
    """The model gets JSON, too, and a value in it has the name that it has in words and in free input of a tool."""
    async with stand(POLICY) as s:
        given = json.dumps({"open": VALUE, "card": 4111111111111111})
        items: list[Any] = [
            {"role": "user", "content": f"Not {VALUE}, but"},
            {"role": "user", "content": given},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"card": 4111111111111111}'},
            {"type": "custom_tool_call", "call_id": "b", "name": "sh", "input": f"type {VALUE}"},
            {"type": "custom_tool_call_output", "call_id": "b", "output": given},
        ]
        s.upstream.reply = replies.json({})
        await s.client.post("/v1/responses", json={"model": "m", "input": items})
        sent = json.loads(s.upstream.requests[-1].body)["input"]
        assert sent[0]["content"] == "Not <PATH_1>, but"
        assert sent[3]["input"] == "type <PATH_1>"
        assert json.loads(sent[2]["arguments"]) == {"card": '"card"'}
        for text in (sent[1]["content"], sent[4]["output"]):
            assert json.loads(text) == {"open": "<PATH_1>", "card": '"card"'}


@pytest.mark.parametrize(
    "text", ['{"name": "Ann", "card": 4111111111111111}', '[4111111111111111, "4111111111111111"]']
)
def test_the_privacy_pack(text: str) -> None:
    policies = load("privacy")
    whole = shapes.completion(text)
    body = Chat().read_response(whole)
    found = [replace(each, classifier="pii") for each in policies.classifiers["pii"].classify(body.messages)]
    decision = decide(policies, Stage.OUTPUT, body.messages, Report(tuple(found)))
    assert decision.action is Action.MASK
    said = json.loads(masked(json.dumps(whole).encode(), body, decision))["choices"][0]["message"]["content"]
    assert "4111" not in said
    assert "[CARD]" in str(json.loads(said))
