"""The tests that stand beside the rules, run against the very engine that decides traffic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from classifiers.base import Failure, Finding, Message, Report, Role, Silence
from classifiers.cascade import doubtful

from .case_form import CaseScore
from .engine import Decision, PolicySet, decide
from .model import Action, Case, Stage
from .plan import Reading, plan


class Outcome(StrEnum):
    """What became of a case. Skipped: it needs a classifier that is asked only when running live."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case. `place` is file:line:column where the set came from files; `why` explains a failed or skipped
    one.
    `decision` is None for a skipped case. `base` is the policy of which `policy` has inherited it, if it has, and
    `origin` its place there."""

    policy: str
    name: str
    place: str
    outcome: Outcome
    why: str = ""
    decision: Decision | None = None
    base: str = ""
    origin: str = ""

    def __str__(self) -> str:
        """What became of it, in a line without its place."""
        of = f" of base '{self.base}' ({self.origin})" if self.base else ""
        if self.base and self.outcome is Outcome.FAILED:
            decided = self.decision.action if self.decision is not None else "pass"
            meant = f"{{{json.dumps(self.name, ensure_ascii=False)}: {{expect: {{action: {decided}}}, because: ...}}}}"
            mend = f"where that is meant, write it under override: {{cases: {meant}}}"
            return f"case '{self.name}'{of} {self.outcome} for '{self.policy}': {self.why}; {mend}"
        return f"case '{self.name}'{of} {self.outcome}" + (f": {self.why}" if self.why else "")


def run_cases(policy: PolicySet, live: bool = False) -> list[CaseResult]:
    """All cases of the set, in order; of each policy its own, then those that it inherits.

    A case with `scores` asks no classifier: those are the findings, on the whole of each message. Any other case asks
    the real ones: the inline ones always, the slower ones only when `live`. Without them a case is skipped, unless
    its outcome is certain whatever they would say. Blocks while classifiers work.
    """
    results = []
    for each in policy.policies:
        for at, case in enumerate(each.cases):
            results.append(run_case(policy, case, each.id, policy.places.get((each.id, "cases", at), each.id), live))
        place = policy.places.get((each.id, "extends", 0), each.id)
        for base, origin, case in each.inherited_cases:
            results.append(replace(run_case(policy, case, each.id, place, live, base), origin=origin))
    return results


def run_case(policy: PolicySet, case: Case, owner: str, place: str, live: bool, base: str = "") -> CaseResult:
    """One case of the policy called `owner`, its own or inherited of `base`."""
    facts = case.facts
    policy = policy.for_case(owner, None if case.request is None else facts, base)
    messages = _messages(case)
    slow: set[str] = set()
    if case.scores is None and not live:
        asked = {reading.classifier for reading in plan(policy, case.stage)} - set(case.failed)
        slow = {name for name in asked if not policy.classifiers[name].inline}
    report = _mocked(case, messages) if case.scores is not None else _ask(policy, case, messages, slow)
    decision = decide(policy, case.stage, messages, report, facts)
    why = _difference(case, decision)
    if not _certain(policy, case, decision, slow):
        skipped = f"needs {', '.join(sorted(slow))}: run with --live, or give 'scores'"
        return CaseResult(owner, case.name, place, Outcome.SKIPPED, skipped, base=base)
    return CaseResult(owner, case.name, place, Outcome.FAILED if why else Outcome.PASSED, why, decision, base)


def _certain(policy: PolicySet, case: Case, decision: Decision, slow: set[str]) -> bool:
    """Whether the slow classifiers, which were not asked, could still change the outcome.

    More findings never make a decision milder. So what is too severe stays so, and what is as severe as any rule that
    asks a slow classifier could make it keeps its action.
    """
    dependents = policy.tables[case.stage].dependents
    if any(ready.condition is not None for name in slow for ready in dependents.get(name, ())):
        return False  # an expression may ask for a low score, too
    rules = [ready.rule for name in slow for ready in dependents.get(name, ()) if ready.rule.acts]
    # A mask that finds no place in the text becomes a block.
    ceiling = max(
        (Action.BLOCK.severity if rule.action is Action.MASK else rule.action.severity for rule in rules), default=0
    )
    if decision.action.severity > case.expect.action.severity:
        return True
    return decision.action.severity >= ceiling and (not slow or not _difference(case, decision))


def _messages(case: Case) -> list[Message]:
    if case.messages is not None:
        return [Message(message.role, message.text, f"/messages/{at}") for at, message in enumerate(case.messages)]
    role = Role.USER if case.stage is Stage.INPUT else Role.ASSISTANT
    return [Message(role, case.text or "", "/text")]


def _mocked(case: Case, messages: Sequence[Message]) -> Report:
    findings = []
    for name, mocked in (case.scores or {}).items():
        classifier, _, label = name.partition(".")
        score, view = (mocked.score, mocked.reading) if isinstance(mocked, CaseScore) else (mocked, "")
        findings += [
            Finding(classifier, label, score, at, (0, len(message.text)) if message.text else None, view)
            for at, message in enumerate(messages)
        ]
    return Report(tuple(findings), _failed(case))


def _failed(case: Case) -> tuple[Failure, ...]:
    return tuple(Failure(name, Silence.UNAVAILABLE, "as the case says") for name in case.failed)


def _ask(policy: PolicySet, case: Case, messages: Sequence[Message], slow: set[str]) -> Report:
    findings: list[Finding] = []
    failures = list(_failed(case))
    seen: dict[str, tuple[frozenset[int], list[Finding], bool]] = {}
    for name, roles, _, after, _ in _gates_first(plan(policy, case.stage)):
        read = [at for at, message in enumerate(messages) if message.role in roles]
        if name in case.failed:
            seen[name] = frozenset(), [], True
            continue
        if name in slow or (after is not None and after.classifier in slow):
            slow.add(name)
            continue
        if after is not None:
            read = doubtful(after, read, *seen[after.classifier])
        seen[name] = frozenset(read), [], False
        if not read:
            continue
        try:
            found = policy.classifiers[name].classify([messages[at] for at in read])
        except Exception as error:
            failures.append(Failure(name, Silence.CRASH, type(error).__name__))
            seen[name] = frozenset(), [], True
            continue
        own = [replace(item, classifier=name, message=read[item.message]) for item in found]
        seen[name] = frozenset(read), own, False
        findings += own
    return Report(tuple(findings), tuple(failures))


def _gates_first(readings: Sequence[Reading]) -> list[Reading]:
    """Each after the one that it waits for."""
    ordered: list[Reading] = []
    left = list(readings)
    while left:
        names = {reading.classifier for reading in ordered}
        ordered += [reading for reading in left if reading.after is None or reading.after.classifier in names]
        left = [reading for reading in left if reading not in ordered]
    return ordered


def _difference(case: Case, decision: Decision) -> str:
    """Why the decision is not the one expected, or nothing."""
    expect = case.expect
    by_rule = expect.rule is None or any(fired.rule == expect.rule for fired in decision.fired)
    if decision.action is expect.action and by_rule:
        return ""
    wanted = f"expected {expect.action}" + (f" by rule '{expect.rule}'" if expect.rule else "")
    fired = ", ".join(
        f"'{each.rule}' ({each.action}{', not evaluated' if each.not_evaluated else ''})" for each in decision.fired
    )
    highest = sorted(decision.findings, key=lambda finding: -finding.score)[:5]
    seen = ", ".join(f"{finding.classifier}.{finding.label} {finding.score:.2f}" for finding in highest)
    return f"{wanted}, decided {decision.action}; fired: {fired or 'none'}; seen: {seen or 'nothing'}"
