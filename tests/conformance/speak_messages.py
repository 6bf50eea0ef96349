"""Anthropic Messages: a request, and an answer whose blocks hold what a part of a chat's answer would."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.conformance.cases import Answer, Case, Send
from tests.upstream import messages

FINISHES = {"end_turn": "stop", "tool_use": "tool_calls", "refusal": "content_filter"}
"""Why an answer ended, in the words that the cases use."""


def applies(case: Case) -> bool:
    """Whether a case written for Chat says nothing that only Chat can say: a path, an upstream's very bytes, or a
    call whose arguments are a text."""
    send, upstream = case.send, case.upstream
    plain = send.path is None and not upstream.literal and upstream.part in {*_BLOCKS, *_AROUND}
    return plain and "arguments" not in repr(send.body) and case.dialects == ["chat"]


def finishes(trees: list[Any]) -> set[str]:
    """Why an answer ended."""
    parts = [part for tree in trees for part in (tree, tree.get("delta")) if isinstance(part, dict)]
    reasons = [str(part["stop_reason"]) for part in parts if part.get("stop_reason")]
    return {FINISHES.get(reason, reason) for reason in reasons}


def body(send: Send, streamed: bool) -> bytes:
    turns = [{"role": "user", "content": send.text}]
    return json.dumps(
        {"model": "claude", "max_tokens": 64, "messages": turns, "stream": streamed, **send.body}
    ).encode()


_SEARCH = {"type": "web_search_tool_result", "tool_use_id": "s"}
_BLOCKS: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "content": lambda text: [messages.text(text)],
    "reasoning": lambda text: [messages.thinking(text), messages.text("Well.")],
    "last choice": lambda text: [messages.text("One."), messages.text("Two."), messages.text(text)],
    "arguments": lambda text: [messages.call(city=text)],
    "escaped arguments": lambda text: [messages.call(city=text)],
    "second call": lambda text: [messages.call(), messages.call(city=text)],
    "two texts": lambda text: [messages.text(text), messages.text("and more")],
    "tool name": lambda text: [messages.call(name=text)],
    "tool id": lambda text: [messages.call(id=text)],
    "unknown key": lambda text: [messages.text("Well.", **{text: None})],
    "unknown field": lambda text: [messages.text("Well.", x_new={"deep": [text]})],
    "annotation": lambda text: [messages.text("Well.", citations=[{"type": "page_location", "cited_text": text}])],
    "transcript": lambda text: [{"type": "x_new", "words": text}],
    "function_call": lambda text: [{**messages.call(city=text), "type": "server_tool_use"}],
    "content list": lambda text: [
        {**_SEARCH, "content": [{"type": "web_search_result", "title": text, "url": "u", "encrypted_content": "x"}]}
    ],
}
_AROUND: dict[str, Callable[[str], dict[str, Any]]] = {
    "model": lambda text: {"model": text},
    "id": lambda text: {"id": text},
    "finish": lambda text: {"stop": text},
    "refusal": lambda text: {"stop_details": {"type": "refusal", "category": None, "explanation": text}},
}


def _said(answer: Answer) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    if answer.part in _BLOCKS:
        return _BLOCKS[answer.part](answer.text), {}
    return [messages.text("Well.")], _AROUND[answer.part](answer.text)


def whole(answer: Answer) -> Any:
    blocks, more = _said(answer)
    return messages.message(*blocks, **more)


def stream(answer: Answer) -> list[bytes]:
    blocks, more = _said(answer)
    escape = "M" if answer.part == "escaped arguments" else ""
    return messages.stream(*blocks, **more, size=answer.size, escape=escape)
