"""Requests with every field that an official client knows, made from the client's own types."""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import typing_extensions

DEEPEST = 7
"""Levels of objects in objects; some types hold themselves."""


def examples(kind: Any, depth: int = 0) -> list[Any]:
    """Values of a type, as few as it takes to have every member of every union in one of them."""
    origin, args = get_origin(kind), get_args(kind)
    if typing_extensions.is_typeddict(kind):
        found = _objects(kind, depth)
    elif origin in _WRAPPERS:
        found = examples(args[0], depth)
    elif origin in {typing.Union, types.UnionType}:
        found = list(itertools.chain.from_iterable(examples(arg, depth) for arg in args))
    elif origin is typing.Literal:
        found = [args[0]]
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        found = [{"key": each} for each in examples(args[1], depth)[:1]]
    elif origin is not None and args:  # a list of some kind: one with all
        found = [[each for arg in args if arg is not ... for each in examples(arg, depth)]]
    else:
        found = [_PLAIN.get(kind, "text")]
    return found


_WRAPPERS = {typing_extensions.Required, typing_extensions.NotRequired, typing.Annotated}
_PLAIN: dict[Any, Any] = {str: "text", int: 1, float: 0.5, bool: True, type(None): None, object: "text", Any: "text"}


def _objects(kind: Any, depth: int) -> list[Any]:
    if depth >= DEEPEST:
        return [{}]
    fields = {
        name: examples(hint, depth + 1)
        for name, hint in typing_extensions.get_type_hints(kind, include_extras=True).items()
    }
    count = max(map(len, fields.values()), default=1)
    return [{name: values[turn % len(values)] for name, values in fields.items() if values} for turn in range(count)]


def requests(dialect: str) -> Iterator[Any]:
    """Requests of a dialect, streamed and not. Empty where its client is not installed."""
    for kind in _params(dialect):
        yield from examples(kind)


def _params(dialect: str) -> tuple[Any, ...]:
    if dialect in {"messages", "count_tokens"}:
        from anthropic.types import message_count_tokens_params, message_create_params

        if dialect == "count_tokens":
            return (message_count_tokens_params.MessageCountTokensParams,)
        return (message_create_params.MessageCreateParamsStreaming,)
    from openai.types import completion_create_params, embedding_create_params, moderation_create_params
    from openai.types.chat import completion_create_params as chat
    from openai.types.responses import response_create_params as responses

    return {
        "chat": (chat.CompletionCreateParamsStreaming,),
        "responses": (responses.ResponseCreateParamsStreaming,),
        "completions": (completion_create_params.CompletionCreateParamsStreaming,),
        "embeddings": (embedding_create_params.EmbeddingCreateParams,),
        "moderations": (moderation_create_params.ModerationCreateParams,),
    }[dialect]
