"""The engine's promises once more, as plainly as they can be written and sharing no code with it.

Slow and obvious on purpose: it looks at every rule and every finding, and masks letter by letter.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from classifiers.base import Finding, Message, Report, Role
from policies.facts import Facts
from policies.forms import Canary
from policies.model import AllOf, AnyOf, Policy, Rule

ORDER = ["pass", "log", "advise", "mask", "route", "rewrite", "review", "block"]
PROTECTING = ORDER[3:]


@dataclass(frozen=True)
class Expected:
    action: str
    fired: list[tuple[str, str, bool]]
    """(rule, action, not evaluated), most severe first."""
    shadow: list[tuple[str, str, bool]]
    masked: set[tuple[int, int]]
    """(message, letter) of every letter that must be replaced."""
    way: str | None
    """The rule that says who answers."""
    advice: list[str]


def counts(rule: Rule, part: Any, finding: Finding, messages: Sequence[Message]) -> bool:
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


def read_there(messages: Sequence[Message], said: int) -> list[int]:
    """The messages that say what stands in one place of a body, in whatever role."""
    one = messages[said]
    copies = [i for i, other in enumerate(messages) if (other.origin, other.text) == (one.origin, one.text)]
    return copies if one.origin else [said]


def evaluate(
    policies: Sequence[Policy], stage: str, messages: Sequence[Message], report: Report, facts: Facts | None = None
) -> Expected:
    results: list[tuple[Rule, str, bool]] = []
    masked: set[tuple[int, int]] = set()
    for policy in sorted(policies, key=lambda each: each.id):
        for rule in policy.rules:
            if str(rule.mode) == "off" or stage not in rule.stages:
                continue
            when = rule.when
            if isinstance(when, str):
                results += by_expression(rule, when, stage, messages, report, facts, masked)
                continue
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
            unsure = [any(silent(name, rule.roles, messages, report) for name in part.finding) for part in parts]
            if any(unsure) and holds(rule, [a or b for a, b in zip(seen, unsure, strict=True)]):
                silence = rule.on_error or ("block" if rule.action in PROTECTING else "log")
                results.append((rule, str(silence), True))
    ranked = sorted(results, key=lambda result: (-ORDER.index(result[1]), result[2]))
    fired = [(rule.id, action, unsure) for rule, action, unsure in ranked if acting(rule, facts)]
    shadow = [(rule.id, action, unsure) for rule, action, unsure in ranked if not acting(rule, facts)]
    action = fired[0][1] if fired else "pass"
    notes = {rule.id: rule.advice for rule, done, _ in ranked if done == "advise" and acting(rule, facts)}
    return Expected(
        action,
        fired,
        shadow,
        set() if action == "block" else {(place, at) for said, at in masked for place in read_there(messages, said)},
        next((id for id, done, _ in fired if done in ("block", "review", "route", "rewrite")), None),
        [str(notes[id]) for id, done, _ in fired if done == "advise"],
    )


def silent(name: str, roles: Iterable[str], messages: Sequence[Message], report: Report) -> bool:
    """Whether the classifier of a finding has left a message of these roles unread."""
    failed = [failure for failure in report.failures if failure.classifier == name.split(".", maxsplit=1)[0]]
    read = [message.role for message in messages if message.role in roles]
    return any(failure.roles is None or role in failure.roles for failure in failed for role in read)


# Expressions: each score is written into the text as a number, and CEL's library has the rest -----------------------

SCORE = re.compile(r'score\("([^"]+)"((?:, "[^"]+")*)\) (>=|>|<=|<|==|!=) ([0-9.]+)')
COUNT = re.compile(r'count\("([^"]+)", ([0-9.]+)\)')
FOLLOWS = re.compile(r'follows\("([^"]+)", "([^"]+)"\)')
ROLES = {str(role) for role in Role}
HIGHEST = 2.0
"""What counts for a score that is no number."""


@lru_cache
def environment() -> Any:
    from cel_expr_python.cel import NewEnv, Type

    texts = Type.List(Type.STRING)
    variables = {"request.model": Type.STRING, "request.settings.n": Type.INT, "request.settings.stream": Type.BOOL}
    return NewEnv(variables=variables | {"account.grants": texts, "account.history": Type.Map(Type.STRING, Type.INT)})


@lru_cache(4096)
def program(text: str) -> Any:
    return environment().compile(text)


def truth(text: str, facts: Facts | None) -> bool | None:
    """By the library alone; None for an error. A count that nobody has is 0."""
    text = re.sub(r'account\.history\[("[^"]*")\]', r"(\1 in account.history ? account.history[\1] : 0)", text)
    values = None
    if facts is not None:
        values = {
            "request.model": facts.model,
            "request.settings.n": facts.settings.n,
            "request.settings.stream": facts.settings.stream,
            "account.grants": list(facts.account.grants),
            "account.history": dict(facts.account.history),
        }
    found = program(text).eval(data=values or {})
    return found.value() if found.type().name() == "BOOL" else None


def came_after(later: str, earlier: str, facts: Facts | None) -> str:
    """true, false, or an error where it is not known."""
    if facts is None:
        return "(1 / 0 == 1)"
    steps = [{str(turn.role), f"{turn.role}:{turn.name}"} for turn in facts.turns]
    pairs = [(a, b) for at, a in enumerate(steps) for b in steps[at + 1 :]]
    return str(any(earlier in a and later in b for a, b in pairs)).lower()


def asked_of(where: str) -> tuple[str | None, str | None]:
    """The role and the reading that a score names behind its finding."""
    named = re.findall(r'"([^"]+)"', where)
    return next((each for each in named if each in ROLES), None), next((n for n in named if n not in ROLES), None)


def read_as(finding: Finding, reading: str) -> bool:
    """Whether it was seen in this reading."""
    way = {"leet" if each == "leet_l" else each for each in finding.view.split(".")} - {"", "raw"}
    return bool(way) if reading == "disguised" else reading in way


def by_expression(
    rule: Rule,
    when: str,
    stage: str,
    messages: Sequence[Message],
    report: Report,
    facts: Facts | None,
    masked: set[tuple[int, int]],
) -> list[tuple[Rule, str, bool]]:
    present = {message.role for message in messages}

    def matching(name: str, where: str) -> list[Finding]:
        role, reading = asked_of(where)
        return [
            f
            for f in report.findings
            if name in (f"{f.classifier}.{f.label}", f"{f.classifier}.*")
            and (
                f.message not in range(len(messages))
                or messages[f.message].role in ({role} if role else set(rule.roles))
            )
            and (reading is None or read_as(f, reading))
        ]

    def open_to(name: str, where: str) -> bool:
        role, _ = asked_of(where)
        roles = {role} if role else set(rule.roles)
        return silent(name, roles, messages, report) and bool(set(rule.roles) & present)

    slots: list[tuple[str, list[str]]] = []
    meets = False
    for found in SCORE.finditer(when):
        name, where, sign, number = found[1], found[2], found[3], float(found[4])
        scores = [HIGHEST if f.score != f.score else f.score for f in matching(name, where)]
        seen = max(scores, default=0.0)
        values = {seen} | ({number, number + 1e-9, 1.0} if open_to(name, where) else set())
        slots.append((found[0], [f"(dyn({v:.12f}) {sign} {number})" for v in sorted(values) if v >= seen]))
        # A step above the number where it must be passed.
        meets = meets or seen >= number
    for found in COUNT.finditer(when):
        name, least = found[1], float(found[2])
        number = len([f for f in matching(name, "") if f.score != f.score or f.score >= least])
        counts_of = [number, *(number + more for more in (1, 2, 3, 9) if open_to(name, ""))]
        slots.append((found[0], [str(each) for each in counts_of]))
        meets = meets or number > 0
    slots += [(found[0], [came_after(found[1], found[2], facts)]) for found in FOLLOWS.finditer(when)]
    if not meets and not set(rule.roles) & present:
        return []

    def filled(values: Sequence[str]) -> str:
        text = when
        for (slot, _), value in zip(slots, values, strict=True):
            text = text.replace(slot, value)
        return text

    results: list[tuple[Rule, str, bool]] = []
    now = truth(filled([values[0] for _, values in slots]), facts)
    if now is True:
        results.append((rule, acted(rule, when, messages, matching, masked, facts), False))
    # What follows from silence: it would be true, or nobody can say, for some value of what is not known.
    asked = [(found[1], found[2]) for found in SCORE.finditer(when)]
    asked += [(found[1], "") for found in COUNT.finditer(when)]
    unsure = any(open_to(name, where) for name, where in asked)
    options = itertools.product(*(values for _, values in slots))
    if now is None or (unsure and any(truth(filled(values), facts) is not False for values in options)):
        results.append((rule, str(rule.on_error or ("block" if rule.action in PROTECTING else "log")), True))
    return results


def acted(
    rule: Rule,
    when: str,
    messages: Sequence[Message],
    matching: Callable[[str, str], list[Finding]],
    masked: set[tuple[int, int]],
    facts: Facts | None,
) -> str:
    """The action of a rule whose expression is true. Generated mask rules join plain lower bounds by && and || only."""
    if rule.action != "mask":
        return str(rule.action)
    used = [
        finding
        for found in SCORE.finditer(when)
        for finding in matching(found[1], found[2])
        if finding.score != finding.score or finding.score >= float(found[4])
    ]
    letters: set[tuple[int, int]] = set()
    for finding in used:
        size = len(messages[finding.message].text) if finding.message in range(len(messages)) else -1
        start, end = finding.span if finding.span else (0, 0)
        if start < 0 or end > size or start >= end:
            return "block"
        letters |= {(finding.message, letter) for letter in range(start, end)}
    if not used:
        return "block"
    if acting(rule, facts):
        masked |= letters
    return "mask"
