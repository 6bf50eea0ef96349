"""Parts of a condition that are always or never true, found by trying every case that it can tell apart (`cases`).

What is not known there may be true or false, so nothing is called constant that is not. policies/README.md lists what
this finds and what it does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from .cases import cases
from .condition import Condition, Flaw
from .parts import Choice, Constant, Part, Score, below


def constants(condition: Condition) -> list[Flaw]:
    """The smallest parts that are always or never true."""
    return list(_constants(condition.root, condition))


def _constants(part: Part, condition: Condition) -> Iterator[Flaw]:
    # A plain true or false between `?` and `:` is how a choice is written.
    plain = isinstance(part, Choice)
    inner = [
        flaw
        for each in below(part)
        if not (plain and isinstance(each, Constant))
        for flaw in _constants(each, condition)
    ]
    if inner:
        yield from inner
        return
    truths = {part.truth(case) for case in cases(part, condition.atoms)}
    if truths == {True}:
        yield Flaw(part.at, "this is always true", _mend(part))
    elif truths == {False}:
        yield Flaw(part.at, "this can never be true", _mend(part))


def _mend(part: Part) -> str:
    if isinstance(part, Score):
        return "scores lie from 0 to 1, both included: compare with a number between them"
    return "remove it" if isinstance(part, Constant) else "look at what is compared, and at && and ||"
