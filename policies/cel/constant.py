"""Parts of a condition that are always or never true, found by trying every case that a comparison can tell apart.

A score lies from 0 to 1, so the numbers that it is compared with cut it into a few cases; so do the numbers and texts
that a plain variable is compared with. Each part is tried in every combination of its cases. What is not a plain
comparison may be true or false in any of them, so nothing is called constant that is not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from classifiers.base import Role

from .condition import Condition, Flaw
from .parts import Atom, Choice, Constant, Count, Fact, Follows, Part, Score, Truth, below, compared, leaves
from .variables import VARIABLES

MOST_CASES = 4096
"""Combinations that are tried at most; where there are more, some variables count as unknown."""
_OTHER = "\x00another"
"""A text that nobody compares with."""
_LEAST = {each.name: each.least for each in VARIABLES}
_Key = str | tuple[str, frozenset[Role], str]
_Value = bool | float | str


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
    truths = {part.truth(case) for case in _cases(part, condition)}
    if truths == {True}:
        yield Flaw(part.at, "this is always true", _mend(part))
    elif truths == {False}:
        yield Flaw(part.at, "this can never be true", _mend(part))


def _mend(part: Part) -> str:
    if isinstance(part, Score):
        return "scores lie from 0 to 1, both included: compare with a number between them"
    return "remove it" if isinstance(part, Constant) else "look at the numbers, and at && and ||"


class _Case:
    """One combination of cases: what it does not say is not known."""

    def __init__(self, atoms: tuple[Atom, ...], values: dict[_Key, _Value]) -> None:
        self._atoms, self._values = atoms, values

    def met(self, bit: int) -> Truth:
        atom = self._atoms[bit]
        if not 0 < atom.at_least <= 1:
            return atom.at_least <= 0
        value = self._values.get((atom.finding, atom.roles, atom.reading))
        return None if value is None else float(value) >= atom.at_least

    def counted(self, bit: int) -> tuple[int, float]:
        match self.met(bit):
            case True:
                return 1, math.inf
            case False:
                return 0, 0
            case _:
                return 0, math.inf

    def fact(self, part: Fact) -> Truth:
        value = self._values.get(part.variable)
        return None if value is None or part.value is None else compared(value, part.sign, part.value)

    def follows(self, part: Follows) -> Truth:
        return None


def _cases(part: Part, condition: Condition) -> Iterator[_Case]:
    choices: dict[_Key, set[_Value]] = {}
    for leaf in leaves(part):
        match leaf:
            case Score() | Count():
                for bit in {leaf.not_below, leaf.above} if isinstance(leaf, Score) else {leaf.bit}:
                    atom = condition.atoms[bit]
                    known = choices.setdefault((atom.finding, atom.roles, atom.reading), {0.0})
                    known.update({atom.at_least} if 0 < atom.at_least <= 1 else ())
            case Fact() if leaf.variable and leaf.value is not None:
                choices.setdefault(leaf.variable, set()).update(_around(leaf.variable, leaf.value))
            case _:
                pass
    while math.prod(len(values) for values in choices.values()) > MOST_CASES:
        del choices[max(choices, key=lambda key: len(choices[key]))]
    for values in itertools.product(*choices.values()):
        yield _Case(condition.atoms, dict(zip(choices, values, strict=True)))


def _around(variable: str, value: _Value) -> set[_Value]:
    """The values that a comparison with this one tells apart."""
    if isinstance(value, bool):
        return {True, False}
    if isinstance(value, str):
        return {value, _OTHER}
    steps = (value - 1, value, value + 1) if isinstance(value, int) else (value - 1e-6, value, value + 1e-6)
    least = _LEAST.get(variable)
    return {step for step in steps if least is None or step >= least} or {least if least is not None else value}
