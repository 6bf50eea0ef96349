"""A policy's own cases said in the words of each API: what the heartbeat sends through the guard, and never upstream.

A case that an API has no words for (a tool's result in an embedding, say) gives no body there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from classifiers.base import Role
from policies.model import Case, Stage

Said = Sequence[tuple[Role, str]]
"""What is said, and by whom."""

MODEL = "penstock-heartbeat"
_CALL = "call_heartbeat"
_TURNS = {Role.SYSTEM: "system", Role.USER: "user", Role.ASSISTANT: "assistant"}


def said(case: Case) -> Said:
    """The messages of a case."""
    if case.messages is not None:
        return [(message.role, message.text) for message in case.messages]
    return [(Role.USER if case.stage is Stage.INPUT else Role.ASSISTANT, case.text or "")]


def request(dialect: str, said: Said) -> bytes | None:
    """The body of a request, or None where this API cannot say it."""
    return _written(_WAYS[dialect].request, said)


def response(dialect: str, said: Said) -> bytes | None:
    """The body of an answer, or None where this API cannot say it."""
    return _written(_WAYS[dialect].response, said)


class _Unsayable(Exception):
    """This API has no words for that role."""


def _written(make: Callable[[Said], Any] | None, said: Said) -> bytes | None:
    if make is None:
        return None
    try:
        return orjson.dumps(make(said))
    except _Unsayable:
        return None


def _turn(role: Role) -> str:
    try:
        return _TURNS[role]
    except KeyError:
        raise _Unsayable from None


def _only(said: Said, role: Role) -> str:
    if len(said) != 1 or said[0][0] is not role:
        raise _Unsayable
    return said[0][1]


# OpenAI Chat Completions


def _chat_request(said: Said) -> Any:
    turns = [
        {"role": "tool", "tool_call_id": _CALL, "content": text}
        if role is Role.TOOL_RESULT
        else {"role": _turn(role), "content": text}
        for role, text in said
    ]
    return {"model": MODEL, "messages": turns}


def _chat_response(said: Said) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for role, text in said:
        if role is Role.ASSISTANT and message["content"] is None:
            message["content"] = text
        elif role is Role.TOOL_CALL:
            call = {"id": _CALL, "type": "function", "function": {"name": "probe", "arguments": text}}
            message.setdefault("tool_calls", []).append(call)
        else:
            raise _Unsayable
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": MODEL, "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}


# OpenAI Responses


def _responses_request(said: Said) -> Any:
    items = [
        {"type": "function_call_output", "call_id": _CALL, "output": text}
        if role is Role.TOOL_RESULT
        else {"role": _turn(role), "content": text}
        for role, text in said
    ]
    return {"model": MODEL, "input": items}


def _responses_response(said: Said) -> Any:
    items: list[dict[str, Any]] = []
    for role, text in said:
        if role is Role.ASSISTANT:
            content = [{"type": "output_text", "text": text, "annotations": []}]
            items.append(
                {"id": MODEL, "type": "message", "role": "assistant", "status": "completed", "content": content}
            )
        elif role is Role.TOOL_CALL:
            items.append({"id": MODEL, "type": "function_call", "call_id": _CALL, "name": "probe", "arguments": text})
        else:
            raise _Unsayable
    return {"id": MODEL, "object": "response", "status": "completed", "model": MODEL, "output": items}


# Anthropic Messages


def _messages_request(said: Said) -> Any:
    tree: dict[str, Any] = {"model": MODEL, "max_tokens": 1, "messages": []}
    for role, text in said:
        if role is Role.SYSTEM:
            tree["system"] = f"{tree['system']}\n{text}" if "system" in tree else text
        elif role is Role.TOOL_RESULT:
            block = {"type": "tool_result", "tool_use_id": _CALL, "content": text}
            tree["messages"].append({"role": "user", "content": [block]})
        else:
            tree["messages"].append({"role": _turn(role), "content": text})
    return tree


def _messages_response(said: Said) -> Any:
    content: list[dict[str, Any]] = []
    for role, text in said:
        if role is not Role.ASSISTANT:
            raise _Unsayable  # a tool's arguments are an object here, not any text
        content.append({"type": "text", "text": text})
    more = {"stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0}}
    return {"id": MODEL, "type": "message", "role": "assistant", "model": MODEL, "content": content, **more}


# One text and nothing else


def _completions_response(said: Said) -> Any:
    choice = {"index": 0, "text": _only(said, Role.ASSISTANT), "finish_reason": "stop", "logprobs": None}
    return {"id": MODEL, "object": "text_completion", "created": 0, "model": MODEL, "choices": [choice]}


class _Ways(NamedTuple):
    request: Callable[[Said], Any]
    response: Callable[[Said], Any] | None = None


_WAYS = {
    "chat": _Ways(_chat_request, _chat_response),
    "responses": _Ways(_responses_request, _responses_response),
    "messages": _Ways(_messages_request, _messages_response),
    "count_tokens": _Ways(_messages_request),
    "completions": _Ways(lambda said: {"model": MODEL, "prompt": _only(said, Role.USER)}, _completions_response),
    "embeddings": _Ways(lambda said: {"model": MODEL, "input": _only(said, Role.USER)}),
    "moderations": _Ways(lambda said: {"model": MODEL, "input": _only(said, Role.USER)}),
}
"""By the names of the dialects."""
