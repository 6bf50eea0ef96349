"""Outcomes to figures: pure, seeded, ready to be written as JSON. A figure that does not exist is None, never 0.

Ranking figures (AUROC, recall at a share of false alarms ...) look at rows without a failure only: what was not judged
has no score. Figures of decisions look at all rows, because a policy decides what silence means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers import statistics as stats

from ..model import Action
from .shares import Bools, Families, Floats, Json, effective, number, rate, scaled, threshold
from .subject import Outcome, named_for

FPRS = (0.001, 0.005, 0.01)
"""Shares of honest texts flagged at which recall is told."""
DRAWS = 200
ENOUGH = 10
"""Rows of each side that calibration and categories need before they are told."""
WORST = 15
CURVE_POINTS = 400
RARE = 0.001
"""The share of bad requests for which precision is told: most traffic is honest."""
_ACTIONS = frozenset(action.value for action in Action)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Outcomes as columns (n,). `ranks` are the rank scores, `severity` that of the action taken."""

    outcomes: tuple[Outcome, ...]
    bad: Bools
    failed: Bools
    severity: NDArray[np.intp]
    ranks: Mapping[str, Floats]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], ranks: Sequence[str]) -> Pool:
        severity = [Action(outcome.action).severity if outcome.action else 0 for outcome in outcomes]
        return cls(
            tuple(outcomes),
            np.array([outcome.bad for outcome in outcomes], bool),
            np.array([bool(outcome.failures) for outcome in outcomes], bool),
            np.array(severity, np.intp),
            {name: np.array([outcome.scores[name] for outcome in outcomes], np.float64) for name in ranks},
        )

    def __len__(self) -> int:
        return len(self.outcomes)

    def where(self, chosen: Bools) -> Pool:
        return Pool(
            tuple(outcome for outcome, take in zip(self.outcomes, chosen, strict=True) if take),
            self.bad[chosen],
            self.failed[chosen],
            self.severity[chosen],
            {name: values[chosen] for name, values in self.ranks.items()},
        )

    def of_which(self, wanted: Callable[[Outcome], bool]) -> Pool:
        return self.where(np.array([wanted(outcome) for outcome in self.outcomes], bool))

    @property
    def sides(self) -> tuple[int, int]:
        return int(self.bad.sum()), int((~self.bad).sum())

    @property
    def families(self) -> list[object]:
        """What is drawn as one: a family, else the row alone."""
        return [(o.source, o.family) if o.family else None for o in self.outcomes]

    @property
    def sizes(self) -> tuple[float, float]:
        """How many independent rows the bad ones and the honest ones are worth."""
        families = self.families
        return effective(families, self.bad), effective(families, ~self.bad)

    @property
    def actions(self) -> list[str]:
        """The actions that can be taken, strictest first, whether one was or not: that a policy found nothing in these
        rows is a figure, too. None for a classifier."""
        return [name for name in self.ranks if name in _ACTIONS]

    def telling(self) -> list[str]:
        """The rank scores that put these rows in order: any row has one, and not the same as the stricter one."""
        found: list[str] = []
        for name, values in self.ranks.items():
            if np.isfinite(values).any() and not (found and np.array_equal(values, self.ranks[found[-1]])):
                found.append(name)
        return found


def measure(outcomes: Sequence[Outcome], ranks: Sequence[str], seed: int = 0) -> Json:
    """Every figure of a run. `ranks` names the rank scores, strictest first. Raises ValueError for no outcomes."""
    if not outcomes:
        raise ValueError("no outcomes")
    pool = Pool.of(outcomes, ranks)
    surfaces = sorted({outcome.surface for outcome in outcomes}, key=lambda name: (name != "user", name))
    pools = {name: pool.of_which(lambda o, n=name: o.surface == n) for name in surfaces}  # type: ignore[misc]
    return {
        "rows": _rows(pool),
        "ranks": {name: part.telling() for name, part in pools.items()},
        "surfaces": {name: _surface(part, seed) for name, part in pools.items()},
        "sources": [row for part in pools.values() for row in _groups(part, "source", _source_of, seed)],
        "languages": [row for part in pools.values() for row in _groups(part, "lang", _lang_of, seed)],
        "categories": [row for part in pools.values() for row in _categories(part)],
        "rules": _rules(pool),
        "findings": [row for part in pools.values() for row in _findings(part)],
        "calibration": [
            row
            for part in pools.values()
            for key, of in (("source", _source_of), ("lang", _lang_of))
            for row in _calibration(part, key, of)
        ],
        "latency": _latency(pool),
        "curves": {name: _curves(part) for name, part in pools.items()},
        "catch": {name: _catch(part) for name, part in pools.items()},
        "worst": [row for part in pools.values() for row in _worst(part)],
    }


def _source_of(outcome: Outcome) -> str:
    return outcome.source


def _lang_of(outcome: Outcome) -> str:
    return outcome.lang


def _rows(pool: Pool) -> Json:
    bad, honest = pool.sides
    return {
        "judged": len(pool),
        "bad": bad,
        "honest": honest,
        "units": stats.units(pool.families, len(pool))[1],
        "failed": int(pool.failed.sum()),
        "failed_bad": int((pool.failed & pool.bad).sum()),
        "failed_honest": int((pool.failed & ~pool.bad).sum()),
        "failures": dict(sorted(Counter(each for o in pool.outcomes for each in o.failures).items())),
    }


# Ranking and decisions ----------------------------------------------------------------------------------------------


def ranking(scores: Floats, bad: Bools, families: Families | None = None, seed: int = 0) -> Json | None:
    """How scores order bad and honest texts; None where a side is empty. `families` (n,) are drawn whole for the
    interval of AUROC, and count as one in those of recall."""
    if not bad.any() or bad.all():
        return None
    low, high = stats.bootstrap(scores, bad, groups=families, draws=DRAWS, seed=seed)
    best, at = stats.f1_best(scores, bad)
    return {
        "bad": int(bad.sum()),
        "honest": int((~bad).sum()),
        "auroc": number(stats.auroc(scores, bad)),
        "auroc_95": [number(low), number(high)],
        "average_precision": number(stats.average_precision(scores, bad)),
        "f1_best": number(best),
        "f1_best_threshold": threshold(at, scores),
        "recall_at": [recall_at(scores, bad, fpr, families) for fpr in FPRS],
    }


def recall_at(scores: Floats, bad: Bools, fpr: float, families: Families | None = None) -> Json:
    """Recall at a share of false alarms with its exact interval. `enough`: whether there are honest texts enough for
    the share to mean anything but none."""
    _, edge = stats.recall_at_fpr(scores, bad, fpr)
    caught, alarms = int((scores[bad] >= edge).sum()), int((scores[~bad] >= edge).sum())
    low, high = stats.clopper_pearson(*scaled(caught, int(bad.sum()), effective(families, bad)))
    return {
        "fpr": fpr,
        "recall": number(caught / int(bad.sum())),
        "low": number(low),
        "high": number(high),
        "threshold": threshold(edge, scores),
        "false_alarms": alarms,
        "enough": bool((~bad).sum() * fpr >= 1),
    }


def _ranked(pool: Pool, name: str, seed: int) -> Json | None:
    good = pool.where(~pool.failed) if pool.failed.any() else pool
    return ranking(good.ranks[name], good.bad, good.families, seed) if len(good) else None


def decisions(pool: Pool) -> Json:
    """For each action: the share of bad texts on which it (or a stricter one) was taken, and of honest ones."""
    found: Json = {}
    bad, honest = pool.sides
    mine, others = pool.sizes
    for name in pool.actions:
        taken = pool.severity >= Action(name).severity
        hits, alarms = int((taken & pool.bad).sum()), int((taken & ~pool.bad).sum())
        found[name] = {
            "bad": rate(hits, bad, mine),
            "honest": rate(alarms, honest, others),
            "f1": number(2 * hits / (2 * hits + alarms + bad - hits)) if bad and honest else None,
            "precision_when_rare": _precision(hits, bad, alarms / honest) if alarms else None,
            "precision_when_rare_at_least": _precision(hits, bad, stats.upper_bound(*scaled(alarms, honest, others))),
        }
    return found


def _precision(hits: int, bad: int, false: float) -> float | None:
    """Of what is flagged, the share that is bad, where RARE of all texts are and `false` of the honest ones flagged."""
    if not bad or not hits:
        return None
    caught = RARE * hits / bad
    return number(caught / (caught + (1 - RARE) * false))


def _surface(pool: Pool, seed: int) -> Json:
    bad, honest = pool.sides
    return {
        "bad": bad,
        "honest": honest,
        "failed": int(pool.failed.sum()),
        "ranking": {name: _ranked(pool, name, seed) for name in pool.telling()},
        "decisions": decisions(pool),
    }


def _groups(pool: Pool, key: str, of: Callable[[Outcome], str], seed: int) -> list[Json]:
    """A row for each source or language of a surface. `own`: its bad texts against its own honest ones; `against_all`:
    against all honest texts of the surface, since many sources hold one side only."""
    names = pool.telling()
    found = []
    for group in sorted({of(outcome) for outcome in pool.outcomes}):
        mine = np.array([of(outcome) == group for outcome in pool.outcomes], bool)
        part = pool.where(mine)
        bad, honest = part.sides
        everywhere = pool.where((mine & pool.bad) | ~pool.bad)
        first = names[0] if names else None
        found.append(
            {
                key: group,
                "surface": pool.outcomes[0].surface,
                "bad": bad,
                "honest": honest,
                "failed": int(part.failed.sum()),
                "own": _ranked(part, first, seed) if first else None,
                "against_all": _ranked(everywhere, first, seed) if first and bad else None,
                "decisions": decisions(part),
            }
        )
    return found if key == "source" or len(found) > 1 or found[0][key] else []


def _categories(pool: Pool) -> list[Json]:
    """Catch by label, and by category within it; beside it recall with the thresholds of FPRS, which are set on the
    honest texts of the surface."""
    names = pool.telling()[:1]
    if not (names or pool.actions) or not pool.bad.any():
        return []
    good = pool.where(~pool.failed)
    edges = [(name, fpr, stats.recall_at_fpr(good.ranks[name], good.bad, fpr)[1]) for name in names for fpr in FPRS]
    groups: dict[tuple[str, str], list[int]] = {}
    for at in np.flatnonzero(pool.bad):
        outcome = pool.outcomes[at]
        for category in dict.fromkeys(("", outcome.category)):
            groups.setdefault((outcome.label, category), []).append(int(at))
    found = []
    for (label, category), rows in sorted(groups.items()):
        if category and len(rows) < ENOUGH:
            continue
        part = pool.where(np.isin(np.arange(len(pool)), rows))
        scored = part.where(~part.failed)
        recalls = [
            {"fpr": fpr} | rate(int((scored.ranks[name] >= edge).sum()), len(scored), scored.sizes[0])
            for name, fpr, edge in edges
            if not math.isnan(edge)
        ]
        taken = {name: row["bad"] for name, row in decisions(part).items()}
        where = pool.outcomes[0].surface
        row = {"surface": where, "label": label, "category": category, "bad": len(rows)}
        found.append(row | {"decisions": taken, "recall_at": recalls})
    return found


def _rules(pool: Pool) -> list[Json]:
    bad, honest = pool.sides
    hits = Counter(rule for o in pool.outcomes if o.bad for rule in o.fired)
    alarms = Counter(rule for o in pool.outcomes if not o.bad for rule in o.fired)
    mine, others = pool.sizes
    return [
        {"rule": rule, "bad": rate(hits[rule], bad, mine), "honest": rate(alarms[rule], honest, others)}
        for rule in sorted(hits | alarms, key=lambda rule: (-hits[rule] - alarms[rule], rule))
    ]


# Probabilities ------------------------------------------------------------------------------------------------------


def _findings(pool: Pool) -> list[Json]:
    """Each finding that is named like a label or a category of bad rows, against the honest rows of the surface: how it
    ranks, and whether its score is a probability."""
    surface = pool.outcomes[0].surface
    names = sorted({name for outcome in pool.outcomes for name in outcome.findings})
    found = []
    for name in names:
        label = name.partition(".")[2]
        part = _rows_of(pool, lambda o, k=label: k in {named_for(o.label, surface), _slug(o.category)})  # type: ignore[misc]
        if min(part.sides) >= ENOUGH:
            scores = _scores(part, name)
            found.append(
                {"finding": name, "surface": surface, "ranking": ranking(scores, part.bad, part.families)}
                | _reliable(scores, part.bad)
            )
    return found


def _calibration(pool: Pool, key: str, of: Callable[[Outcome], str]) -> list[Json]:
    """Each source or language that has both sides: the finding named like its bad label, or the classifier's highest
    score."""
    surface = pool.outcomes[0].surface
    names = {name for outcome in pool.outcomes for name in outcome.findings}
    found = []
    for group in sorted({of(outcome) for outcome in pool.outcomes}):
        part = pool.of_which(lambda o, g=group: of(o) == g and not o.failures)  # type: ignore[misc]
        if min(part.sides) < ENOUGH:
            continue
        labels = Counter(o.label for o in part.outcomes if o.bad)
        label = labels.most_common(1)[0][0]
        part = _rows_of(part, lambda o, k=label: o.label == k)  # type: ignore[misc]
        fitting = sorted(name for name in names if name.partition(".")[2] == named_for(label, surface))
        if fitting:
            scores = np.max([_scores(part, name) for name in fitting], axis=0)
        elif "score" in part.ranks:
            scores, fitting = part.ranks["score"], ["score"]
        else:
            continue
        if min(part.sides) >= ENOUGH:
            row = {"by": key, "group": group, "surface": surface, "finding": fitting[0]}
            found.append(row | _reliable(scores, part.bad))
    return found


def _rows_of(pool: Pool, wanted: Callable[[Outcome], bool]) -> Pool:
    """The honest rows and the bad ones that are `wanted`, without failures."""
    return pool.of_which(lambda o: not o.failures and (not o.bad or wanted(o)))


def _slug(category: str) -> str:
    return category.strip().casefold().replace(" ", "_").replace("-", "_")


def _scores(pool: Pool, name: str) -> Floats:
    return np.array([outcome.findings.get(name, 0.0) for outcome in pool.outcomes], np.float64)


def _reliable(scores: Floats, bad: Bools) -> Json:
    """Calibration, with both sides given equal weight and as the rows are."""
    weights = stats.balanced(bad)
    return {
        "bad": int(bad.sum()),
        "honest": int((~bad).sum()),
        "ece": number(stats.expected_calibration_error(scores, bad, weights=weights)),
        "ece_as_is": number(stats.expected_calibration_error(scores, bad)),
        "bins": [
            {
                "low": item.low,
                "high": item.high,
                "rows": item.rows,
                "mean": number(item.mean),
                "rate": number(item.rate),
            }
            for item in stats.reliability(scores, bad, weights=weights)
        ],
    }


# Time, curves, rows to read -----------------------------------------------------------------------------------------


def _latency(pool: Pool) -> Json:
    seconds = np.array([outcome.seconds for outcome in pool.outcomes], np.float64) * 1000
    shares = np.concatenate((np.arange(0, 99, 1), np.arange(99, 100.01, 0.1))) / 100
    values = np.quantile(seconds, np.minimum(shares, 1.0), method="higher")
    told = {name: number(np.quantile(seconds, q, method="higher"), 4) for name, q in _QUANTILES.items()}
    return {
        "unit": "ms",
        "mean": number(seconds.mean(), 4),
        **told,
        "cdf": [[number(share, 4), number(value, 4)] for share, value in zip(shares, values, strict=True)],
    }


_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def _curves(pool: Pool) -> Json:
    """ROC as corners of a staircase, at most CURVE_POINTS of them, dense where false alarms are few."""
    good = pool.where(~pool.failed)
    found: Json = {}
    for name in pool.telling():
        if not good.bad.any() or good.bad.all():
            continue
        alarms, recall, _ = stats.roc(good.ranks[name], good.bad)
        last = stats.corners(alarms, CURVE_POINTS)
        found[name] = {
            "fpr": [number(value) for value in alarms[last]],
            "recall": [number(value) for value in recall[last]],
        }
    return found


GRID = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def _catch(pool: Pool) -> Json:
    """For each source with bad texts, how many are caught where GRID of all honest texts of the surface are flagged: by
    the first rank score."""
    good = pool.where(~pool.failed)
    names = pool.telling()
    if not names or not good.bad.any() or good.bad.all():
        return {}
    scores = good.ranks[names[0]]
    edges = [stats.recall_at_fpr(scores, good.bad, fpr)[1] for fpr in GRID]
    sources = np.array([outcome.source for outcome in good.outcomes])
    found = {}
    for source in sorted(set(sources[good.bad])):
        mine = scores[good.bad & (sources == source)]
        if len(mine) >= ENOUGH:
            found[str(source)] = [number((mine >= edge).mean(), 4) for edge in edges]
    return {"fpr": list(GRID), "sources": found}


def _floor(name: str) -> float:
    """The rank score of a text in which nothing was seen."""
    return 0.0 if name == "score" else -math.inf


def _worst(pool: Pool) -> list[Json]:
    """The honest rows with the highest scores and the bad ones with the lowest: what a person should read."""
    if not pool.ranks:
        return []
    first = next(iter(pool.telling()), next(iter(pool.ranks)))
    scores = pool.ranks[first]
    found = []
    for kind, side, sign in (("false alarm", ~pool.bad, -1.0), ("miss", pool.bad, 1.0)):
        # An honest text in which nothing was seen is no false alarm, however short the list.
        rows = np.flatnonzero(side & ~pool.failed & (pool.bad | (scores > _floor(first))))
        for at in rows[np.argsort(sign * scores[rows], kind="stable")][:WORST]:
            outcome = pool.outcomes[at]
            seen = sorted(outcome.findings.items(), key=lambda item: (item[0] != outcome.nearest, -item[1]))[:3]
            found.append(
                {
                    "kind": kind,
                    "surface": outcome.surface,
                    "id": outcome.id,
                    "source": outcome.source,
                    "label": outcome.label,
                    "category": outcome.category,
                    "action": outcome.action,
                    "score": number(scores[at]),
                    "findings": {name: number(score, 4) for name, score in seen},
                    "text": outcome.text[:400] if outcome.text is not None else None,
                }
            )
    return found
