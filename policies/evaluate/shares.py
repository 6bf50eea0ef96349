"""Shares, bounds and thresholds as they are written.

**A family is one observation.** Intervals and bounds of a share are those of its rows' effective size: as if all rows
of a family went the same way (`classifiers.statistics.effective_size`), and a paired test gives each family one vote.
Why: thirty wordings of one prompt are caught or missed together, and counted apart they would prove what nobody
measured; how much they go together cannot be told from a share of 0 or 1, which is where bounds matter. Cost: where a
detector tells the wordings of one family apart, intervals are wider than they need be; where one family is half of all
rows, those of high shares hold 90 times of 100 (bounds of false alarms hold). Shares themselves count rows.

**A threshold is written so that the figures beside it hold for the number as it stands.** Why: the next double above
0.9 is 0.9 again at twelve digits, and flags more. Cost: where scores lie close together it has seventeen digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers import statistics as stats

Json = dict[str, Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Families = Sequence[object]
"""For each row (n,) what it shares with others of its family; None for a row that stands alone."""

_HUGE = 1e300


def number(value: float, digits: int = 6) -> float | None:
    """A float for JSON; None where there is none (a threshold just above -inf is none either)."""
    return round(float(value), digits) if abs(value) < _HUGE else None


def threshold(value: float, scores: Floats) -> float | None:
    """A number that flags those of `scores` that `value` flags: `value` rounded where that can be, else to the bit.
    None where `value` is no number for JSON; it flags all that was scored then."""
    if not abs(value) < _HUGE:
        return None
    flagged = (scores >= value).sum()
    for digits in (6, 9, 12):
        near, step = round(float(value), digits), 10.0**-digits
        for each in (near, round(near + step, digits), round(near - step, digits)):
            if (scores >= each).sum() == flagged:
                return each
    return float(value)


def effective(families: Families | None, rows: Bools) -> float:
    """How many independent rows the chosen ones of `rows` (n,) are worth, where those of one family go together."""
    return stats.effective_size(chosen(families, rows), int(rows.sum()))


def scaled(k: int, n: int, size: float) -> tuple[float, float]:
    """(k', n') for an interval or a bound of k in n rows that are worth `size` independent ones."""
    return (k, n) if size == n else (size * (k / n), size)


def rate(k: int, n: int, size: float | None = None) -> Json:
    """A share with its Wilson interval and the exact 95 % upper bound, which count the n rows as `size` independent
    ones (`n_effective`); as n where it is None."""
    size = n if size is None else size
    low, high = stats.wilson(*scaled(k, n, size))
    return {
        "k": k,
        "n": n,
        "n_effective": n if size == n else number(size, 2),
        "rate": number(k / n) if n else None,
        "low": number(low),
        "high": number(high),
        "at_most": number(stats.upper_bound(*scaled(k, n, size))),
    }


def chosen(families: Families | None, rows: Bools) -> Families | None:
    """The families of those rows (n,) that are chosen."""
    return None if families is None else [family for family, take in zip(families, rows, strict=True) if take]


def paired(one: Bools, other: Bools, families: Families | None = None) -> Json:
    """Two answers on the same rows (n,): how often each is yes, on how many they differ, how many families (or single
    rows) speak for each, and the exact McNemar p of these votes."""
    for_first, for_second = stats.votes(one, other, families)
    return {
        "n": len(one),
        "first": number(one.mean()),
        "second": number(other.mean()),
        "only_first": int((one & ~other).sum()),
        "only_second": int((other & ~one).sum()),
        "votes_first": for_first,
        "votes_second": for_second,
        "p": number(stats.mcnemar_exact(for_first, for_second), 10),
    }
