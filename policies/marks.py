"""What a rule leaves on the account that it fired for, and what conditions read of that later: strikes, which are
counted in a window of time, and flags, which stand until they end or are taken away.

Nothing is counted here. A rule that fires and acts (no shadow, no `on_error`) strikes once for each exchange, however
often it fired in it; whoever keeps accounts does the rest, and states the facts `account.flags` and `account.history`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from .editor import shape
from .forms import Mode, Strict

if TYPE_CHECKING:
    from .model import Policy, Rule

DAY = 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_TIME = re.compile(r"([0-9]{1,6}) ?([smhdw])")
_Spoken = Annotated[str, shape(rf"^{_TIME.pattern}$", "a time, like 90s, 30m, 24h, 7d or 2w")]
LONGEST = 366 * DAY


def _seconds(value: Any) -> Any:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST:
        raise PydanticCustomError("time", "that is no time between a second and a year")
    return seconds


Time = Annotated[int, BeforeValidator(_seconds, json_schema_input_type=_Spoken)]
"""Seconds; written as 30m, 24h, 7d or 2w."""
Word = Annotated[str, shape(r"^[a-z0-9][a-z0-9_.:-]{0,63}$", "small letters, digits, '_', '.', ':' and '-'")]


class Strike(Strict, BaseModel):
    """A mark that is counted: conditions read how many an account has as `account.history["name"]`."""

    name: Annotated[Word, Field(description="What is counted, like jailbreak; several rules may count the same.")]
    within: Annotated[Time, Field(description="How far back it counts: 30m, 24h, 7d.")] = DAY

    def __str__(self) -> str:
        return f"{self.name} within {spoken(self.within)}"


class Flag(Strict, BaseModel):
    """A mark that is there or not: conditions read it as `"name" in account.flags`."""

    name: Annotated[Word, Field(description="The mark, like suspended.")]
    lasts: Annotated[Time | None, Field(description="When it ends by itself, like 24h; never when left out.")] = None

    def __str__(self) -> str:
        return self.name if self.lasts is None else f"{self.name} for {spoken(self.lasts)}"


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Struck = Annotated[Strike, BeforeValidator(_named, json_schema_input_type=Word | Strike)]
"""`jailbreak`, or `{name: jailbreak, within: 7d}`."""
Flagged = Annotated[Flag, BeforeValidator(_named, json_schema_input_type=Word | Flag)]
"""`suspended`, or `{name: suspended, lasts: 24h}`."""


def spoken(seconds: int) -> str:
    """A time as an author writes it."""
    for unit, size in reversed(_UNITS.items()):
        if seconds % size == 0 and (unit != "w" or seconds == size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


# What a set of policies leaves and reads ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marks:
    """What one rule leaves."""

    strike: Strike | None = None
    flag: Flag | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the rules of a set leave on accounts, by the ids of policy and rule, and what its conditions read: whether
    flags are, and strikes by name, each with the seconds that it is counted over."""

    left: Mapping[tuple[str, str], Marks] = field(default_factory=dict)
    flags: bool = False
    counted: Mapping[str, int] = field(default_factory=dict)

    @property
    def read(self) -> bool:
        """Whether any condition reads any of it."""
        return self.flags or bool(self.counted)


def memory_of(policies: Sequence[Policy]) -> Memory:
    """What these policies leave and read. What is read and struck by none of their rules is counted over a day: rules
    of another policy may strike it. What a floor reads is counted over no less than the floor alone counts it over."""
    every = [(policy, rule) for policy in policies for rule in policy.rules if rule.mode is not Mode.OFF]
    left = {
        (policy.id, rule.id): Marks(rule.strike, rule.flag)
        for policy, rule in every
        if rule.strike is not None or rule.flag is not None
    }
    windows = {marks.strike.name: marks.strike.within for marks in left.values() if marks.strike is not None}
    least = dict[str, int]()
    for policy in policies:
        for name, time in (over(policy.rules) if policy.floor else {}).items():
            least[name] = max(time, least.get(name, 0))
    flags, counted = False, dict[str, int]()
    for variables, names in (_read(rule) for _, rule in every if isinstance(rule.when, str)):
        flags |= "account.flags" in variables
        if "account.history" in variables:
            counted |= windows  # it may look at all of them
            counted |= {name: windows.get(name, DAY) for name in names}
    return Memory(left, flags, {name: max(time, least.get(name, 0)) for name, time in counted.items()})


def over(rules: Iterable[Rule]) -> dict[str, int]:
    """The names whose counts these rules read, and the seconds that they alone count each over; nothing of a rule
    whose condition cannot be read, which is told where it stands."""
    from .cel.condition import NoCondition

    every = [rule for rule in rules if rule.mode is not Mode.OFF]
    windows = {rule.strike.name: rule.strike.within for rule in every if rule.strike is not None}
    found: dict[str, int] = {}
    for rule in every:
        with suppress(NoCondition):
            found |= {name: windows.get(name, DAY) for name in read_by(rule)}
    return found


def _read(rule: Rule) -> tuple[frozenset[str], frozenset[str]]:
    """The variables that a rule's expression reads, and the names that it reads of `account.history`."""
    from .cel.condition import compiled

    assert isinstance(rule.when, str)
    read = [compiled(rule.when, stage, frozenset(rule.roles)).reads for stage in rule.stages]
    return frozenset().union(*(each.variables for each in read)), frozenset().union(*(each.history for each in read))


def read_by(rule: Rule) -> frozenset[str]:
    """The names that a rule's condition reads of `account.history`."""
    return _read(rule)[1] if isinstance(rule.when, str) else frozenset()


def apart(rules: Iterable[Rule]) -> Iterator[tuple[Rule, Strike]]:
    """Rules that count what another one before them counts over another time, with that one's strike."""
    first: dict[str, Strike] = {}
    for rule in rules:
        if rule.strike is not None:
            known = first.setdefault(rule.strike.name, rule.strike)
            if known.within != rule.strike.within:
                yield rule, known
