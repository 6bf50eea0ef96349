"""OpenAI Chat Completions: requests, answers, streams, refusals (`chat_body` and `chat_stream` hold the reading)."""

from __future__ import annotations

import time
from typing import Any

import orjson

from classifiers.base import Role

from ..strict import Malformed
from .base import BadRequest, Body, Refusal, Request, escaped
from .chat_body import (
    ROLES,
    USAGE,
    VOCABULARY,
    check_shape,
    error_of,
    finish_of,
    read_choice,
    read_message,
    trace_of,
)
from .chat_stream import ChatReader
from .names import BESIDE, unreadable
from .structured import structured

_DEFINING = frozenset({"tools", "functions", "response_format"})


class Chat:
    """POST /v1/chat/completions."""

    name = "chat"

    def read_request(self, tree: Any) -> Request:
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        check_shape(tree)
        options = tree.get("stream_options")
        request = Request(
            tree=tree,
            model=tree["model"],
            stream=tree.get("stream") is True,
            structured=structured(tree),
            usage_wanted=isinstance(options, dict) and options.get("include_usage") is True,
            choices=tree.get("n") or 1,
        )
        request.unscannable += unreadable(tree)
        for key, value in tree.items():
            if key == "messages":
                for index, message in enumerate(value):
                    role = ROLES.get(message.get("role"), Role.USER)
                    read_message(request, message, role, f"/messages/{index}")
            elif key == "prediction" and isinstance(value, dict):
                read_message(request, value, Role.SETTING, "/prediction")
            elif key in VOCABULARY:
                role = Role.TOOL_DEFINITION if key in _DEFINING else BESIDE.get(key, Role.SETTING)
                request.leaf(value, role, "", key, VOCABULARY)
            else:
                place = "/" + escaped(key)
                request.add(Role.SETTING, key, place + "#key")
                request.leaves(value, BESIDE.get(key, Role.SETTING), place, VOCABULARY)
        return request

    def read_response(self, tree: Any) -> Body:
        if not isinstance(tree, dict):
            raise Malformed("the answer is not a JSON object")
        body = Body()
        for key, value in tree.items():
            if key == "choices" and isinstance(value, list):
                for index, choice in enumerate(value):
                    read_choice(body, choice, f"/choices/{index}")
            elif key in VOCABULARY:
                body.leaf(value, Role.ERROR if key == "error" else Role.SETTING, "", key, VOCABULARY)
            else:
                place = "/" + escaped(key)
                body.add(Role.SETTING, key, place + "#key")
                body.leaves(value, Role.SETTING, place, VOCABULARY)
        return body

    def reader(self, request: Request) -> ChatReader:
        return ChatReader(request)

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        return orjson.dumps({"error": error_of(status, code, message, param, decision)})

    def refused(self, refusal: Refusal) -> bytes:
        error = error_of(400, "invalid_prompt", refusal.message, refusal.param)
        return orjson.dumps({"error": {**error, "penstock": trace_of(refusal)}})

    def answered(self, refusal: Refusal, request: Request) -> bytes:
        message = {"role": "assistant", "content": refusal.message, "refusal": None}
        return orjson.dumps(
            {
                "id": f"chatcmpl-{refusal.decision}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": request.model,
                "choices": [
                    {"index": index, "message": message, "logprobs": None, "finish_reason": finish_of(refusal)}
                    for index in range(request.choices)
                ],
                "usage": refusal.cost(*USAGE),
                "penstock": trace_of(refusal),
            }
        )

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        return ChatReader(request).ending(refusal)
