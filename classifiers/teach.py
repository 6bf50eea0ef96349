"""From a few labelled texts to a head: fitted, calibrated, and measured on folds that it did not see.

All of it is arithmetic on what the frozen encoder made of the texts: fifty take a second. The same examples give the
same head in whatever order they come. What was tried and left out, because it earned nothing on sources that nobody
trained on: the shipped heads' logits as further features, letter n-grams, whitening by a background of other texts,
kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from . import alike
from .encoder import Encoder
from .examples import Example, TeachError, prepare
from .lesson import Lesson, figures, threshold, warnings
from .linear import Floats, Line, fit, loss, sigmoid
from .statistics import balanced
from .taught import Head, features, layers_of

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ROUNDS = 3

Bools = NDArray[np.bool_]
Say = Callable[[int, int], None]
"""Told how many texts of how many were read."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What the encoder made of n texts: the features of all their windows (w, width), and where each text's own begin
    (n,). Every text has at least one."""

    windows: Floats
    starts: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, chosen: NDArray[np.intp]) -> Rows:
        """The rows of the texts at `chosen`."""
        ends = np.append(self.starts[1:], len(self.windows))
        spans = [np.arange(self.starts[at], ends[at]) for at in chosen]
        sizes = np.asarray([len(span) for span in spans], np.intp)
        where = np.concatenate(spans) if spans else np.zeros(0, np.intp)
        return Rows(self.windows[where], (np.cumsum(sizes) - sizes).astype(np.intp))

    def means(self) -> Floats:
        """(n, width), each text's mean window."""
        sizes = np.diff(np.append(self.starts, len(self.windows)))
        return np.asarray(np.add.reduceat(self.windows, self.starts, axis=0) / sizes[:, None], np.float64)

    def best(self, line: Line) -> Floats:
        """(n, width), each text's window that scores highest."""
        scores, ends = line.score(self.windows), np.append(self.starts[1:], len(self.windows))
        picked = [start + int(scores[start:end].argmax()) for start, end in zip(self.starts, ends, strict=True)]
        return self.windows[picked]

    def score(self, line: Line) -> Floats:
        """(n,), the score of each text's best window."""
        return np.asarray(np.maximum.reduceat(line.score(self.windows), self.starts), np.float64)


def read(encoder: Encoder, texts: Sequence[str], say: Say | None = None, places: Sequence[str] = ()) -> Rows:
    """What a head sees of the texts. Raises TeachError for one without a single token, by its place if `places` has
    one for each text."""
    layers, parts = layers_of(encoder), []
    for at, text in enumerate(texts):
        passes = encoder.read(text)
        if not passes.windows:
            what = f"{places[at]}: the text" if places and places[at] else f"text {at + 1}"
            raise TeachError(f"{what} holds nothing that can be read: remove it")
        parts.append(features(passes, layers))
        if say is not None:
            say(at + 1, len(texts))
    sizes = np.asarray([len(part) for part in parts], np.intp)
    return Rows(np.concatenate(parts), (np.cumsum(sizes) - sizes).astype(np.intp))


def learn(rows: Rows, bad: Bools, strength: float, start: Line | None = None) -> Line:
    """The line between bad and honest texts, both sides alike in weight. A long text is first its mean, then its
    window that scores highest: what is bad stands in one place, and that place decides in use, too."""
    aims, counts = bad.astype(np.float64), balanced(bad)
    line = fit(rows.means(), aims, counts, strength, start)
    if len(rows.windows) > len(rows):
        for _ in range(ROUNDS):
            line = fit(rows.best(line), aims, counts, strength, line)
    return line


def folds(groups: NDArray[np.intp], bad: Bools, most: int) -> NDArray[np.intp]:
    """(n,) a fold for each row: groups stay whole, and each fold gets its part of both sides. Raises TeachError where
    a side has fewer than two groups."""
    sizes: dict[int, tuple[int, int]] = {}
    for group, side in zip(groups.tolist(), bad.tolist(), strict=True):
        honest, worse = sizes.get(group, (0, 0))
        sizes[group] = (honest, worse + 1) if side else (honest + 1, worse)
    have = min(sum(1 for counts in sizes.values() if counts[side]) for side in (0, 1))
    if have < 2:
        raise TeachError("all examples of one side are wordings of one text: bring different ones")
    count = min(most, have)
    filled = np.zeros((count, 2))
    placed = {}
    total = np.asarray([(~bad).sum(), bad.sum()], np.float64)
    # The largest first, each to the fold that lacks most of what it brings.
    for group in sorted(sizes, key=lambda group: (-max(sizes[group]), group)):
        share = np.asarray(sizes[group]) / total
        best = int((filled / total @ share + 1e-9 * filled.sum(axis=1)).argmin())
        filled[best] += sizes[group]
        placed[group] = best
    return np.asarray([placed[group] for group in groups.tolist()], np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Scores (n,) of every text by lines that saw neither it nor its near copies, the `fold` of each, and the
    strength that was best at it."""

    scores: Floats
    fold: NDArray[np.intp]
    strength: float


def hold_out(rows: Rows, bad: Bools, groups: NDArray[np.intp]) -> Held:
    """Cross-validation over the strengths; the one with the lowest loss on what was held out."""
    fold = folds(groups, bad, 10 if len(bad) <= 400 else 5)
    everyone, weights = np.arange(len(bad)), balanced(bad)
    scores = np.zeros((len(STRENGTHS), len(bad)))
    for number in range(int(fold.max()) + 1):
        out, rest = everyone[fold == number], everyone[fold != number]
        if not len(out) or bad[rest].all() or not bad[rest].any():
            continue
        seen, unseen, line = rows.take(rest), rows.take(out), None
        for place in reversed(range(len(STRENGTHS))):
            line = learn(seen, bad[rest], STRENGTHS[place], line)
            scores[place, out] = unseen.score(line)
    losses = [loss(row, bad.astype(np.float64), weights) for row in scores]
    best = int(np.argmin(losses))
    return Held(scores[best], fold, STRENGTHS[best])


def calibrate(scores: Floats, bad: Bools) -> tuple[float, float]:
    """(scale, bias), scale > 0, of probabilities sigmoid(scale * score + bias) in a mix where half are bad; smoothed,
    so that few examples never give certainty."""
    many = np.asarray([(~bad).sum(), bad.sum()], np.float64)
    aims = np.where(bad, (many[1] + 1) / (many[1] + 2), 1 / (many[0] + 2))
    line = fit(scores[:, None], aims, balanced(bad), 1e-3)
    scale = float(line.weights[0])
    if scale < SLOPE:
        # Scores that say nothing, or the contrary: near a half for all, and never turned round.
        return SLOPE, 0.0
    return scale, line.intercept


SLOPE = 0.01


def held_probabilities(held: Held, bad: Bools) -> Floats:
    """(n,) calibrated probabilities of texts by lines and calibrations that saw neither."""
    found = np.zeros(len(bad))
    for number in np.unique(held.fold):
        out = held.fold == number
        rest = ~out
        scale, bias = (
            calibrate(held.scores[rest], bad[rest]) if bad[rest].any() and not bad[rest].all() else (SLOPE, 0.0)
        )
        found[out] = sigmoid(scale * held.scores[out] + bias)
    return found


def teach(
    label: str,
    examples: Sequence[Example],
    encoder: Encoder,
    honest: Sequence[Example] = (),
    budget: float = 0.005,
    roles: Sequence[str] = ("user",),
    say: Say | None = None,
    today: date | None = None,
) -> tuple[Head, Lesson]:
    """A head for `label`, and what is to be known of it. `honest` are texts of local traffic that must pass, whatever
    side they name: they are not learned from, so what they say of the threshold is exact. `budget` is the share of
    honest texts that may be flagged. Raises TeachError."""
    texts = prepare(examples)
    bad = np.asarray([example.bad for example in texts.kept], np.bool_)
    known = {alike.fingerprint(example.text) for example in texts.kept}
    fresh = sorted({alike.fingerprint(each.text): each for each in honest}.items(), key=lambda pair: pair[0])
    others = [each for mark, each in fresh if mark not in known]
    all_texts = [example.text for example in texts.kept]
    everything = [*texts.kept, *others]
    rows = read(encoder, [each.text for each in everything], say, [each.place for each in everything])
    mine, theirs = rows.take(np.arange(len(bad))), rows.take(np.arange(len(bad), len(rows)))
    joined = alike.pairs(all_texts)
    groups = alike.groups(len(all_texts), joined)
    held = hold_out(mine, bad, groups)
    line = learn(mine, bad, held.strength)
    half = line.weights.astype(np.float16).astype(np.float64)
    scale, bias = calibrate(held.scores, bad)
    head = Head(
        label,
        encoder.card.name,
        encoder.card.encoder,
        layers_of(encoder),
        half,
        line.intercept,
        scale,
        bias,
        tuple(roles),
        {},
    )
    probabilities = sigmoid(scale * held.scores + bias)
    seen = head.probabilities(theirs.windows) if others else np.zeros(0)
    passed = np.asarray(np.maximum.reduceat(seen, theirs.starts), np.float64) if others else probabilities[~bad]
    lesson = Lesson(
        label=label,
        made=(today or date.today()).isoformat(),
        bad=int(bad.sum()),
        honest=int((~bad).sum()),
        groups=int(groups.max()) + 1,
        traffic=len(others),
        strength=held.strength,
        figures=figures(probabilities, held_probabilities(held, bad), bad, groups, passed if others else None),
        threshold=threshold(passed, probabilities[bad], budget),
        warnings=(),
        examples=texts.digest,
    )
    lesson = replace(lesson, warnings=tuple(warnings(lesson, texts, joined, len(fresh) - len(others))))
    return replace(head, card=lesson.card()), lesson
