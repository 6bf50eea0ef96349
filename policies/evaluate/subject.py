"""What is measured: the decisions of a policy, or the scores of one classifier.

A row's *rank scores* put rows in order. A classifier's is its highest probability. A policy has one for each action:
how far the row's findings lie above (or below) the thresholds of the rules that ask for this action or a stricter one,
in log odds. Zero and above means that the action is taken, so the operating point lies on the curve, and moving along
the curve moves all thresholds of these rules together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from classifiers.asked import Asked, asked_of
from classifiers.base import Classifier, Finding, Report, Role

from ..decision import Decision
from ..engine import decide
from ..facts import Facts
from ..model import Action, Stage
from ..plan import plan
from ..ready import PolicySet
from .dataset import Row

LONG = 60.0
"""Seconds that a classifier may take where the policy's deadlines are not held: a busy machine is no bad classifier."""
PLAIN = Facts()
"""What is known of the request around a row: nobody in particular asks, without tools and special settings."""
_EDGE = 1e-12
OF_THE_SURFACE = {("injection", "tool_result"): "injection_indirect", ("harmful", "assistant"): "harmful_answer"}
"""Labels of rows whose finding has another name where the text stands elsewhere."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row. `scores` are its rank scores by name; `findings` the highest score of each
    classifier.label; `nearest` the one that is nearest to a rule's threshold or the furthest above
    it; `fired` the rules that fired, shadow ones too. `failures` are "classifier: reason"; with any, the
    scores say nothing. `seconds` is the time of judging without waiting for a worker."""

    id: str
    source: str
    surface: str
    label: str
    bad: bool
    category: str
    lang: str
    family: str
    chars: int
    scores: Mapping[str, float]
    findings: Mapping[str, float]
    seconds: float
    nearest: str = ""
    action: str = ""
    rule: str = ""
    fired: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    text: str | None = None


class Subject(Protocol):
    """`actions` are those that can be taken, mildest first; none for a classifier. `ranks` names the rank scores, the
    one to look at first first."""

    @property
    def kind(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def actions(self) -> tuple[str, ...]: ...

    @property
    def ranks(self) -> tuple[str, ...]: ...

    def asked(self, stage: Stage) -> Sequence[Asked]: ...

    def judged(self, row: Row, report: Report) -> Outcome: ...

    def describe(self) -> dict[str, Any]: ...


def named_for(label: str, surface: str) -> str:
    """The finding that a row's label speaks of."""
    return OF_THE_SURFACE.get((label, surface), label)


def _log_odds(score: float) -> float:
    kept = min(max(score, _EDGE), 1 - _EDGE)
    return math.log(kept) - math.log1p(-kept)


def _highest(findings: Sequence[Finding]) -> dict[str, float]:
    found: dict[str, float] = {}
    for finding in findings:
        name = f"{finding.classifier}.{finding.label}"
        if finding.score > found.get(name, -1.0):
            found[name] = finding.score
    return dict(sorted(found.items()))


def _outcome(row: Row, report: Report, scores: dict[str, float], **more: Any) -> Outcome:
    return Outcome(
        id=row.id,
        source=row.source,
        surface=row.surface,
        label=row.label,
        bad=row.bad,
        category=row.category,
        lang=row.lang,
        family=row.family,
        chars=sum(len(message.text) for message in row.messages),
        scores=scores,
        findings=_highest(report.findings),
        seconds=max(0.0, report.seconds - report.queued),
        failures=tuple(sorted({f"{failure.classifier}: {failure.reason}" for failure in report.failures})),
        **more,
    )


# A policy -----------------------------------------------------------------------------------------------------------


_Margin = tuple[float, str]
"""How far a finding lies above a threshold in log odds, and which one it is."""
_NOTHING: _Margin = (-math.inf, "")


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a rule's condition: met by a finding of this classifier and label ("*" for any)."""

    names: frozenset[tuple[str, str]]
    edge: float

    def margin(self, findings: Sequence[Finding]) -> _Margin:
        best = _NOTHING
        for finding in findings:
            if (finding.classifier, finding.label) in self.names or (finding.classifier, "*") in self.names:
                name = f"{finding.classifier}.{finding.label}"
                best = max(best, (_log_odds(finding.score) - self.edge, name))
        return best


@dataclass(frozen=True, slots=True)
class _Edges:
    """A rule as its distance from firing."""

    severity: int
    roles: frozenset[Role]
    parts: tuple[_Part, ...]
    every: bool

    def margin(self, findings: Sequence[Finding], row: Row) -> _Margin:
        mine = [finding for finding in findings if row.messages[finding.message].role in self.roles]
        margins = [part.margin(mine) for part in self.parts]
        return min(margins) if self.every else max(margins)


@dataclass(frozen=True)
class PolicySubject:
    """A policy set. With `deadlines` a late classifier is a failure, as in live traffic."""

    policies: PolicySet
    deadlines: bool = False
    _asked: dict[Stage, list[Asked]] = field(default_factory=dict)
    _edges: dict[Stage, list[_Edges]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for stage in Stage:
            readings = [
                reading if self.deadlines else reading._replace(deadline=LONG) for reading in plan(self.policies, stage)
            ]
            self._asked[stage] = asked_of(self.policies.classifiers, readings)
            self._edges[stage] = [
                _edges(rule.action, frozenset(rule.roles), rule.conditions)
                for rule in self.policies.rules
                if rule.acts and stage in rule.stages and rule.action is not Action.PASS and rule.conditions[0]
            ]

    @property
    def kind(self) -> str:
        return "policy"

    @property
    def title(self) -> str:
        return self.policies.source or ", ".join(policy.id for policy in self.policies.policies)

    @property
    def actions(self) -> tuple[str, ...]:
        severities = {rule.action.severity for rule in self.policies.rules if rule.acts}
        passing = Action.PASS.severity
        return tuple(action.value for action in Action if action.severity in severities - {passing})

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(reversed(self.actions))

    def asked(self, stage: Stage) -> Sequence[Asked]:
        return self._asked[stage]

    @property
    def longest_deadline(self) -> float:
        """The longest time in seconds that the policy gives any classifier."""
        readings = [reading for stage in Stage for reading in plan(self.policies, stage)]
        return max((reading.deadline for reading in readings), default=math.inf)

    def judged(self, row: Row, report: Report) -> Outcome:
        decision = decide(self.policies, row.stage, row.messages, report, PLAIN)
        margins = [(edges.severity, edges.margin(report.findings, row)) for edges in self._edges[row.stage]]
        return _outcome(
            row,
            report,
            self._scores(margins, decision),
            nearest=max((margin for _, margin in margins), default=_NOTHING)[1],
            action=decision.action.value,
            rule=decision.rule or "",
            fired=tuple(sorted({fired.rule for fired in decision.fired + decision.shadow})),
        )

    def _scores(self, margins: Sequence[tuple[int, _Margin]], decision: Decision) -> dict[str, float]:
        scores = {}
        for name in self.ranks:
            severity = Action(name).severity
            margin = max((value for at, (value, _) in margins if at >= severity), default=-math.inf)
            # The decision has the last word: on a score equal to its threshold but for rounding, and on a mask without
            # a place, which blocks.
            taken = decision.action.severity >= severity
            scores[name] = max(margin, 0.0) if taken else min(margin, -_EDGE)
        return scores

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "policy",
            "title": self.title,
            "policies": {policy.id: policy.version for policy in self.policies.policies},
            "digest": self.policies.digest,
            "revision": self.policies.revision,
            "actions": list(self.actions),
            "rules": [
                {"rule": rule.id, "action": rule.action.value, "mode": str(rule.mode), "roles": sorted(rule.roles)}
                for rule in self.policies.rules
            ],
            "classifiers": {name: each.digest for name, each in sorted(self.policies.classifiers.items())},
        }


def _edges(action: Action, roles: frozenset[Role], conditions: tuple[Sequence[Any], bool]) -> _Edges:
    seen, every = conditions
    parts = []
    for part in seen:
        names = [name.partition(".") for name in part.finding]
        parts.append(_Part(frozenset((first, last) for first, _, last in names), _log_odds(part.at_least)))
    return _Edges(action.severity, roles, tuple(parts), every)


# One classifier -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassifierSubject:
    """One classifier. `labels` are the findings that count, for each surface; those of a surface that is not named are
    all of the classifier's."""

    classifier: Classifier
    labels: Mapping[str, frozenset[str]]
    deadline: float = LONG

    @property
    def kind(self) -> str:
        return "classifier"

    @property
    def title(self) -> str:
        return self.classifier.name

    @property
    def actions(self) -> tuple[str, ...]:
        return ()

    @property
    def ranks(self) -> tuple[str, ...]:
        return ("score",)

    def asked(self, stage: Stage) -> Sequence[Asked]:
        return [Asked(self.classifier, frozenset(Role), self.deadline)]

    def judged(self, row: Row, report: Report) -> Outcome:
        wanted = self.labels.get(row.surface, self.classifier.labels)
        score, nearest = max(
            ((f.score, f"{f.classifier}.{f.label}") for f in report.findings if f.label in wanted), default=(0.0, "")
        )
        return _outcome(row, report, {"score": score}, nearest=nearest)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "classifier",
            "title": self.title,
            "digest": self.classifier.digest,
            "labels": {surface: sorted(labels) for surface, labels in sorted(self.labels.items())},
            "classifiers": {self.classifier.name: self.classifier.digest},
        }


def choose_labels(
    classifier: Classifier, present: Mapping[str, frozenset[str]], wanted: Sequence[str] = ()
) -> dict[str, frozenset[str]]:
    """The findings that count on each surface: those `wanted`; else those named like the bad labels that are `present`
    there; else all. Raises ValueError for a label that the classifier does not find."""
    for label in wanted:
        if label not in classifier.labels:
            known = ", ".join(sorted(classifier.labels))
            raise ValueError(f"classifier '{classifier.name}' finds no '{label}'; it finds {known}")
    chosen = {}
    for surface, labels in present.items():
        matching = {named_for(label, surface) for label in labels} & classifier.labels
        chosen[surface] = frozenset(wanted) or frozenset(matching) or classifier.labels
    return chosen


def with_text(outcome: Outcome, row: Row) -> Outcome:
    """The outcome with what was judged."""
    return replace(outcome, text=row.text)
