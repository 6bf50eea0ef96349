"""From logits to probabilities, and from budgets of false alarms to thresholds; both after quantisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .measure import Floats, threshold_bounded


def platt(logits: Floats, truth: Floats, weights: Floats, steps: int = 100) -> tuple[float, float]:
    """(scale, bias) of sigmoid(scale * logit + bias) by weighted maximum likelihood with smoothed targets. The scale
    is kept positive, so that calibration never turns an order round."""
    positives = float((weights * truth).sum())
    negatives = float((weights * (1 - truth)).sum())
    if positives == 0 or negatives == 0:
        return 1.0, 0.0
    aim = np.where(truth > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scale, bias = 1.0, 0.0
    for _ in range(steps):
        p = 0.5 * (1 + np.tanh(0.5 * (scale * logits + bias)))
        slope, curve = weights * (p - aim), weights * np.maximum(p * (1 - p), 1e-9)
        gradient = np.array([(slope * logits).sum(), slope.sum()])
        cross = (curve * logits).sum()
        hessian = np.array([[(curve * logits * logits).sum() + 1e-6, cross], [cross, curve.sum() + 1e-6]])
        step = np.linalg.solve(hessian, gradient)
        # A full Newton step can fly off where the classes are nearly apart.
        step *= min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        scale, bias = max(0.05, scale - float(step[0])), bias - float(step[1])
        if np.abs(step).max() < 1e-7:
            break
    return float(scale), float(bias)


Curve = list[list[float]]
"""[logit, log odds] of each knot, both rising."""


def curve(logits: Floats, truth: Floats, weights: Floats, knots: int = 10, slope: float = 0.02) -> Curve:
    """An isotonic curve through at most `knots` groups of equal weight, each at its mean logit and the log odds of its
    smoothed share of bad texts. It rises by `slope` at least, so that calibration never ties what the model parts."""
    order = np.argsort(logits, kind="stable")
    logits, truth, weights = logits[order], truth[order], weights[order]
    reached = np.cumsum(weights) / weights.sum()
    groups = np.minimum((reached * knots - 1e-9).astype(int), knots - 1)
    mean = weights.sum() / len(weights)
    merged: list[list[float]] = []  # weight, weight of bad ones, weight times logit
    for group in np.unique(groups):
        mine = groups == group
        merged.append([weights[mine].sum(), (weights * truth)[mine].sum(), (weights * logits)[mine].sum()])
        while len(merged) > 1 and merged[-2][1] / merged[-2][0] >= merged[-1][1] / merged[-1][0]:
            last = merged.pop()
            merged[-1] = [a + b for a, b in zip(merged[-1], last, strict=True)]
    found: Curve = []
    for total, bad, sum_of_logits in merged:
        share = (bad + mean) / (total + 2 * mean)
        place, odds = float(sum_of_logits / total), float(np.log(share / (1 - share)))
        if found:
            odds = max(odds, found[-1][1] + slope * (place - found[-1][0]))
        if not found or (place > found[-1][0] and odds > found[-1][1]):
            found.append([place, odds])
    return found


def sources_alike(sources: list[str], truth: Floats, ceiling: float = 400.0) -> Floats:
    """Weights with which every source counts alike on each side up to `ceiling` texts, and both sides alike."""
    weights = np.ones(len(sources))
    names = np.asarray(sources)
    for name in set(sources):
        for side in (0.0, 1.0):
            chosen = (names == name) & (truth == side)
            if chosen.any():
                weights[chosen] = min(ceiling, chosen.sum()) / chosen.sum()
    for side in (0.0, 1.0):
        chosen = truth == side
        if chosen.any():
            weights[chosen] *= 0.5 * len(sources) / weights[chosen].sum()
    return weights


@dataclass(frozen=True, slots=True)
class Budget:
    """How often honest texts may reach a threshold: `bound` on the exact 95 % upper bound over all plain ones, `plain`
    and `contrast` on the observed share in every single source of that kind."""

    bound: float
    plain: float
    contrast: float


@dataclass(frozen=True, slots=True)
class Group:
    """Scores (n,) of one head on the honest texts of one source; `taken` says which of them other heads already
    stop. `contrast`: they look bad."""

    scores: Floats
    taken: NDArray[np.bool_]
    contrast: bool


def threshold(groups: Sequence[Group], budget: Budget, share: float = 1.0) -> float:
    """The lowest threshold (>=) that keeps to `budget`, of which other heads that are asked together have used what
    `taken` says, and of whose rest this one takes a `share`. Raises ValueError where there are no texts."""
    if not groups:
        raise ValueError("no honest texts to set a threshold on")
    found = -np.inf
    for group in groups:
        allowed = int((budget.contrast if group.contrast else budget.plain) * len(group.scores))
        left = int(share * max(0, allowed - int(group.taken.sum())))
        fresh = np.sort(group.scores[~group.taken])[::-1]
        if left < len(fresh):
            found = max(found, float(np.nextafter(fresh[left], np.inf)))
    plain = [group for group in groups if not group.contrast]
    if plain:
        scores, taken = (np.concatenate(parts) for parts in zip(*((g.scores, g.taken) for g in plain), strict=True))
        found = max(found, threshold_bounded(np.where(taken, -np.inf, scores), share * budget.bound))
    return float(found)
