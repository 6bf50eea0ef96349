"""The engine's promises once more, as plainly as they can be written and sharing no code with it.

Slow and obvious on purpose: it looks at every rule and every finding, and masks letter by letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from classifiers.base import Finding, Message, Report
from policies.facts import Facts
from policies.forms import Canary
from policies.model import AllOf, AnyOf, Policy, Rule, Seen

ORDER = ["pass", "log", "mask", "block"]


@dataclass(frozen=True)
class Expected:
    action: str
    fired: list[tuple[str, str, bool]]
    """(rule, action, not evaluated), most severe first."""
    shadow: list[tuple[str, str, bool]]
    masked: set[tuple[int, int]]
    """(message, letter) of every letter that must be replaced."""


def counts(rule: Rule, part: Seen, finding: Finding, messages: Sequence[Message]) -> bool:
    wanted = {f"{finding.classifier}.{finding.label}", f"{finding.classifier}.*"}
    known = finding.message in range(len(messages))
    role = (not known) or messages[finding.message].role in rule.roles
    high = finding.score >= part.at_least or finding.score != finding.score
    return bool(wanted & set(part.finding)) and role and high


def holds(rule: Rule, truths: list[bool]) -> bool:
    return all(truths) if isinstance(rule.when, AllOf) else any(truths)


def acting(rule: Rule, facts: Facts | None) -> bool:
    """Whether it acts on this conversation, where a canary is drawn by lot."""
    if not isinstance(rule.mode, Canary):
        return str(rule.mode) == "enforce"
    if facts is None or facts.lot == b"":
        return True
    drawn = hashlib.blake2b(rule.id.encode(), digest_size=8, key=facts.lot).hexdigest()
    return int(drawn, 16) / 16**16 < rule.mode.canary


def evaluate(
    policies: Sequence[Policy], stage: str, messages: Sequence[Message], report: Report, facts: Facts | None = None
) -> Expected:
    failed = [failure.classifier for failure in report.failures]
    results: list[tuple[Rule, str, bool]] = []
    masked: set[tuple[int, int]] = set()
    for policy in sorted(policies, key=lambda each: each.id):
        for rule in policy.rules:
            if str(rule.mode) == "off" or stage not in rule.stages:
                continue
            when = rule.when
            parts = when.all if isinstance(when, AllOf) else when.any if isinstance(when, AnyOf) else [when]
            seen = [any(counts(rule, part, finding, messages) for finding in report.findings) for part in parts]
            if holds(rule, seen):
                used = [f for f in report.findings if any(counts(rule, part, f, messages) for part in parts)]
                action = str(rule.action)
                if action == "mask":
                    letters: set[tuple[int, int]] = set()
                    for finding in used:
                        size = len(messages[finding.message].text) if finding.message in range(len(messages)) else -1
                        start, end = finding.span if finding.span else (0, 0)
                        if start < 0 or end > size or start >= end:
                            action = "block"
                        letters |= {(finding.message, letter) for letter in range(start, end)}
                    if action == "mask" and acting(rule, facts):
                        masked |= letters
                results.append((rule, action, False))
            asks = any(message.role in rule.roles for message in messages)
            unsure = [asks and any(name.split(".")[0] in failed for name in part.finding) for part in parts]
            if any(unsure) and holds(rule, [a or b for a, b in zip(seen, unsure, strict=True)]):
                silence = rule.on_error or ("block" if rule.action in ("block", "mask") else "log")
                results.append((rule, str(silence), True))
    ranked = sorted(results, key=lambda result: (-ORDER.index(result[1]), result[2]))
    fired = [(rule.id, action, unsure) for rule, action, unsure in ranked if acting(rule, facts)]
    shadow = [(rule.id, action, unsure) for rule, action, unsure in ranked if not acting(rule, facts)]
    action = fired[0][1] if fired else "pass"
    return Expected(action, fired, shadow, masked if action == "mask" else set())
