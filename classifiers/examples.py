"""Labelled texts to learn from: what is usable, what is repeated, what contradicts itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import alike

LEAST, FEW = 10, 25
"""Examples of each side without which nothing is fitted, and with fewer than which the figures are mostly chance."""
MOST, LONGEST = 5_000, 100_000
"""Examples at most, and characters of one at most."""


class TeachError(ValueError):
    """Nothing can be learned from these examples; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text and its side. `place` says for people where it stands, like file:line."""

    text: str
    bad: bool
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples without repetitions, in an order of their own. `repeated` were equal to another of the same side,
    `contradictory` to one of the other side and are left out with it. `digest` (sha256, hex) stands for the set."""

    kept: tuple[Example, ...]
    repeated: int
    contradictory: int
    digest: str


def prepare(examples: Sequence[Example]) -> Prepared:
    """Raises TeachError for too few or too many examples, and for texts that are blank or too long."""
    for at, example in enumerate(examples, 1):
        what = f"{example.place}: the text" if example.place else f"example {at}"
        if not example.text.strip():
            raise TeachError(f"{what} is blank: remove it")
        if len(example.text) > LONGEST:
            raise TeachError(f"{what} has over {LONGEST:,} characters: keep the part that matters")
    sides: dict[str, set[bool]] = {}
    first: dict[str, Example] = {}
    for example in examples:
        mark = alike.fingerprint(example.text)
        sides.setdefault(mark, set()).add(example.bad)
        # Of wordings that differ in case alone the least, so that their order does not matter.
        first[mark] = min(first.get(mark, example), example, key=lambda one: (one.text, one.bad))
    kept = [first[mark] for mark in sorted(sides) if len(sides[mark]) == 1]
    torn = sum(len(sides[alike.fingerprint(example.text)]) > 1 for example in examples)
    for side, name in ((True, "bad"), (False, "honest")):
        count = sum(example.bad is side for example in kept)
        if count < LEAST:
            what = f"only {count} different {name} texts" if count else f"no {name} text"
            raise TeachError(f"{what}: at least {LEAST} of each side are needed, {FEW} or more are worth teaching with")
    if len(kept) > MOST:
        raise TeachError(f"{len(kept):,} different texts: at most {MOST:,}; more teach a head little, take a sample")
    marks = "\n".join(f"{int(example.bad)} {alike.fingerprint(example.text)}" for example in kept)
    digest = hashlib.sha256(marks.encode()).hexdigest()
    return Prepared(tuple(kept), len(examples) - len(kept) - torn, torn, digest)
