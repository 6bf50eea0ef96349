"""Anthropic Messages: requests, answers, streams, refusals (`messages_body` and `messages_stream` hold the reading)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from classifiers.base import Role

from ..strict import Malformed
from .base import BadRequest, Body, Refusal, Request, escaped
from .messages_body import (
    ROLES,
    STORED,
    Unthreaded,
    check_shape,
    error_of,
    goes_on,
    read_content,
    read_field,
    read_message,
    refused_message,
    says_nothing,
    trace_of,
)
from .messages_stream import MessagesReader
from .names import BESIDE, unreadable
from .structured import structured

_DEFINITIONS = frozenset({"tools", "output_format", "output_config"})


class Messages:
    """POST /v1/messages."""

    name = "messages"

    def __init__(self, opened: Collection[str] = ()) -> None:
        """`opened` are fields that lead to what was not judged here, and which the operator lets pass."""
        self._opened = frozenset(opened)

    def read_request(self, tree: Any) -> Request:
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        check_shape(tree)
        stream = tree.get("stream") is True
        request = Request(tree=tree, model=tree["model"], stream=stream, structured=structured(tree))
        if goes_on(tree):
            if "thread" not in self._opened:
                raise Unthreaded(f"thread: {STORED}", "thread")
            request.unscannable.append(("/thread", "stored"))
        request.unscannable += unreadable(tree)
        for key, value in tree.items():
            place = "/" + escaped(key)
            if key == "messages":
                for index, message in enumerate(value):
                    read_message(request, message, ROLES.get(message.get("role"), Role.USER), f"/messages/{index}")
            elif key == "system":
                read_content(request, value, Role.SYSTEM, place)
            else:
                role = Role.TOOL_DEFINITION if key in _DEFINITIONS else BESIDE.get(key, Role.SETTING)
                read_field(request, key, value, role, place)
        return request

    def read_response(self, tree: Any) -> Body:
        if not isinstance(tree, dict):
            raise Malformed("the answer is not a JSON object")
        body = Body()
        for key, value in tree.items():
            place = "/" + escaped(key)
            if key == "content":
                read_content(body, value, Role.ASSISTANT, place)
            elif not says_nothing(key, value):
                read_field(body, key, value, _ANSWER_ROLES.get(key, Role.SETTING), place)
        return body

    def reader(self, request: Request) -> MessagesReader:
        return MessagesReader(request)

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        return orjson.dumps(
            {"type": "error", "error": error_of(status, code, message, decision), "request_id": decision or None}
        )

    def refused(self, refusal: Refusal) -> bytes:
        error = {**error_of(400, "invalid_prompt", refusal.message), "penstock": trace_of(refusal)}
        return orjson.dumps({"type": "error", "error": error, "request_id": refusal.decision})

    def answered(self, refusal: Refusal, request: Request) -> bytes | None:
        return orjson.dumps(refused_message(refusal, request.model))

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        return MessagesReader(request).ending(refusal)


_ANSWER_ROLES = {"error": Role.ERROR, "stop_details": Role.REFUSAL}


class CountTokens(Messages):
    """POST /v1/messages/count_tokens: the same request, and an answer that holds a number and no words."""

    name = "count_tokens"

    def read_request(self, tree: Any) -> Request:
        request = super().read_request(tree)
        request.stream = False
        return request

    def answered(self, refusal: Refusal, request: Request) -> bytes | None:
        return None
