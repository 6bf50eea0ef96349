"""The cases that a part of a condition can tell apart: each is what scores, counts and facts could be at once.

A score lies from 0 to 1, so the numbers that it is compared with cut it into a few cases; so do the numbers and texts
that anything else is compared with. What cannot be at once is left out: a label scores no more than all labels of its
classifier, one role no more than all, a list holds no more words than its size, and a count says whether a score was
reached. What is not so plain counts as true or false where it is said twice, and as unknown else.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping

from classifiers.readings import DISGUISED

from .parts import Atom, Count, Fact, Follows, Part, Score, Truth, compared, leaves
from .plain import HAS, IN, TEXTS, Value
from .variables import CLOSED, VARIABLES

MOST = 4096
"""Combinations that are tried at most; where there are more, something counts as unknown."""
_OTHER = "\x00another"
"""A text that nobody compares with, and the end of one of which only the beginning is known."""
_LEAST = {each.name: each.least for each in VARIABLES}

_Key = tuple[str, object]
"""A kind of thing, and which one."""
Values = Mapping[_Key, Value]


class Case:
    """One combination: what it does not say is not known."""

    def __init__(self, atoms: tuple[Atom, ...], values: Values) -> None:
        self._atoms, self._values = atoms, values

    def met(self, bit: int) -> Truth:
        atom = self._atoms[bit]
        if not 0 < atom.at_least <= 1:
            return atom.at_least <= 0
        value = self._values.get(_scored(atom))
        return None if value is None else _number(value) >= atom.at_least

    def counted(self, bit: int) -> tuple[int, float]:
        number = self._values.get(("count", bit))
        if number is not None:
            return int(_number(number)), _number(number)
        match self.met(bit):
            case True:
                return 1, math.inf
            case False:
                return 0, 0
            case _:
                return 0, math.inf

    def fact(self, part: Fact) -> Truth:
        value = self._values.get(_asked(part))
        if value is None or part.sign in ("", HAS):
            return None if value is None else bool(value)
        assert part.value is not None  # it has a sign
        if part.sign == IN:
            assert isinstance(part.value, tuple)
            return value in part.value
        if part.sign in TEXTS:
            unknown = str(value).endswith(_OTHER) and part.sign != "startsWith"
            return None if unknown else bool(getattr(str, _METHODS[part.sign])(str(value), str(part.value)))
        assert not isinstance(value, tuple)
        assert not isinstance(part.value, tuple)
        return compared(value, part.sign, part.value)

    def follows(self, part: Follows) -> Truth:
        value = self._values.get(("said", (part.later, part.earlier)))
        return None if value is None else bool(value)


_METHODS = {"startsWith": "startswith", "endsWith": "endswith", "contains": "__contains__"}


def cases(part: Part, atoms: tuple[Atom, ...]) -> Iterator[Case]:
    """Every combination of what the part can tell apart."""
    choices = _choices(list(leaves(part)), atoms)
    scored = [key for key in choices if key[0] == "score"]
    above = [(one, other) for one in scored for other in scored if one != other and _covers(one[1], other[1])]
    # Two that are compared with each other are cut at the same numbers.
    for _ in above:
        for one, other in above:
            choices[one] = choices[other] = choices[one] | choices[other]
    # What is said once, and of nothing else that is said, contradicts nothing.
    often = Counter(key for leaf in leaves(part) for key in _keys(leaf, atoms))
    often.update(key for pair in above for key in pair)
    while math.prod(len(values) for values in choices.values()) > MOST:
        del choices[min(choices, key=lambda key: (often[key], -len(choices[key])))]
    for combination in itertools.product(*choices.values()):
        values = dict(zip(choices, combination, strict=True))
        if all(_above(values, *pair) for pair in above) and _agree(values, atoms):
            yield Case(atoms, values)


def _keys(leaf: Part, atoms: tuple[Atom, ...]) -> set[_Key]:
    """What a leaf asks of."""
    match leaf:
        case Score():
            return {_scored(atoms[bit]) for bit in (leaf.not_below, leaf.above)}
        case Count():
            return {_scored(atoms[leaf.bit]), ("count", leaf.bit)}
        case Fact():
            return {_asked(leaf)}
        case Follows():
            return {("said", (leaf.later, leaf.earlier))}
        case _:
            return set()


def _choices(said: list[Part], atoms: tuple[Atom, ...]) -> dict[_Key, set[Value]]:
    """The values of each thing that tell something apart."""
    choices: dict[_Key, set[Value]] = {}
    again: Counter[_Key] = Counter()
    for leaf in said:
        match leaf:
            case Score() | Count():
                for bit in {leaf.not_below, leaf.above} if isinstance(leaf, Score) else {leaf.bit}:
                    atom = atoms[bit]
                    known = choices.setdefault(_scored(atom), {0.0})
                    known.update({atom.at_least} if 0 < atom.at_least <= 1 else ())
                if isinstance(leaf, Count):
                    near = {leaf.number - 1, leaf.number, leaf.number + 1, 0, 1}
                    choices.setdefault(("count", leaf.bit), set()).update(each for each in near if each >= 0)
            case Fact() if leaf.sign == HAS:
                choices[_asked(leaf)] = {True, False}
            case Fact() if leaf.sign:
                assert leaf.value is not None
                choices.setdefault(_asked(leaf), set()).update(_around(leaf.variable, leaf.sign, leaf.value))
            case Fact() | Follows():
                again.update(_keys(leaf, atoms))
            case _:
                pass
    held = Counter(which[0] for kind, which in choices if kind == "held" and isinstance(which, tuple))
    for (kind, which), values in choices.items():
        sizes = choices.get((kind, f"size({which})"), set())
        sizes.update(len(value) for value in values if isinstance(value, str))
        if kind == "fact" and str(which).startswith("size("):
            values.add(held[str(which)[5:-1]])
    return choices | {key: {True, False} for key, times in again.items() if times > 1}


def _scored(atom: Atom) -> _Key:
    return "score", (atom.finding, atom.roles, atom.reading)


def _asked(part: Fact) -> _Key:
    if part.sign == HAS:
        return "held", (part.variable, part.value)
    return ("fact", part.variable) if part.sign else ("said", part.key)


def _covers(one: object, other: object) -> bool:
    """Whether a score is never below another one: it is asked of more labels, roles or readings."""
    assert isinstance(one, tuple)
    assert isinstance(other, tuple)
    label, roles, reading = one
    labels = label in (other[0], f"{other[0].partition('.')[0]}.*")
    readings = reading in (other[2], "") or (reading == DISGUISED and other[2] != "")
    return bool(labels and readings and roles >= other[1])


def _above(values: Values, one: _Key, other: _Key) -> bool:
    """Whether the first is not below the second, as far as both are said."""
    return one not in values or other not in values or _number(values[one]) >= _number(values[other])


def _agree(values: Values, atoms: tuple[Atom, ...]) -> bool:
    """Whether counts agree with scores, and sizes of lists with what they hold."""
    held: dict[str, int] = {}
    sizes = {str(which): value for (kind, which), value in values.items() if kind == "fact"}
    for (kind, which), value in values.items():
        if kind == "count":
            assert isinstance(which, int)
            score = values.get(_scored(atoms[which]))
            if score is not None and (_number(score) >= atoms[which].at_least) is not (_number(value) > 0):
                return False
        elif kind == "held" and value:
            assert isinstance(which, tuple)
            held[which[0]] = held.get(which[0], 0) + 1
    for thing, value in sizes.items():
        known = isinstance(value, str) and not value.endswith(_OTHER)
        if known and sizes.get(f"size({thing})", len(str(value))) != len(str(value)):
            return False
    return all(_number(sizes.get(f"size({name})", number)) >= number for name, number in held.items())


def _around(variable: str, sign: str, value: Value) -> set[Value]:
    """The values that a comparison with this one tells apart."""
    if isinstance(value, tuple):
        return {each for one in value for each in _around(variable, "==", one)}
    if isinstance(value, bool):
        return {True, False}
    if isinstance(value, str):
        if variable in CLOSED:
            return set(CLOSED[variable])
        return {value, _OTHER, value + _OTHER} if sign == "startsWith" else {value, _OTHER}
    steps = (value - 1, value, value + 1) if isinstance(value, int) else (value - 1e-6, value, value + 1e-6)
    least = _LEAST.get(variable, 0 if variable.endswith(("]", ")")) else None)
    return {step for step in steps if least is None or step >= least} or {least if least is not None else value}


def _number(value: Value) -> float:
    assert not isinstance(value, str | tuple)
    return float(value)
