"""What OpenAI's Responses API says: a response as a dict, its stream as a list of event bytes. Pure data, no HTTP.

An answer is a list of output items; the stream says each of them as the real one does: added empty, in deltas, done
part by part, done as a whole, and once more in the response that is completed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from tests.upstream.shapes import CREATED, MODEL, event, pieces

Json = dict[str, Any]
ID = "resp_SimulatedResponse0001"
USAGE: Json = {
    "input_tokens": 24,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 36,
}


def text(words: str, **more: Any) -> Json:
    return {"type": "output_text", "text": words, "annotations": [], "logprobs": [], **more}


def refusal(words: str) -> Json:
    return {"type": "refusal", "refusal": words}


def message(*parts: Json, id: str = "msg_1", **more: Any) -> Json:
    return {
        "id": id, "type": "message", "status": "completed", "role": "assistant", "content": list(parts), **more,
    }  # fmt: skip


def reasoning(summary: str = "", thoughts: str = "", id: str = "rs_1") -> Json:
    item: Json = {
        "id": id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": summary}] if summary else [],
    }
    return {**item, "content": [{"type": "reasoning_text", "text": thoughts}]} if thoughts else item


def call(
    name: str = "get_weather", arguments: str = '{"city":"Paris"}', id: str = "fc_1", call_id: str = "call_1"
) -> Json:
    return {
        "id": id, "type": "function_call", "status": "completed", "call_id": call_id, "name": name,
        "arguments": arguments,
    }  # fmt: skip


def custom(name: str = "shell", input: str = "print the weather", id: str = "ctc_1") -> Json:
    return {
        "id": id,
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "call_9",
        "name": name,
        "input": input,
    }


def response(*items: Json, status: str = "completed", model: str = MODEL, id: str = ID, **more: Any) -> Json:
    """A whole response."""
    return {
        "id": id,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": model,
        "output": list(items),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE,
        "user": None,
        "metadata": {},
        **more,
    }


def stream(*items: Json, size: int = 4, last: str = "completed", padded: bool = False, **frame: Any) -> list[bytes]:
    """The events of a response with `items`; `size` is code points per delta, `frame` goes to `response`."""
    whole = response(*items, **{"status": last, **frame})
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    trees: list[Json] = [{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")]
    for index, item in enumerate(items):
        trees += _item(copy.deepcopy(item), index, size)
    trees.append({"type": f"response.{last}", "response": whole})
    return numbered(trees, padded=padded)


def numbered(trees: list[Json], *, padded: bool = False) -> list[bytes]:
    """Events of `trees`, with sequence numbers (and padding in the deltas)."""
    out = []
    for number, tree in enumerate(trees):
        pad = {"obfuscation": "xYz0"[: 1 + number % 4] * 3} if padded and "delta" in tree else {}
        out.append(event({"type": tree["type"], "sequence_number": number, **tree, **pad}, name=tree["type"]))
    return out


def _item(item: Json, index: int, size: int) -> Iterator[Json]:
    at = {"item_id": item["id"], "output_index": index}
    kind = item["type"]
    empty = {**item, "status": "in_progress"} if "status" in item else dict(item)
    empty.update({key: [] if isinstance(item[key], list) else "" for key in _GROWING if key in item})
    yield {"type": "response.output_item.added", "output_index": index, "item": empty}
    for place, part in enumerate(item.get("summary") or ()):
        yield from _part(part, {**at, "summary_index": place}, size, "reasoning_summary_part", "reasoning_summary_text")
    for place, part in enumerate(item.get("content") or ()):
        name = part.get("type", "output_text")
        yield from _part(part, {**at, "content_index": place}, size, "content_part", name)
    for key, name in _CALLS.get(kind, {}).items():
        for piece in pieces(item[key], size):
            yield {"type": f"response.{name}.delta", **at, "delta": piece}
        yield {"type": f"response.{name}.done", **at, key: item[key]}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


_GROWING = ("content", "summary", "arguments", "input", "code")
_CALLS = {
    "function_call": {"arguments": "function_call_arguments"},
    "mcp_call": {"arguments": "mcp_call_arguments"},
    "custom_tool_call": {"input": "custom_tool_call_input"},
    "code_interpreter_call": {"code": "code_interpreter_call_code"},
}


def _part(part: Json, at: Json, size: int, frame: str, name: str) -> Iterator[Json]:
    field = "refusal" if name == "refusal" else "text"
    empty = {**part, field: "", **({"annotations": []} if "annotations" in part else {})}
    yield {"type": f"response.{frame}.added", **at, "part": empty}
    spelled = part.get("logprobs")
    for piece in pieces(part.get(field, ""), size):
        more = {"logprobs": [_token(piece)] if spelled else []} if spelled is not None else {}
        yield {"type": f"response.{name}.delta", **at, "delta": piece, **more}
    for number, annotation in enumerate(part.get("annotations") or ()):
        yield {
            "type": "response.output_text.annotation.added", **at, "annotation_index": number, "annotation": annotation,
        }  # fmt: skip
    more = {"logprobs": spelled} if spelled is not None else {}
    yield {"type": f"response.{name}.done", **at, field: part.get(field, ""), **more}
    yield {"type": f"response.{frame}.done", **at, "part": part}


def _token(piece: str) -> Json:
    return {"token": piece, "logprob": -0.01, "bytes": list(piece.encode()), "top_logprobs": []}


def tokens(words: str, size: int = 4) -> list[Json]:
    """The log probabilities of a text."""
    return [_token(piece) for piece in pieces(words, size)]
