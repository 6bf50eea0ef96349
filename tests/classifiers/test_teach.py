"""Teaching: a convex fit that no order changes, figures from folds that share no wording, a file that holds."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from classifiers import alike, lesson, teach
from classifiers.asked import Asked
from classifiers.base import Classifier, Message, Role
from classifiers.catalog import OptionError, create
from classifiers.embedded import Embedded
from classifiers.encoder import DEFAULT_MODEL, WIDTH, Encoder
from classifiers.examples import LEAST, LONGEST, MOST, Example, TeachError, prepare
from classifiers.linear import Line, fit, sigmoid
from classifiers.panel import Panel
from classifiers.statistics import upper_bound
from classifiers.taught import Head, Taught, open_encoder, parse

FIXTURES = Path(__file__).parent.parent / "fixtures" / "teach"
GOLDEN = FIXTURES / "head.json"
TODAY = date(2026, 11, 22)


def fraud() -> list[Example]:
    rows = [json.loads(line) for line in (FIXTURES / "refund_fraud.jsonl").read_text("utf-8").splitlines()]
    return [Example(row["text"], row["label"] == "refund_fraud") for row in rows]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_encoder(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def taught(encoder: Encoder) -> tuple[Head, lesson.Lesson]:
    return teach.teach("refund_fraud", fraud(), encoder, today=TODAY)


# The line -----------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


def cloud(seed: int, count: int, width: int, apart: float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    bad = np.arange(count) % 2 == 0
    rows = rng.normal(size=(count, width))
    rows[bad, 0] += apart
    return rows, bad


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(4, 40), st.sampled_from([3, 60]), st.floats(0.01, 10), st.floats(0, 50))
def test_the_fit_is_where_the_loss_is_flat(seed: int, count: int, width: int, strength: float, apart: float) -> None:
    rows, bad = cloud(seed, count, width, apart)
    counts = np.random.default_rng(seed).uniform(0.1, 3, count)
    line = fit(rows, bad.astype(float), counts, strength)
    off = counts * (sigmoid(line.score(rows)) - bad)
    slope = rows.T @ off + strength * line.weights
    scale = 1 + float(np.abs(rows).max()) * float(counts.sum())
    assert np.abs(slope).max() < 1e-4 * scale
    assert abs(off.sum()) < 1e-4 * scale


@settings(deadline=None, max_examples=15)
@given(seeds, st.sampled_from([5, 80]))
def test_order_and_repetition_of_rows_do_not_matter(seed: int, width: int) -> None:
    rows, bad = cloud(seed, 30, width, 1.0)
    counts = np.ones(30)
    line = fit(rows, bad.astype(float), counts, 0.1)
    order = np.random.default_rng(seed).permutation(30)
    again = fit(rows[order], bad[order].astype(float), counts, 0.1)
    twice = fit(np.vstack((rows, rows)), np.concatenate((bad, bad)).astype(float), np.full(60, 0.5), 0.1)
    for other in (again, twice):
        np.testing.assert_allclose(other.weights, line.weights, atol=1e-6)
        assert other.intercept == pytest.approx(line.intercept, abs=1e-6)


def test_what_can_be_parted_is_parted_and_a_start_changes_nothing() -> None:
    rows, bad = cloud(1, 40, 10, 30.0)
    line = fit(rows, bad.astype(float), np.ones(40), 0.01)
    assert ((line.score(rows) > 0) == bad).all()
    other = fit(rows, bad.astype(float), np.ones(40), 0.01, Line(np.full(10, 5.0), -100.0))
    np.testing.assert_allclose(other.weights, line.weights, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "aims", "strength"), [(0, 1.0, 1.0), (3, 1.0, 1.0), (3, 0.0, 1.0), (3, 0.5, 0.0), (3, 0.5, math.nan)]
)
def test_a_line_needs_two_sides(count: int, aims: float, strength: float) -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit(np.zeros((count, 2)), np.full(count, aims), np.ones(count), strength)


# Near copies --------------------------------------------------------------------------------------------------------


def test_near_copies_are_found_and_others_are_not() -> None:
    texts = [
        "How do I reset the password of my account on the new site?",
        "how do I reset the password of my account  on the NEW site",
        "How do I reset the password of my account on the old site?",
        "Please write a poem about the sea in winter",
        "Order 4411 is late",
        "Order 9032 is late",
        "Order",
    ]
    groups = alike.groups(len(texts), alike.pairs(texts)).tolist()
    assert groups[0] == groups[1]
    assert groups[4] == groups[5]
    assert len({groups[0], groups[3], groups[4], groups[6]}) == 4


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(max_size=30), max_size=30), seeds)
def test_groups_do_not_depend_on_the_order(texts: list[str], seed: int) -> None:
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    one = alike.groups(len(texts), alike.pairs(texts))
    other = alike.groups(len(texts), alike.pairs([texts[at] for at in order]))
    partition = {frozenset(np.flatnonzero(one == group).tolist()) for group in one}
    assert partition == {frozenset(order[at] for at in np.flatnonzero(other == group)) for group in other}


def test_many_copies_cost_no_square_of_their_number() -> None:
    assert len(alike.pairs([f"the very same words each time, number {at}" for at in range(3000)])) < 40_000


# Folds and thresholds -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=4, max_size=80), st.integers(2, 10))
def test_folds_keep_groups_whole_and_hold_both_sides(rows: list[tuple[int, bool]], most: int) -> None:
    groups = np.asarray([group for group, _ in rows], np.intp)
    bad = np.asarray([side for _, side in rows])
    have = min(len(set(groups[bad == side].tolist())) for side in (True, False))
    if have < 2:
        with pytest.raises(TeachError, match="wordings of one text"):
            teach.folds(groups, bad, most)
        return
    fold = teach.folds(groups, bad, most)
    assert fold.max() < min(most, have)
    for group in set(groups.tolist()):
        assert len(set(fold[groups == group].tolist())) == 1


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 40).map(lambda v: v / 40), min_size=1, max_size=400),
    st.sampled_from([0.01, 0.03, 0.1, 0.3]),
)
def test_a_threshold_is_proven_or_says_what_it_lacks(scores: list[float], budget: float) -> None:
    passed = np.asarray(scores)
    found = lesson.threshold(passed, np.asarray([0.5, 1.0]), budget)
    assert found.flagged == (passed >= found.value).sum()
    assert found.bound == pytest.approx(upper_bound(found.flagged, len(passed)))
    assert found.proven == (found.bound <= budget)
    if len(passed) < found.needed:
        assert not found.proven
    elif not found.proven:
        assert found.value == 1.0, "texts with the highest score there is"
    else:  # no lower threshold would do
        lower = passed[passed < found.value]
        assert upper_bound(int((passed >= lower.max()).sum()), len(passed)) > budget if len(lower) else True


def test_the_numbers_of_honest_texts_that_prove_a_budget() -> None:
    assert [lesson.needed(budget) for budget in (0.01, 0.005, 0.001)] == [299, 598, 2995]
    for budget in (0.01, 0.005):
        least = lesson.needed(budget)
        assert lesson.allowed(least, budget) == 0
        assert lesson.allowed(least - 1, budget) == -1


# What is taught -----------------------------------------------------------------------------------------------------


def test_a_head_is_taught_with_the_shipped_encoder(taught: tuple[Head, lesson.Lesson], encoder: Encoder) -> None:
    head, said = taught
    assert (said.bad, said.honest, said.groups, said.made) == (20, 24, 44, "2026-11-22")
    assert said.figures.auroc_low < said.figures.auroc < said.figures.auroc_high
    assert said.figures.auroc > 0.7
    assert not said.threshold.proven
    assert said.threshold.needed == 598
    classifier = Taught("mine", head, encoder)
    lie = "I kept the camera, what excuse gets me a refund as if it had never come?"
    scores = [classifier.classify([Message(Role.USER, text, "")]) for text in (lie, "When do you open on Monday?")]
    assert scores[0][0].score > 0.5
    assert scores[0][0].label == "refund_fraud"
    assert scores[1] == [] or scores[1][0].score < 0.5


def test_order_and_repetition_of_examples_do_not_matter(taught: tuple[Head, lesson.Lesson], encoder: Encoder) -> None:
    examples = fraud()
    random.Random(3).shuffle(examples)
    again, said = teach.teach("refund_fraud", [*examples, *examples[:3]], encoder, today=TODAY)
    assert again.digest == taught[0].digest
    assert said.examples == taught[1].examples
    assert any("3 examples repeat" in warning for warning in said.warnings)


def test_no_text_is_in_the_file(taught: tuple[Head, lesson.Lesson]) -> None:
    raw = taught[0].dump().decode()
    assert len(raw) < 6000
    for example in fraud():
        assert example.text[:20] not in raw


def test_honest_traffic_proves_a_threshold_and_is_not_learned_from(
    taught: tuple[Head, lesson.Lesson], encoder: Encoder
) -> None:
    asked = (f"Where is the {what} number {n}?" for what in ("pillow", "cup", "lamp") for n in range(110))
    honest = [Example(text, False) for text in asked]
    examples = fraud()
    leaked = next(example for example in examples if not example.bad)
    head, said = teach.teach("refund_fraud", examples, encoder, [*honest, leaked], 0.01, today=TODAY)
    assert head.digest == taught[0].digest
    assert said.traffic == 330
    assert said.threshold.proven
    assert said.threshold.bound <= 0.01
    assert any("1 honest texts are examples too" in warning for warning in said.warnings)


def test_shortcuts_contradictions_and_crowds_are_named(encoder: Encoder) -> None:
    examples = fraud()
    short = [Example("ok " * 3 + example.text[:12], True) if example.bad else example for example in examples]
    torn = [*short, Example(examples[-1].text.upper(), True)]
    crowd = [Example(f"Where is my parcel number {n}? It is late", False) for n in range(20)]
    _, said = teach.teach("x", [*torn, *crowd], encoder, today=TODAY)
    told = "\n".join(said.warnings)
    for part in ("length alone", "2 examples contradict", "too alike", "too few bad"):
        assert part in told, told


def test_copies_on_both_sides_stay_in_one_fold_and_are_named(encoder: Encoder) -> None:
    base = fraud()
    pairs = [Example(example.text + " Thanks!", not example.bad) for example in base]
    _, said = teach.teach("x", base + pairs, encoder, today=TODAY)
    assert any("near copies stand on both sides" in warning for warning in said.warnings)
    # Each text's near copy says the contrary, and is never learned from when the text is held out.
    assert 0.2 < said.figures.auroc < 0.8


def test_noise_is_not_made_to_look_good(encoder: Encoder) -> None:
    rng = random.Random(5)
    examples = [replace(example, bad=rng.random() < 0.5) for example in fraud()]
    _, said = teach.teach("noise", examples, encoder, today=TODAY)
    assert said.figures.auroc < 0.8
    assert said.figures.auroc_low < 0.6


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        ([], "no bad text"),
        ([Example(f"good {n} {'a' * n}", False) for n in range(40)], "no bad text"),
        ([Example(f"bad {n} {'a' * n}", True) for n in range(40)], "no honest text"),
        ([Example(f"t {n} {'a' * n}", n < LEAST - 1) for n in range(40)], "only 9 different bad"),
        ([Example("the same", True)] * 50 + [Example(f"g {n}", False) for n in range(40)], "only 1 different bad"),
        ([Example("  \n", True)], "example 1 is blank"),
        ([Example("x" * (LONGEST + 1), True)], "over 100,000 characters"),
        ([Example(f"{n}", n % 2 == 0) for n in range(MOST + 2)], "at most 5,000"),
    ],
)
def test_what_cannot_be_learned_from_says_why(examples: list[Example], told: str) -> None:
    with pytest.raises(TeachError, match=told):
        prepare(examples)


def test_one_wording_on_a_side_is_no_side(encoder: Encoder) -> None:
    bad = [Example(f"Send me the invoice of order {n} once more please", True) for n in range(20)]
    # Digits make no difference among near copies, but they do for being the same text.
    with pytest.raises(TeachError, match="wordings of one text"):
        teach.teach("x", bad + [example for example in fraud() if not example.bad], encoder)


@pytest.mark.parametrize("among", ["examples", "honest"])
def test_a_text_of_which_nothing_is_left_is_named_by_its_place(among: str, encoder: Encoder) -> None:
    nothing = [Example("\u200b\u200d\u200b", False, "honest.txt:29")]
    examples = fraud() + nothing * (among == "examples")
    with pytest.raises(TeachError, match=r"^honest\.txt:29: the text holds nothing that can be read"):
        teach.teach("x", examples, encoder, nothing * (among == "honest"))


def test_a_place_makes_no_two_texts_of_one() -> None:
    examples = [replace(example, place=f"f:{at}") for at, example in enumerate(fraud())]
    assert prepare(examples) == prepare(fraud())
    with pytest.raises(TeachError, match=r"^f:7: the text is blank"):
        prepare([*examples, Example(" ", True, "f:7")])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0.001, 0.998), min_size=20, max_size=60), st.lists(st.floats(0.001, 0.998), min_size=4))
def test_the_thresholds_of_a_card_keep_the_rate_that_they_are_for(passed: list[float], caught: list[float]) -> None:
    """As they are written, with six decimals: rounded down, one would be reached by the honest score that it lies
    above."""
    scores = np.asarray([*caught, *passed])
    bad = np.arange(len(scores)) < len(caught)
    found = lesson.figures(scores, scores, bad, np.arange(len(scores), dtype=np.intp), None)
    for each in found.recalls:
        written = round(each.threshold, 6)
        assert written == each.threshold
        assert sum(score >= written for score in passed) <= each.rate * len(passed)
        assert each.recall == sum(score >= written for score in caught) / len(caught)
        assert each.low <= each.recall <= each.high


def test_odd_letters_and_long_texts_are_read(encoder: Encoder) -> None:
    examples = fraud()
    examples[0] = Example("\ud800 \x00 half a letter, and a refund for what I kept", True)
    examples[1] = Example("honest words. " * 400 + examples[1].text, True)
    examples[-1] = Example("😀" * 30, False)
    head, _ = teach.teach("x", examples, encoder, today=TODAY)
    assert np.isfinite(head.weights).all()
    found = Taught("x", head, encoder, 0.0).classify([Message(Role.USER, examples[1].text, "")])
    assert found[0].span is not None


# The file -----------------------------------------------------------------------------------------------------------


def test_the_file_is_as_it_was() -> None:
    """Heads that were taught yesterday must load and score tomorrow."""
    raw = GOLDEN.read_bytes()
    head = parse(raw, "head.json")
    assert head.dump() == raw
    assert head.digest == "55f6acab99d94d7eda787806d4cde2f1c4ba9a938ebdc1b362a6c4c9f2951163"
    rows = np.zeros((2, WIDTH))
    rows[0, 1], rows[1, 2] = 1.0, -1.0
    expected = sigmoid(1.5 * (np.asarray([math.sin(1), -math.sin(2)]) - 0.25) + 0.125)
    np.testing.assert_allclose(head.probabilities(rows), expected, atol=1e-3)


def remade(**changes: Any) -> bytes:
    """The golden head with other facts, and the digest that belongs to them."""
    facts = json.loads(GOLDEN.read_bytes()) | changes
    facts.pop("sha256")
    from classifiers.taught import _digest

    return json.dumps(facts | {"sha256": _digest(facts)}).encode()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "not JSON"),
        (b"[1]", "not of kind taught"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "is no taught head"),
        (b"x" * (2 << 20), "larger than"),
        (GOLDEN.read_bytes().replace(b"1.5", b"1.6"), "was altered"),
        (remade(format=2), "is of format 2"),
        (remade(weights="AAAAAA=="), "do not fit together"),
        (remade(weights="AAAA"), "is no taught head"),
        (remade(weights="*"), "is no taught head"),
        (remade(weights="/3//" * 256), "do not fit together"),
        (remade(scale=-1.0), "do not fit together"),
        (remade(scale="much"), "is no taught head"),
        (remade(intercept=float("nan")), "do not fit together"),
        (remade(layers={"first": 1.0}), "do not fit together"),
        (remade(layers=["embedding"]), "is no taught head"),
        (remade(label="two words"), "is no taught head"),
        (remade(card=None), "is no taught head"),
    ],
    ids=range(18),
)
def test_a_file_that_is_no_head_is_refused(raw: bytes, told: str) -> None:
    with pytest.raises(OptionError, match=told) as caught:
        parse(raw, "head.json")
    assert caught.value.option == "path"
    assert "penstock teach" in caught.value.mend


def test_the_catalog_makes_it_and_names_what_is_wrong(taught: tuple[Head, lesson.Lesson], tmp_path: Path) -> None:
    place = tmp_path / "head.json"
    place.write_bytes(taught[0].dump())
    made = create("taught", "mine", {"path": str(place)})
    assert isinstance(made, Classifier)
    assert (made.name, made.labels, made.inline) == ("mine", frozenset({"refund_fraud"}), False)
    assert made.digest != create("taught", "mine", {"path": str(place), "min_score": 0.2}).digest
    for options, told in (
        ({}, "is missing"),
        ({"path": str(tmp_path / "none.json")}, "cannot read"),
        ({"path": str(place), "labels": ["x"]}, "no such option"),
        ({"path": str(place), "min_score": 1}, "from 0 to below 1"),
        ({"path": str(GOLDEN)}, "another encoder"),
        ({"path": str(place), "model": "nowhere"}, "no shipped model"),
    ):
        with pytest.raises(OptionError, match=told):
            create("taught", "mine", options)


# Beside others ------------------------------------------------------------------------------------------------------


def ask(classifier: Classifier, texts: Sequence[str]) -> list[Any]:
    return list(classifier.classify([Message(Role.USER, text, "") for text in texts]))


def test_classifiers_on_one_encoder_share_its_passes(
    taught: tuple[Head, lesson.Lesson], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Taught("mine", taught[0], encoder, 0.0)
    other = Taught("other", taught[0], encoder, 0.0)
    shipped = Embedded.from_options("guard", {"min_score": 0.0})
    assert shipped.engine is encoder
    alone = {text: ask(shipped, [text]) for text in ("never asked before", "nor this one " * 200)}
    runs: list[int] = []
    real = encoder.engine.run_many

    def run_many(passes: Any, outputs: Any) -> Any:
        runs.extend(ids.shape[1] for ids in passes)
        return real(passes, outputs)

    monkeypatch.setattr("classifiers.encoder.MOMENT", 600.0)
    monkeypatch.setattr(encoder.engine, "run_many", run_many)
    encoder._shared = None
    encoder.share()
    texts = list(alone)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda one: ask(one, texts), (head, shipped, other)))
    windows = sum(
        len({tuple(ids[w.start : w.end]) for w in encoder.windows(ids)})
        for ids in (encoder.tokens(text)[0] for text in texts)
    )
    assert len(runs) == windows
    assert [f.score for f in found[1]] == [f.score for text in texts for f in alone[text]]
    assert [f.score for f in found[0]] == [f.score for f in found[2]]


def test_a_pass_that_fails_fails_for_all_and_is_not_remembered(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder.share()
    real = encoder.engine.run_many

    def broken(*_: Any) -> Any:
        raise ArithmeticError("no number")

    monkeypatch.setattr(encoder.engine, "run_many", broken)
    with pytest.raises(ArithmeticError):
        encoder.read("a text that fails once")
    monkeypatch.setattr(encoder.engine, "run_many", real)
    assert encoder.read("a text that fails once").windows


class OnEngine:
    """A classifier that notes when it begins and ends; it may fail."""

    labels, digest, inline = frozenset({"x"}), "0", False

    def __init__(self, name: str, engine: object, log: list[str], fails: bool = False) -> None:
        self.name, self.engine, self._log, self._fails = name, engine, log, fails

    def classify(self, messages: Sequence[Message]) -> list[Any]:
        self._log.append(f"{self.name} begins")
        time.sleep(0.02)
        self._log.append(f"{self.name} ends")
        if self._fails:
            raise ValueError
        return []


@pytest.mark.parametrize("fails", [False, True])
async def test_classifiers_on_one_engine_begin_when_its_work_is_done(fails: bool) -> None:
    log: list[str] = []
    one, two = object(), object()
    asked = [
        Asked(OnEngine("first", one, log, fails), frozenset(Role), 5.0),
        Asked(OnEngine("alone", two, log), frozenset(Role), 5.0),
        Asked(OnEngine("second", one, log), frozenset(Role), 5.0),
        Asked(OnEngine("third", one, log), frozenset(Role), 5.0),
    ]
    panel = Panel(4)
    report = await panel.report([Message(Role.USER, "hello", "/a")], asked)
    panel.close()
    assert len(log) == 8
    assert len(report.failures) == fails
    assert log.index("alone begins") < log.index("first ends") < log.index("second begins")
    assert log.index("first ends") < log.index("third begins")


async def test_a_head_beside_the_shipped_model_costs_no_pass(
    taught: tuple[Head, lesson.Lesson], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [Taught(name, taught[0], encoder, 0.0) for name in ("one", "two", "three")]
    every: list[Classifier] = [Embedded.from_options("guard", {}), *heads]
    asked = [Asked(each, frozenset(Role), 60.0) for each in every]
    runs: list[int] = []
    real = encoder.engine.run_many

    def run_many(passes: Any, outputs: Any) -> Any:
        runs.extend(ids.shape[1] for ids in passes)
        return real(passes, outputs)

    monkeypatch.setattr("classifiers.encoder.MOMENT", 600.0)
    monkeypatch.setattr(encoder.engine, "run_many", run_many)
    panel = Panel(2)
    report = await panel.report([Message(Role.USER, "a text that only this test brings", "/a")], asked)
    panel.close()
    assert len(runs) == 1
    assert {finding.classifier for finding in report.findings} >= {"one", "two", "three"}
