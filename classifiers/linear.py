"""A straight line between two classes: logistic regression with an L2 penalty, by Newton's method, in numpy alone.

The loss is convex and its minimum is unique, so equal rows give equal weights whatever their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS, HALVINGS, CLOSE = 60, 40, 1e-9


@dataclass(frozen=True, slots=True)
class Line:
    """score = rows @ weights (d,) + intercept, in log odds: 0 is even."""

    weights: Floats
    intercept: float

    def score(self, rows: Floats) -> Floats:
        """Log odds (n,) of rows (n, d)."""
        return rows @ self.weights + self.intercept


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-v)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def loss(logits: Floats, aims: Floats, counts: Floats) -> float:
    """The sum of the weighted cross entropies of `aims` in [0, 1], in nats."""
    return float((counts * (np.logaddexp(0.0, logits) - aims * logits)).sum())


def fit(rows: Floats, aims: Floats, counts: Floats, strength: float, start: Line | None = None) -> Line:
    """The line that minimises the loss of `aims` (n,), in [0, 1], weighted by `counts` (n,), plus strength / 2 times
    the squared weights. The intercept is free.

    Raises ValueError where there is nothing to part: no row, or only one class.
    """
    if rows.ndim != 2 or rows.shape[0] != len(aims) or len(aims) != len(counts):
        raise ValueError(f"rows {rows.shape}, aims {aims.shape} and counts {counts.shape} must belong together")
    if not strength > 0 or not len(aims) or aims.max() <= 0 or aims.min() >= 1:
        raise ValueError("a line needs a positive strength and rows of both classes")
    middle = counts @ rows / counts.sum()
    centred = rows - middle
    # Weights lie in the span of the rows: with fewer rows than columns the problem is as small as the rows.
    basis = np.linalg.qr(centred.T)[0] if len(rows) < rows.shape[1] else None
    small = centred if basis is None else centred @ basis
    first = np.zeros(small.shape[1] + 1)
    if start is not None:
        first[:-1] = start.weights if basis is None else start.weights @ basis
        first[-1] = start.intercept + start.weights @ middle
    found = _newton(np.column_stack((small, np.ones(len(rows)))), aims, counts, strength, first)
    weights = found[:-1] if basis is None else basis @ found[:-1]
    return Line(weights, float(found[-1] - weights @ middle))


def _newton(rows: Floats, aims: Floats, counts: Floats, strength: float, values: Floats) -> Floats:
    """Newton's method with a step that is halved until the loss falls. The last column of `rows` is the intercept."""
    penalty = np.full(rows.shape[1], strength)
    # Only so much that a free intercept cannot run away where all rows agree.
    penalty[-1] = 1e-9

    def cost(at: Floats) -> float:
        return loss(rows @ at, aims, counts) + 0.5 * float(penalty @ (at * at))

    now = cost(values)
    for _ in range(STEPS):
        p = sigmoid(rows @ values)
        slope = rows.T @ (counts * (p - aims)) + penalty * values
        curve = (rows * (counts * p * (1.0 - p))[:, None]).T @ rows
        curve[np.diag_indices_from(curve)] += penalty
        step = np.linalg.solve(curve, slope)
        if float(slope @ step) < CLOSE * (1.0 + now):
            return values - step
        for _ in range(HALVINGS):
            after = cost(values - step)
            if after < now:
                break
            step = step / 2.0
        else:
            return values
        values, now = values - step, after
    return values
