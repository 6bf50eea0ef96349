"""Why a decision fell: each rule of its stage, each part of its condition, with the score that came nearest.

Nothing is decided here: what fired is read off the decision, and the scores beside it off its findings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from classifiers.base import Finding, Message, Role
from classifiers.readings import seen_in

from .decision import Decision, Fired
from .facts import Facts
from .forms import Mode
from .model import Policy, Rule, Stage
from .ready import BUILT_IN, PolicySet


class State(StrEnum):
    """What became of a rule or of a part of its condition."""

    MET = "met"
    NOT_MET = "not met"
    NOT_EVALUATED = "not evaluated"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class PartView:
    """One part of a condition. `score` is the highest that counts for it (0 where nothing was found), `distance` how
    far that is above the threshold (below, where negative), `finding` where it was found. `reading` is the one
    in which it must be seen, empty for all."""

    names: tuple[str, ...]
    at_least: float
    state: State
    score: float
    distance: float
    finding: Finding | None
    reading: str = ""


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule of the stage. `fired` is what it asked for, where it did; `every` whether all parts must be met;
    `decided` whether the decision is its own. Of an expression, `parts` are the comparisons of scores that speak for
    it, `said` is its text, and `values` what it reads of the request; of calls of tools the names alone, for arguments
    are text."""

    policy: str
    rule: Rule
    state: State
    parts: tuple[PartView, ...]
    every: bool
    fired: Fired | None
    decided: bool
    said: str
    values: Mapping[str, Any]


def explain(
    policies: PolicySet, messages: Sequence[Message], decision: Decision, facts: Facts | None = None
) -> list[RuleView]:
    """Every rule that looks at the decision's stage, in the order of the set. `messages` are those that were judged,
    with unreadable parts at their end, `facts` what was known of the request."""
    return [
        _rule(policy, rule, messages, decision, facts)
        for policy in policies.policies
        for rule in policy.rules
        if decision.stage in rule.stages
    ]


def _rule(policy: Policy, rule: Rule, messages: Sequence[Message], decision: Decision, facts: Facts | None) -> RuleView:
    own = [each for each in (*decision.fired, *decision.shadow) if each.policy == policy.id and each.rule == rule.id]
    # A rule can fire twice: on what was seen, and on what could not be. The first is the more severe.
    fired = own[0] if own else None
    asked, every = _asked(rule, decision.stage)
    parts = tuple(_part(each, messages, decision) for each in asked)
    if rule.mode is Mode.OFF:
        state = State.OFF
    elif any(not each.not_evaluated for each in own):
        state = State.MET
    elif own or (parts and all(part.state is State.NOT_EVALUATED for part in parts)):
        state = State.NOT_EVALUATED
    else:
        state = State.NOT_MET
    decided = fired is not None and bool(decision.fired) and fired is decision.fired[0]
    said = rule.when if isinstance(rule.when, str) else ""
    return RuleView(policy.id, rule, state, parts, every, fired, decided, said, _values(rule, decision.stage, facts))


def _values(rule: Rule, stage: Stage, facts: Facts | None) -> dict[str, Any]:
    """What an expression reads of the request, by the names of its variables."""
    if facts is None or not isinstance(rule.when, str):
        return {}
    from .cel.condition import compiled
    from .cel.parts import Follows, leaves
    from .cel.variables import values

    condition = compiled(rule.when, stage, frozenset(rule.roles))
    reads, known = condition.reads, values(stage, facts)
    found = {name: known[name] for name in sorted(reads.variables & known.keys())}
    if "account.history" in found:
        found["account.history"] = {name: facts.account.history.get(name, 0) for name in sorted(reads.history)}
    if "calls" in found:
        found["calls"] = [call.name for call in facts.calls]
    if any(isinstance(part, Follows) for part in leaves(condition.root)):
        found["the conversation"] = [
            f"{turn.role}:{turn.name}" if turn.name else str(turn.role) for turn in facts.turns
        ]
    return found


class _Asked(NamedTuple):
    """One part of a condition, whatever its form."""

    names: tuple[str, ...]
    at_least: float
    roles: Collection[Role]
    reading: str = ""


def _asked(rule: Rule, stage: Stage) -> tuple[list[_Asked], bool]:
    """The parts of a rule's condition at a stage, and whether all of them must be met."""
    if not isinstance(rule.when, str):
        seen, every = rule.conditions
        return [_Asked(tuple(part.finding), part.at_least, rule.roles) for part in seen], every
    from .cel.condition import compiled

    condition = compiled(rule.when, stage, frozenset(rule.roles))
    atoms = [condition.atoms[bit] for bit in sorted(condition.shown)]
    # What is more than a number is told as that number.
    parts = [_Asked((each.finding,), min(each.at_least, 1.0), each.roles, each.reading) for each in atoms]
    return parts, condition.every()


def _part(part: _Asked, messages: Sequence[Message], decision: Decision) -> PartView:
    names = part.names
    counted = [
        found
        for found in decision.findings
        if (f"{found.classifier}.{found.label}" in names or f"{found.classifier}.*" in names)
        and messages[found.message].role in part.roles
        and (not part.reading or seen_in(found.view, part.reading))
    ]
    best = max(counted, key=lambda found: found.score, default=None)
    score = best.score if best is not None else 0.0
    asked = {name.partition(".")[0] for name in names} - BUILT_IN.keys()
    silent = asked & {failure.classifier for failure in decision.failures}
    met = State.MET if score >= part.at_least else State.NOT_EVALUATED if silent else State.NOT_MET
    return PartView(names, part.at_least, met, score, score - part.at_least, best, part.reading)
