"""The statistics of binary detection, in numpy and nothing more: ranking, operating points, exact intervals, paired
comparison, calibration.

Words used throughout: `scores` float64 (n,), any order-preserving scale, no NaN; `labels` bool (n,), True for a bad
text; a text is flagged where score >= threshold. Equal scores are never told apart: a threshold has all of them or
none. A figure that needs a class which is not there is NaN, never 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Scores put in order once, so that many weightings of the rows (a bootstrap) cost one pass each.

    `distinct` (m,) has the different scores, highest first; `place` (n,) says for each row which one is its own.
    """

    distinct: Floats
    place: NDArray[np.intp]
    labels: Bools

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike) -> Self:
        """Raises ValueError for NaN, and for arrays that are not of one equal length."""
        values, truth = np.asarray(scores, np.float64), np.asarray(labels, np.bool_)
        if values.ndim != 1 or values.shape != truth.shape:
            raise ValueError(f"scores {values.shape} and labels {truth.shape} must be (n,) and of equal length")
        if np.isnan(values).any():
            raise ValueError("a score is NaN: a classifier's failure is no score")
        ascending, inverse = np.unique(values, return_inverse=True)
        return cls(ascending[::-1], len(ascending) - 1 - inverse.astype(np.intp), truth)

    def counts(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """(bad, honest), each (m,): the weight of rows at each distinct score, highest score first."""
        size = len(self.distinct)
        rows = np.ones(len(self.labels)) if weights is None else weights
        bad = np.bincount(self.place, weights=rows * self.labels, minlength=size)
        honest = np.bincount(self.place, weights=rows * ~self.labels, minlength=size)
        return np.asarray(bad, np.float64), np.asarray(honest, np.float64)

    def auroc(self, weights: Floats | None = None) -> float:
        """The chance that a bad text scores above an honest one, ties half."""
        bad, honest = self.counts(weights)
        pairs = bad.sum() * honest.sum()
        if not pairs:
            return math.nan
        below = honest.sum() - np.cumsum(honest)
        return float((bad * (below + honest / 2)).sum() / pairs)

    def recall_at_fpr(self, fpr: float, weights: Floats | None = None) -> tuple[float, float]:
        """(recall, threshold): see the function of this name."""
        bad, honest = self.counts(weights)
        if not bad.sum() or not honest.sum():
            return math.nan, math.nan
        # A product like 0.29 * 100 must not fall short of 29 by its last bit.
        over = np.flatnonzero(np.cumsum(honest) > fpr * honest.sum() * (1 + 1e-12) + 1e-12)
        if not len(over):
            return 1.0, float(self.distinct[-1])
        taken = int(over[0])
        # Above the first score that would be one false alarm too many, and no higher.
        threshold = float(np.nextafter(self.distinct[taken], math.inf))
        return float(bad[:taken].sum() / bad.sum()), threshold


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The area under the ROC curve: the chance that a bad text scores above an honest one, ties half."""
    return Ranked.of(scores, labels).auroc()


def roc(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(false positive rates, recalls, thresholds), each (m + 1,), from flagging nothing (threshold inf) to all."""
    ranked = Ranked.of(scores, labels)
    bad, honest = ranked.counts()
    with np.errstate(invalid="ignore"):
        recall, alarms = np.cumsum(bad) / bad.sum(), np.cumsum(honest) / honest.sum()
    return np.concatenate(([0.0], alarms)), np.concatenate(([0.0], recall)), np.concatenate(([np.inf], ranked.distinct))


def corners(alarms: Floats, most: int) -> NDArray[np.intp]:
    """Which points of a `roc` to draw: the best recall at each false positive rate, at most `most` of them, dense where
    false alarms are few."""
    last = np.append(np.flatnonzero(np.diff(alarms) > 0), len(alarms) - 1)
    if len(last) > most:
        last = last[np.unique(np.geomspace(1, len(last), most).astype(np.intp) - 1)]
    return last


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """The area under the precision-recall curve, as a sum of steps (no interpolation)."""
    bad, honest = Ranked.of(scores, labels).counts()
    if not bad.sum() or not honest.sum():
        return math.nan
    hits = np.cumsum(bad)
    return float((bad * hits / (hits + np.cumsum(honest))).sum() / bad.sum())


def recall_at_fpr(scores: ArrayLike, labels: ArrayLike, fpr: float) -> tuple[float, float]:
    """(recall, threshold) with at most `fpr` of the honest texts flagged: the lowest such threshold, nothing
    interpolated. With fewer than 1 / fpr honest texts that means no false alarm at all."""
    return Ranked.of(scores, labels).recall_at_fpr(fpr)


def f1_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """F1 of flagging score >= threshold. NaN without bad texts."""
    flagged, truth = np.asarray(scores, np.float64) >= threshold, np.asarray(labels, np.bool_)
    if not truth.any():
        return math.nan
    return float(2 * (flagged & truth).sum() / (flagged.sum() + truth.sum()))


def f1_best(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """(the highest F1 of any threshold, the highest threshold that has it). Chosen on the data it is measured on:
    an upper limit, not a promise."""
    ranked = Ranked.of(scores, labels)
    bad, honest = ranked.counts()
    if not bad.sum():
        return math.nan, math.nan
    hits = np.cumsum(bad)
    values = 2 * hits / (hits + np.cumsum(honest) + bad.sum())
    best = int(values.argmax())
    return float(values[best]), float(ranked.distinct[best])


# Rates and their intervals ------------------------------------------------------------------------------------------


def effective_size(groups: Sequence[object] | None, n: int) -> float:
    """How many rows that have nothing to do with each other n rows are worth, where rows of one group (None stands
    alone) all go the same way: n squared over the sum of the squared sizes of groups, as Kish has it. That is n where
    no two share a group, the number of groups where all are of one size, and 1 where there is one.

    The variance of a share among such rows is that of a share among so many independent ones, so an interval of k / n
    is that of k' / n' with n' this size and k' = n' k / n."""
    unit, count = units(groups, n)
    return n if count == n else n * n / float((np.bincount(unit).astype(np.float64) ** 2).sum())


def wilson(k: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    """The Wilson score interval of k in n, two-sided, level 1 - alpha. (0, 1) where n is 0. Neither need be whole, here
    and below: see `effective_size`."""
    _check(k, n)
    if not n:
        return 0.0, 1.0
    z = _normal_quantile(1 - alpha / 2)
    rate, spread = k / n, z * z / n
    middle = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / n + spread / (4 * n))
    # At the ends the formula gives 0 and 1 but for rounding.
    return 0.0 if k == 0 else max(0.0, middle - half), 1.0 if k == n else min(1.0, middle + half)


def clopper_pearson(k: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    """The exact interval of k in n, two-sided, level at least 1 - alpha. (0, 1) where n is 0."""
    return lower_bound(k, n, alpha / 2), upper_bound(k, n, alpha / 2)


def upper_bound(k: float, n: float, alpha: float = 0.05) -> float:
    """The exact one-sided upper bound: rates above it would give k or fewer in n with a chance below alpha."""
    _check(k, n)
    return 1.0 if k >= n else _beta_quantile(1 - alpha, k + 1, n - k)


def lower_bound(k: float, n: float, alpha: float = 0.05) -> float:
    """The exact one-sided lower bound: rates below it would give k or more in n with a chance below alpha."""
    _check(k, n)
    return 0.0 if k <= 0 else _beta_quantile(alpha, k, n - k + 1)


def _check(k: float, n: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no rate")


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction is quick on the other side only
        return 1.0 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    fraction = c = 1.0
    d = 0.0
    for step in range(100_000):  # about sqrt(max(a, b)) are needed
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / ((1.0 + term * d) or tiny)
        c = (1.0 + term / c) or tiny
        fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return min(1.0, front * (fraction - 1.0))


@lru_cache(maxsize=4096)
def _beta_quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def _normal_quantile(p: float) -> float:
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * math.erfc(-middle / math.sqrt(2)) < p else (low, middle)
    return (low + high) / 2


# Calibration --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose probability lies in [low, high): how many (their weight), their mean probability, their share of
    bad texts."""

    low: float
    high: float
    rows: int
    weight: float
    mean: float
    rate: float


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10, weights: ArrayLike | None = None
) -> list[Bin]:
    """The bins, of equal width on [0, 1], that hold any row. Raises ValueError for what is no probability."""
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.bool_)
    rows = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a probability lies outside [0, 1]")
    place = np.minimum((values * bins).astype(np.intp), bins - 1)
    number = np.bincount(place, minlength=bins)
    weight = np.bincount(place, weights=rows, minlength=bins)
    score = np.bincount(place, weights=rows * values, minlength=bins)
    bad = np.bincount(place, weights=rows * truth, minlength=bins)
    return [
        Bin(
            at / bins, (at + 1) / bins, int(number[at]), float(weight[at]), score[at] / weight[at], bad[at] / weight[at]
        )
        for at in range(bins)
        if weight[at] > 0
    ]


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10, weights: ArrayLike | None = None
) -> float:
    """The mean gap between probability and share of bad texts over equal bins, weighted by their rows. NaN without
    rows."""
    found = reliability(probabilities, labels, bins, weights)
    total = sum(item.weight for item in found)
    return sum(item.weight * abs(item.mean - item.rate) for item in found) / total if found else math.nan


def balanced(labels: ArrayLike) -> Floats:
    """Weights (n,) under which the bad texts count as much as the honest ones, n in all: calibration means little
    without saying which mix it is meant for."""
    truth = np.asarray(labels, np.bool_)
    bad = int(truth.sum())
    if bad in {0, len(truth)}:
        return np.ones(len(truth))
    return np.where(truth, len(truth) / (2 * bad), len(truth) / (2 * (len(truth) - bad)))


# Two runs on the same rows ------------------------------------------------------------------------------------------


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p of so uneven a split of the rows on which two detectors differ, if neither were better."""
    if only_first < 0 or only_second < 0:
        raise ValueError("a number of rows cannot be negative")
    least, differing = min(only_first, only_second), only_first + only_second
    if 2 * least >= differing:  # also where they never differ
        return 1.0
    return min(1.0, 2 * beta_cdf(0.5, differing - least, least + 1))


def votes(first: ArrayLike, second: ArrayLike, groups: Sequence[object] | None = None) -> tuple[int, int]:
    """(for the first, for the second): of two answers on the same rows (n,), which one is yes where they differ. Each
    group has one vote, for the one that most of its differing rows speak for, and none where they are even. Were both
    detectors alike, each vote would be a fair coin however rows of a group go together, so `mcnemar_exact` of the votes
    stays exact."""
    one, other = np.asarray(first, np.bool_), np.asarray(second, np.bool_)
    unit, count = units(groups, len(one))
    balance = np.bincount(unit, weights=other.astype(np.float64) - one, minlength=count)
    return int((balance < 0).sum()), int((balance > 0).sum())


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first: the value on the rows as they are, a percentile interval and a two-sided p by bootstrap,
    over `draws` samples in which both figures existed, of `units` independent units."""

    value: float
    low: float
    high: float
    p: float
    draws: int
    units: int


Measure = Callable[[Ranked, Floats | None], float]
"""A figure of ranked scores under weights (n,) of the rows, NaN where it does not exist."""


def auroc_of(ranked: Ranked, weights: Floats | None) -> float:
    """AUROC as a Measure."""
    return ranked.auroc(weights)


def recall_at(fpr: float) -> Measure:
    """Recall at this share of false alarms as a Measure; the threshold is found again in each sample."""
    return lambda ranked, weights: ranked.recall_at_fpr(fpr, weights)[0]


def units(groups: Sequence[object] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """(unit of each row (n,), how many units): rows of one group belong together; None in `groups` stands alone."""
    if groups is None:
        return np.arange(n, dtype=np.intp), n
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} rows")
    known: dict[object, int] = {}
    unit = [known.setdefault((group,) if group is not None else at, len(known)) for at, group in enumerate(groups)]
    return np.asarray(unit, np.intp), len(known)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    measure: Measure = auroc_of,
    groups: Sequence[object] | None = None,
    draws: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
) -> Difference:
    """The difference of `measure` between two scorings of the same rows. Whole groups are drawn, so that many wordings
    of one prompt count as one; NaN bounds where fewer than half of the samples have both classes."""
    one, other = Ranked.of(first, labels), Ranked.of(second, labels)
    if len(one.labels) != len(other.labels):
        raise ValueError("both scorings must be of the same rows")
    unit, count = units(groups, len(one.labels))
    value = measure(other, None) - measure(one, None)
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)[unit].astype(np.float64)
        found[draw] = measure(other, weights) - measure(one, weights)
    found = found[~np.isnan(found)]
    if math.isnan(value) or 2 * len(found) < draws or count < 2:
        return Difference(value, math.nan, math.nan, math.nan, len(found), count)
    low, high = np.quantile(found, [alpha / 2, 1 - alpha / 2])
    tail = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * (tail + 1) / (len(found) + 1)), len(found), count)


def bootstrap(
    scores: ArrayLike,
    labels: ArrayLike,
    measure: Measure = auroc_of,
    groups: Sequence[object] | None = None,
    draws: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
) -> tuple[float, float]:
    """A percentile interval of `measure`, whole groups drawn. NaN bounds where fewer than half of the samples have
    both classes."""
    ranked = Ranked.of(scores, labels)
    unit, count = units(groups, len(ranked.labels))
    rng = np.random.default_rng(seed)
    found = np.array(
        [
            measure(ranked, np.bincount(rng.integers(0, count, count), minlength=count)[unit].astype(np.float64))
            for _ in range(draws if count else 0)
        ]
    )
    found = found[~np.isnan(found)]
    if count < 2 or 2 * len(found) < draws:
        return math.nan, math.nan
    low, high = np.quantile(found, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)
