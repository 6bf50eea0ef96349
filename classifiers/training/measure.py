"""Figures: how well scores part bad from honest, with exact bounds. Everything in numpy, nothing fitted here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auroc(bad: Floats, honest: Floats) -> float:
    """The chance that a bad text scores above an honest one (ties half). NaN where a side is empty."""
    if not len(bad) or not len(honest):
        return math.nan
    ordered = np.sort(honest)
    below = np.searchsorted(ordered, bad, "left") + np.searchsorted(ordered, bad, "right")
    return float(below.mean() / (2 * len(honest)))


def precision_area(bad: Floats, honest: Floats) -> float:
    """Average precision. NaN where a side is empty."""
    if not len(bad) or not len(honest):
        return math.nan
    scores = np.concatenate((bad, honest))
    truth = np.concatenate((np.ones(len(bad)), np.zeros(len(honest))))
    # Of equal scores honest ones come first: a tie earns nothing.
    order = np.lexsort((truth, -scores))
    hits = np.cumsum(truth[order])
    precision = hits / np.arange(1, len(order) + 1)
    return float((precision * truth[order]).sum() / len(bad))


def recall_at(bad: Floats, honest: Floats, rate: float) -> float:
    """The share of `bad` above the threshold that lets at most `rate` of `honest` through as false alarms."""
    if not len(bad) or not len(honest):
        return math.nan
    return float((bad >= threshold_at(honest, rate)).mean())


def threshold_at(honest: Floats, rate: float) -> float:
    """The lowest threshold (>=) at which at most `rate` of `honest` score."""
    allowed = int(rate * len(honest))
    ordered = np.sort(honest)[::-1]
    return float(np.nextafter(ordered[allowed], math.inf)) if allowed < len(ordered) else float(ordered[-1])


def upper_bound(errors: int, trials: int, level: float = 0.95) -> float:
    """The exact (Clopper-Pearson) one-sided upper bound of an error rate."""
    if errors >= trials:
        return 1.0
    low, high = errors / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(errors, trials, middle) > 1 - level else (low, middle)
    return high


def _at_most(errors: int, trials: int, rate: float) -> float:
    """The binomial chance of at most `errors` in `trials`."""
    if rate <= 0.0:
        return 1.0
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(rate)
        + (trials - k) * math.log1p(-rate)
        for k in range(errors + 1)
    ]
    top = max(logs)
    return math.exp(top) * sum(math.exp(value - top) for value in logs)


def threshold_bounded(honest: Floats, budget: float) -> float:
    """The lowest threshold (>=) whose false alarms on `honest` have an exact 95 % upper bound within `budget`.
    Where there are too few texts to bound it, the threshold is just above the highest of them."""
    ordered = np.sort(honest)[::-1]
    allowed = -1
    while allowed + 1 < len(ordered) and upper_bound(allowed + 1, len(ordered)) <= budget:
        allowed += 1
    return float(np.nextafter(ordered[max(allowed, 0)], math.inf))


def calibration_error(scores: Floats, truth: Floats, weights: Floats, bins: int = 10) -> float:
    """Expected calibration error over equal bins of the score, rows weighted."""
    total, error = float(weights.sum()), 0.0
    places = np.minimum((scores * bins).astype(int), bins - 1)
    for place in range(bins):
        chosen = places == place
        weight = float(weights[chosen].sum())
        if weight:
            gap = np.average(scores[chosen], weights=weights[chosen]) - np.average(
                truth[chosen], weights=weights[chosen]
            )
            error += weight / total * abs(float(gap))
    return error


def resampled(bad: Floats, honest: Floats, seed: int = 0, draws: int = 200) -> tuple[float, float]:
    """A 95 % interval of AUROC by bootstrap over texts."""
    rng = np.random.default_rng(seed)
    values = [auroc(rng.choice(bad, len(bad)), rng.choice(honest, len(honest))) for _ in range(draws)]
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
