"""Hard negatives: honest texts that the caps left out and that the trained model takes for bad."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .corpus import Example, table
from .labels import INDEX


def spare(everything: Sequence[Example], used: Sequence[Example], most: int = 16000, seed: int = 0) -> list[Example]:
    """At most `most` honest examples of `everything` that are not in `used`, of sources whose labels are clean enough
    to be mined (`mine` in the table)."""
    seen = {" ".join(e.text.casefold().split()) for e in used}
    noisy = {name for name, entry in table()["train"].items() if not entry.get("mine", True)}
    found = [
        e
        for e in everything
        if not any(e.targets.values()) and e.source not in noisy and " ".join(e.text.casefold().split()) not in seen
    ]
    return random.Random(seed).sample(found, min(most, len(found)))


def mistaken(
    examples: Sequence[Example], logits: NDArray[np.float32], most: int, per_source: int, least: float = 0.0
) -> list[Example]:
    """At most `most` of the honest `examples`, those with the highest logit on a head of which they are known to be
    honest, at least `least`, and at most `per_source` of one source: a noisy source must not fill the list."""
    worst = np.array(
        [max((row[INDEX[h]] for h in e.targets), default=-99.0) for e, row in zip(examples, logits, strict=True)]
    )
    taken: list[Example] = []
    counts: Counter[str] = Counter()
    for place in np.argsort(-worst):
        if len(taken) >= most or worst[place] < least:
            break
        if counts[examples[place].source] < per_source:
            counts[examples[place].source] += 1
            taken.append(examples[place])
    return taken
