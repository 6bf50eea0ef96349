"""What OpenAI's chat API says: completions as dicts, streams as lists of event bytes. Pure data, no HTTP.

The streams look as the real ones do: the first delta of a choice carries the role and empty content,
choices interleave by index, a tool call's id and name come only in its first delta, asked-for usage is
`null` in every chunk and then one chunk without choices, and `obfuscation` pads every chunk against length
side channels.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import orjson

MODEL = "gpt-4o-mini-2024-07-18"
CREATED = 1_767_225_600
DONE = b"data: [DONE]\n\n"
USAGE: Mapping[str, Any] = {
    "prompt_tokens": 24,
    "completion_tokens": 12,
    "total_tokens": 36,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call; `arguments` is the JSON text that a model wrote, right or wrong."""

    name: str = "get_weather"
    arguments: str = '{"city":"Paris","unit":"celsius"}'
    id: str = "call_a1B2c3D4e5F6g7H8"

    def whole(self) -> Json:
        """As it stands in a completion."""
        return {"id": self.id, "type": "function", "function": self._function(self.arguments)}

    def _function(self, arguments: str) -> Json:
        return {"name": self.name, "arguments": arguments}

    def deltas(self, index: int, size: int) -> Iterator[Json]:
        """As it comes in a stream: id and name first with empty arguments, then the arguments in pieces."""
        yield {"index": index, "id": self.id, "type": "function", "function": self._function("")}
        for piece in pieces(self.arguments, size):
            yield {"index": index, "function": {"arguments": piece}}


def pieces(text: str, size: int) -> list[str]:
    """`text` in pieces of `size` code points; [] for no text."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def event(value: object, *, name: str | None = None) -> bytes:
    """One event in plain form. `value` is made JSON unless it is bytes."""
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"


def stream_error(message: str = "The server had an error while processing your request.") -> bytes:
    """The event with which OpenAI reports an error inside a stream that began with 200."""
    return event({"error": {"message": message, "type": "server_error", "param": None, "code": None}})


def _texts(text: str | Sequence[str | None] | None, n: int) -> list[str | None]:
    """One text for each choice."""
    return [text] * n if text is None or isinstance(text, str) else list(text)


def _logprobs(text: str, *, refusal: bool = False) -> Json:
    token = {"token": text, "logprob": -0.0123, "bytes": list(text.encode()), "top_logprobs": []}
    entries = [token] if text else []
    return {"content": None, "refusal": entries} if refusal else {"content": entries, "refusal": None}


def completion(
    text: str | Sequence[str | None] | None = "Hello! How can I help you today?",
    *,
    tool_calls: Sequence[ToolCall] = (),
    n: int = 1,
    refusal: str | None = None,
    reasoning: str | None = None,
    finish: str | None = None,
    logprobs: bool = False,
    usage: Mapping[str, Any] | None = USAGE,
    model: str = MODEL,
    id: str = "chatcmpl-SimulatedCompletion01",
) -> Json:
    """A chat completion. `text` is one string for all n choices, or a list with one for each; with a
    refusal or tool calls content is null unless `text` was given as a list. `reasoning` becomes
    `reasoning_content`, as OpenAI-compatible servers send it. `finish` is the finish_reason of every
    choice."""
    if isinstance(text, str) and (refusal is not None or tool_calls):
        text = None
    choices = []
    for index, content in enumerate(_texts(text, n)):
        message: Json = {"role": "assistant", "content": content}
        if reasoning is not None:
            message["reasoning_content"] = reasoning
        if tool_calls:
            message["tool_calls"] = [call.whole() for call in tool_calls]
        message |= {"refusal": refusal, "annotations": []}
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": _logprobs(content or "") if logprobs else None,
                "finish_reason": finish or ("tool_calls" if tool_calls else "stop"),
            }
        )
    body: Json = {
        "id": id,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": choices,
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
    }
    return body if usage is None else body | {"usage": dict(usage)}


def deltas(
    text: str | None,
    *,
    size: int,
    tool_calls: Sequence[ToolCall] = (),
    refusal: str | None = None,
    reasoning: str | None = None,
) -> Iterator[Json]:
    """The deltas of one choice, without its finish."""
    first: Json = {"role": "assistant", "content": None if tool_calls and not text else "", "refusal": None}
    calls = [delta for at, call in enumerate(tool_calls) for delta in call.deltas(at, size)]
    if calls and not (text or refusal or reasoning):
        first["tool_calls"] = [calls.pop(0)]
    yield first
    for piece in pieces(reasoning or "", size):
        yield {"reasoning_content": piece}
    for piece in pieces(text or "", size):
        yield {"content": piece}
    for piece in pieces(refusal or "", size):
        yield {"refusal": piece}
    for delta in calls:
        yield {"tool_calls": [delta]}


def chunk_body(choices: Sequence[Json], *, model: str = MODEL, id: str, **more: object) -> Json:
    """One `chat.completion.chunk`."""
    return {
        "id": id,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
        "choices": list(choices),
        **more,
    }


def stream(
    text: str | Sequence[str | None] | None = "Hello! How can I help you today?",
    *,
    size: int = 4,
    n: int = 1,
    tool_calls: Sequence[ToolCall] = (),
    refusal: str | None = None,
    reasoning: str | None = None,
    finish: str | None = None,
    logprobs: bool = False,
    include_usage: bool = False,
    obfuscation: bool = False,
    done: bool = True,
    usage: Mapping[str, Any] = USAGE,
    model: str = MODEL,
    id: str = "chatcmpl-SimulatedStream0001",
) -> list[bytes]:
    """The events of a stream, one bytes object each, with the arguments of `completion`. `size` is code
    points per delta. Being a list, it is easily twisted: `[:-1]` has no [DONE], `+ [DONE]` has two,
    anything may follow."""
    if isinstance(text, str) and (refusal is not None or tool_calls):
        text = None
    padding = random.Random(id) if obfuscation else None

    def one(choices: Sequence[Json], total: Mapping[str, Any] | None = None) -> bytes:
        more: Json = {"usage": total} if include_usage else {}
        if padding is not None:
            more["obfuscation"] = "".join(
                padding.choices("abcdefghijkLMNOPQRSTuvwxyz0123456789", k=padding.randint(1, 14))
            )
        return event(chunk_body(choices, model=model, id=id, **more))

    def choice(index: int, delta: Json, end: str | None = None) -> Json:
        told = delta.get("content") or delta.get("refusal") or ""
        shown = _logprobs(told, refusal="refusal" in delta and bool(delta["refusal"])) if logprobs and told else None
        return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": end}

    lanes: Iterable[Iterable[Json]] = [
        deltas(words, size=size, tool_calls=tool_calls, refusal=refusal, reasoning=reasoning)
        for words in _texts(text, n)
    ]
    events = []
    for row in zip_longest(*lanes):
        events += [one([choice(index, delta)]) for index, delta in enumerate(row) if delta is not None]
    end = finish or ("tool_calls" if tool_calls else "stop")
    events += [one([choice(index, {}, end)]) for index in range(len(_texts(text, n)))]
    if include_usage:
        events.append(one([], usage))
    return [*events, DONE] if done else events


def model_card(id: str = MODEL) -> Json:
    """One entry of /v1/models."""
    return {"id": id, "object": "model", "created": CREATED, "owned_by": "system"}
