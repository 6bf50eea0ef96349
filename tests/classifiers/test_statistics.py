"""Each figure against its definition, counted out by hand; the published values of intervals as a table."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers import statistics as s

# Few distinct scores, so that ties are the rule.
ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0]), st.booleans()), max_size=40)
MIXED = ROWS.filter(lambda rows: len({bad for _, bad in rows}) == 2)


def split(rows: list[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [score for score, _ in rows], [bad for _, bad in rows]


@given(MIXED)
def test_auroc_counts_pairs(rows: list[tuple[float, bool]]) -> None:
    scores, labels = split(rows)
    bad = [score for score, truth in rows if truth]
    honest = [score for score, truth in rows if not truth]
    pairs = [1.0 if b > h else 0.5 if b == h else 0.0 for b in bad for h in honest]
    assert s.auroc(scores, labels) == pytest.approx(sum(pairs) / len(pairs))


@given(MIXED)
def test_average_precision_sums_steps(rows: list[tuple[float, bool]]) -> None:
    scores, labels = split(rows)
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [truth for score, truth in rows if score >= threshold]
        recall = sum(flagged) / sum(labels)
        total += (recall - before) * sum(flagged) / len(flagged)
        before = recall
    assert s.average_precision(scores, labels) == pytest.approx(total)


@given(MIXED, st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.29, 0.5, 1.0]))
def test_recall_at_fpr_is_the_best_allowed(rows: list[tuple[float, bool]], fpr: float) -> None:
    scores, labels = split(rows)
    recall, threshold = s.recall_at_fpr(scores, labels, fpr)
    honest, bad = labels.count(False), labels.count(True)
    allowed = [
        sum(t and v >= edge for v, t in rows) / bad
        for edge in [*scores, math.inf]
        if Fraction(sum(not t and v >= edge for v, t in rows), honest) <= Fraction(str(fpr))
    ]
    assert recall == max(allowed)
    assert recall == sum(t and v >= threshold for v, t in rows) / bad
    assert Fraction(sum(not t and v >= threshold for v, t in rows), honest) <= Fraction(str(fpr))


def test_a_share_that_is_a_whole_number_of_texts_is_not_rounded_down() -> None:
    scores = np.concatenate((np.arange(100.0), [70.5, 71.5]))
    labels = np.arange(102) >= 100
    recall, threshold = s.recall_at_fpr(scores, labels, 0.29)
    assert recall == 1
    assert 70 < threshold < 70.5
    assert (scores[:100] >= threshold).sum() == 29


@given(MIXED)
def test_f1_is_counted(rows: list[tuple[float, bool]]) -> None:
    scores, labels = split(rows)

    def by_hand(edge: float) -> float:
        hits = sum(t and v >= edge for v, t in rows)
        flagged = sum(v >= edge for v in scores)
        precision, recall = hits / flagged if flagged else 0.0, hits / sum(labels)
        return 2 * precision * recall / (precision + recall) if hits else 0.0

    best, threshold = s.f1_best(scores, labels)
    assert best == pytest.approx(max(by_hand(edge) for edge in scores))
    assert s.f1_at(scores, labels, threshold) == pytest.approx(best)
    assert s.f1_at(scores, labels, 0.5) == pytest.approx(by_hand(0.5))


@given(MIXED)
def test_roc_goes_from_nothing_to_all(rows: list[tuple[float, bool]]) -> None:
    scores, labels = split(rows)
    alarms, recall, thresholds = s.roc(scores, labels)
    assert (alarms[0], recall[0], thresholds[0]) == (0, 0, math.inf)
    assert (alarms[-1], recall[-1]) == (pytest.approx(1), pytest.approx(1))
    assert s.auroc(scores, labels) == pytest.approx(np.trapezoid(recall, alarms))


@given(st.lists(st.floats(0, 1), max_size=10), st.booleans())
def test_one_class_has_no_ranking(scores: list[float], bad: bool) -> None:
    labels = [bad] * len(scores)
    assert math.isnan(s.auroc(scores, labels))
    assert math.isnan(s.average_precision(scores, labels))
    assert math.isnan(s.recall_at_fpr(scores, labels, 0.01)[0])
    assert math.isnan(s.f1_at(scores, [False] * len(scores), 0.5))


@pytest.mark.parametrize("measure", [s.auroc, s.average_precision, s.f1_best])
def test_nan_is_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="failure is no score"):
        measure([0.1, math.nan], [True, False])
    with pytest.raises(ValueError, match="equal length"):
        measure([0.1, 0.2], [True])


# Published and recomputed elsewhere: (k, n, Wilson 95 %, Clopper-Pearson 95 %).
INTERVALS = [
    (0, 10, (0.0, 0.2775), (0.0, 0.3085)),
    (1, 10, (0.0179, 0.4042), (0.0025, 0.4450)),
    (5, 10, (0.2366, 0.7634), (0.1871, 0.8129)),
    (10, 10, (0.7225, 1.0), (0.6915, 1.0)),
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
]


@pytest.mark.parametrize(("k", "n", "score", "exact"), INTERVALS)
def test_known_intervals(k: int, n: int, score: tuple[float, float], exact: tuple[float, float]) -> None:
    assert s.wilson(k, n) == pytest.approx(score, abs=6e-5)
    assert s.clopper_pearson(k, n) == pytest.approx(exact, abs=6e-5)


@pytest.mark.parametrize(("n", "bound"), [(299, 0.01), (598, 0.005), (2995, 0.001)])
def test_no_error_in_so_many(n: int, bound: float) -> None:
    """The numbers that every safety case quotes."""
    assert s.upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n))
    assert s.upper_bound(0, n) <= bound < s.upper_bound(0, n - 2)


def at_most(k: int, n: int, rate: float) -> float:
    return math.fsum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k + 1))


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.01, 0.05]))
def test_bounds_are_exact(pair: tuple[int, int], alpha: float) -> None:
    k, n = pair
    upper, lower = s.upper_bound(k, n, alpha), s.lower_bound(k, n, alpha)
    assert 0 <= lower <= k / n <= upper <= 1
    if k < n:
        assert at_most(k, n, upper) == pytest.approx(alpha)
    if k > 0:
        assert 1 - at_most(k - 1, n, lower) == pytest.approx(alpha)
    low, high = s.wilson(k, n, alpha)
    assert 0 <= low <= k / n <= high <= 1


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.001, 0.999))
def test_beta_cdf_is_a_binomial_tail(k: int, rest: int, x: float) -> None:
    n = k + rest - 1
    assert s.beta_cdf(x, k, rest) == pytest.approx(1 - at_most(k - 1, n, x), abs=1e-10)


def test_large_counts_stay_exact() -> None:
    assert s.upper_bound(50_000, 1_000_000) == pytest.approx(0.05 + 1.645 * math.sqrt(0.05 * 0.95 / 1e6), rel=1e-4)
    assert s.clopper_pearson(0, 0) == (0.0, 1.0) == s.wilson(0, 0)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3)])
def test_no_rate(k: int, n: int) -> None:
    for interval in (s.wilson, s.clopper_pearson, s.upper_bound, s.lower_bound):
        with pytest.raises(ValueError, match="no rate"):
            interval(k, n)


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_a_fair_coin(b: int, c: int) -> None:
    n = b + c
    tail = Fraction(sum(math.comb(n, i) for i in range(min(b, c) + 1)), 2**n)
    assert s.mcnemar_exact(b, c) == pytest.approx(min(1.0, float(2 * tail)))
    assert s.mcnemar_exact(b, c) == pytest.approx(s.mcnemar_exact(c, b))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.sampled_from([1, 5, 10]))
def test_calibration_error_is_the_mean_gap(rows: list[tuple[float, bool]], bins: int) -> None:
    scores, labels = split(rows)
    places: dict[int, list[tuple[float, bool]]] = {}
    for score, bad in rows:
        places.setdefault(min(int(score * bins), bins - 1), []).append((score, bad))
    gaps = [abs(sum(v for v, _ in part) - sum(t for _, t in part)) for part in places.values()]
    assert s.expected_calibration_error(scores, labels, bins) == pytest.approx(sum(gaps) / len(rows), abs=1e-12)
    assert sum(item.rows for item in s.reliability(scores, labels, bins)) == len(rows)


def test_calibration_needs_probabilities() -> None:
    assert math.isnan(s.expected_calibration_error([], []))
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="outside"):
            s.expected_calibration_error([bad], [True])


@given(ROWS)
def test_balanced_weights(rows: list[tuple[float, bool]]) -> None:
    labels = np.array([bad for _, bad in rows], bool)
    weights = s.balanced(labels)
    assert weights.sum() == pytest.approx(len(rows))
    if labels.any() and not labels.all():
        assert weights[labels].sum() == pytest.approx(weights[~labels].sum())


@given(MIXED, st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_a_weight_is_a_repetition(rows: list[tuple[float, bool]], counts: list[int]) -> None:
    """What makes the bootstrap right: a row drawn twice is two rows."""
    weights = np.array(counts[: len(rows)], float)
    scores, labels = split([row for row, count in zip(rows, counts, strict=False) for _ in range(count)])
    ranked = s.Ranked.of(*split(rows))
    assert ranked.auroc(weights) == pytest.approx(s.auroc(scores, labels), nan_ok=True)
    for fpr in (0.0, 0.1, 0.5):
        assert ranked.recall_at_fpr(fpr, weights)[0] == pytest.approx(
            s.recall_at_fpr(scores, labels, fpr)[0], nan_ok=True
        )


def sample(n: int, shift: float, seed: int) -> tuple[s.Floats, s.Bools]:
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.5
    return rng.normal(size=n) + shift * labels, labels


def test_paired_bootstrap_sees_a_real_difference_and_no_other() -> None:
    scores, labels = sample(600, 1.0, 1)
    better = scores + 0.8 * labels
    seen = s.paired_bootstrap(scores, better, labels, draws=300)
    assert seen.low > 0
    assert seen.low <= seen.value <= seen.high
    assert seen.p < 0.05
    same = s.paired_bootstrap(scores, scores, labels, draws=100)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    noise = scores + np.random.default_rng(2).normal(scale=0.05, size=600)
    assert s.paired_bootstrap(scores, noise, labels, s.recall_at(0.1), draws=300).p > 0.05
    assert seen == s.paired_bootstrap(scores, better, labels, draws=300)  # the seed alone decides


def test_rows_of_one_family_are_one() -> None:
    """A hundred copies of ten texts know no more than ten texts."""
    scores, labels = sample(40, 1.0, 3)
    better = scores + np.random.default_rng(4).normal(scale=0.5, size=40) * labels
    once = s.paired_bootstrap(scores, better, labels, draws=400)
    copies = [np.repeat(array, 50) for array in (scores, better, labels)]
    families = [str(at) for at in range(40) for _ in range(50)]
    grouped = s.paired_bootstrap(copies[0], copies[1], copies[2], groups=families, draws=400)
    alone = s.paired_bootstrap(copies[0], copies[1], copies[2], draws=400)
    assert grouped.units == 40
    assert alone.units == 2000
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.25)
    assert alone.high - alone.low < 0.4 * (grouped.high - grouped.low)


def test_bootstrap_without_two_units_says_nothing() -> None:
    scores, labels = sample(30, 1.0, 5)
    assert all(math.isnan(bound) for bound in s.bootstrap(scores, labels, groups=["one"] * 30, draws=50))
    assert math.isnan(s.paired_bootstrap(scores, scores, labels, groups=["one"] * 30, draws=50).low)
    assert all(math.isnan(bound) for bound in s.bootstrap([], [], draws=10))
    low, high = s.bootstrap(scores, labels, draws=200)
    assert low < s.auroc(scores, labels) < high


def test_rows_without_a_group_stand_alone() -> None:
    unit, count = s.units(["a", None, "a", None, 3], 5)
    assert count == 4
    assert unit[0] == unit[2]
    assert len(set(unit)) == 4


GROUPS = st.lists(st.sampled_from([None, None, "a", "b", "c"]), max_size=40)


@given(GROUPS)
def test_groups_are_worth_what_their_variance_says(groups: list[str | None]) -> None:
    """Of p (1 - p) / n' for n' independent rows, counted out: each group adds the square of its share of the rows."""
    n = len(groups)
    sizes = [groups.count(name) for name in set(groups) if name] + [1] * groups.count(None)
    size = s.effective_size(groups, n)
    if not n:
        assert size == 0
        return
    assert 1 / size == pytest.approx(sum((each / n) ** 2 for each in sizes))
    assert 1 <= size <= len(sizes)
    assert s.effective_size(None, n) == s.effective_size([None] * n, n) == n


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.003, 1.0), (2.5, 8.65), (7.9, 8.65), (0, 8.65)]
)
def test_intervals_of_sizes_that_are_no_whole_numbers(k: float, n: float) -> None:
    for interval in (s.wilson, s.clopper_pearson):
        low, high = interval(k, n)
        assert 0 <= low <= k / n <= high <= 1
    assert s.lower_bound(k, n) <= k / n <= s.upper_bound(k, n)
    if 0 < k < n:
        assert s.beta_cdf(s.upper_bound(k, n), k + 1, n - k) == pytest.approx(0.95, abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, "a", "b"])), max_size=30))
def test_a_group_has_one_vote(rows: list[tuple[bool, bool, str | None]]) -> None:
    first, second = [a for a, _, _ in rows], [b for _, b, _ in rows]
    groups = [group for _, _, group in rows]
    balance = [sum(b - a for a, b, group in rows if group == name) for name in "ab"]
    balance += [b - a for a, b, group in rows if group is None]
    assert s.votes(first, second, groups) == (sum(each < 0 for each in balance), sum(each > 0 for each in balance))
    alone = (sum(a and not b for a, b, _ in rows), sum(b and not a for a, b, _ in rows))
    assert s.votes(first, second) == alone == s.votes(first, second, [None] * len(rows))
