"""A bound holds for families, and a threshold for the number that is written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers import statistics as stats
from policies.evaluate.figures import FPRS, ranking, recall_at
from policies.evaluate.shares import effective, number, paired, rate, threshold

# Neighbours of one bit, of one digit, and of what rounding takes for one.
SCORES = st.lists(
    st.sampled_from([0.0, 0.1, 0.1 + 0.2, 0.3, 0.9, math.nextafter(0.9, 1), 0.9000001, 0.95, 0.7109376, 0.71093762])
    | st.floats(-30, 30)
    | st.floats(0, 1, width=32),
    min_size=2,
    max_size=40,
)


@given(SCORES, st.data())
def test_the_figures_hold_at_the_threshold_that_is_written(scores: list[float], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    values, bad = np.array(scores), np.array(labels)
    found = json.loads(json.dumps(ranking(values, bad)))
    if found is None:
        return
    for row in found["recall_at"]:
        flagged = values >= row["threshold"]
        assert int(flagged[~bad].sum()) == row["false_alarms"]
        assert number(flagged[bad].mean()) == row["recall"]
    assert number(stats.f1_at(values, bad, found["f1_best_threshold"])) == found["f1_best"]


@pytest.mark.parametrize(
    ("value", "scores", "written"),
    [
        (math.nextafter(0.9, 1), [0.9, 0.95], 0.900001),
        (math.nextafter(0.9, 1), [0.9, 0.9000000001], 0.900000000001),
        (math.nextafter(0.9, 1), [0.9, math.nextafter(0.9, 1)], math.nextafter(0.9, 1)),
        (0.7109375, [0.7109375, 0.5], 0.710937),  # half up would miss it
        (0.5, [0.5, 0.4], 0.5),
        (math.nextafter(-math.inf, 0), [-math.inf, 1.0], None),
        (math.nan, [1.0], None),
    ],
)
def test_thresholds_have_the_digits_that_they_need(value: float, scores: list[float], written: float | None) -> None:
    assert threshold(value, np.array(scores)) == written


def test_a_threshold_admits_no_more_alarms_when_it_is_read_back() -> None:
    scores = np.array([0.9] * 3 + [0.95] * 5 + [0.9] * 2 + [0.1] * 198)
    bad = np.arange(len(scores)) < 8
    for fpr in FPRS:
        row = recall_at(scores, bad, fpr)
        assert int((scores[~bad] >= row["threshold"]).sum()) == row["false_alarms"] == (2 if fpr == 0.01 else 0)


@given(st.integers(0, 30), st.integers(0, 30))
def test_without_families_nothing_changes(k: int, more: int) -> None:
    n = k + more
    alone = effective([None] * n, np.ones(n, bool))
    assert rate(k, n, alone) == rate(k, n)
    assert rate(k, n)["n_effective"] == n
    low, high = stats.wilson(k, n)
    assert (rate(k, n)["low"], rate(k, n)["high"]) == (number(low), number(high))
    assert rate(k, n)["at_most"] == number(stats.upper_bound(k, n))


@pytest.mark.parametrize("copies", [2, 7, 30])
@pytest.mark.parametrize(("k", "n"), [(0, 12), (3, 12), (12, 12)])
def test_copies_of_rows_prove_no_more_than_the_rows(k: int, n: int, copies: int) -> None:
    families = [at for at in range(n) for _ in range(copies)]
    many = rate(k * copies, n * copies, effective(families, np.ones(n * copies, bool)))
    once = rate(k, n)
    assert (many["k"], many["n"], many["n_effective"]) == (k * copies, n * copies, n)
    for name in ("rate", "low", "high", "at_most"):
        assert many[name] == pytest.approx(once[name], abs=1e-6)


def test_a_bound_holds_where_families_go_one_way() -> None:
    """Families of very different sizes, each caught whole or not at all: the bound covers the truth 95 times of 100,
    and one that counts rows does not."""
    rng, truth, draws = np.random.default_rng(0), 0.1, 400
    held = rows_held = 0
    for _ in range(draws):
        sizes = rng.geometric(0.2, 60)
        hit = rng.random(60) < truth
        families = np.repeat(np.arange(60), sizes).tolist()
        k, n = int(sizes[hit].sum()), int(sizes.sum())
        held += rate(k, n, effective(families, np.ones(n, bool)))["at_most"] >= truth
        rows_held += rate(k, n)["at_most"] >= truth
    assert held / draws >= 0.95
    assert rows_held / draws < 0.85


def test_a_family_has_one_vote() -> None:
    one, other = np.zeros(60, bool), np.ones(60, bool)
    together = paired(one, other, ["f"] * 60)
    assert (together["only_second"], together["votes_second"], together["p"]) == (60, 1, 1.0)
    apart = paired(one, other, [None] * 60)
    assert (apart["only_second"], apart["votes_second"]) == (60, 60)
    assert apart == paired(one, other)
    assert apart["p"] < 1e-9
