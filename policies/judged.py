"""What the classifiers of a set see in texts that people bring, and what the engine makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from classifiers.asked import asked_of
from classifiers.base import Finding, Message, Report, Role
from classifiers.panel import Panel

from .decision import Decision
from .engine import decide
from .evaluate.subject import LONG, PLAIN
from .facts import Facts
from .model import Policy, Rule, Seen, Stage
from .plan import plan
from .ready import PolicySet
from .texts import Text

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Say = Callable[[int, int], None]

OUTPUT = frozenset({Role.ASSISTANT, Role.REASONING, Role.REFUSAL, Role.TOOL_CALL, Role.ERROR})
"""Roles of texts that are read at the output stage."""


class CalibrateError(ValueError):
    """No threshold can be set; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the classifiers saw in some texts."""

    texts: tuple[Text, ...]
    findings: tuple[tuple[Finding, ...], ...]

    def split(self, count: int) -> tuple[Judged, Judged]:
        """The first `count` texts, and the others."""
        cut = slice(None, count), slice(count, None)
        one, other = (Judged(self.texts[part], self.findings[part]) for part in cut)
        return one, other

    def reads(self, rule: Rule) -> Bools:
        """(n,) whether the rule reads each text."""
        return np.asarray(
            [text.role in rule.roles and stage_of(text.role) in rule.stages for text in self.texts], np.bool_
        )

    def decided(self, policies: PolicySet, facts: Facts | None = PLAIN) -> list[Decision]:
        """What the engine makes of each text, in a request with these facts: a plain one, or one of which nothing is
        known."""
        return [
            decide(policies, stage_of(text.role), [Message(text.role, text.text, "/text")], Report(seen), facts)
            for text, seen in zip(self.texts, self.findings, strict=True)
        ]

    def strengths(self, rule: Rule) -> Floats:
        """(texts that the rule reads, parts of its condition): the highest score that each part meets, 0 for none."""
        parts = [wanted(part) for part in rule.conditions[0]]
        rows = [
            [max((f.score for f in seen if asks(f)), default=0.0) for asks in parts]
            for read_by, seen in zip(self.reads(rule), self.findings, strict=True)
            if read_by
        ]
        return np.asarray(rows, np.float64).reshape(len(rows), len(parts))


def wanted(part: Seen) -> Callable[[Finding], bool]:
    """Whether a finding is one that this part asks for."""
    names = frozenset(part.finding)
    return lambda found: f"{found.classifier}.{found.label}" in names or f"{found.classifier}.*" in names


def stage_of(role: Role) -> Stage:
    """The stage at which a text of this role is read."""
    return Stage.OUTPUT if role in OUTPUT else Stage.INPUT


def judge(policies: PolicySet, texts: Sequence[Text], say: Say | None = None) -> Judged:
    """What the classifiers of the set see in each text, asked by the panel as in live traffic, but without deadlines.
    Raises CalibrateError where one fails: a text that was not judged says nothing."""
    return Judged(tuple(texts), asyncio.run(_judge(policies, texts, say)))


async def _judge(policies: PolicySet, texts: Sequence[Text], say: Say | None) -> tuple[tuple[Finding, ...], ...]:
    asked = {
        stage: asked_of(policies.classifiers, [reading._replace(deadline=LONG) for reading in plan(policies, stage)])
        for stage in Stage
    }
    found: dict[int, tuple[Finding, ...]] = {}
    numbered, panel = enumerate(texts), Panel()

    async def work() -> None:
        for at, text in numbered:  # shared: each takes the next
            report = await panel.report([Message(text.role, text.text, "/text")], asked[stage_of(text.role)])
            for failure in report.failures:
                what = f"{failure.reason} {failure.detail}".strip()
                raise CalibrateError(f"{text.file}:{text.line}: classifier '{failure.classifier}' failed: {what}")
            found[at] = report.findings
            if say is not None:
                say(len(found), len(texts))

    try:
        await asyncio.gather(*(work() for _ in range(panel.workers)))
    finally:
        panel.close()
    return tuple(found[at] for at in range(len(texts)))


@dataclass(slots=True, eq=False)
class Side:
    """One side's texts. Of rules with an expression the engine is asked, once for all of them: `plain` is what it says
    of a plain request, `any` of one of which nothing is known."""

    judged: Judged
    plain: list[Decision] = field(default_factory=list)
    any: list[Decision] = field(default_factory=list)

    @classmethod
    def of(cls, policies: PolicySet, judged: Judged) -> Side:
        if not any(isinstance(rule.when, str) for rule in policies.rules):
            return cls(judged)
        return cls(judged, judged.decided(policies), judged.decided(policies, None))

    def fired(self, policy: Policy, rule: Rule, may: bool = False) -> Bools:
        """(texts that the rule reads,) whether it does in a plain request what it says, or in silence no less; `may`:
        whether it could in any request."""
        return np.asarray(
            [
                any(
                    (each.policy, each.rule) == (policy.id, rule.id)
                    and (may or each.action.severity >= rule.action.severity)
                    for each in decision.fired + decision.shadow
                )
                for decision, read_by in zip(self.any if may else self.plain, self.judged.reads(rule), strict=True)
                if read_by
            ],
            np.bool_,
        )
