"""What the simulated model says to a client, in the words of each API, streamed or not.

A saying is a text, calls of the tool, or an object, as a call or as JSON, however it was asked for. Once the tool's
result has come back, the model says `AFTER`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tests.upstream import Request, messages, replies, responses, shapes

HELLO = "Hello! How can I help you today?"
AFTER = "It is sunny in Paris."
LONG = "Some honest words that go on and on, so that some of them have left by then. "


@dataclass(frozen=True, slots=True)
class Saying:
    """`cities` are the arguments of one call each, `object` is that of an object; `size` the letters in a delta."""

    text: str = ""
    object: str = ""
    tool: str = "get_weather"
    cities: Sequence[str] = ()
    size: int = 3

    def __call__(self, request: Request) -> replies.Reply:
        """The reply to a request of any of the three APIs."""
        body: dict[str, Any] = request.json()
        said = Saying(AFTER, size=self.size) if _has_result(body) else self._made(body)
        speak = {"/v1/chat/completions": _chat, "/v1/responses": _responses, "/v1/messages": _messages}[request.path]
        return speak(said, body)

    def _made(self, body: dict[str, Any]) -> Saying:
        """An object as it was asked for."""
        if not self.object:
            return self
        if tools := body.get("tools"):
            name = tools[0].get("name") or tools[0]["function"]["name"]
            return Saying(cities=[self.object], size=self.size, tool=name)
        return Saying(_arguments(self.object), size=self.size)


def _has_result(body: dict[str, Any]) -> bool:
    text = orjson.dumps(body)
    return any(mark in text for mark in (b'"role":"tool"', b'"function_call_output"', b'"tool_result"'))


def _arguments(city: str) -> str:
    return orjson.dumps({"city": city}).decode()


def _chat(said: Saying, body: dict[str, Any]) -> replies.Reply:
    calls = [
        shapes.ToolCall(name=said.tool, arguments=_arguments(city), id=f"call_{at}")
        for at, city in enumerate(said.cities)
    ]
    # A text beside calls must be given as a list to stand.
    text: Any = [said.text or None]
    if body.get("stream"):
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return replies.sse(
            shapes.stream(text, tool_calls=calls, size=said.size, include_usage=usage, obfuscation=True), gap=0.001
        )
    return replies.json(shapes.completion(text, tool_calls=calls))


def _responses(said: Saying, body: dict[str, Any]) -> replies.Reply:
    # Each turn has ids of its own: LangGraph takes a message with a known id for a newer version of the old one.
    turn = len(body["input"]) if isinstance(body["input"], list) else 0
    items = [responses.message(responses.text(said.text), id=f"msg_{turn}")] if said.text else []
    items += [
        responses.call(said.tool, arguments=_arguments(city), id=f"fc_{at}", call_id=f"call_{at}")
        for at, city in enumerate(said.cities)
    ]
    if body.get("stream"):
        return replies.sse(responses.stream(*items, size=said.size, id=f"resp_{turn}"), gap=0.001)
    return replies.json(responses.response(*items, id=f"resp_{turn}"))


def _messages(said: Saying, body: dict[str, Any]) -> replies.Reply:
    blocks = [messages.text(said.text)] if said.text else []
    blocks += [messages.call(said.tool, f"toolu_{at}", city=city) for at, city in enumerate(said.cities)]
    if body.get("stream"):
        return replies.sse(messages.stream(*blocks, size=said.size, pad=True), gap=0.001)
    return replies.json(messages.message(*blocks))
