"""OpenAI Responses: requests, answers, streams, refusals (the `responses_*` files hold the reading and the endings).

Only what was judged here is spoken of: a stored response, conversation, item or prompt template is refused, and so is
an answer in the background, for nobody would judge what is fetched later (T13, T14). An operator may open each by its
name; then it is a part that nobody can read, and the policy decides.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from classifiers.base import Role

from ..strict import Malformed
from .base import BadRequest, Body, Refusal, Request, escaped
from .chat_body import error_of, trace_of
from .names import BESIDE, unreadable
from .responses_body import VOCABULARY, check_shape, read_response, read_value
from .responses_ending import refused_response, refused_stream
from .responses_stream import ResponsesReader
from .structured import structured


class Responses:
    """POST /v1/responses."""

    name = "responses"

    def __init__(self, opened: Collection[str] = ()) -> None:
        """`opened` are fields that lead to what was not judged here, and which the operator lets pass."""
        self._opened = frozenset(opened)

    def read_request(self, tree: Any) -> Request:
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        request = Request(tree=tree, stream=tree.get("stream") is True, structured=structured(tree))
        check_shape(request, tree, self._opened)
        request.model = tree.get("model") or ""
        request.unscannable += unreadable(tree)
        for key, value in tree.items():
            place = "/" + escaped(key)
            if key not in VOCABULARY:
                request.add(Role.SETTING, key, place + "#key")
            if key == "input":
                for index, item in enumerate(value if isinstance(value, list) else ()):
                    read_value(request, item, Role.USER, f"{place}/{index}")
                if isinstance(value, str):
                    request.add(Role.USER, value, place)
            else:
                read_value(request, value, _ROLES.get(key) or BESIDE.get(key, Role.SETTING), place, key)
        return request

    def read_response(self, tree: Any) -> Body:
        if not isinstance(tree, dict):
            raise Malformed("the answer is not a JSON object")
        body = Body()
        read_response(body, tree, "", {})
        return body

    def reader(self, request: Request) -> ResponsesReader:
        return ResponsesReader(request)

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        return orjson.dumps({"error": error_of(status, code, message, param, decision)})

    def refused(self, refusal: Refusal) -> bytes:
        error = error_of(400, "invalid_prompt", refusal.message, "input")
        return orjson.dumps({"error": {**error, "penstock": trace_of(refusal)}})

    def answered(self, refusal: Refusal, request: Request) -> bytes:
        return orjson.dumps(refused_response(refusal, request))

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        return refused_stream(refusal, request)


_ROLES = {"instructions": Role.SYSTEM, "tools": Role.TOOL_DEFINITION, "text": Role.TOOL_DEFINITION}
