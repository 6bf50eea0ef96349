"""Embeddings: the input is judged as a prompt is. An answer's vectors are numbers, and numbers say nothing."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from classifiers.base import Role

from ..strict import Malformed
from .base import BadRequest, Body, Refusal, Request, StreamReader, escaped
from .chat_body import ROLES, VOCABULARY, error_of, read_message, says_nothing, trace_of
from .names import BESIDE, unreadable
from .prompts import read_texts

_NUMBERS = frozenset({int, float})


class Embeddings:
    """POST /v1/embeddings. An answer holds no words, so a refusal is always an error; and it is never streamed."""

    name = "embeddings"

    def read_request(self, tree: Any) -> Request:
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        if not isinstance(tree.get("model"), str) or not tree["model"]:
            raise BadRequest("You must provide a model parameter: a string.", "model")
        request = Request(tree=tree, model=tree["model"])
        request.unscannable += unreadable(tree)
        for key, value in tree.items():
            place = "/" + escaped(key)
            if key == "input":
                read_texts(request, value, place)
            elif key == "messages" and isinstance(value, list):
                _read_turns(request, value, place)
            elif not says_nothing(key, value):
                if key not in VOCABULARY:
                    request.add(Role.SETTING, key, place + "#key")
                request.leaves(value, BESIDE.get(key, Role.SETTING), place, VOCABULARY)
        return request

    def read_response(self, tree: Any) -> Body:
        if not isinstance(tree, dict):
            raise Malformed("the answer is not a JSON object")
        body = Body()
        for key, value in tree.items():
            if key == "data" and isinstance(value, list):
                for index, item in enumerate(value):
                    _read_vector(body, item, f"/data/{index}")
            elif not says_nothing(key, value):
                if key not in VOCABULARY:
                    body.add(Role.SETTING, key, f"/{escaped(key)}#key")
                role = Role.ERROR if key == "error" else Role.SETTING
                body.leaves(value, role, "/" + escaped(key), VOCABULARY)
        return body

    def reader(self, request: Request) -> StreamReader:
        raise Malformed("it is a stream, and embeddings are never streamed")

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        return orjson.dumps({"error": error_of(status, code, message, param, decision)})

    def refused(self, refusal: Refusal) -> bytes:
        error = error_of(400, "invalid_prompt", refusal.message, "input")
        return orjson.dumps({"error": {**error, "penstock": trace_of(refusal)}})

    def answered(self, refusal: Refusal, request: Request) -> None:
        return None

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        return self.refused(refusal)


def _read_turns(request: Request, turns: list[Any], origin: str) -> None:
    """A conversation in place of texts, as vLLM takes it."""
    for index, turn in enumerate(turns):
        place = f"{origin}/{index}"
        if isinstance(turn, dict):
            role = turn.get("role")
            read_message(request, turn, ROLES.get(role, Role.USER) if isinstance(role, str) else Role.USER, place)
        else:
            request.leaves(turn, Role.USER, place, VOCABULARY)


def _read_vector(body: Body, item: Any, origin: str) -> None:
    vector = item.get("embedding") if isinstance(item, dict) else None
    if vector is not None and _is_vector(vector):
        item = {key: value for key, value in item.items() if key != "embedding"}
    body.leaves(item, Role.ASSISTANT, origin, VOCABULARY)


def _is_vector(value: Any) -> bool:
    """Whether this is a list of numbers, or the base64 of numbers of four bytes and nothing else."""
    if type(value) is list:
        return _NUMBERS.issuperset(map(type, value))
    if type(value) is not str:
        return False
    try:
        return len(base64.b64decode(value, validate=True)) % 4 == 0
    except (binascii.Error, ValueError):
        return False
