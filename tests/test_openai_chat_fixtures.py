"""What the fixtures say of themselves is what the official client reads from them: they are a fair yardstick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.upstream import Upstream, replies

openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")

FOLDER = Path(__file__).parent / "fixtures" / "openai_chat"
CASES: list[dict[str, Any]] = YAML(typ="safe", pure=True).load((FOLDER / "cases.yaml").read_text("utf-8"))
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}


def spoken(message: Any, finish: str | None) -> dict[str, Any]:
    """One whole choice in the words of cases.yaml."""
    said: dict[str, Any] = {"content": message.content, "finish_reason": finish}
    said["refusal"] = message.refusal
    said["reasoning"] = (message.model_extra or {}).get("reasoning_content")
    calls = [call.function for call in message.tool_calls or ()]
    said["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in calls]
    old = message.function_call
    said["function_call"] = old and {"name": old.name, "arguments": old.arguments}
    return {key: value for key, value in said.items() if value or key in ("content", "finish_reason")}


def add(choices: list[dict[str, Any]], choice: Any) -> None:
    """One chunk's choice onto what came before."""
    while len(choices) <= choice.index:
        choices.append({"content": "", "refusal": "", "reasoning": "", "tool_calls": [], "finish_reason": None})
    said, delta = choices[choice.index], choice.delta
    said["content"] += delta.content or ""
    said["refusal"] += delta.refusal or ""
    said["reasoning"] += (delta.model_extra or {}).get("reasoning_content") or ""
    for call in delta.tool_calls or ():
        if call.id:
            said["tool_calls"].append({"name": call.function.name, "arguments": ""})
        said["tool_calls"][call.index]["arguments"] += call.function.arguments
    said["finish_reason"] = choice.finish_reason or said["finish_reason"]


def plain(choice: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty: a stream cannot tell null from no text."""
    return {key: value for key, value in choice.items() if value}


def cases(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["file"]) for case in CASES if case["file"].startswith(kind)]


def test_every_fixture_is_in_the_table() -> None:
    files = {
        path.relative_to(FOLDER).as_posix() for kind in ("completions", "streams") for path in (FOLDER / kind).iterdir()
    }
    assert files == {case["file"] for case in CASES}


@pytest.mark.parametrize("case", cases("completions"))
async def test_completions(case: dict[str, Any]) -> None:
    body = (FOLDER / case["file"]).read_bytes()
    async with Upstream(replies.json(body)) as up, openai.AsyncOpenAI(base_url=up.url, api_key="sk") as client:
        answer = await client.chat.completions.create(**ASK)
    assert [spoken(choice.message, choice.finish_reason) for choice in answer.choices] == case["choices"]


@pytest.mark.parametrize("case", cases("streams"))
async def test_streams(case: dict[str, Any]) -> None:
    choices: list[dict[str, Any]] = []
    tokens = failure = None
    data = (FOLDER / case["file"]).read_bytes()
    async with Upstream(replies.sse([data])) as up, openai.AsyncOpenAI(base_url=up.url, api_key="sk") as client:
        try:
            async for chunk in await client.chat.completions.create(**ASK, stream=True):
                for choice in chunk.choices:
                    add(choices, choice)
                tokens = chunk.usage.total_tokens if chunk.usage else tokens
        except openai.APIError as error:
            failure = str(error)
    assert failure == case.get("error")
    if case["choices"] is None:
        assert choices[0]["finish_reason"] is None
    else:
        assert [plain(choice) for choice in choices] == [plain(choice) for choice in case["choices"]]
    assert tokens == case.get("usage")
