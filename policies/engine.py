"""The heart: one pure function that takes facts and returns a decision with its reasons.

INVARIANT: `decide` depends on nothing but its arguments, and its answer keeps these rules.
1. A rule fires with its action when its condition is true.
2. A rule fires with its `on_error`, marked `not_evaluated`, when a classifier that it needs was silent about a text
   that it looks at and the condition is true or would be if that classifier had found all it is asked for. So more
   failures never make a decision milder, and a condition that is false whatever the silent one would have said does
   not fire. Both can happen to one rule: part of an answer may be missing. The same holds for what an expression in
   CEL asks and nobody knows: a fact that was not stated, an error while it is evaluated.
3. The most severe action among the fired rules is the decision's: block > review > rewrite > route > mask > advise >
   log > pass. The first four say who answers, and the first of them is done; what others change (a mask, a note) is
   done beside it, but for a block. Of equals the first in the order of the rules decides (`PolicySet.rules`).
4. Shadow rules are evaluated the same and never change the action or the masks. A canary is enforced for the
   conversations that are drawn and a shadow for the others; whether one is drawn never changes.
5. What is to be masked and cannot be located is blocked instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from classifiers.base import Failure, Finding, Message, Report, Role
from classifiers.readings import seen_in

from .decision import Decision, Fired, Mask
from .facts import Facts
from .forms import Canary, Mode
from .model import Action, Rule, Stage
from .ready import PolicySet, Ready, Table, Test

__all__ = ["Action", "Decision", "Fired", "Mask", "PolicySet", "Stage", "decide"]

_NOBODY: frozenset[Role] = frozenset()


def decide(
    policy: PolicySet, stage: Stage, messages: Sequence[Message], report: Report, facts: Facts | None = None
) -> Decision:
    """What to do about `messages`, given what the panel saw and what is known of the request. Pure; raises nothing for
    odd findings. Every policy of the set is applied: `PolicySet.facing` leaves those that are for the request.

    A score that is no number counts as the highest, a finding on a message that is not there counts for every
    role. A failure of a classifier that no rule of the stage needs changes nothing and is listed.
    """
    table = policy.tables[stage]
    findings = report.findings
    if not findings and not report.failures and not table.eager:
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
    if not met and not silent and not table.eager:
        return Decision(Action.PASS, findings=findings, failures=report.failures, stage=stage, revision=policy.revision)
    return _conclude(policy, stage, messages, report, facts, met, silent)


@dataclass(slots=True)
class _Met:
    """Which parts of a rule's condition are true, and by which findings."""

    ready: Ready
    parts: int = 0
    findings: list[Finding] = field(default_factory=list)


def _meet(met: dict[int, _Met], tests: tuple[Test, ...], finding: Finding, messages: Sequence[Message]) -> None:
    for test in tests:
        if finding.score < test.at_least:
            continue
        ready = test.ready
        if 0 <= finding.message < len(messages) and messages[finding.message].role not in test.roles:
            continue
        if test.reading and not seen_in(finding.view, test.reading):
            continue
        known = met.get(ready.order)
        if known is None:
            known = met[ready.order] = _Met(ready)
        known.parts |= test.bit
        if test.shown and (not known.findings or known.findings[-1] is not finding):
            known.findings.append(finding)


def _silent(table: Table, messages: Sequence[Message], failures: Sequence[Failure]) -> dict[int, tuple[Ready, int]]:
    """Rules that need a classifier that failed, with the parts of their conditions that it leaves open."""
    present = frozenset([message.role for message in messages])
    unread: dict[str, frozenset[Role]] = {}
    for failure in failures:
        left = present if failure.roles is None else failure.roles & present
        unread[failure.classifier] = unread.get(failure.classifier, _NOBODY) | left
    silent: dict[int, tuple[Ready, int]] = {}
    for name in unread:
        for ready in table.dependents.get(name, ()):
            if ready.order in silent or ready.roles.isdisjoint(present):
                continue
            parts = sum(
                1 << place
                for place, (needs, looks) in enumerate(zip(ready.needs, ready.looks, strict=True))
                if any(not looks.isdisjoint(unread[need]) for need in needs if need in unread)
            )
            if parts:
                silent[ready.order] = (ready, parts)
    return silent


def _conclude(
    policy: PolicySet,
    stage: Stage,
    messages: Sequence[Message],
    report: Report,
    facts: Facts | None,
    met: dict[int, _Met],
    silent: dict[int, tuple[Ready, int]],
) -> Decision:
    every: list[tuple[int, Fired]] = []
    masks: list[tuple[Mask, int]] = []
    for order, known in met.items():
        if known.ready.condition is None and known.ready.holds(known.parts):
            every.append((order, _fire(known, messages, facts, masks)))
    for order, (ready, open_parts) in silent.items():
        seen = met[order].parts if order in met else 0
        if ready.condition is None and ready.holds(seen | open_parts):
            every.append((order, _fire_silent(ready, facts)))
    for known, unsure in _expressions(policy.tables[stage], messages, met, silent):
        condition = known.ready.condition
        assert condition is not None  # _expressions chose by it
        true, may_be = condition.weigh(known.parts, unsure, stage, messages, report.findings, facts)
        if true:
            every.append((known.ready.order, _fire(known, messages, facts, masks)))
        if may_be:
            every.append((known.ready.order, _fire_silent(known.ready, facts)))
    every.sort(key=lambda item: (-item[1].action.severity, item[1].not_evaluated, item[0]))
    fired = tuple(item for _, item in every if item.mode is not Mode.SHADOW)
    shadow = tuple(item for _, item in every if item.mode is Mode.SHADOW)
    action = fired[0].action if fired else Action.PASS
    return Decision(
        action,
        fired,
        merge_masks(everywhere(masks, messages)) if masks and action is not Action.BLOCK else (),
        shadow,
        report.findings,
        report.failures,
        stage,
        policy.revision,
    )


def _expressions(
    table: Table, messages: Sequence[Message], met: dict[int, _Met], silent: dict[int, tuple[Ready, int]]
) -> Iterator[tuple[_Met, int]]:
    """Rules whose condition is an expression and may be true, each with what is met and the parts left open."""
    found = {order: known for order, known in met.items() if known.ready.condition is not None}
    for order, (ready, _) in silent.items():
        if ready.condition is not None and order not in found:
            found[order] = _Met(ready)
    if table.eager:
        present = {message.role for message in messages}
        for ready in table.eager:
            if ready.order not in found and not ready.roles.isdisjoint(present):
                found[ready.order] = _Met(ready)
    for order, known in found.items():
        yield known, silent[order][1] if order in silent else 0


def _mode(ready: Ready, facts: Facts | None) -> Mode:
    """How the rule takes part: what a canary does to this conversation is drawn, once and for all."""
    if 0 < ready.share < 1:
        drawn = facts is None or facts.drawn(ready.rule.id, ready.share)
        return Mode.CANARY if drawn else Mode.SHADOW
    if ready.share:
        return Mode.CANARY if isinstance(ready.rule.mode, Canary) else Mode.ENFORCE
    return Mode.SHADOW


def _fired(
    ready: Ready, mode: Mode, action: Action, findings: tuple[Finding, ...], not_evaluated: bool, note: str
) -> Fired:
    rule, policy = ready.rule, ready.policy
    return Fired(
        policy.id,
        rule.id,
        action,
        mode,
        rule.reason,
        ready.message,
        policy.on_block,
        ready.tags,
        findings,
        not_evaluated,
        note,
        ready.told,
        rule.hold,
        rule.otherwise,
    )


def _fire(known: _Met, messages: Sequence[Message], facts: Facts | None, masks: list[tuple[Mask, int]]) -> Fired:
    """The rule with its own action; the spans of a mask rule that acts are added to `masks`."""
    ready, action, note = known.ready, known.ready.rule.action, ""
    mode = _mode(ready, facts)
    if action is Action.MASK:
        if known.findings and all(_located(finding, messages) for finding in known.findings):
            if mode is not Mode.SHADOW:
                masks.extend((mask, ready.order) for finding in known.findings for mask in _masks(ready.rule, finding))
        else:
            action, note = Action.BLOCK, "blocked: a finding without a place in the text cannot be masked"
    return _fired(ready, mode, action, tuple(known.findings), False, note)


def _fire_silent(ready: Ready, facts: Facts | None) -> Fired:
    silence = ready.rule.silence
    return _fired(
        ready, _mode(ready, facts), Action(silence.value), (), True, f"not evaluated: on_error is {silence.value}"
    )


def _located(finding: Finding, messages: Sequence[Message]) -> bool:
    if finding.span is None or not 0 <= finding.message < len(messages):
        return False
    start, end = finding.span
    return 0 <= start < end <= len(messages[finding.message].text)


def _masks(rule: Rule, finding: Finding) -> Iterator[Mask]:
    assert finding.span is not None  # _located said so
    text = rule.mask_with.replace("{LABEL}", finding.label.upper()).replace("{label}", finding.label)
    for place in finding.places:
        yield Mask(place, finding.span[0], finding.span[1], text, rule.restore)


def everywhere(masks: Sequence[tuple[Mask, int]], messages: Sequence[Message]) -> list[tuple[Mask, int]]:
    """`masks`, and the same in every other message that was read from the same place: what is the user's or a
    stranger's is read as both, and leaves once."""
    placed = [(mask, order, messages[mask.message]) for mask, order in masks if mask.message < len(messages)]
    masked = {message.origin for _, _, message in placed} - {""}
    places: dict[str, list[int]] = {}
    for index, message in enumerate(messages):
        if message.origin in masked:
            places.setdefault(message.origin, []).append(index)
    found = dict.fromkeys(masks)
    for mask, order, message in placed:
        for index in places.get(message.origin, ()):
            if messages[index].text == message.text:
                found[replace(mask, message=index), order] = None
    return list(found)


def merge_masks(masks: Sequence[tuple[Mask, int]]) -> tuple[Mask, ...]:
    """Masks with the order of their rules -> masks sorted by place, overlapping ones made one.

    One made of several has the replacement of its longest member (then the earliest, then the first rule's), and is
    restored where each of them is.
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
        kept = mask if longer else last
        restore, end = mask.restore and last.restore, max(last.end, mask.end)
        merged[-1] = Mask(last.message, last.start, end, kept.replacement, restore, kept.spelled)
    return tuple(merged)
