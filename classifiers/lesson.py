"""What is to be known of a taught head before it decides anything: figures with intervals, a threshold and whether it
is proven, and warnings about the examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .examples import FEW, Prepared
from .statistics import (
    Bools,
    Floats,
    auroc,
    balanced,
    bootstrap,
    clopper_pearson,
    expected_calibration_error,
    upper_bound,
)
from .statistics import recall_at_fpr as recall_at

RATES = (0.001, 0.005, 0.01)
CROWDED, STYLED, POOR, UNCALIBRATED = 0.2, 0.85, 0.7, 0.15
"""Where warnings begin: the share of near copies, the AUROC of one trait of style, the AUROC of the head, its error of
calibration (0.1 is chance with fifty examples)."""
DRAWS = 500


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of bad texts caught where at most `rate` of the honest ones are flagged, with its exact interval."""

    rate: float
    recall: float
    low: float
    high: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All on texts that the measured line had not seen. `ece` is the expected calibration error in a mix where half
    are bad. `recalls` are at RATES, against `against` honest texts."""

    auroc: float
    auroc_low: float
    auroc_high: float
    ece: float
    recalls: tuple[Recall, ...]
    against: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """The lowest threshold that keeps false alarms within `budget`. Of `honest` texts `flagged` reach it, so that the
    true rate is at most `bound` (exact, 95 %, one-sided); `proven` says whether that is within the budget. Where it is
    not, the threshold lies above all honest texts, and `needed` of them would be the least to prove it.
    `recall` of the bad examples reach it, `low` to `high`."""

    budget: float
    value: float
    honest: int
    flagged: int
    bound: float
    proven: bool
    needed: int
    recall: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """One teaching. `groups` counts the examples less their near copies; `traffic` the honest texts beside them."""

    label: str
    made: str
    bad: int
    honest: int
    groups: int
    traffic: int
    strength: float
    figures: Figures
    threshold: Threshold
    warnings: tuple[str, ...]
    examples: str

    def card(self) -> dict[str, Any]:
        """What a head's file keeps: plain values, no text."""
        said: dict[str, Any] = _rounded(asdict(self))
        said.pop("label")
        return said

    def lines(self) -> Iterator[str]:
        """For people, a line each."""
        one, cut = self.figures, self.threshold
        copies = "" if self.groups == self.bad + self.honest else f", {self.groups} without near copies"
        yield f"examples    {self.bad} bad, {self.honest} honest{copies}"
        yield f"AUROC       {one.auroc:.3f}  ({one.auroc_low:.3f} to {one.auroc_high:.3f}), on folds not learned from"
        against = f"{one.against} honest texts" + ("" if self.traffic else " of the examples")
        few = [item for item in one.recalls if item.rate * one.against < 1]
        if few:
            rates = ", ".join(f"{item.rate:.1%}" for item in few)
            yield f"recall      {_share(few[0])} with no false alarm in {against}: too few to measure at {rates}"
        for item in one.recalls[len(few) :]:
            yield f"recall      {_share(item)} at {item.rate:.1%} of {against}"
        yield f"calibration error {one.ece:.3f}, for a mix where half are bad"
        yield (
            f"threshold   {cut.value:.6f}: flags {cut.flagged} of {cut.honest} honest texts, at most {cut.bound:.2%};"
            f" catches {cut.recall:.1%} ({cut.low:.1%} to {cut.high:.1%})"
        )
        if not cut.proven:
            yield (
                f"            not proven: a budget of {cut.budget:.2%} needs {cut.needed:,} honest texts or more,"
                " none of them flagged (--honest FILE)"
            )
        yield from (f"warning     {warning}" for warning in self.warnings)


def _share(item: Recall) -> str:
    return f"{item.recall:.1%}  ({item.low:.1%} to {item.high:.1%})"


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 6) if math.isfinite(value) else None
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case _:
            return value


def figures(
    scores: Floats, probabilities: Floats, bad: Bools, groups: NDArray[np.intp], traffic: Floats | None
) -> Figures:
    """Of held-out `scores` (n,), and of held-out `probabilities` for the calibration. `traffic` are the scores of
    honest texts that no line saw; without them the honest examples stand for traffic."""
    low, high = bootstrap(scores, bad, groups=groups.tolist(), draws=DRAWS)
    passed = scores[~bad] if traffic is None else traffic
    caught = scores[bad]
    values = np.concatenate((caught, passed))
    sides = np.arange(len(values)) < len(caught)
    recalls = []
    for rate in RATES:
        _, cut = recall_at(values, sides, rate)
        # With six decimals, as a card has it: rounded down it would let the honest score be flagged that it lies above.
        cut = above(float(np.nextafter(cut, -math.inf)))
        hits = int((caught >= cut).sum())
        recalls.append(Recall(rate, hits / len(caught), *clopper_pearson(hits, len(caught)), cut))
    ece = expected_calibration_error(probabilities, bad, weights=balanced(bad))
    return Figures(auroc(scores, bad), low, high, ece, tuple(recalls), len(passed))


def needed(budget: float, alpha: float = 0.05) -> int:
    """How many honest texts, none of them flagged, prove at level 1 - alpha that at most `budget` are: 299 for 1 %, 598
    for 0.5 %, 2,995 for 0.1 %."""
    return math.ceil(math.log(alpha) / math.log1p(-budget))


def allowed(count: int, budget: float) -> int:
    """How many of `count` honest texts may be flagged with the exact 95 % upper bound still within `budget`; -1 where
    even none proves nothing."""
    if count == 0 or upper_bound(0, count) > budget:
        return -1
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_bound(middle, count) <= budget else (low, middle)
    return low


def above(score: float) -> float:
    """The lowest threshold with six decimals that `score` does not reach, at most 1 (which a score of 1 reaches)."""
    # The product may be a hair below the whole number that is meant, and the threshold then the score itself.
    step = math.floor(score * 1e6)
    return min(1.0, next(value for value in (step / 1e6, (step + 1) / 1e6, (step + 2) / 1e6) if value > score))


def threshold(passed: Floats, caught: Floats, budget: float) -> Threshold:
    """For `budget` in (0, 1), from scores of honest texts (at least one) and of bad ones."""
    ordered = np.sort(passed)[::-1]
    may = allowed(len(ordered), budget)
    value = above(float(ordered[max(may, 0)])) if max(may, 0) < len(ordered) else above(float(ordered[-1]))
    flagged = int((passed >= value).sum())
    bound = upper_bound(flagged, len(passed))
    hits = int((caught >= value).sum())
    recall = hits / len(caught) if len(caught) else math.nan
    return Threshold(
        budget,
        value,
        len(passed),
        flagged,
        bound,
        bound <= budget,
        needed(budget),
        recall,
        *clopper_pearson(hits, len(caught)),
    )


# Traits of a text that say nothing of what it means. A letter outside ASCII stands for language as far as that can be
# seen without a model of it.
def _traits(text: str) -> dict[str, float]:
    letters = [char for char in text if char.isalpha()]
    size = max(1, len(text))
    return {
        "length": float(len(text)),
        "the share of letters outside ASCII (language)": sum(char > "\x7f" for char in letters) / max(1, len(letters)),
        "the share of capitals": sum(char.isupper() for char in letters) / max(1, len(letters)),
        "the share of digits": sum(char.isdigit() for char in text) / size,
        "the number of lines": float(text.count("\n")),
        "ending with a question mark": float(text.rstrip()[-1:] in "?？؟"),
    }


def warnings(lesson: Lesson, texts: Prepared, joined: Sequence[tuple[int, int]], known: int) -> Iterator[str]:
    """What makes the figures, or the head, less than they look. `joined` are pairs of near copies among the examples,
    `known` counts honest texts that were examples too."""
    bad = np.asarray([example.bad for example in texts.kept], np.bool_)
    if min(lesson.bad, lesson.honest) < FEW:
        side = "bad" if lesson.bad < lesson.honest else "honest"
        yield f"too few {side} examples: with fewer than {FEW} of a side the figures are mostly chance"
    if texts.contradictory:
        yield f"{texts.contradictory} examples contradict each other (one text, both labels) and were left out"
    if texts.repeated:
        yield f"{texts.repeated} examples repeat another and were left out"
    across = sum(bool(bad[i] != bad[j]) for i, j in joined)
    if across:
        yield (
            f"{across} pairs of near copies stand on both sides: good where they are meant as contrasts,"
            " else mislabelled"
        )
    alike = len(texts.kept) - lesson.groups
    if alike >= CROWDED * len(texts.kept):
        yield (
            f"too alike: {alike} of {len(texts.kept)} examples are near copies of others and teach little;"
            " figures keep copies in one fold"
        )
    if known:
        yield f"{known} honest texts are examples too (a leak) and say nothing of the threshold: left out there"
    rows = [_traits(example.text) for example in texts.kept]
    for trait in rows[0]:
        alone = auroc([row[trait] for row in rows], bad)
        if max(alone, 1 - alone) >= STYLED:
            yield (
                f"{trait} alone parts the sides (AUROC {max(alone, 1 - alone):.2f}): the head may have learned that;"
                " bring examples in which it does not"
            )
    if lesson.figures.auroc < POOR:
        yield f"AUROC below {POOR}: the encoder hardly tells these sides apart; more or clearer examples may help"
    if lesson.figures.ece > UNCALIBRATED:
        yield "poorly calibrated: trust the threshold, not the probability"
