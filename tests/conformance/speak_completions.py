"""Legacy Completions: the same said without turns, and a request to Embeddings, which answers in numbers."""

from __future__ import annotations

import json
from typing import Any

import orjson

from tests.conformance.cases import Answer, Case, Send
from tests.upstream import shapes

PARTS = frozenset({"content", "last choice", "model", "id", "finish", "logprobs"})
"""What a part of an answer may be here: there are no tools, no reasoning and no refusals."""


def applies(case: Case) -> bool:
    """Whether a case written for Chat says nothing that only Chat can say."""
    send, upstream = case.send, case.upstream
    plain = send.raw is None and not send.body and send.path is None and send.method == "POST"
    return plain and case.dialects in ([], ["chat"]) and not upstream.literal and upstream.part in PARTS


def body(send: Send, stream: bool) -> bytes:
    return json.dumps({"model": "gpt-3.5-turbo-instruct", "prompt": send.text, "stream": stream, **send.body}).encode()


def embedding_body(send: Send, stream: bool) -> bytes:
    return json.dumps({"model": "text-embedding-3-small", "input": send.text, **send.body}).encode()


def whole(answer: Answer) -> Any:
    return legacy(shapes.completion(**_said(answer)))


def stream(answer: Answer) -> list[bytes]:
    return [legacy_event(event) for event in shapes.stream(**_said(answer), size=answer.size)]


def embedding(answer: Answer) -> Any:
    """A vector, with the text as `model`, or as the vector itself."""
    vector: Any = answer.text if answer.part == "vector" else [0.25, -0.5, 1.0]
    model = "text-embedding-3-small" if answer.part == "vector" else answer.text
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": model,
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


def legacy_event(event: bytes) -> bytes:
    """A chat.completion.chunk as a text_completion."""
    if event == shapes.DONE:
        return event
    return shapes.event(legacy(orjson.loads(event.removeprefix(b"data: "))))


def legacy(tree: Any) -> Any:
    """A chat completion, or a chunk of one, as a text_completion."""
    choices = []
    for choice in tree["choices"]:
        said = choice.get("message") or choice.get("delta") or {}
        tokens = [item["token"] for item in (choice["logprobs"] or {}).get("content") or ()]
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [-0.0123 for _ in tokens],
            "top_logprobs": [{token: -0.0123} for token in tokens],
            "text_offset": [0 for _ in tokens],
        }
        choices.append(
            {
                "text": said.get("content") or "",
                "index": choice["index"],
                "logprobs": logprobs if choice["logprobs"] else None,
                "finish_reason": choice["finish_reason"],
            }
        )
    return {**tree, "object": "text_completion", "choices": choices}


def _said(answer: Answer) -> dict[str, Any]:
    ways: dict[str, dict[str, Any]] = {
        "content": {"text": answer.text},
        "last choice": {"text": ["One.", "Two.", answer.text], "n": 3},
        "model": {"model": answer.text},
        "id": {"id": answer.text},
        "finish": {"finish": answer.text},
        "logprobs": {"text": answer.text, "logprobs": True},
    }
    return ways[answer.part]
