"""What Anthropic's Messages API says: messages as dicts, streams as lists of event bytes. Pure data, no HTTP.

The streams look as the real ones do: every event has its name, a ping follows the first block's start, a call's input
comes as pieces of JSON, an empty one first, and events can be padded with blanks against length side channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from tests.upstream import replies
from tests.upstream.replies import Reply
from tests.upstream.shapes import pieces

MODEL = "claude-sonnet-4-5-20250929"
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

Json = dict[str, Any]


def text(words: str, **more: Any) -> Json:
    """A text block."""
    return {"type": "text", "text": words, **more}


def thinking(words: str, signature: str = "EqQBCgIYAhIM1gbcDa9GJwZA2b3h") -> Json:
    """A thinking block."""
    return {"type": "thinking", "thinking": words, "signature": signature}


def call(name: str = "get_weather", id: str = "toolu_01A09q90qw90lq917835lq9", **arguments: Any) -> Json:
    """A tool_use block."""
    return {"type": "tool_use", "id": id, "name": name, "input": arguments or {"city": "Paris", "unit": "celsius"}}


def message(*blocks: Json, stop: str | None = None, **more: Any) -> Json:
    """A whole message; a greeting unless blocks are given."""
    content = list(blocks) or [text("Hello! How can I help you today?")]
    called = any(block["type"] == "tool_use" for block in content)
    return {
        "id": "msg_01SimulatedMessage0001",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": stop or ("tool_use" if called else "end_turn"),
        "stop_sequence": None,
        "usage": {"input_tokens": 24, "output_tokens": 12, "service_tier": "standard"},
        **more,
    }


def event(tree: Json, pad: int = 0) -> bytes:
    """One event with its name, padded with `pad` blanks."""
    data = orjson.dumps(tree)
    return b"event: %b\ndata: %b%b}\n\n" % (str(tree["type"]).encode(), data[:-1], b" " * pad)


def stream(*blocks: Json, size: int = 4, pad: bool = False, escape: str = "", **more: Any) -> list[bytes]:
    """The events of `message`. `size` is letters per delta; `escape` is a letter that is written as a JSON escape
    inside of a call's input."""
    whole = message(*blocks, **more)
    trees: list[Json] = []
    first = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    trees.append({"type": "message_start", "message": first})
    for index, block in enumerate(whole["content"]):
        opening, deltas = _opened(block, size, escape)
        trees.append({"type": "content_block_start", "index": index, "content_block": opening})
        if index == 0:
            trees.append({"type": "ping"})
        trees += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        trees.append({"type": "content_block_stop", "index": index})
    stopped = {key: whole[key] for key in ("stop_reason", "stop_sequence", "stop_details") if key in whole}
    trees.append({"type": "message_delta", "delta": stopped, "usage": {"output_tokens": 12}})
    return [*(event(tree, number * 7 % 12 if pad else 0) for number, tree in enumerate(trees)), STOP]


def spread(whole: Json) -> list[bytes]:
    """The events of any message: each block comes whole as it begins."""
    blocks = whole["content"] if isinstance(whole["content"], list) else [whole["content"]]
    trees: list[Json] = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
    for index, block in enumerate(blocks):
        trees.append({"type": "content_block_start", "index": index, "content_block": block})
        trees.append({"type": "content_block_stop", "index": index})
    trees.append({"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"]}, "usage": whole["usage"]})
    return [*map(event, trees), STOP]


def error(status: int, kind: str, words: str) -> Reply:
    """An error of the service."""
    tree = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_011CSimulated"}
    return replies.json(tree, status=status, headers=[("request-id", "req_011CSimulated")])


def _opened(block: Json, size: int, escape: str) -> tuple[Json, Sequence[Json]]:
    """A block as it begins, and the deltas that fill it."""
    return {**block, **{key: type(block[key])() for key in _GROWS.get(block["type"], ())}}, list(
        _deltas(block, size, escape)
    )


_GROWS = {
    "text": ("text",),
    "thinking": ("thinking", "signature"),
    "tool_use": ("input",),
    "server_tool_use": ("input",),
    "mcp_tool_use": ("input",),
}


def _deltas(block: Json, size: int, escape: str) -> Iterator[Json]:
    match block["type"]:
        case "text":
            for piece in pieces(block["text"], size):
                yield {"type": "text_delta", "text": piece}
        case "thinking":
            for piece in pieces(block["thinking"], size):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            written = orjson.dumps(block["input"]).decode()
            if escape:
                written = written.replace(escape, f"\\u{ord(escape):04x}")
            for piece in ("", *pieces(written, size)):
                yield {"type": "input_json_delta", "partial_json": piece}
