"""From logits to probabilities, and from budgets of false alarms to thresholds; both after quantisation."""

from __future__ import annotations

import numpy as np

from .measure import Floats, threshold_at, threshold_bounded


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


def thresholds(honest: Floats, block_budget: float, log_rate: float) -> tuple[float, float]:
    """(block, log) on the scores of honest texts: block keeps the exact upper bound of its false alarms within
    `block_budget`, log lets `log_rate` of them be written down. Log never lies above block."""
    block = threshold_bounded(honest, block_budget)
    return block, min(block, threshold_at(honest, log_rate))
