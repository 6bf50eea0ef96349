"""What policies may ask of a request beside its texts, read from each API's own words, and acted on over sockets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from classifiers.base import Message, Role
from policies.facts import Account, Api, Call, Facts, Settings, Turn
from proxy.app import DIALECTS, SERVED
from proxy.dialects.base import Request
from proxy.facts import calls_in, calls_of, facts_of
from tests.upstream import messages, replies, responses, shapes

from .conftest import Make

ACCOUNT = Account("acme")
ASKED = "x"
SYSTEM, USER, SAID, THOUGHT = (Turn(role) for role in (Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.REASONING))
CALLED, ANSWERED = Turn(Role.TOOL_CALL, "read"), Turn(Role.TOOL_RESULT, "read")


def facts(tree: dict[str, Any], **more: Any) -> Facts:
    request = Request([Message(Role.USER, ASKED, "/m")], tree=tree, model="big", **more)
    return facts_of(request, "chat", ACCOUNT, lambda value: value.encode().hex())


SETTINGS: list[tuple[dict[str, Any], Settings]] = [
    ({}, Settings()),
    ({"reasoning_effort": "high", "max_completion_tokens": 9}, Settings("high", max_tokens=9)),
    ({"reasoning": {"effort": "low"}, "max_output_tokens": 8}, Settings("low", max_tokens=8)),
    ({"output_config": {"effort": "max"}, "max_tokens": 7}, Settings("max", max_tokens=7)),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, Settings("thinking")),
    ({"thinking": {"type": "disabled"}}, Settings()),
    ({"temperature": 0}, Settings(temperature=0.0)),
    ({"temperature": True, "max_tokens": "x", "reasoning": [], "thinking": 3, "reasoning_effort": None}, Settings()),
]


@pytest.mark.parametrize(("tree", "settings"), SETTINGS)
def test_settings(tree: dict[str, Any], settings: Settings) -> None:
    assert facts(tree).settings == settings
    assert facts(tree, stream=True, choices=3).settings.n == 3
    assert facts(tree, stream=True).settings.stream


TOOLS = [
    {"type": "function", "function": {"name": "a"}},
    {"type": "function", "name": "b"},
    {"name": "c", "input_schema": {}},
    {"type": "custom", "custom": {"name": "d"}},
    {"type": "mcp", "server_label": "e"},
    {"type": "web_search"},
    {"type": "web_search_preview"},
    {"type": "computer_use_preview"},
    {"type": 7},
    "x",
]


def test_tools_on_offer() -> None:
    assert facts({"tools": TOOLS, "functions": [{"name": "f"}]}).tools == (
        *("a", "b", "c", "d", "e", "mcp", "web_search", "web_search", "computer", "f"),
    )
    assert facts({"mcp_servers": [{"type": "url", "name": "x"}]}).tools == ("mcp",)
    assert facts({"tools": {"a": 1}}).tools == ()


CALL = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
LEGACY = {"name": "read", "arguments": ""}
USED = {"type": "tool_use", "id": "t", "name": "read"}
TURNS: list[tuple[dict[str, Any], list[Turn]]] = [
    ({"messages": [{"role": "developer"}, {"role": "user", "content": "x"}]}, [SYSTEM, USER]),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1"}]},
        [SAID, CALLED, ANSWERED],
    ),
    (
        {
            "messages": [
                {"role": "assistant", "function_call": LEGACY},
                {"role": "function", "name": "read"},
            ]
        },
        [SAID, CALLED, ANSWERED],
    ),
    ({"messages": [{"role": "tool", "tool_call_id": "lost"}]}, [Turn(Role.TOOL_RESULT)]),
    (
        {
            "system": "s",
            "messages": [
                {
                    "role": "assistant",
                    "content": [{"type": "thinking"}, USED],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}, {"type": "text"}]},
            ],
        },
        [SYSTEM, THOUGHT, CALLED, USER, ANSWERED],
    ),
    (
        {
            "instructions": "s",
            "input": [
                {"role": "user", "content": "x"},
                {"type": "reasoning"},
                {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "y"},
                {"type": "web_search_call", "id": "w"},
            ],
        },
        [SYSTEM, USER, THOUGHT, CALLED, ANSWERED, Turn(Role.TOOL_CALL, "web_search")],
    ),
    ({"input": "x"}, [USER]),
    ({"prompt": "x"}, [USER]),
    ({"messages": [None, "x", {"role": 3}, {"role": "user", "content": [None, 5]}], "input": {"a": 1}}, [USER]),
]


@pytest.mark.parametrize(("tree", "turns"), TURNS)
def test_the_conversation(tree: dict[str, Any], turns: list[Turn]) -> None:
    assert list(facts(tree).turns) == turns


def test_a_conversation_has_one_lot_and_another_has_another() -> None:
    first = facts({}).lot
    assert first == facts({"temperature": 0.1}).lot
    other = Request([Message(Role.USER, "y", "/m")], tree={})
    assert first != facts_of(other, "chat", ACCOUNT, lambda value: value.encode().hex()).lot


ARGUMENTS: dict[str, Any] = {"to": "bob", "amount": 500}
SPELLED = orjson.dumps(ARGUMENTS).decode()
ANSWERS: dict[str, tuple[Any, list[bytes]]] = {
    "/v1/chat/completions": (
        shapes.completion(None, tool_calls=[shapes.ToolCall("pay", SPELLED)]),
        shapes.stream(None, tool_calls=[shapes.ToolCall("pay", SPELLED)]),
    ),
    "/v1/messages": (
        messages.message(messages.call("pay", **ARGUMENTS)),
        messages.stream(messages.call("pay", **ARGUMENTS)),
    ),
    "/v1/responses": (
        responses.response(responses.call(name="pay", arguments=SPELLED)),
        responses.stream(responses.call(name="pay", arguments=SPELLED)),
    ),
}


def test_calls_of_an_answer_in_one_piece() -> None:
    for whole, _ in ANSWERS.values():
        assert calls_of(whole) == (Call("pay", ARGUMENTS),)
    assert calls_of([{"type": "web_search_call", "action": {"query": "x"}}, 5, None]) == (
        Call("web_search", {"action": {"query": "x"}}),
    )
    assert calls_of({"function_call": {"name": "pay", "arguments": "{"}}) == (Call("pay", None),)


def test_calls_in_a_stream_whose_arguments_are_no_json() -> None:
    said = [Message(Role.TOOL_CALL, text, origin) for origin, text in (("/c/0/name", "pay"), ("/c/0/arguments", "{"))]
    assert calls_in(said) == (Call("pay", None),)
    assert calls_in([Message(Role.TOOL_CALL, "pay", "/c/1/name")]) == (Call("pay", None),)


def test_arguments_that_come_again_alone_are_no_other_call() -> None:
    """As `response.function_call_arguments.done` has them. Others that come alone are a call that nobody named."""
    named = [Message(Role.TOOL_CALL, text, f"/e/1/item/{key}") for key, text in (("name", "pay"), ("arguments", "{}"))]
    for alone, unnamed in (("{}", ()), ('{"a": 1}', (Call("", {"a": 1}),))):
        found = calls_in([*named, Message(Role.TOOL_CALL, alone, "/e/2/arguments")])
        assert set(map(repr, found)) == set(map(repr, (Call("pay", {}), *unnamed)))


POLICY = """
id: test
version: 1
owner: tests
description: Facts.
rules:
  - id: pays-much
    description: A tool may pay a hundred at most.
    stages: [output]
    roles: [tool_call]
    when: calls.exists(c, c.name == "pay" && c.arguments.amount > LIMIT)
    action: block
    stream: {hold_back: 1}
"""


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limit", [100, 1000])
async def test_a_rule_about_arguments_holds_for_every_api(stand: Make, path: str, stream: bool, limit: int) -> None:
    whole, events = ANSWERS[path]
    body = {"model": "m", "max_tokens": 5, "stream": stream}
    body |= {"input": "x"} if "responses" in path else {"messages": [{"role": "user", "content": "x"}]}
    async with stand(policy=POLICY.replace("LIMIT", str(limit))) as s:
        s.upstream.reply = replies.sse(events) if stream else replies.json(whole)
        answer = await s.client.post(path, json=body)
        rows = await s.rows()
    assert ('"pay"' in answer.text) is (limit == 1000), answer.text
    decided = rows[0].outcome or {}
    assert decided["rule"] == ("pays-much" if limit == 100 else None)
    assert decided["status"] == ("blocked" if limit == 100 else "released")


CHOSEN = """
id: test
version: 1
owner: tests
description: Facts.
classifiers:
  canary: {kind: canary, inline: true}
rules:
  - id: not-granted
    description: Needs a grant.
    stages: [input]
    when: score("canary.mark") >= 0.5 && !account.grants.exists(g, g == "marks") && request.settings.effort != "low"
    action: block
"""


async def test_settings_and_grants_decide(stand: Make) -> None:
    keys = {"plain": {}, "granted": {"grants": {"marks": None}}}
    async with stand(policy=CHOSEN, keys=keys) as s:

        async def status(key: str, **more: Any) -> int:
            body = {"model": "m", "messages": [{"role": "user", "content": "a MARK"}], **more}
            head = {"authorization": f"Bearer {s.keys[key]}"}
            return (await s.client.post("/v1/chat/completions", json=body, headers=head)).status_code

        assert await status("plain") == 400
        assert await status("plain", reasoning_effort="low") == 200
        assert await status("granted") == 200


def test_every_served_api_has_a_name_that_policies_know() -> None:
    assert {dialect.name for _, dialect in (*DIALECTS, *SERVED)} == {api.value for api in Api}


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_pack_for_agents_knows_what_was_offered(stand: Make, path: str, stream: bool) -> None:
    """In each API's words, and where Codex offers its tools: in namespaces, and in the conversation."""
    whole, events = ANSWERS[path]
    plain = {"type": "function", "name": "pay", "input_schema": {}}
    tool = {"type": "function", "function": {"name": "pay"}} if "chat" in path else plain
    offers: list[tuple[dict[str, Any], int]] = [
        ({"tools": [tool]}, 200),
        ({"tools": [{**plain, "name": "other"}]}, 400),
    ]
    body = {"model": "m", "max_tokens": 5, "stream": stream}
    asked: list[Any] = [{"role": "user", "content": "x"}]
    body["input" if "responses" in path else "messages"] = asked
    if "responses" in path:
        space = {"type": "namespace", "name": "functions", "description": "x", "tools": [plain]}
        given = {"type": "additional_tools", "role": "developer", "tools": [space]}
        offers += [({"tools": [space]}, 200), ({"input": [given, *asked]}, 200)]
    async with stand(settings={"policy": "agents"}) as s:
        s.upstream.reply = replies.sse(events) if stream else replies.json(whole)
        for more, status in offers:
            answer = await s.client.post(path, json=body | more)
            assert ("blocked by policy" in answer.text) is (status == 400), more
