"""What a condition is made of, once read, and its truth: True, False, or None where it is not known.

INVARIANT: the less is known, the less is certain. A part that was True or False can only become None when a classifier
fails, never the opposite; so a rule that could fire goes on to be one that could.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from classifiers.base import Role

if TYPE_CHECKING:
    from cel_expr_python import cel

    from .plain import Value

Truth = bool | None


@dataclass(frozen=True, slots=True)
class Atom:
    """A finding (classifier.label or classifier.*) with at least this score, in a text of one of these roles; where
    `reading` is not empty only one that was seen in that reading of the text."""

    finding: str
    roles: frozenset[Role]
    at_least: float
    reading: str = ""

    @property
    def classifier(self) -> str:
        return self.finding.partition(".")[0]


class View(Protocol):
    """What is known while a condition is evaluated."""

    def met(self, bit: int) -> Truth:
        """Whether there is a finding that atom number `bit` asks for."""
        ...

    def fact(self, part: Fact) -> Truth: ...

    def counted(self, bit: int) -> tuple[int, float]:
        """The lowest and the highest number of such findings that there can be."""
        ...

    def follows(self, part: Follows) -> Truth: ...


@dataclass(frozen=True, slots=True)
class Constant:
    """True or false whatever comes. `at` is here and below its place in the text, in code points."""

    at: int
    value: Truth

    def truth(self, view: View) -> Truth:
        return self.value


@dataclass(frozen=True, slots=True)
class Score:
    """The highest score compared with a number: `not_below` is the bit for at least that number, `above` for more."""

    at: int
    sign: str
    not_below: int
    above: int

    def truth(self, view: View) -> Truth:
        match self.sign:
            case ">=":
                return view.met(self.not_below)
            case ">":
                return view.met(self.above)
            case "<":
                return _not(view.met(self.not_below))
            case "<=":
                return _not(view.met(self.above))
        same = both(view.met(self.not_below), _not(view.met(self.above)))
        return same if self.sign == "==" else _not(same)


@dataclass(frozen=True, slots=True)
class Count:
    """How many findings there are, compared with a number."""

    at: int
    sign: str
    bit: int
    number: int

    def truth(self, view: View) -> Truth:
        low, high = view.counted(self.bit)
        lowest, highest = compared(low, self.sign, self.number), compared(high, self.sign, self.number)
        if self.sign in {"==", "!="}:
            if low <= self.number <= high and low != high:
                return None
            return lowest
        return lowest if lowest is highest else None


@dataclass(frozen=True, slots=True)
class Follows:
    """Whether a step comes after another one in the conversation: a role and, if it is not empty, a tool's name."""

    at: int
    later: tuple[Role, str]
    earlier: tuple[Role, str]

    def truth(self, view: View) -> Truth:
        return view.follows(self)


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """What CEL's library evaluates: a part that asks for no score. `variable`, `sign` and `value` tell what it asks
    where that is plain (`plain.Plain`), of which the loader can say more. `counts` are the names that it looks up in
    `account.history`; `key` is the same for parts that say the same."""

    at: int
    program: cel.Expression
    variable: str = ""
    sign: str = ""
    value: Value | None = None
    counts: frozenset[str] = frozenset()
    key: str = ""

    def truth(self, view: View) -> Truth:
        return view.fact(self)


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    at: int
    of: Part

    def truth(self, view: View) -> Truth:
        return _not(self.of.truth(view))


@dataclass(frozen=True, slots=True)
class Both:
    """`&&`: false where one is, whatever the other."""

    at: int
    one: Part
    other: Part

    def truth(self, view: View) -> Truth:
        one = self.one.truth(view)
        return False if one is False else both(one, self.other.truth(view))


@dataclass(frozen=True, slots=True)
class Either:
    """`||`: true where one is, whatever the other."""

    at: int
    one: Part
    other: Part

    def truth(self, view: View) -> Truth:
        one = self.one.truth(view)
        return True if one is True else either(one, self.other.truth(view))


@dataclass(frozen=True, slots=True)
class Choice:
    """`asked ? one : other`."""

    at: int
    asked: Part
    one: Part
    other: Part

    def truth(self, view: View) -> Truth:
        asked = self.asked.truth(view)
        return None if asked is None else (self.one if asked else self.other).truth(view)


Part = Constant | Score | Count | Follows | Fact | Not | Both | Either | Choice


def below(part: Part) -> tuple[Part, ...]:
    """The parts that this one is made of."""
    match part:
        case Not():
            return (part.of,)
        case Both() | Either():
            return part.one, part.other
        case Choice():
            return part.asked, part.one, part.other
        case _:
            return ()


def leaves(part: Part) -> Iterator[Part]:
    """The parts at the ends, made of no others."""
    inner = below(part)
    if not inner:
        yield part
    for each in inner:
        yield from leaves(each)


def shown(part: Part, wanted: bool = True) -> frozenset[int]:
    """The bits whose findings speak for the condition, not against it: those that a mask is for."""
    match part:
        case Score():
            lower = {">=": True, ">": True, "==": True, "<": False, "<=": False, "!=": False}[part.sign]
            bit = part.above if part.sign in {">", "<="} else part.not_below
            return frozenset({bit}) if lower is wanted else frozenset()
        case Count():
            return frozenset({part.bit}) if (part.sign in {">=", ">", "=="}) is wanted else frozenset()
        case Not():
            return shown(part.of, not wanted)
        case Choice():
            return shown(part.asked, wanted) | shown(part.one, wanted) | shown(part.other, wanted)
        case Both() | Either():
            return shown(part.one, wanted) | shown(part.other, wanted)
        case _:
            return frozenset()


def compared(one: float | str, sign: str, other: float | str) -> bool:
    """`one sign other`, for two numbers or two texts."""
    match sign:
        case "==":
            return one == other
        case "!=":
            return one != other
    if isinstance(one, str) or isinstance(other, str):
        one, other = (str(one), str(other)) if isinstance(one, str) and isinstance(other, str) else (math.nan, 0)
    match sign:
        case ">=":
            return one >= other  # type: ignore[operator]
        case ">":
            return one > other  # type: ignore[operator]
        case "<=":
            return one <= other  # type: ignore[operator]
        case _:
            return one < other  # type: ignore[operator]


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def both(one: Truth, other: Truth) -> Truth:
    """Both are true; false where one is, whatever the other."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def either(one: Truth, other: Truth) -> Truth:
    """One is true; true where one is, whatever the other."""
    return _not(both(_not(one), _not(other)))
