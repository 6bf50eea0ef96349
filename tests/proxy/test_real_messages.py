"""The official anthropic client and a real model, with Penstock between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from proxy import local_model
from tests.proxy.conftest import Make

anthropic = pytest.importorskip("anthropic", reason="the official client comes with the dev extra")
pytestmark = pytest.mark.model

ASK: dict[str, Any] = {"model": local_model.MODEL, "max_tokens": 24, "extra_body": {"temperature": 0}}
RECORD = [
    {"role": "user", "content": "Which word is in the record?\nname: Mia\nword: apple"},
    {"role": "assistant", "content": "The word in the record is apple."},
    {"role": "user", "content": "Which word is in the record?\nname: Ben\nword: banana"},
]


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with local_model.running() as url:
        yield url


async def said(base: str, turns: list[dict[str, str]]) -> list[tuple[str, str]]:
    """(text, stop reason) of an answer in one piece, and of a stream; both have counted the same tokens. Retries are
    the client's own: the model's server closes behind each stream, and whoever asks at that moment must ask again."""
    async with anthropic.AsyncAnthropic(base_url=base, api_key="x", timeout=120) as client:
        whole = await client.messages.create(**ASK, messages=turns)
        async with client.messages.stream(**ASK, messages=turns) as stream:
            final = await stream.get_final_message()
        counted = await client.messages.count_tokens(model=ASK["model"], messages=turns)
    assert counted.input_tokens > 10
    return [("".join(block.text for block in answer.content), answer.stop_reason) for answer in (whole, final)]


async def test_honest_answers_are_the_models_own(stand: Make, model: str) -> None:
    turns = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    async with stand(settings={"upstream": model}) as s:
        direct, through = await said(model.removesuffix("/v1"), turns), await said(s.url, turns)
        assert direct == through
        assert direct[0][0]
        ends = [row.outcome for row in await s.rows() if row.outcome.get("detail") != "reset"]
        assert [end["action"] for end in ends] == ["pass"] * 3


async def test_a_blocked_word_never_reaches_the_client(stand: Make, model: str) -> None:
    async with stand(settings={"upstream": model}, options="word: banana, inline: true", stages="[output]") as s:
        for text, reason in await said(s.url, RECORD):
            assert reason == "refusal"
            assert "banana" not in text
            assert "I'm sorry" in text
