"""What exchanges are looked for by: as SQL that only picks candidates, and as the test that decides.

An exchange has two rows, and either may hold what is asked for; what the outcome says goes before the intent. So the
columns of both rows are searched, in the one index that holds them all, and each exchange found is then tested whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from .entry import COLUMNS
from .record import columns

if TYPE_CHECKING:
    from .reader import Exchange

_PLAIN = ("action", "policy", "model", "account", "status", "stage", "request")
MODES = ("enforce", "canary", "shadow")
LONGEST = 900.0
"""Seconds: of an exchange that took longer, `until` may miss what only its end says."""


@dataclass(frozen=True)
class Search:
    """`since` and `until` are unix seconds and mean when an exchange began (until: before). `rule` is any that fired,
    in shadow too, `mode` how one that fired took part, `error` a word of what went wrong, or `any`. In the others `*`
    stands for any run of letters."""

    since: float | None = None
    until: float | None = None
    action: str | None = None
    rule: str | None = None
    policy: str | None = None
    model: str | None = None
    account: str | None = None
    status: str | None = None
    stage: str | None = None
    request: str | None = None
    mode: str | None = None
    error: str | None = None

    def where(self) -> tuple[str, list[object]]:
        """The condition on a row, with `?` for each value."""
        tests, values = self._times()
        # Whoever marks what was left open knows little more than whose it was: the rest stands in the intent alone.
        aborted = self.status is not None and _glob(self.status).match("aborted")
        unless = " OR status = 'aborted'" if aborted else ""
        for name in _PLAIN:
            if (value := getattr(self, name)) is not None:
                column = f"CAST({name} AS TEXT)" if name == "status" else name  # an old one may be a number
                test = f"{column} LIKE ? ESCAPE '~'" if "*" in value else f"{column} = ?"
                tests.append(test if name == "status" else f"({test}{unless})")
                values.append(_like(value) if "*" in value else value)
        if self._fired:
            tests.append("(fired LIKE ? ESCAPE '~'")
            values.append(f"% {_like(self.rule or '*')}={self.mode or '%'} %")
            if self.rule is not None and self.mode is None:
                tests[-1] += " OR rule LIKE ? ESCAPE '~'"
                values.append(_like(self.rule))
            tests[-1] += f"{unless})"
        if self.error == "any":
            tests.append(f"(error IS NOT NULL{unless})")
        elif self.error is not None:
            tests.append(f"(error LIKE ? ESCAPE '~'{unless})")
            values.append(f"%{_like(self.error, star='*')}%")
        return " AND ".join(tests) or "TRUE", values

    @property
    def span(self) -> tuple[float, float]:
        """From when to when (unix seconds, the end not included) rows may lie that this asks for."""
        return (-inf if self.since is None else self.since), (inf if self.until is None else self.until + LONGEST)

    def _times(self) -> tuple[list[str], list[object]]:
        tests, values = list[str](), list[object]()
        if self.since is not None:
            tests.append("at >= ?")
            values.append(self.since)
        if self.until is not None:
            # An outcome stands later than its exchange began.
            began = "SELECT 1 FROM records AS i WHERE i.id = records.id AND i.kind = 'intent' AND i.at < ?"
            tests.append(f"at < ? AND (at < ? OR EXISTS ({began}))")
            values += [self.until + LONGEST, self.until, self.until]
        return tests, values

    def match(self, exchange: Exchange) -> bool:
        """Whether the exchange as a whole is one of those meant."""
        if not (self.since or 0.0) <= exchange.at < (self.until or inf):
            return False
        if not self._asked:
            return True
        found = _whole(exchange)
        if self.rule is not None and self.mode is None and found["rule"] is not None:
            found["fired"] = f"{found['fired'] or ' '}{found['rule']}=enforce "  # the one that decided fired
        return all(found[name] is not None and pattern.search(str(found[name])) for name, pattern in self._asked)

    @property
    def _fired(self) -> bool:
        return self.rule is not None or self.mode is not None

    @cached_property
    def _asked(self) -> list[tuple[str, re.Pattern[str]]]:
        asked = [(name, _glob(value)) for name in _PLAIN if (value := getattr(self, name)) is not None]
        if self._fired:
            rule = r"\S+" if self.rule is None else _escaped(self.rule, r"\S*")
            asked.append(("fired", re.compile(f" {rule}={self.mode or '[a-z]+'} ")))
        if self.error is not None:
            asked.append(("error", re.compile("" if self.error == "any" else re.escape(self.error))))
        return asked


def _whole(exchange: Exchange) -> dict[str, Any]:
    """Each column: what the outcome says, else what the intent said."""
    ended, began = columns(exchange.outcome or {}), columns(exchange.intent or {})
    return {name: one if one is not None else other for name, one, other in zip(COLUMNS, ended, began, strict=True)}


def _like(text: str, star: str = "%") -> str:
    """For LIKE, with `*` as any run of letters or as something else."""
    return re.sub(r"([~%_])", r"~\1", text).replace("*", star)


def _escaped(text: str, star: str) -> str:
    return star.join(map(re.escape, text.split("*")))


def _glob(text: str) -> re.Pattern[str]:
    return re.compile(rf"\A{_escaped(text, '.*')}\Z", re.DOTALL)
