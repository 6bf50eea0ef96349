"""The heart: one pure function that takes facts and returns a decision with its reasons.

INVARIANT: `decide` depends on nothing but its arguments, and its answer keeps these rules.
1. A rule fires with its action when its condition is true.
2. A rule fires with its `on_error`, marked `not_evaluated`, when a classifier that it needs was silent and
   the condition is true or would be if that classifier had found all it is asked for. So more failures never
   make a decision milder, and a condition that is false whatever the silent one would have said does not
   fire. Both can happen to one rule: part of an answer may be missing.
3. The most severe action among the fired rules is the decision's: block > mask > log > pass.
4. Shadow rules are evaluated the same and never change the action or the masks.
5. What is to be masked and cannot be located is blocked instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from classifiers.base import Classifier, Failure, Finding, Message, Report, Role

from .model import Action, Mode, OnBlock, Policy, Rule, Stage

# Findings that do not come from a classifier of the policy: whoever asks for a decision states them as facts.
BUILT_IN: dict[str, frozenset[str]] = {"surface": frozenset({"unscannable"})}


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that fired and what it asks for. `action` is the rule's own, or its `on_error` if
    `not_evaluated`.

    `message` is the refusal's template. `note` says, for people, why the action is not the rule's own.
    """

    policy: str
    rule: str
    action: Action
    mode: Mode
    reason: str
    message: str
    on_block: OnBlock
    tags: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    not_evaluated: bool = False
    note: str = ""

    @property
    def score(self) -> float:
        """The highest score among the findings that made it fire; 0 where there are none."""
        return max((finding.score for finding in self.findings), default=0.0)


@dataclass(frozen=True, slots=True)
class Mask:
    """[start, end) in code points of message number `message` is to be replaced by `replacement`."""

    message: int
    start: int
    end: int
    replacement: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why.

    `fired` has the most severe first (equals in the order of the rules). `masks` is not empty only when
    `action` is mask; they are sorted and do not overlap. `findings` and `failures` are all that the report
    held. `revision` names the policy set that decided.
    """

    action: Action
    fired: tuple[Fired, ...] = ()
    masks: tuple[Mask, ...] = ()
    shadow: tuple[Fired, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[Failure, ...] = ()
    stage: Stage = Stage.INPUT
    revision: str = ""

    @property
    def rule(self) -> str | None:
        """The id of the rule that decided; None when none fired."""
        return self.fired[0].rule if self.fired else None

    @property
    def policy(self) -> str | None:
        """The id of the policy whose rule decided."""
        return self.fired[0].policy if self.fired else None

    @property
    def reason(self) -> str | None:
        """The reason code of the rule that decided."""
        return self.fired[0].reason if self.fired else None

    @property
    def message(self) -> str | None:
        """The refusal's template of the rule that decided; `refusal` fills it."""
        return self.fired[0].message if self.fired else None

    @property
    def on_block(self) -> OnBlock:
        """How the caller is to be told of a block."""
        return self.fired[0].on_block if self.fired else OnBlock.ERROR

    def refusal(self, decision_id: str) -> str:
        """The text that a caller reads."""
        if not self.fired:
            return ""
        first = self.fired[0]
        # The id goes in last: a policy's own words are never read as a field twice.
        text = first.message.replace("{policy}", first.policy).replace("{reason}", first.reason)
        return text.replace("{decision_id}", decision_id)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a classifier is to read at a stage: messages of these roles, within `deadline` seconds."""

    classifier: str
    roles: frozenset[Role]
    deadline: float


@dataclass(frozen=True, slots=True)
class _Ready:
    """A rule made ready: `needs` holds, for each part of its condition, the classifiers that it asks."""

    order: int
    policy: Policy
    rule: Rule
    roles: frozenset[Role]
    every: bool
    needs: tuple[frozenset[str], ...]
    message: str
    tags: tuple[str, ...]

    def holds(self, parts: int) -> bool:
        """Whether the condition is true when the parts whose bits are set are."""
        return parts == (1 << len(self.needs)) - 1 if self.every else parts != 0


@dataclass(frozen=True, slots=True)
class _Test:
    """One part of a rule's condition, met by a finding of the right label, score and role."""

    ready: _Ready
    bit: int
    at_least: float


# classifier -> label -> (lowest threshold, tests); the label "*" holds the tests for labels not listed.
_Tests = dict[str, dict[str, tuple[float, tuple[_Test, ...]]]]


@dataclass(frozen=True, slots=True)
class Table:
    """The rules of one stage, arranged so that a finding meets only the rules that ask for its label."""

    tests: _Tests
    dependents: dict[str, tuple[_Ready, ...]]
    readings: tuple[Reading, ...]
    clear: Decision


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """Policies made ready to decide, with the classifiers that they name.

    `digest` (sha256, hex) covers the normalised policies and the classifiers' digests: equal digests decide
    equally. `revision` is its first twelve digits. `source` says for people where it came from.
    """

    policies: tuple[Policy, ...]
    classifiers: Mapping[str, Classifier]
    digest: str
    tables: Mapping[Stage, Table]
    source: str = ""

    @property
    def revision(self) -> str:
        return self.digest[:12]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order in which equals are listed in a decision."""
        return tuple(rule for policy in self.policies for rule in policy.rules)

    @classmethod
    def build(
        cls, policies: Sequence[Policy], classifiers: Mapping[str, Classifier], source: str = ""
    ) -> Self:
        """A set from checked policies. Raises KeyError for a classifier that is named and not given."""
        ordered = tuple(sorted(policies, key=lambda policy: policy.id))
        content = {
            "policies": [policy.model_dump(mode="json") for policy in ordered],
            "classifiers": {name: classifiers[name].digest for name in sorted(classifiers)},
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        tables = {stage: _table(ordered, stage, digest[:12]) for stage in Stage}
        return cls(ordered, dict(classifiers), digest, tables, source)


def decide(policy: PolicySet, stage: Stage, messages: Sequence[Message], report: Report) -> Decision:
    """What to do about `messages`, given what the panel saw. Pure; raises nothing for odd findings.

    A score that is no number counts as the highest, a finding on a message that is not there counts for every
    role. A failure of a classifier that no rule of the stage needs changes nothing and is listed.
    """
    table = policy.tables[stage]
    findings = report.findings
    if not findings and not report.failures:
        return table.clear
    met: dict[int, _Met] = {}
    tests = table.tests
    for finding in findings:
        labels = tests.get(finding.classifier)
        if labels is None:
            continue
        row = labels.get(finding.label) or labels.get("*")
        # Not `score >= lowest`: NaN must not pass for a low score.
        if row is None or finding.score < row[0]:
            continue
        _meet(met, row[1], finding, messages)
    silent = _silent(table, messages, report.failures) if report.failures else {}
    if not met and not silent:
        return Decision(
            Action.PASS, findings=findings, failures=report.failures, stage=stage, revision=policy.revision
        )
    return _conclude(policy, stage, messages, report, met, silent)


@dataclass(slots=True)
class _Met:
    """Which parts of a rule's condition are true, and by which findings."""

    ready: _Ready
    parts: int = 0
    findings: list[Finding] = field(default_factory=list)


def _meet(
    met: dict[int, _Met], tests: tuple[_Test, ...], finding: Finding, messages: Sequence[Message]
) -> None:
    for test in tests:
        if finding.score < test.at_least:
            continue
        ready = test.ready
        if 0 <= finding.message < len(messages) and messages[finding.message].role not in ready.roles:
            continue
        known = met.get(ready.order)
        if known is None:
            known = met[ready.order] = _Met(ready)
        known.parts |= test.bit
        if not known.findings or known.findings[-1] is not finding:
            known.findings.append(finding)


def _silent(
    table: Table, messages: Sequence[Message], failures: Sequence[Failure]
) -> dict[int, tuple[_Ready, int]]:
    """Rules that need a classifier that failed, with the parts of their conditions that it leaves open."""
    failed = {failure.classifier for failure in failures}
    present = {message.role for message in messages}
    silent: dict[int, tuple[_Ready, int]] = {}
    for name in failed:
        for ready in table.dependents.get(name, ()):
            if ready.order in silent or ready.roles.isdisjoint(present):
                continue
            parts = sum(1 << place for place, needs in enumerate(ready.needs) if not needs.isdisjoint(failed))
            silent[ready.order] = (ready, parts)
    return silent


def _conclude(
    policy: PolicySet,
    stage: Stage,
    messages: Sequence[Message],
    report: Report,
    met: dict[int, _Met],
    silent: dict[int, tuple[_Ready, int]],
) -> Decision:
    every: list[tuple[int, Fired]] = []
    masks: list[tuple[Mask, int]] = []
    for order, known in met.items():
        if known.ready.holds(known.parts):
            every.append((order, _fire(known, messages, masks)))
    for order, (ready, open_parts) in silent.items():
        seen = met[order].parts if order in met else 0
        if ready.holds(seen | open_parts):
            every.append((order, _fire_silent(ready)))
    every.sort(key=lambda item: (-item[1].action.severity, item[1].not_evaluated, item[0]))
    fired = tuple(item for _, item in every if item.mode is Mode.ENFORCE)
    shadow = tuple(item for _, item in every if item.mode is Mode.SHADOW)
    action = fired[0].action if fired else Action.PASS
    return Decision(
        action,
        fired,
        merge_masks(masks) if action is Action.MASK else (),
        shadow,
        report.findings,
        report.failures,
        stage,
        policy.revision,
    )


def _fired(
    ready: _Ready, action: Action, findings: tuple[Finding, ...], not_evaluated: bool, note: str
) -> Fired:
    rule, policy = ready.rule, ready.policy
    return Fired(
        policy.id,
        rule.id,
        action,
        rule.mode,
        rule.reason,
        ready.message,
        policy.on_block,
        ready.tags,
        findings,
        not_evaluated,
        note,
    )


def _fire(known: _Met, messages: Sequence[Message], masks: list[tuple[Mask, int]]) -> Fired:
    """The rule with its own action; the spans of an enforcing mask rule are added to `masks`."""
    ready, action, note = known.ready, known.ready.rule.action, ""
    if action is Action.MASK:
        if all(_located(finding, messages) for finding in known.findings):
            if ready.rule.mode is Mode.ENFORCE:
                masks.extend((_mask(ready.rule, finding), ready.order) for finding in known.findings)
        else:
            action, note = Action.BLOCK, "blocked: a finding without a place in the text cannot be masked"
    return _fired(ready, action, tuple(known.findings), False, note)


def _fire_silent(ready: _Ready) -> Fired:
    silence = ready.rule.silence
    return _fired(ready, Action(silence.value), (), True, f"not evaluated: on_error is {silence.value}")


def _located(finding: Finding, messages: Sequence[Message]) -> bool:
    if finding.span is None or not 0 <= finding.message < len(messages):
        return False
    start, end = finding.span
    return 0 <= start < end <= len(messages[finding.message].text)


def _mask(rule: Rule, finding: Finding) -> Mask:
    assert finding.span is not None  # _located said so
    text = rule.mask_with.replace("{LABEL}", finding.label.upper()).replace("{label}", finding.label)
    return Mask(finding.message, finding.span[0], finding.span[1], text)


def merge_masks(masks: Sequence[tuple[Mask, int]]) -> tuple[Mask, ...]:
    """Masks with the order of their rules -> masks sorted by place, overlapping ones made one.

    One made of several has the replacement of its longest member (then the earliest, then the first rule's).
    Masks that only touch stay apart.
    """
    merged: list[Mask] = []
    widest = 0
    for mask, _ in sorted(masks, key=lambda item: (item[0].message, item[0].start, -item[0].end, item[1])):
        last = merged[-1] if merged else None
        if last is None or mask.message != last.message or mask.start >= last.end:
            merged.append(mask)
            widest = mask.end - mask.start
            continue
        longer = mask.end - mask.start > widest
        widest = max(widest, mask.end - mask.start)
        replacement = mask.replacement if longer else last.replacement
        merged[-1] = Mask(last.message, last.start, max(last.end, mask.end), replacement)
    return tuple(merged)


def _table(policies: Sequence[Policy], stage: Stage, revision: str) -> Table:
    tests: dict[str, dict[str, list[_Test]]] = {}
    dependents: dict[str, list[_Ready]] = {}
    pairs = [(policy, rule) for policy in policies for rule in policy.rules]
    for order, (policy, rule) in enumerate(pairs):
        if rule.mode is Mode.OFF or stage not in rule.stages:
            continue
        parts, every = rule.conditions
        names = [[name.partition(".") for name in part.finding] for part in parts]
        needs = tuple(frozenset(classifier for classifier, _, _ in part) for part in names)
        message = rule.message if rule.message is not None else policy.message
        ready = _Ready(order, policy, rule, frozenset(rule.roles), every, needs, message, tuple(rule.tags))
        for place, (part, split) in enumerate(zip(parts, names, strict=True)):
            for classifier, _, label in split:
                row = tests.setdefault(classifier, {}).setdefault(label, [])
                row.append(_Test(ready, 1 << place, part.at_least))
        for classifier in frozenset[str]().union(*needs):
            dependents.setdefault(classifier, []).append(ready)
    return Table(
        {classifier: _rows(labels) for classifier, labels in tests.items()},
        {classifier: tuple(rules) for classifier, rules in dependents.items()},
        _readings(policies, dependents),
        Decision(Action.PASS, stage=stage, revision=revision),
    )


def _rows(labels: dict[str, list[_Test]]) -> dict[str, tuple[float, tuple[_Test, ...]]]:
    wild = labels.get("*", [])
    rows: dict[str, tuple[float, tuple[_Test, ...]]] = {}
    for label, own in labels.items():
        tests = tuple(own if label == "*" else own + wild)
        rows[label] = (min(test.at_least for test in tests), tests)
    return rows


def _readings(policies: Sequence[Policy], dependents: Mapping[str, Sequence[_Ready]]) -> tuple[Reading, ...]:
    # Two files may define one classifier only in equal words, so whichever comes last says the same.
    specs = {name: spec for policy in policies for name, spec in policy.classifiers.items()}
    readings = []
    for name in sorted(dependents.keys() - BUILT_IN.keys()):
        roles = frozenset[Role]().union(*(ready.roles for ready in dependents[name]))
        readings.append(Reading(name, roles, specs[name].deadline_ms / 1000))
    return tuple(readings)
