"""The service as its callers know it: chat completions and messages, streamed and not, and the list of models.

`answer` is what an `Upstream` does unless told otherwise. A model name may carry a script, so that a load
generator in another process can ask for what it needs: ``sim?chunks=200&gap=0.1&ahead=50`` is a stream of 200 text
deltas, a tenth of a second apart but for the first 50, which come at once, in words that no other answer had.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from tests.upstream import messages, replies, shapes

if TYPE_CHECKING:
    from tests.upstream.server import Request

MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-4.1-mini")
WORDS = (
    "The harbour town wakes early and the bakers are the first to light their windows along the quay. "
    "Fishermen mend nets while gulls argue over the scraps, and a slow ferry crosses the bay twice a day. "
    "In spring the orchards above the road turn white, and schoolchildren count the lambs on the hill. "
    "Nobody hurries here; even the clock on the old customs house is content to be four minutes late. "
)
"""Harmless prose, about 390 characters."""

_serial = itertools.count(1)


def prose(length: int) -> str:
    """`length` characters that no earlier call returned, so that no cache can answer for them."""
    opening = f"Story number {next(_serial):08d}. "
    return (opening + WORDS * (length // len(WORDS) + 1))[:length]


def answer(request: Request) -> replies.Reply:
    """The reply of a well-behaved service."""
    path = request.path
    if request.method == "GET" and path == "/v1/models":
        return replies.json({"object": "list", "data": [shapes.model_card(name) for name in MODELS]})
    if request.method == "GET" and path.startswith("/v1/models/"):
        return _one_model(path.removeprefix("/v1/models/"))
    if request.method == "POST" and path == "/v1/chat/completions":
        return _chat(request)
    if request.method == "POST" and path == "/v1/messages":
        return _messages(request)
    if request.method == "POST" and path == "/v1/messages/count_tokens":
        return replies.json({"input_tokens": 14})
    return replies.error(404, f"Invalid URL ({request.method} {path})")


def _messages(request: Request) -> replies.Reply:
    try:
        body: dict[str, Any] = request.json()
        model, stream = str(body["model"]), body.get("stream")
    except (ValueError, KeyError, TypeError):
        return messages.error(400, "invalid_request_error", "model: Field required")
    said = messages.text("Hello! How can I help you today?")
    if stream:
        return replies.sse(messages.stream(said, model=model, pad=True))
    return replies.json(messages.message(said, model=model))


def _one_model(name: str) -> replies.Reply:
    if name in MODELS:
        return replies.json(shapes.model_card(name))
    message = f"The model '{name}' does not exist or you do not have access to it."
    return replies.error(404, message, code="model_not_found")


def _chat(request: Request) -> replies.Reply:
    try:
        body: dict[str, Any] = request.json()
        model = str(body["model"])
    except (ValueError, KeyError, TypeError):
        return replies.error(400, "We could not parse the JSON body of your request.")
    script = dict(parse_qsl(model.partition("?")[2]))
    chunks, size = int(script.get("chunks", 200)), int(script.get("size", 4))
    text = prose(chunks * size) if script else "Hello! How can I help you today?"
    n = int(body.get("n") or 1)
    if not body.get("stream"):
        return replies.json(shapes.completion(text, n=n, model=model))
    options = body.get("stream_options") or {}
    events = shapes.stream(
        text,
        size=size,
        n=n,
        model=model,
        include_usage=bool(options.get("include_usage")),
        obfuscation=options.get("include_obfuscation", True),
    )
    ahead = int(script.get("ahead", 0))
    events = [b"".join(events[: ahead + 1]), *events[ahead + 1 :]]
    return replies.sse(events, gap=float(script.get("gap", 0)), wait=float(script.get("wait", 0)))
