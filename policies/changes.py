"""What a backtest found, counted: how many decisions change, into what, by which rules, for which reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .backtest import Again, Rows
from .model import Action

STOPS = frozenset(str(action) for action in Action if action.protects)


@dataclass(slots=True)
class Group:
    """Changes of one kind by one rule."""

    rule: str
    what: str
    reason: str = ""
    tags: tuple[str, ...] = ()
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """`keep` is how many ids of each group are kept as examples: the newest."""

    keep: int = 3
    decisions: int = 0
    unasked: int = 0
    """Requests that were blocked and would not be now: what the model says to them is not known."""
    kinds: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)

    def add(self, rows: Rows, again: Sequence[Again]) -> None:
        """Counts some more exchanges."""
        self.decisions += len(again)
        for row, (was, now) in enumerate(zip(rows.actions, again, strict=True)):
            if now.action == was:
                continue
            if now.action is None:
                self.unknown[now.why] += 1
                continue
            self.unasked += now.unasked
            what = kind(was, now.action)
            self.kinds[what] += 1
            # What is no longer done was done by the rule of then.
            gone = milder(now.action, was)
            rule = rows.rules[row] if gone else now.by.rule
            group = self.groups.get((rule, what))
            if group is None:
                group = self.groups[rule, what] = Group(rule, what)
            if not gone:
                group.reason, group.tags = now.by.reason, now.by.tags
            group.count += 1
            group.examples.append(rows.ids[row])
            del group.examples[: -self.keep or None]

    @property
    def changed(self) -> int:
        return self.kinds.total()

    def by_reason(self) -> Counter[str]:
        """Changes by the reason code of the rule that decides now, and of the tags after it."""
        found: Counter[str] = Counter()
        for group in self.groups.values():
            for name in (group.reason, *group.tags):
                if name:
                    found[f"{name}: {group.what}"] += group.count
        return found

    def plain(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        groups = sorted(self.groups.values(), key=lambda group: -group.count)
        return {
            "decisions": self.decisions,
            "changed": self.changed,
            "kinds": dict(self.kinds),
            "unknown": dict(self.unknown),
            "requests_now_let_through": self.unasked,
            "rules": [
                {
                    "rule": group.rule or None,
                    "change": group.what,
                    "count": group.count,
                    "reason": group.reason or None,
                    "tags": list(group.tags),
                    "examples": group.examples,
                }
                for group in groups
            ],
            "reasons": dict(self.by_reason()),
        }


def kind(was: str, now: Action) -> str:
    """A change in two words, for a sentence: 30 new blocks."""
    if now in STOPS:
        return f"new {now}s"
    if was in STOPS:
        return "new passes"
    return f"new {now}s" if now is not Action.PASS else f"no {was} any more"


def milder(now: Action, was: str) -> bool:
    """Whether less is done now than was."""
    order = [str(action) for action in Action]
    return was in order and order.index(now) < order.index(was)
