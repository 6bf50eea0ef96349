"""A request and an answer in a dialect's words."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import orjson

from tests.conformance import speak_completions, speak_messages, speak_responses
from tests.conformance.cases import Answer, Send
from tests.upstream import End, Reply, replies, shapes

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}


def request(dialect: str, send: Send, stream: bool) -> tuple[str, str, bytes, dict[str, str]]:
    """Method, target, body and headers."""
    body = _raw(send) if send.raw is not None else _BODIES[dialect](send, stream)
    if send.encoding:
        body = body.decode("latin-1").encode(send.encoding, "surrogatepass")
    headers = {"content-type": "application/json", **send.headers}
    if send.compress:
        body = gzip.compress(body) if send.compress == "gzip" else zlib.compress(body)
    return send.method, (send.path or PATHS[dialect]) + send.query, body, headers


def _raw(send: Send) -> bytes:
    assert send.raw is not None
    text = send.raw if isinstance(send.raw, str) else "".join(piece * times for piece, times in send.raw)
    return text.encode("latin-1")


def reply(dialect: str, answer: Answer, stream: bool) -> Reply:  # noqa: PLR0911 - a table of twists
    """What the upstream does."""
    match answer.twist:
        case "hang":
            return [60.0]
        case "refuse":
            return [End.RESET]
        case "endless-line":
            return replies.endless_line(size=65_536)
        case "keepalive":
            return replies.keepalive(_STREAMS[dialect](answer)[: 6 if dialect == "responses" else 4], every=0.005)
    if answer.raw is not None:
        raw = answer.raw.encode()
        whole = replies.sse([raw], status=answer.status, content_type=answer.type) if stream else replies.content(
            raw, status=answer.status, content_type=answer.type, gzip=answer.twist == "gzip"
        )  # fmt: skip
    elif stream:
        events = [_event(dialect, event) for event in answer.events] or _STREAMS[dialect](answer)
        whole = replies.sse(_twisted(events, answer.twist), status=answer.status)
    else:
        whole = replies.json(_WHOLES[dialect](answer), status=answer.status, gzip=answer.twist == "gzip")
    match answer.twist:
        case "reset":
            return replies.cut(whole, _size(whole) * 2 // 3, End.RESET, of_body=False)
        case "close":
            return replies.cut(whole, _size(whole) * 2 // 3, End.CLOSE, of_body=False)
        case "drip":
            return replies.drip(whole, size=100, rate=100_000)
    return whole


def _event(dialect: str, event: Any) -> bytes:
    """An event of a case: a tree, or a bare word (`[DONE]`)."""
    named = dialect in {"messages", "responses"} and isinstance(event, dict)
    return shapes.event(event.encode() if isinstance(event, str) else event, name=event["type"] if named else None)


def _size(whole: Reply) -> int:
    return sum(len(step) for step in whole if isinstance(step, bytes))


def _twisted(events: list[bytes], twist: str) -> list[bytes]:
    match twist:
        case "no-done":
            return events[:-1]
        case "crlf":
            return [event.replace(b"\n", b"\r\n") for event in events]
        case "cr":
            return [event.replace(b"\n", b"\r") for event in events]
        case "cut-bytes" | "one-byte":
            size = 7 if twist == "cut-bytes" else 1
            raw = b"".join(events)
            return [raw[at : at + size] for at in range(0, len(raw), size)]
    return events


# Chat


def _chat_body(send: Send, stream: bool) -> bytes:
    tree = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": send.text}], "stream": stream, **send.body}
    return json.dumps(tree).encode()


def _tool(text: str) -> shapes.ToolCall:
    return shapes.ToolCall(arguments=json.dumps({"city": text}, ensure_ascii=False))


_PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "content": lambda text: {"text": text},
    "refusal": lambda text: {"refusal": text},
    "reasoning": lambda text: {"text": "Well.", "reasoning": text},
    "last choice": lambda text: {"text": ["One.", "Two.", text], "n": 3},
    "arguments": lambda text: {"tool_calls": [_tool(text)]},
    "escaped arguments": lambda text: {
        "tool_calls": [shapes.ToolCall(arguments=_tool(text).arguments.replace("M", "\\u004d"))]
    },
    "second call": lambda text: {"tool_calls": [_tool("Paris"), _tool(text)]},
    "tool name": lambda text: {"tool_calls": [shapes.ToolCall(name=text)]},
    "tool id": lambda text: {"tool_calls": [shapes.ToolCall(id=text)]},
    "model": lambda text: {"model": text},
    "id": lambda text: {"id": text},
    "finish": lambda text: {"finish": text},
    "logprobs": lambda text: {"text": text, "logprobs": True},
}


def _chat_whole(answer: Answer) -> Any:
    if answer.part not in _PARTS:
        tree = shapes.completion("Well.")
        return orjson.loads(orjson.dumps(tree).replace(b'"Well."', _odd(answer)))
    return shapes.completion(**_PARTS[answer.part](answer.text))


def _chat_stream(answer: Answer) -> list[bytes]:
    if answer.part not in _PARTS:
        events = shapes.stream("Well.", size=8)
        return [event.replace(b'"content":"Well."', b'"content":' + _odd(answer)) for event in events]
    return shapes.stream(**_PARTS[answer.part](answer.text), size=answer.size)


def _odd(answer: Answer) -> bytes:
    """The value of `content`, and fields behind it."""
    text = json.dumps(answer.text).encode()
    return {
        "unknown key": b'"Well.",' + text + b":null",
        "unknown field": b'"Well.","x_new":{"deep":[' + text + b"]}",
        "annotation": b'"Well.","citations":[{"type":"url_citation","url_citation":{"title":' + text + b"}}]",
        "transcript": b'"Well.","audio":{"id":"a","transcript":' + text + b"}",
        "function_call": b'null,"function_call":{"name":"f","arguments":' + text + b"}",
        "content list": b'[{"type":"text","text":' + text + b"}]",
    }[answer.part]


_BODIES: dict[str, Callable[[Send, bool], bytes]] = {
    "chat": _chat_body,
    "completions": speak_completions.body,
    "messages": speak_messages.body,
    "responses": speak_responses.body,
    "embeddings": speak_completions.embedding_body,
}
_WHOLES: dict[str, Callable[[Answer], Any]] = {
    "chat": _chat_whole,
    "completions": speak_completions.whole,
    "messages": speak_messages.whole,
    "responses": speak_responses.whole,
    "embeddings": speak_completions.embedding,
}
_STREAMS: dict[str, Callable[[Answer], list[bytes]]] = {
    "chat": _chat_stream,
    "completions": speak_completions.stream,
    "messages": speak_messages.stream,
    "responses": speak_responses.stream,
}
