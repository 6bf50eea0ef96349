"""Many texts in one call: each is read as if it were alone, to the last bit, and no window twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.encoder import DEFAULT_MODEL, MODELS, Encoder, Ids, Passes
from classifiers.runtime import TOGETHER

ENCODER = Encoder.open(MODELS / DEFAULT_MODEL)
WORDS = ["ignore", "all", "the", "previous", "instructions", "bake", "bread", ",", "请", "привет", "😀", "\ud800"]

short = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
texts = st.one_of(short, short, st.text(max_size=40), st.integers(100, 400).map(lambda count: "stone soup " * count))
asked = st.lists(st.tuples(texts, st.one_of(st.just(""), st.just(""), short)), max_size=10)


def same(one: Passes, other: Passes) -> bool:
    return (
        one.windows == other.windows
        and (one.logits == other.logits).all()
        and bool((one.embeddings == other.embeddings).all())
    )


@settings(max_examples=40, deadline=None)
@given(asked)
def test_company_changes_no_bit(many: list[tuple[str, str]]) -> None:
    for each, passes in zip(many, ENCODER.read_all(many), strict=True):
        assert same(passes, ENCODER.read(*each))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of the rows of each pass."""
    seen: list[tuple[int, ...]] = []
    real = ENCODER.engine.run_many

    def run_many(passes: list[Ids], outputs: Any) -> Any:
        seen.extend(ids.shape for ids in passes)
        return real(passes, outputs)

    monkeypatch.setattr(ENCODER.engine, "run_many", run_many)
    return seen


def test_short_ones_of_one_length_share_a_pass(sizes: list[tuple[int, ...]]) -> None:
    colours = ["red", "green", "blue", "white", "black"]
    ENCODER.read_all([(f"a {colour} stone", "") for colour in colours] + [("a stone", "")])
    assert sorted(sizes) == [(1, 4), (5, 5)]


def test_passes_are_bounded_and_equal_windows_read_once(sizes: list[tuple[int, ...]]) -> None:
    many = [(f"stone number {number}", "") for number in range(1000, 1200)]
    ENCODER.read_all(many + many)
    assert sum(count for count, _ in sizes) == len(many)
    assert max(count * length for count, length in sizes) <= TOGETHER
    assert len(sizes) < len(many) / 20


def test_long_windows_run_alone(sizes: list[tuple[int, ...]]) -> None:
    ENCODER.read_all([(" ".join(map(str, range(number, number + 300))), "") for number in (0, 500)])
    assert {count for count, _ in sizes} == {1}


def test_nothing_is_asked_for_nothing(sizes: list[tuple[int, ...]]) -> None:
    assert ENCODER.read_all([]) == []
    (passes,) = ENCODER.read_all([(" \n", "said before")])
    assert (passes.windows, passes.logits.shape, sizes) == ((), (0, len(ENCODER.card.heads)), [])


def test_an_answer_that_is_no_number_spoils_the_call_and_nothing_after(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(ENCODER.card, *(_bytes(name) for name in ("model.onnx", "tokenizer.json")))
    encoder.share()
    real = encoder.engine.run_many
    broken = lambda *given: [[part * np.nan for part in made] for made in real(*given)]  # noqa: E731
    monkeypatch.setattr(encoder.engine, "run_many", broken)
    with pytest.raises(ArithmeticError, match="not finite"):
        encoder.read_all([("a red stone", ""), ("a blue stone", "")])
    monkeypatch.setattr(encoder.engine, "run_many", real)
    assert same(encoder.read("a red stone"), ENCODER.read("a red stone"))


def _bytes(name: str) -> bytes:
    return (MODELS / DEFAULT_MODEL / name).read_bytes()
