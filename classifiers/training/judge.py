"""The trained files seen as they will run: raw logits of texts through the runtime's own encoder and windows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..encoder import Encoder
from . import augment
from .corpus import Example
from .labels import INDEX
from .measure import Floats

Say = Callable[[str], None]
LONGEST = 3000
"""Code points of a bad text that is measured; the longest jailbreaks would take most of the time. Honest ones are read
whole, as in traffic: each window more is a chance to be taken for bad, and thresholds are set on them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Examples with their logits (n, heads), best window of each."""

    examples: tuple[Example, ...]
    logits: Floats

    def head(self, label: str) -> Floats:
        return self.logits[:, INDEX[label]]

    def at(self, places: Sequence[int] | NDArray[np.intp]) -> Judged:
        return Judged(tuple(self.examples[i] for i in places), self.logits[places])

    def beside(self, other: Judged) -> Judged:
        return Judged(self.examples + other.examples, np.concatenate((self.logits, other.logits)))

    def where(self, wanted: Callable[[Example], bool]) -> Judged:
        return self.at([i for i, e in enumerate(self.examples) if wanted(e)])

    def scores(self, label: str, value: float) -> Floats:
        """Logits of `label` for the examples of which it is known to be `value`."""
        chosen = [i for i, e in enumerate(self.examples) if e.targets.get(label) == value]
        return self.logits[chosen, INDEX[label]]


def judge(encoder: Encoder, examples: Sequence[Example], say: Say) -> Judged:
    """Runs every window of every example."""
    rows = []
    for number, example in enumerate(examples):
        bad = any(value == 1.0 for value in example.targets.values())
        logits = encoder.read(example.text[: LONGEST if bad else None], example.context).logits
        rows.append(logits.max(axis=0) if len(logits) else np.full(len(INDEX), -20.0))
        if number % 1000 == 999:
            say(f"judged {number + 1}/{len(examples)}")
    return Judged(tuple(examples), np.stack(rows).astype(np.float64))


def held(example: Example, tenth: int = 0) -> bool:
    """Whether an example of a training set is kept out of training: one in twelve, by a hash of its first words, so
    that most variants of a template fall on the same side."""
    start = " ".join(example.text.casefold().split()[:5])
    return hashlib.sha256(start.encode()).digest()[0] % 12 == tenth


def planted(dev: Sequence[Example], ours: Sequence[Example], count: int = 800, seed: int = 7) -> list[Example]:
    """A measuring set for orders in outside text: honest passages of the dev sets and our own validation texts,
    half of them with an order of the dev sets or of our validation families planted."""
    # Whole mails of ours are measured as they are.
    ours = [e for e in ours if e.family != "mail"]
    carriers = [
        replace(e, targets={"injection_indirect": 0.0}, role="document")
        for e in dev
        if (e.source in {"dolly_subset", "llm_self_defense"} and len(e.text) > 300)
        or (e.role in {"document", "tool_result"} and e.targets.get("injection_indirect") == 0.0)
    ]
    carriers += [e for e in ours if e.role != "prompt" and e.targets.get("injection_indirect") == 0.0]
    orders = [e for e in dev if e.source == "tensor_trust" and 30 < len(e.text) < 300]
    orders += [e for e in ours if e.family.startswith("order")] * 4
    errands = tuple(e.text for e in ours if e.family.startswith("errand"))
    stocked = augment.Stock(tuple(carriers), tuple(orders), errands, ())
    made = augment.outside(stocked, count, random.Random(seed))
    return [replace(e, source="planted_dev", suite="outside") for e in made]
