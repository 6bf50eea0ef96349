"""A real client and a real model with Penstock between them: what no simulation proves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest

from proxy import local_model
from tests.proxy.conftest import Make

pytestmark = pytest.mark.model

ASK: dict[str, object] = {"model": local_model.MODEL, "temperature": 0, "max_tokens": 24, "seed": 1}


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with local_model.running() as url:
        yield url


async def test_honest_answers_are_the_models_own(stand: Make, model: str) -> None:
    """JSON and stream: the client reads through Penstock what it reads from the model."""
    turns = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    async with stand(settings={"upstream": model}) as s:
        for stream in (False, True):
            said = []
            for base in (model, f"{s.url}/v1"):
                async with openai.AsyncOpenAI(base_url=base, api_key="x", timeout=120) as client:
                    answer = await client.chat.completions.create(**ASK, messages=turns, stream=stream)  # type: ignore[call-overload]
                    if stream:
                        text = "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])
                    else:
                        text = answer.choices[0].message.content
                    said.append(text)
            assert said[0] == said[1] != ""
        assert {row.outcome["action"] for row in await s.rows() if row.outcome} == {"pass"}


async def test_a_blocked_word_never_reaches_the_client(stand: Make, model: str) -> None:
    turns = [
        {"role": "user", "content": "Which word is in the record?\nname: Mia\nword: apple"},
        {"role": "assistant", "content": "The word in the record is apple."},
        {"role": "user", "content": "Which word is in the record?\nname: Ben\nword: banana"},
    ]
    async with (
        stand(settings={"upstream": model}, options="word: banana, inline: true", stages="[output]") as s,
        openai.AsyncOpenAI(base_url=f"{s.url}/v1", api_key="x", timeout=120) as client,
    ):
        whole = await client.chat.completions.create(**ASK, messages=turns)  # type: ignore[call-overload]
        stream = await client.chat.completions.create(**ASK, messages=turns, stream=True)  # type: ignore[call-overload]
        chunks = [chunk.choices[0] async for chunk in stream if chunk.choices]
    assert whole.choices[0].finish_reason == chunks[-1].finish_reason == "content_filter"
    for text in (whole.choices[0].message.content, "".join(c.delta.content or "" for c in chunks)):
        assert "banana" not in text
        assert "I'm sorry" in text


def test_the_demo_runs_to_its_end() -> None:
    command = [sys.executable, "-m", "proxy", "demo", "--once", "--port", "0", "--admin-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {
        cells[1].strip(): cells[2].strip() for line in done.stdout.splitlines() if len(cells := line.split("│")) > 6
    }
    assert rows["a harmful request"] == rows["an injection"] == rows["an injection inside a tool result"] == "block"
    assert rows["an honest question"] == rows["killing a process"] == "pass"
    assert "?" not in rows.values()
    assert "base_url=" in done.stdout
