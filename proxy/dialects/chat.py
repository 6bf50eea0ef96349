"""OpenAI Chat Completions: requests, answers, streams, refusals.

Every string and every key of a body is read. Known fields get the role that policies expect; an unknown field is read
all the same, as a setting. Only words of the API's own vocabulary, standing alone, are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from classifiers.base import Role

from ..sse import Event, framed
from ..strict import Malformed, parse
from .base import BadRequest, Body, Kind, Part, Piece, Refusal, Request, escaped

ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL_RESULT,
    "function": Role.TOOL_RESULT,
}
"""An unknown role is read as the user's."""

VOCABULARY = frozenset(
    # keys and values of the API itself: alone they say nothing that a person wrote
    """
    model messages role content name tool_calls tool_call_id id type function arguments parameters description
    strict tools tool_choice functions function_call stream stream_options include_usage include_obfuscation n temperature
    top_p max_tokens max_completion_tokens presence_penalty frequency_penalty logit_bias logprobs top_logprobs stop seed user
    response_format json_schema json_object schema properties required items enum anyOf additionalProperties default format
    parallel_tool_calls reasoning_effort verbosity service_tier store metadata modalities audio prediction
    safety_identifier prompt_cache_key custom input text image_url input_audio file url detail data refusal
    system developer assistant tool auto none low medium high minimal object string number integer boolean
    array null default flex priority choices index message delta finish_reason created system_fingerprint usage
    chat.completion chat.completion.chunk prompt_tokens completion_tokens total_tokens prompt_tokens_details
    completion_tokens_details cached_tokens audio_tokens reasoning_tokens accepted_prediction_tokens
    rejected_prediction_tokens stop length content_filter reasoning_content reasoning obfuscation error code param
    annotations title
    """.split()  # noqa: SIM905
)

# Parts of a message that hold something other than text: (part's type, the field that holds it).
_OPAQUE = {
    "image_url": "image",
    "input_audio": "audio",
    "file": "file",
    "audio": "audio",
    "video_url": "video",
}
_REASONING = frozenset({"reasoning_content", "reasoning"})
# Inside a delta these are complete where they stand; all other text there grows.
_ATOMIC = frozenset({"type", "format", "id", "index", "name", "role", "signature"})


class Chat:
    """POST /v1/chat/completions."""

    name = "chat"

    def read_request(self, tree: Any) -> Request:
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        _check(tree)
        options = tree.get("stream_options")
        request = Request(
            tree=tree,
            model=tree["model"],
            stream=tree.get("stream") is True,
            usage_wanted=isinstance(options, dict) and options.get("include_usage") is True,
            choices=tree.get("n") or 1,
        )
        for key, value in tree.items():
            place = "/" + escaped(key)
            if key == "messages":
                for index, message in enumerate(value):
                    role = ROLES.get(message.get("role"), Role.USER)
                    _message(request, message, role, f"/messages/{index}")
            elif key in {"tools", "functions", "response_format"}:
                request.leaves(value, Role.TOOL_DEFINITION, place, VOCABULARY)
            else:
                if key not in VOCABULARY:
                    request.add(Role.SETTING, key, place + "#key")
                request.leaves(value, Role.SETTING, place, VOCABULARY)
        return request

    def read_response(self, tree: Any) -> Body:
        if not isinstance(tree, dict):
            raise Malformed("the answer is not a JSON object")
        body = Body()
        for key, value in tree.items():
            place = "/" + escaped(key)
            if key == "choices" and isinstance(value, list):
                for index, choice in enumerate(value):
                    _choice(body, choice, f"{place}/{index}")
                continue
            if key not in VOCABULARY:
                body.add(Role.SETTING, key, place + "#key")
            body.leaves(value, Role.ERROR if key == "error" else Role.SETTING, place, VOCABULARY)
        return body

    def reader(self, request: Request) -> ChatReader:
        return ChatReader(request)

    def error(self, status: int, code: str, message: str, param: str | None = None) -> bytes:
        return orjson.dumps({"error": _error(status, code, message, param)})

    def refused(self, refusal: Refusal) -> bytes:
        error = _error(400, "invalid_prompt", refusal.message, refusal.param)
        return orjson.dumps({"error": {**error, "penstock": _trace(refusal)}})

    def answered(self, refusal: Refusal, request: Request) -> bytes:
        message = {"role": "assistant", "content": refusal.message, "refusal": None}
        return orjson.dumps(
            {
                "id": f"chatcmpl-{refusal.decision}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": request.model,
                "choices": [
                    {"index": index, "message": message, "logprobs": None, "finish_reason": "content_filter"}
                    for index in range(request.choices)
                ],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
                "penstock": _trace(refusal),
            }
        )

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        return ChatReader(request).ending(refusal)


class ChatReader:
    """One stream of chat.completion.chunk events."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._seen: dict[str, str] = {}  # the last value of text that is repeated in every chunk
        self._open: dict[int, bool] = {}  # choice -> whether it waits for its finish
        self._head: dict[str, Any] | None = None
        self._complete = False

    @property
    def complete(self) -> bool:
        return self._complete

    @property
    def finished(self) -> bool:
        return bool(self._open) and not any(self._open.values())

    def read(self, event: Event) -> Part:
        pieces: list[Piece] = []
        for place, text in (("comment", event.comment), ("event", event.name), ("id", event.id)):
            if text:
                self._atom(pieces, f"#{place}", text, Role.SETTING)
        if event.data is None:
            return Part(event.raw if event.plain else b"", tuple(pieces))
        raw = event.raw if event.plain else framed(event.data, event.name)
        if event.data == "[DONE]":
            self._complete = True
            return Part(raw, tuple(pieces), tuple(self._open))
        tree = parse(event.data)
        if not isinstance(tree, dict):
            raise Malformed("a chunk is not a JSON object")
        closes: list[int] = []
        for key, value in tree.items():
            if key == "choices" and isinstance(value, list):
                for position, choice in enumerate(value):
                    self._choice(pieces, closes, choice, position)
            elif type(value) is str:
                if key not in VOCABULARY:
                    self._atom(pieces, f"/{escaped(key)}#key", key, Role.SETTING)
                self._atom(pieces, "/" + escaped(key), value, Role.SETTING)
            elif value is not None:
                self._rest(pieces, {key: value}, "", Role.ERROR if key == "error" else Role.SETTING)
        return Part(raw, tuple(pieces), tuple(closes), tree)

    def released(self, part: Part) -> None:
        if isinstance(part.tree, dict) and self._head is None:
            keys = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
            self._head = {key: part.tree[key] for key in keys if key in part.tree}

    def rewritten(self, part: Part, edits: Sequence[tuple[Piece, str]]) -> bytes:
        for piece, text in edits:
            target = part.tree
            for step in piece.path[:-1]:
                target = target[step]
            # Log probabilities spell the text again, token by token: where it is masked they cannot stay.
            target[piece.path[-1]] = None if piece.path[-1] == "logprobs" else text
            choice = part.tree["choices"][piece.path[1]]
            if choice.get("logprobs") is not None:
                choice["logprobs"] = None
        return framed(orjson.dumps(part.tree).decode())

    def ending(self, refusal: Refusal) -> bytes:
        head = self._head or {
            "id": f"chatcmpl-{refusal.decision}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._request.model,
        }
        usage = {"usage": None} if self._request.usage_wanted else {}
        started = self._head is not None
        words = "\n\n" + refusal.message if started else refusal.message
        delta = {"content": words} if started else {"role": "assistant", "content": words, "refusal": None}
        waiting = [i for i, is_open in self._open.items() if is_open] if started else list(range(self._request.choices))
        out: list[bytes] = []
        for index in waiting or [0]:
            for change, finish in ((delta, None), ({}, "content_filter")):
                choice = {"index": index, "delta": change, "logprobs": None, "finish_reason": finish}
                chunk = {**head, "choices": [choice], **usage}
                if finish:
                    chunk["penstock"] = _trace(refusal)
                out.append(framed(orjson.dumps(chunk).decode()))
        if self._request.usage_wanted:
            counts = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            out.append(framed(orjson.dumps({**head, "choices": [], "usage": counts}).decode()))
        out.append(framed("[DONE]"))
        return b"".join(out)

    def broken(self, message: str, code: str) -> bytes:
        return framed(orjson.dumps({"error": _error(502, code, message, None)}).decode())

    def _choice(self, pieces: list[Piece], closes: list[int], choice: Any, position: int) -> None:
        if not isinstance(choice, dict):
            raise Malformed("a choice is not a JSON object")
        index = choice.get("index", position)
        if type(index) is not int:
            raise Malformed("a choice's index is not an integer")
        self._open.setdefault(index, True)
        for key, value in choice.items():
            if value is None or key == "index":
                continue
            if key == "delta" and isinstance(value, dict):
                self._delta(pieces, value, index, ("choices", position, "delta"))
            elif key == "logprobs":
                self._logprobs(pieces, value, index, ("choices", position, "logprobs"))
            elif key == "finish_reason":
                closes.append(index)
                self._open[index] = False
                self._rest(pieces, {key: value}, f"/choices/{index}", Role.SETTING)
            else:
                role = Role.ASSISTANT if key in {"message", "text"} else Role.SETTING
                self._rest(pieces, {key: value}, f"/choices/{index}", role)

    def _delta(self, pieces: list[Piece], delta: dict[str, Any], index: int, path: tuple[str | int, ...]) -> None:
        base = f"/choices/{index}"
        for key, value in delta.items():
            if not value:
                continue
            if key == "content" and type(value) is str:
                pieces.append(Piece(base + "/content", Role.ASSISTANT, value, Kind.FLOW, index, (*path, "content")))
            elif key == "role":
                self._rest(pieces, {key: value}, base, Role.SETTING)
            elif key in {"tool_calls", "function_call"}:
                calls = value if isinstance(value, list) else [value]
                for position, call in enumerate(calls):
                    number = call.get("index", position) if isinstance(call, dict) else position
                    inner = (*path, key, position) if isinstance(value, list) else (*path, key)
                    self._grow(pieces, call, f"{base}/{key}/{number}", Role.TOOL_CALL, Kind.CALL, index, inner)
            else:
                role = Role.REFUSAL if key == "refusal" else Role.REASONING if key in _REASONING else Role.ASSISTANT
                if key not in VOCABULARY:
                    self._atom(pieces, f"{base}/{escaped(key)}#key", key, Role.SETTING)
                self._grow(pieces, value, f"{base}/{escaped(key)}", role, Kind.FLOW, index, (*path, key))

    def _grow(
        self,
        pieces: list[Piece],
        value: Any,
        channel: str,
        role: Role,
        kind: Kind,
        group: int,
        path: tuple[str | int, ...],
    ) -> None:
        """Text that the next chunks may continue."""
        if isinstance(value, str):
            atom = kind is Kind.FLOW and path[-1] in _ATOMIC
            if value and not (kind is Kind.CALL and path[-1] == "type" and value in VOCABULARY):
                pieces.append(Piece(channel, role, value, Kind.ATOM if atom else kind, group, path))
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key not in VOCABULARY:
                    pieces.append(Piece(f"{channel}/{escaped(key)}#key", role, key, kind, group))
                self._grow(pieces, inner, f"{channel}/{escaped(key)}", role, kind, group, (*path, key))
        elif isinstance(value, list):
            for position, inner in enumerate(value):
                self._grow(pieces, inner, f"{channel}/{position}", role, kind, group, (*path, position))

    def _logprobs(self, pieces: list[Piece], value: Any, index: int, path: tuple[str | int, ...]) -> None:
        tokens, others = _tokens(value)
        base = f"/choices/{index}/logprobs"
        if tokens:
            pieces.append(Piece(base, Role.ASSISTANT, tokens, Kind.FLOW, index, path))
        if others:
            pieces.append(Piece(base + "/top", Role.ASSISTANT, "\n" + others, Kind.ATOM, index, path))

    def _rest(self, pieces: list[Piece], value: Any, place: str, role: Role) -> None:
        """Every leaf of what is not known to grow."""
        body = Body()
        body.leaves(value, role, place, VOCABULARY)
        for message in body.messages:
            self._atom(pieces, message.origin, message.text, role)

    def _atom(self, pieces: list[Piece], place: str, text: str, role: Role) -> None:
        if text and self._seen.get(place) != text:
            self._seen[place] = text
            pieces.append(Piece(place, role, text, Kind.ATOM, -1))


def _check(tree: dict[str, Any]) -> None:
    """The few types that the way of an exchange depends on. The rest is the upstream's to refuse."""
    if not isinstance(tree.get("model"), str) or not tree["model"]:
        raise BadRequest("You must provide a model parameter: a string.", "model")
    messages = tree.get("messages")
    if not isinstance(messages, list):
        raise BadRequest("'messages' must be an array of messages.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(f"'messages[{index}]' must be an object with a role and content.", f"messages[{index}]")
        if not isinstance(message.get("role", "user"), str):
            raise BadRequest(f"'messages[{index}].role' must be a string.", f"messages[{index}].role")
    if not isinstance(tree.get("stream"), bool | None):
        raise BadRequest("'stream' must be true or false.", "stream")
    if not isinstance(tree.get("stream_options"), dict | None):
        raise BadRequest("'stream_options' must be an object.", "stream_options")
    n = tree.get("n")
    if n is not None and (type(n) is not int or not 1 <= n <= 128):
        raise BadRequest("'n' must be an integer from 1 to 128.", "n")


def _message(body: Body, message: dict[str, Any], role: Role, origin: str) -> None:
    """One message of a request, or the message of an answer's choice."""
    for key, value in message.items():
        place = f"{origin}/{escaped(key)}"
        if value is None:
            continue
        if key == "content":
            _content(body, value, role, place)
        elif key == "role":
            body.leaves(value, Role.SETTING, place, VOCABULARY)
        elif key in {"tool_calls", "function_call"}:
            for number, call in enumerate(value if isinstance(value, list) else [value]):
                _call(body, call, f"{place}/{number}" if isinstance(value, list) else place)
        elif key == "refusal":
            body.leaves(value, Role.REFUSAL, place, VOCABULARY)
        elif key in _REASONING:
            body.leaves(value, Role.REASONING, place, frozenset())
        elif key == "audio":
            _audio(body, value, role, place)
        else:
            if key not in VOCABULARY:
                body.add(role, key, place + "#key")
            body.leaves(value, role, place, VOCABULARY)


def _content(body: Body, value: Any, role: Role, origin: str) -> None:
    if isinstance(value, str):
        body.add(role, value, origin)
        return
    if not isinstance(value, list):
        body.leaves(value, role, origin, frozenset())
        return
    texts: list[str] = []
    for index, part in enumerate(value):
        place = f"{origin}/{index}"
        if isinstance(part, str):
            texts.append(part)
            body.add(role, part, place)
        elif isinstance(part, dict):
            texts.extend(_part(body, part, role, place))
        else:
            body.leaves(part, role, place, frozenset())
    if len(texts) > 1:
        # What is split over parts is one text to the model.
        body.add(role, "".join(texts), origin + "#joined")


def _part(body: Body, part: dict[str, Any], role: Role, origin: str) -> Iterator[str]:
    """One part of a content array; yields its text."""
    kind = part.get("type")
    opaque = _OPAQUE.get(kind) if isinstance(kind, str) else None
    if opaque is not None:
        body.unscannable.append((origin, opaque))
    for key, value in part.items():
        place = f"{origin}/{escaped(key)}"
        if key not in VOCABULARY:
            body.add(role, key, place + "#key")
        if isinstance(value, str) and key in {"text", "refusal"}:
            yield value
            body.add(Role.REFUSAL if key == "refusal" else role, value, place)
        elif key == "type":
            body.leaves(value, Role.SETTING, place, VOCABULARY)
        elif opaque is not None:
            _around(body, value, role, place)
        else:
            body.leaves(value, role, place, frozenset())


def _around(body: Body, value: Any, role: Role, origin: str) -> None:
    """The text around an opaque part (names, links), without its encoded bytes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{origin}/{escaped(key)}"
            if key not in VOCABULARY:
                body.add(role, key, place + "#key")
            if isinstance(inner, str) and (key in {"data", "file_data"} or inner.startswith("data:")):
                continue
            _around(body, inner, role, place)
    elif not (isinstance(value, str) and value.startswith("data:")):
        body.leaves(value, role, origin, VOCABULARY)


def _audio(body: Body, value: Any, role: Role, origin: str) -> None:
    body.unscannable.append((origin, "audio"))
    _around(body, value, role, origin)


def _call(body: Body, call: Any, origin: str) -> None:
    if not isinstance(call, dict):
        body.leaves(call, Role.TOOL_CALL, origin, frozenset())
        return
    for key, value in call.items():
        place = f"{origin}/{escaped(key)}"
        if key in {"arguments", "input"} and isinstance(value, str):
            body.arguments(value, place)
        elif key in {"function", "custom"} and isinstance(value, dict):
            _call(body, value, place)
        elif key in {"id", "type"}:
            body.leaves(value, Role.SETTING, place, VOCABULARY)
        else:
            if key not in VOCABULARY:
                body.add(Role.TOOL_CALL, key, place + "#key")
            body.leaves(value, Role.TOOL_CALL, place, frozenset())


def _choice(body: Body, choice: Any, origin: str) -> None:
    if not isinstance(choice, dict):
        raise Malformed("a choice is not a JSON object")
    for key, value in choice.items():
        place = f"{origin}/{escaped(key)}"
        if value is None:
            continue
        if key == "message" and isinstance(value, dict):
            _message(body, value, Role.ASSISTANT, place)
        elif key == "logprobs":
            tokens, others = _tokens(value)
            body.add(Role.ASSISTANT, tokens, place + "#tokens")
            body.add(Role.ASSISTANT, others, place + "#top")
        else:
            if key not in VOCABULARY:
                body.add(Role.SETTING, key, place + "#key")
            body.leaves(value, Role.SETTING, place, VOCABULARY)


def _tokens(logprobs: Any) -> tuple[str, str]:
    """The text that log probabilities spell: the sampled tokens joined; all other leaves, one a line.

    Byte arrays are decoded: they spell the tokens a second time."""
    sampled: list[str] = []
    others: list[str] = []
    stack: list[tuple[Any, bool]] = [(logprobs, True)]
    while stack:
        value, top = stack.pop()
        if isinstance(value, str):
            others.append(value)
        elif isinstance(value, list):
            if value and all(type(item) is int and 0 <= item < 256 for item in value):
                others.append(bytes(value).decode("utf-8", "replace"))
            else:
                stack.extend((item, top) for item in reversed(value))
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key == "token" and top and isinstance(inner, str):
                    sampled.append(inner)
                elif key == "top_logprobs":
                    stack.append((inner, False))
                elif inner is not None:
                    stack.append((inner, top))
    return "".join(sampled), "\n".join(others)


def _error(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code}


def _trace(refusal: Refusal) -> dict[str, str]:
    return {
        "reason": refusal.reason,
        "policy": refusal.policy,
        "stage": refusal.stage,
        "decision_id": refusal.decision,
    }
