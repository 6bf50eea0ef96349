"""T18, from the official clients' own types: every text and key of every request that they can write is read.

Each text of a request gets a word of its own, each object a key of its own; every one of them must stand in a message,
in a part that a rule on `surface.unscannable` decides about, or in a field that the dialect refuses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.app import DIALECTS, SERVED
from proxy.dialects.base import BadRequest, Dialect
from proxy.dialects.moderations import Moderations
from tests.conformance import sdk_types
from tests.proxy.conftest import Make, _canary, stand  # noqa: F401 - pytest finds fixtures by name
from tests.proxy.leaves import variants
from tests.upstream import replies

_READERS: list[Dialect | Moderations] = [*(reader for _, reader in DIALECTS), *(reader for _, reader in SERVED)]
READERS = {reader.name: reader for reader in _READERS}
REFUSED = {"background", "previous_response_id", "conversation", "prompt", "input"}
"""Fields that Responses refuses, or whose items it refuses: they speak of what was not judged."""


def marked(tree: Any, count: Iterator[int], place: str = "") -> tuple[Any, dict[str, str]]:
    """`tree` with a word for each text and a key for each object, and where each of them stands."""
    if isinstance(tree, dict):
        out: dict[str, Any] = {}
        words: dict[str, str] = {}
        for key, value in [*tree.items(), (f"zzkey{next(count)}", None)]:
            out[key], found = marked(value, count, f"{place}/{key}")
            words |= found
            if key.startswith("zzkey"):
                words[key] = place
        return out, words
    if isinstance(tree, list):
        items = [marked(item, count, f"{place}/{number}") for number, item in enumerate(tree)]
        return [item for item, _ in items], {word: at for _, found in items for word, at in found.items()}
    if tree == "text":
        word = f"zzword{next(count)}"
        return word, {word: place}
    return tree, {}


def unread(reader: Dialect | Moderations, tree: Any) -> dict[str, str]:
    """The words that no message and no unscannable part holds."""
    tree, words = marked(tree, itertools.count())
    while True:
        try:
            request = reader.read_request(tree)
            break
        except BadRequest as error:
            field = (error.param or "").partition("[")[0].partition(".")[0]
            if field not in REFUSED or field not in tree:
                raise
            # Where an item is refused the list goes item by item, in the other examples.
            del tree[field]
            words = {word: at for word, at in words.items() if not (at + "/").startswith(f"/{field}/")}
            if field == "input":
                tree[field] = "text"
    bodies = getattr(request, "inputs", None) or [request]
    if isinstance(reader, Moderations):  # nothing of it leaves: it is its input alone that is answered about
        words = {word: at for word, at in words.items() if at.startswith("/input")}
    said = "\n".join(message.text for body in bodies for message in body.messages)
    opaque = [origin + "/" for body in bodies for origin, _ in body.unscannable]
    return {
        word: at
        for word, at in words.items()
        if word not in said and not any((at + "/").startswith(origin) for origin in opaque)
    }


@pytest.mark.parametrize("dialect", READERS)
def test_each_text_and_key_that_the_official_client_can_write(dialect: str) -> None:
    pytest.importorskip("openai", reason="the official client comes with the demo extra")
    trees = list(sdk_types.requests(dialect))
    assert trees
    for tree in trees:
        assert unread(READERS[dialect], tree) == {}


FULL: dict[str, Any] = {
    "completions": {
        "model": "gpt-3.5-turbo-instruct", "prompt": ["Once", "Twice"], "suffix": "the end", "stop": ["never", "ever"],
        "user": "user-1", "best_of": 1, "echo": False, "frequency_penalty": 0, "logit_bias": {"50256": -100},
        "logprobs": 1, "max_tokens": 9, "n": 1, "presence_penalty": 0, "seed": 7, "temperature": 1, "top_p": 1,
        "stream_options": {"include_usage": True, "include_obfuscation": True},
    },
    "embeddings": {
        "model": "text-embedding-3-small", "input": ["One text", "Another"], "dimensions": 8, "user": "user-1",
        "encoding_format": "float",
    },
}  # fmt: skip


@pytest.mark.parametrize("dialect", FULL)
async def test_each_leaf_and_key_of_a_request(stand: Make, dialect: str) -> None:  # noqa: F811
    """Over HTTP, as test_leaves does it for the larger ones."""
    path = next(path.decode() for path, reader in DIALECTS if reader.name == dialect)
    async with stand() as s:
        s.upstream.reply = replies.json({})
        assert (await s.client.post(path, json=FULL[dialect])).status_code == 200
        s.upstream.requests.clear()
        cases = list(variants(FULL[dialect]))
        room = asyncio.Semaphore(16)

        async def one(place: str, tree: Any) -> None:
            async with room:
                response = await s.client.post(path, json=tree)
            assert response.status_code == 400, place
            assert response.json()["error"]["code"] in {"invalid_prompt", "invalid_request"}, place
            assert b"MARK" not in response.content, place

        await asyncio.gather(*(one(*case) for case in cases))
        assert s.upstream.requests == []
        assert len(cases) > 12
