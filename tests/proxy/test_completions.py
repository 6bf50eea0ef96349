"""Legacy Completions and Embeddings: all that a body says is read, token numbers are told, the official client reads
what it is answered."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import orjson
import pytest

from classifiers.base import Role
from proxy.dialects.base import BadRequest, Dialect, Refusal, Request
from proxy.dialects.completions import Completions, CompletionsReader
from proxy.dialects.embeddings import Embeddings
from proxy.gate import Kind, Part
from proxy.sse import Decoder
from proxy.strict import Malformed
from tests.conformance.speak_completions import legacy, legacy_event
from tests.proxy.conftest import Make
from tests.proxy.leaves import MARK, UNSCANNABLE, variants
from tests.upstream import replies, shapes

REQUESTS: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "completions": (
        Completions(),
        {
            "model": "gpt-3.5-turbo-instruct", "prompt": ["Say that this is a test.", "And another."], "best_of": 2,
            "echo": True, "frequency_penalty": 0.5, "logit_bias": {"50256": -100}, "logprobs": 5, "max_tokens": 7,
            "n": 2, "presence_penalty": 0, "seed": 1, "stop": ["\n"], "stream": False,
            "stream_options": {"include_usage": True, "include_obfuscation": False}, "suffix": " and so on it goes ...",
            "temperature": 0, "top_p": 1, "user": "user-1234",
        },
    ),
    "embeddings": (
        Embeddings(),
        {
            "model": "text-embedding-3-small", "input": ["The food was delicious.", "The waiter"], "dimensions": 256,
            "encoding_format": "base64", "user": "user-1234", "task": "x", "messages": [{"role": "user"}],
        },
    ),
}  # fmt: skip
WHOLE: dict[str, Any] = legacy(shapes.completion(["Some words that are long enough.", "x"], n=2, logprobs=True))
ANSWERS: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "completions": (Completions(), WHOLE),
    "an error": (Completions(), {"error": {"message": "no", "type": "server_error", "param": None, "code": None}}),
    "embeddings": (
        Embeddings(),
        {
            "object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 1]}], "model": "m",
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        },
    ),
}  # fmt: skip
REFUSAL = Refusal("No.", "content_policy_violation", "demo", "output", "pn_1")


@pytest.mark.parametrize("name", REQUESTS)
def test_every_leaf_and_key_of_a_request_is_read(name: str) -> None:
    dialect, whole = REQUESTS[name]
    count = 0
    for place, tree in variants(whole):
        try:
            request = dialect.read_request(tree)
        except BadRequest:
            continue
        assert MARK in "\n".join(message.text for message in request.messages), place
        count += 1
    assert count > 20


@pytest.mark.parametrize("name", ANSWERS)
def test_every_leaf_and_key_of_an_answer_is_read(name: str) -> None:
    dialect, whole = ANSWERS[name]
    for place, tree in variants(whole):
        body = dialect.read_response(tree)
        assert MARK in "\n".join(message.text for message in body.messages), place


def read(*events: bytes) -> tuple[CompletionsReader, list[Part]]:
    reader = Completions().reader(Request(model="m", stream=True))
    return reader, [reader.read(event) for event in Decoder().feed(b"".join(events))]


def test_every_leaf_and_key_of_a_chunk_is_read() -> None:
    for place, tree in variants(WHOLE):
        if place.endswith("/index"):
            with pytest.raises(Malformed):
                read(shapes.event(tree))
            continue
        _, (part,) = read(shapes.event(tree))
        assert MARK in "\n".join(piece.text for piece in part.pieces), place


def test_the_text_of_a_choice_flows_and_can_be_masked() -> None:
    reader, parts = read(*map(legacy_event, shapes.stream(["some words", "others"], n=2)))
    texts: dict[str, str] = {}
    for part in parts:
        for piece in part.pieces:
            if piece.kind is Kind.FLOW:
                texts[piece.channel] = texts.get(piece.channel, "") + piece.text
    assert texts == {"/choices/0/text": "some words", "/choices/1/text": "others"}
    assert reader.complete
    part, piece = next((part, piece) for part in parts for piece in part.pieces if piece.kind is Kind.FLOW)
    tree = orjson.loads(reader.rewritten(part, [(piece, "[X]")]).removeprefix(b"data: "))
    assert [choice["text"] for choice in tree["choices"]] == ["[X]"]


def test_chunks_that_repeat_are_recognised() -> None:
    """What a stream says most often is not parsed again."""
    events = [legacy_event(event) for event in shapes.stream("words and more words and more", size=3)]
    reader = Completions().reader(Request(model="m", stream=True))
    known, said = 0, ""
    for event in Decoder().feed(b"".join(events)):
        part = reader.repeat(event.raw)
        known += part is not None
        said += "".join(piece.text for piece in (part or reader.read(event)).pieces if piece.kind is Kind.FLOW)
    assert said == "words and more words and more"
    assert known > 4


TOKENS: dict[str, tuple[Any, list[str], list[str]]] = {
    "none": ("Hi", ["Hi"], []),
    "numbers": ([1, 2], [], ["/x"]),
    "lists of numbers": ([[1, 2], [3]], [], ["/x/0", "/x/1"]),
    "one list of numbers": (["Hi", [3]], ["Hi"], ["/x/1"]),
    "a number among words": (["Hi", 3], ["Hi"], ["/x"]),
    "deeper than anybody reads": ([[[1]]], [], ["/x/0"]),
    "nothing": (None, [], []),
}


@pytest.mark.parametrize(("value", "texts", "opaque"), TOKENS.values(), ids=TOKENS.keys())
def test_token_numbers_are_told(value: Any, texts: list[str], opaque: list[str]) -> None:
    for dialect, field in ((Completions(), "prompt"), (Embeddings(), "input")):
        request = dialect.read_request({"model": "m", field: value})
        assert [message.text for message in request.messages if message.origin != "/model"] == texts
        assert request.unscannable == [(place.replace("/x", "/" + field), "tokens") for place in opaque]
        assert {message.role for message in request.messages if message.text == "Hi"} <= {Role.USER}


def test_images_in_a_prompt_are_told() -> None:
    """As llama.cpp takes them."""
    prompt = {"prompt_string": "What is <__media__>?", "multimodal_data": ["AAAA"]}
    for value, place in ((prompt, "/prompt"), (["Hi", prompt], "/prompt/1")):
        request = Completions().read_request({"model": "m", "prompt": value})
        assert request.unscannable == [(place, "image")]
        assert "What is <__media__>?" in [message.text for message in request.messages]


async def test_token_numbers_are_decided_on(stand: Make) -> None:
    """T22: what nobody can read is a rule's to decide, and never reaches the model unseen."""
    async with stand(UNSCANNABLE) as s:
        for path, field in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
            for value in ([1, 2], [[1, 2], [3]], ["Hi", [3]]):
                response = await s.client.post(path, json={"model": "m", field: value})
                assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_prompt")
        assert s.upstream.requests == []
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert 'penstock_unscanned_parts_total{dialect="completions",kind="tokens",stage="input"} 4.0' in page
        assert 'penstock_unscanned_parts_total{dialect="embeddings",kind="tokens",stage="input"} 4.0' in page


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("usage", [False, True])
def test_a_block_finishes_every_choice(released: bool, usage: bool) -> None:
    reader = CompletionsReader(Request(model="m", stream=True, choices=2, usage_wanted=usage))
    part = reader.read(next(iter(Decoder().feed(legacy_event(shapes.stream("x")[1])))))
    if released:
        reader.released(part)
    data = [event.data for event in Decoder().feed(reader.ending(REFUSAL)) if event.data]
    assert data.pop() == "[DONE]"
    chunks = [orjson.loads(item) for item in data]
    finished = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [(choice["index"], choice["finish_reason"]) for choice in finished] == [
        (0, "content_filter"),
        (1, "content_filter"),
    ]
    assert all(choice["text"].strip() == "No." for choice in finished)
    assert ("usage" in chunks[-1]) is usage
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_the_official_client(stand: Make) -> None:
    openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")
    vector = base64.b64encode(struct.pack("<3f", 0.25, -0.5, 1.0)).decode()
    async with stand() as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="sk-test") as client:
        ask = {"model": "m", "prompt": ["Hi", "there"]}
        s.upstream.reply = replies.json(legacy(shapes.completion("the SECRET word")))
        answer = await client.completions.create(**ask)
        assert answer.choices[0].text == "the [VEILED] word"
        s.upstream.reply = replies.sse([legacy_event(event) for event in shapes.stream("the SECRET word")])
        said = [chunk.choices[0].text async for chunk in await client.completions.create(**ask, stream=True)]
        assert "".join(said) == "the [VEILED] word"
        s.upstream.reply = replies.sse([legacy_event(event) for event in shapes.stream("x" * 99 + "MARK")])
        choices = [
            choice async for chunk in await client.completions.create(**ask, stream=True) for choice in chunk.choices
        ]
        assert {choice.index for choice in choices if choice.finish_reason == "content_filter"} == {0, 1}
        s.upstream.reply = replies.json(
            {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": vector}]}
        )
        made = await client.embeddings.create(model="m", input="Hi")
        assert list(made.data[0].embedding) == [0.25, -0.5, 1.0]
        before = len(s.upstream.requests)
        for refused in (
            client.completions.create(model="m", prompt="MARK"),
            client.embeddings.create(model="m", input="MARK"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await refused
            assert caught.value.code == "invalid_prompt"
        assert len(s.upstream.requests) == before


async def test_an_allowed_request_leaves_as_it_came(stand: Make) -> None:
    async with stand() as s:
        for path, (_, tree) in zip(("/v1/completions", "/v1/embeddings"), REQUESTS.values(), strict=True):
            raw = json.dumps(tree, indent=1).encode()
            s.upstream.reply = replies.json(WHOLE)
            response = await s.client.post(path, content=raw, headers={"content-type": "application/json"})
            assert response.status_code == 200
            assert s.upstream.requests[-1].body == raw
