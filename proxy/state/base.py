"""The words for what is shared, and what every store of it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from policies.marks import LONGEST

MOST = 10_000
"""Strikes of one account under one name that are kept: a count goes no higher."""
KEPT = LONGEST
"""Seconds that a strike, or a reset, is kept: no policy counts over a longer time."""


RULE = "rule "
"""How a flag's `by` begins where no person set it."""


class Fault(StrEnum):
    """Why a store is of no use."""

    AWAY = "away"
    UNNAMED = "unnamed"
    SLOW = "slow"
    CREDENTIALS = "credentials"
    CERTIFICATE = "certificate"
    CLUSTER = "cluster"
    VERSION = "version"
    FULL = "full"
    READ_ONLY = "read_only"
    STRANGE = "strange"


class StateUnavailable(Exception):
    """A store cannot be used. `problem` and `mend` are for operators, and name no secret."""

    def __init__(self, fault: Fault, problem: str, mend: str) -> None:
        super().__init__(f"{problem} ({mend})")
        self.fault, self.problem, self.mend = fault, problem, mend

    def again(self) -> StateUnavailable:
        """The same, to be raised once more: what is raised keeps where it was."""
        return StateUnavailable(self.fault, self.problem, self.mend)


class Strike(NamedTuple):
    """`decision` struck `account` under `name` at `at` (unix seconds)."""

    account: str
    name: str
    decision: str
    at: float


class Flag(NamedTuple):
    """`account` is marked with `name` until `until` (unix seconds, infinity for ever). `by` is the rule (`RULE` and its
    id), or the person, who did that at `at`."""

    account: str
    name: str
    until: float
    at: float
    by: str

    def over(self, other: Flag) -> bool:
        """Whether it takes the place of `other`, which has the same account and name. A person's word does, if it is no
        older. Else what ends later stands, whichever came first: no rule shortens a flag. Stores say the same, in SQL
        and in Lua."""
        if not self.by.startswith(RULE) and self.at >= other.at:
            return True
        if not other.by.startswith(RULE) and other.at > self.at:
            return False
        return self.until > other.until


class Store(Protocol):
    """What is kept. Every method raises StateUnavailable, and may be called again with what it was called with."""

    async def strike(self, strikes: Sequence[Strike]) -> None:
        """Keep them; one that is known already changes nothing."""
        ...

    async def counts(self, account: str, since: Mapping[str, float], first: Sequence[Strike] = ()) -> dict[str, int]:
        """How many strikes of each name fell after `since` (unix seconds), at most MOST; names without one are left
        out. `first` are kept before it is counted."""
        ...

    async def kept(self, account: str) -> dict[str, int]:
        """How many strikes of each name are kept of this account."""
        ...

    async def flag(self, flags: Sequence[Flag]) -> None:
        """Mark accounts; what an account has already is replaced by what is to stand over it (`Flag.over`)."""
        ...

    async def unflag(self, account: str, name: str) -> bool:
        """Take a mark away; whether it was there."""
        ...

    async def flags(self) -> list[Flag]:
        """Every mark that has not ended."""
        ...

    async def version(self) -> object:
        """What changes whenever marks or resets do, whoever makes the change."""
        ...

    async def reset(self, account: str, at: float) -> None:
        """Forget all strikes and marks of an account that fell up to `at` (unix seconds)."""
        ...
