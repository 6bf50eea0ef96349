"""Responses: the words of a refusal, as a whole answer, as a whole stream, and at the end of one that has begun.

A refusal that nothing was said before is an answer like any other: it is `completed`, and says so in words. One in
mid-stream closes what is open and ends as `response.failed` with the code `invalid_prompt`: clients show its message
and do not ask again, as they do where a response is `incomplete`. Words that a policy has in place of the model's are
no refusal: with them a response is completed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..sse import framed
from .base import Refusal, Request
from .chat_body import error_of, trace_of

Json = dict[str, Any]


@dataclass(slots=True)
class Told:
    """What has left of a stream: the last sequence number, the response as it was created, items that are open and
    what they said (by output index, or id where a server gives none; then by content index), items that are done."""

    sequence: int = -1
    head: Json | None = None
    open: dict[int | str, Json] = field(default_factory=dict)
    parts: dict[int | str, dict[int, Json]] = field(default_factory=dict)
    done: dict[int | str, Json] = field(default_factory=dict)
    over: bool = False

    @property
    def said(self) -> bool:
        """Whether anything but the response's frame has left."""
        return bool(self.open or self.done)


class _Events:
    """Events in the making, numbered on."""

    def __init__(self, told: Told) -> None:
        self._next, self._out = told.sequence + 1, []  # type: int, list[bytes]

    def add(self, name: str, **fields: Any) -> None:
        tree = {"type": name, "sequence_number": self._next, **fields}
        self._next += 1
        self._out.append(framed(orjson.dumps(tree).decode(), name))

    def bytes(self) -> bytes:
        return b"".join(self._out)


def _message(refusal: Refusal) -> Json:
    part = {"type": "output_text", "text": refusal.message, "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{refusal.decision}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def _frame(refusal: Refusal, request: Request) -> Json:
    """A response object without output."""
    asked = request.tree if isinstance(request.tree, dict) else {}
    return {
        "id": f"resp_{refusal.decision}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": request.model,
        "output": [],
        "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def refused_response(refusal: Refusal, request: Request) -> Json:
    """A whole answer that refuses in words."""
    usage = {
        **refusal.cost("input_tokens", "output_tokens", "total_tokens"),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    answer = {"status": "completed", "output": [_message(refusal)], "usage": usage, "penstock": trace_of(refusal)}
    return {**_frame(refusal, request), **answer}


def refused_stream(refusal: Refusal, request: Request, told: Told | None = None) -> bytes:
    """The events of a stream that refuses in words, where none but those of its frame have left."""
    told = told or Told()
    events = _Events(told)
    frame = told.head or _frame(refusal, request)
    if told.head is None:
        events.add("response.created", response=frame)
        events.add("response.in_progress", response=frame)
    item = _message(refusal)
    _say(events, item, 0)
    whole = refused_response(refusal, request)
    kept = {key: whole[key] for key in ("status", "output", "usage", "penstock")}
    events.add("response.completed", response={**frame, **kept})
    return events.bytes()


def _say(events: _Events, item: Json, index: int) -> None:
    """A whole message, event by event."""
    part, at = item["content"][0], {"item_id": item["id"], "output_index": index, "content_index": 0}
    events.add("response.output_item.added", output_index=index, item={**item, "status": "in_progress", "content": []})
    events.add("response.content_part.added", **at, part={**part, "text": ""})
    events.add("response.output_text.delta", **at, delta=part["text"], logprobs=[])
    events.add("response.output_text.done", **at, text=part["text"], logprobs=[])
    events.add("response.content_part.done", **at, part=part)
    events.add("response.output_item.done", output_index=index, item=item)


def blocked_stream(refusal: Refusal, request: Request, told: Told) -> bytes:
    """The events that end a stream of which something has left."""
    events = _Events(told)
    closed = list(told.done.values())
    spoken = False
    if request.structured and not refusal.complete:
        # JSON that has begun must not go on in words, nor be closed, where clients would parse it.
        events.add("response.failed", response=_failed(refusal, request, told, closed))
        return events.bytes()
    for index, item in told.open.items():
        parts = told.parts.get(index, {})
        number = {"output_index": index} if isinstance(index, int) else {}
        for place, part in parts.items():
            if part.get("type") == "output_text" and not spoken:
                spoken = True
                words = "\n\n" + refusal.message
                at = {"item_id": item.get("id"), **number, "content_index": place}
                events.add("response.output_text.delta", **at, delta=words, logprobs=[])
                part["text"] = part.get("text", "") + words
                events.add("response.output_text.done", **at, text=part["text"], logprobs=[])
                events.add("response.content_part.done", **at, part=part)
        status = "completed" if refusal.complete else "incomplete"
        closed.append({**item, "status": status, **({"content": list(parts.values())} if parts else {})})
        events.add("response.output_item.done", **number, item=closed[-1])
    if not spoken:
        item = _message(refusal)
        numbers = [index for index in (*told.done, *told.open) if isinstance(index, int)]
        _say(events, item, max(numbers, default=len(closed) - 1) + 1)
        closed.append(item)
    failed = _failed(refusal, request, told, closed)
    if refusal.complete:
        usage = refused_response(refusal, request)["usage"]
        events.add("response.completed", response={**failed, "status": "completed", "error": None, "usage": usage})
    else:
        events.add("response.failed", response=failed)
    return events.bytes()


def _failed(refusal: Refusal, request: Request, told: Told, output: list[Json]) -> Json:
    error = {"code": "invalid_prompt", "message": refusal.message}
    over = {"status": "failed", "error": error, "output": output, "usage": None, "penstock": trace_of(refusal)}
    return {**(told.head or _frame(refusal, request)), **over}


def broken_stream(message: str, code: str, told: Told, decision: str = "") -> bytes:
    """The event that ends a stream after a fault. Clients look for the error in either place."""
    error = error_of(502, code, message, None, decision)
    events = _Events(told)
    events.add("error", code=code, message=message, param=None, error=error)
    return events.bytes()
