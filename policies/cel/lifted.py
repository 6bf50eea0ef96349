"""Which marks of an account can lift a condition: it was true, and no longer is once a rule has left one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from classifiers.base import Role

from ..model import Stage
from .condition import NoCondition, compiled
from .parts import Both, Choice, Either, Fact, Not, Part
from .plain import HAS, Value

ANY = "*"
"""In place of a name: any."""
Mark = tuple[Literal["flag", "strike"], str]


def lifting(text: str, stages: Sequence[Stage], roles: Sequence[Role]) -> frozenset[Mark]:
    """The marks that can lift the condition `text`; of one that cannot be read, none."""
    try:
        return frozenset[Mark]().union(*(_of(compiled(text, stage, frozenset(roles)).root, True) for stage in stages))
    except NoCondition:  # which is told where it stands
        return frozenset()


def _of(part: Part, wanted: bool) -> frozenset[Mark]:
    """The marks by which the part may cease to be as `wanted`."""
    match part:
        case Fact():
            return _of_fact(part, wanted)
        case Not():
            return _of(part.of, not wanted)
        case Both() | Either():
            return _of(part.one, wanted) | _of(part.other, wanted)
        case Choice():
            asked = _of(part.asked, True) | _of(part.asked, False)
            return asked | _of(part.one, wanted) | _of(part.other, wanted)
        case _:
            return frozenset()


def _of_fact(part: Fact, wanted: bool) -> frozenset[Mark]:
    found: set[Mark] = set()
    if "'account.flags'" in part.key:
        named = part.variable == "account.flags" and part.sign == HAS
        found.add(("flag", str(part.value) if named else ANY))
    if "'account.history'" in part.key:
        named = part.variable == "account.history" and part.sign == HAS
        found |= {("strike", name) for name in part.counts or {str(part.value) if named else ANY}}
    # More marks make what rises true and never false, and what falls false and never true.
    rises = part.sign == HAS or (_counts_marks(part.variable) and _beyond(part.sign, part.value))
    falls = _counts_marks(part.variable) and _beyond(_OPPOSITE.get(part.sign, ""), part.value)
    return frozenset() if (rises if wanted else falls) else frozenset(found)


_OPPOSITE = {"<": ">=", "<=": ">", "==": "!="}


def _counts_marks(variable: str) -> bool:
    """Whether it is a number that marks make larger and never smaller."""
    return variable.startswith("account.history[") or variable in {"size(account.flags)", "size(account.history)"}


def _beyond(sign: str, number: Value | None) -> bool:
    """Whether a number that is so stays so when it grows; none is below 0."""
    return sign in {">=", ">"} or (sign == "!=" and number == 0)
