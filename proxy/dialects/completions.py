"""Legacy Completions: a prompt is continued, nobody takes turns. What it shares with Chat Completions is Chat's."""

from __future__ import annotations

import time
from typing import Any

import orjson

from classifiers.base import Role

from ..sse import framed
from ..strict import Malformed
from .base import BadRequest, Body, Kind, Piece, Refusal, Request, escaped
from .chat_body import USAGE, VOCABULARY, error_of, finish_of, read_choice, says_nothing, trace_of
from .chat_stream import ChatReader
from .names import BESIDE, unreadable
from .prompts import MOST, read_texts
from .structured import structured

_LEGACY = frozenset({"tokens", "token_logprobs", "top_logprobs", "text_offset"})


class Completions:
    """POST /v1/completions."""

    name = "completions"

    def read_request(self, tree: Any) -> Request:
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        _check_shape(tree)
        options = tree.get("stream_options")
        request = Request(
            tree=tree,
            model=tree["model"],
            stream=tree.get("stream") is True,
            structured=structured(tree),
            usage_wanted=isinstance(options, dict) and options.get("include_usage") is True,
        )
        request.unscannable += unreadable(tree)
        for key, value in tree.items():
            place = "/" + escaped(key)
            if key == "prompt":
                request.choices = read_texts(request, value, place) * (tree.get("n") or 1)
                continue
            if says_nothing(key, value):
                continue
            if key not in VOCABULARY:
                request.add(Role.SETTING, key, place + "#key")
            request.leaves(value, BESIDE.get(key, Role.SETTING), place, VOCABULARY)
        if request.choices > MOST:
            raise BadRequest(f"This asks for {request.choices} answers: ask for {MOST} at most.", "n")
        return request

    def read_response(self, tree: Any) -> Body:
        if not isinstance(tree, dict):
            raise Malformed("the answer is not a JSON object")
        body = Body()
        for key, value in tree.items():
            if says_nothing(key, value):
                continue
            place = "/" + escaped(key)
            if key == "choices" and isinstance(value, list):
                for index, choice in enumerate(value):
                    _read_choice(body, choice, f"{place}/{index}")
                continue
            if key not in VOCABULARY:
                body.add(Role.SETTING, key, place + "#key")
            body.leaves(value, Role.ERROR if key == "error" else Role.SETTING, place, VOCABULARY)
        return body

    def reader(self, request: Request) -> CompletionsReader:
        return CompletionsReader(request)

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        return orjson.dumps({"error": error_of(status, code, message, param, decision)})

    def refused(self, refusal: Refusal) -> bytes:
        error = error_of(400, "invalid_prompt", refusal.message, "prompt")
        return orjson.dumps({"error": {**error, "penstock": trace_of(refusal)}})

    def answered(self, refusal: Refusal, request: Request) -> bytes:
        counts = refusal.cost(*USAGE)
        choices = [_made(index, refusal.message, finish_of(refusal)) for index in range(request.choices)]
        return orjson.dumps({**_head(refusal, request), "choices": choices, "usage": counts, **_trace(refusal)})

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        return CompletionsReader(request).ending(refusal)


class CompletionsReader(ChatReader):
    """One stream of text_completion events: as Chat's, but each choice holds its text itself."""

    def ending(self, refusal: Refusal) -> bytes:
        started = self._head is not None
        head = self._head or _head(refusal, self._request)
        usage = {"usage": None} if self._request.usage_wanted else {}
        words = "\n\n" + refusal.message if started else refusal.message
        if started and self._request.structured and not refusal.complete:
            words = ""  # JSON that has begun must not go on in words
        out: list[bytes] = []
        for index in sorted({*range(self._request.choices), *(self._open if started else ())} - self._told) or [0]:
            chunk = {**head, "choices": [_made(index, words, finish_of(refusal))], **usage, **_trace(refusal)}
            out.append(framed(orjson.dumps(chunk).decode()))
        if self._request.usage_wanted:
            counts = refusal.cost(*USAGE)
            out.append(framed(orjson.dumps({**head, "choices": [], "usage": counts}).decode()))
        out.append(framed("[DONE]"))
        return b"".join(out)

    def _choice(self, pieces: list[Piece], opaque: list[tuple[str, str]], choice: Any, position: int) -> None:
        if isinstance(choice, dict) and type(choice.get("text")) is str:
            index = choice.get("index", position)
            if choice["text"] and type(index) is int:
                path = ("choices", position, "text")
                pieces.append(Piece(f"/choices/{index}/text", Role.ASSISTANT, choice["text"], Kind.FLOW, index, path))
            choice = {"index": index, **{key: value for key, value in choice.items() if key != "text"}}
        super()._choice(pieces, opaque, choice, position)

    def _logprobs(self, pieces: list[Piece], value: Any, index: int, path: tuple[str | int, ...]) -> None:
        base = f"/choices/{index}/logprobs"
        tokens, others = _spelled(value)
        if tokens:
            pieces.append(Piece(base, Role.ASSISTANT, tokens, Kind.FLOW, index, path))
        if others:
            pieces.append(Piece(base + "/top", Role.ASSISTANT, "\n" + others, Kind.ATOM, index, path))


def _check_shape(tree: dict[str, Any]) -> None:
    """The few types that the way of an exchange depends on. The rest is the upstream's to refuse."""
    if not isinstance(tree.get("model"), str) or not tree["model"]:
        raise BadRequest("You must provide a model parameter: a string.", "model")
    if not isinstance(tree.get("stream"), bool | None):
        raise BadRequest("'stream' must be true or false.", "stream")
    if not isinstance(tree.get("stream_options"), dict | None):
        raise BadRequest("'stream_options' must be an object.", "stream_options")
    n = tree.get("n")
    if n is not None and (type(n) is not int or not 1 <= n <= 128):
        raise BadRequest("'n' must be an integer from 1 to 128.", "n")


def _read_choice(body: Body, choice: Any, origin: str) -> None:
    if not isinstance(choice, dict):
        raise Malformed("a choice is not a JSON object")
    rest = dict(choice)
    text = rest.pop("text", None)
    if text is not None:
        body.leaves(text, Role.ASSISTANT, origin + "/text", frozenset())
    logprobs = rest.pop("logprobs", None)
    if logprobs is not None:
        tokens, others = _spelled(logprobs)
        body.add(Role.ASSISTANT, tokens, origin + "/logprobs")
        body.add(Role.ASSISTANT, others, origin + "/logprobs/top")
    read_choice(body, rest, origin)


def _spelled(logprobs: Any) -> tuple[str, str]:
    """The text that log probabilities spell: the sampled tokens joined; all other leaves and keys, one a line.

    They hold lists side by side, with the alternatives of a place as the keys of an object."""
    sampled = ""
    rest = Body()
    if isinstance(logprobs, dict):
        tokens = logprobs.get("tokens")
        if isinstance(tokens, list) and all(type(token) is str for token in tokens):
            sampled = "".join(tokens)
            logprobs = {**logprobs, "tokens": None}
    rest.leaves(logprobs, Role.ASSISTANT, "", _LEGACY)
    return sampled, "\n".join(message.text for message in rest.messages)


def _head(refusal: Refusal, request: Request) -> dict[str, Any]:
    return {
        "id": f"cmpl-{refusal.decision}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
    }


def _made(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _trace(refusal: Refusal) -> dict[str, Any]:
    return {"penstock": trace_of(refusal)}
