"""Thresholds from local honest traffic: for each rule the lowest one whose false alarms are proven to be within a
budget, or why there is none.

A rule's *strength* in a text is the highest score of the findings that a part of its condition asks for; the part is
true from its threshold on. The thresholds of one rule move together, by the same step in log odds, so that one number
puts all texts in order. What the threshold must be so that at most a share of honest texts reach it follows from
order statistics alone: the bound is exact (Clopper-Pearson, 95 %, one-sided) whatever the scores look like.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers.asked import asked_of
from classifiers.base import Finding, Message, Role
from classifiers.lesson import above, allowed, needed
from classifiers.linear import sigmoid
from classifiers.panel import Panel
from classifiers.statistics import clopper_pearson, upper_bound

from .document import Document, read
from .forms import Mode
from .model import Action, Policy, Rule, Seen, Stage
from .plan import plan
from .ready import PolicySet
from .texts import Text

Floats = NDArray[np.float64]
Say = Callable[[int, int], None]

OUTPUT = frozenset({Role.ASSISTANT, Role.REASONING, Role.REFUSAL, Role.TOOL_CALL, Role.ERROR})
"""Roles of texts that are read at the output stage."""
LONG = 60.0
"""Seconds that a classifier may take over one text: a busy machine is no bad classifier."""
FLOOR = 0.01
"""No threshold is lowered further: classifiers do not report lower scores."""
Path = tuple[str | int, ...]


class CalibrateError(ValueError):
    """No threshold can be set; the message says why."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The share of honest texts that a rule with an action may fire on; None leaves such rules as they are.
    `catch` is the least share of bad texts that a rule must still fire on, `lower` lets thresholds fall."""

    block: float = 0.001
    log: float | None = None
    catch: float | None = None
    lower: bool = False

    def of(self, rule: Rule) -> float | None:
        """The budget of this rule."""
        match rule.action:
            case Action.BLOCK | Action.REVIEW | Action.ROUTE | Action.MASK | Action.REWRITE:
                return self.block
            case Action.LOG | Action.ADVISE:
                return self.log
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `count` texts, the share's exact 95 % interval (two-sided), and its upper bound (one-sided)."""

    hits: int
    count: int
    low: float
    high: float
    bound: float

    @property
    def share(self) -> float:
        return self.hits / self.count if self.count else math.nan


def rate(fired: NDArray[np.bool_]) -> Rate:
    """The rate of (n,) texts."""
    hits, count = int(fired.sum()), len(fired)
    low, high = clopper_pearson(hits, count)
    return Rate(hits, count, low, high, upper_bound(hits, count))


@dataclass(frozen=True, slots=True)
class Part:
    """One threshold: the findings that it is for, where it stands in its file (a path of keys), what it is and what it
    should be."""

    findings: tuple[str, ...]
    path: Path
    now: float
    then: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rule. `then` rates are those with the proposed thresholds, equal to `now` where nothing is proposed. `note`
    says why nothing is, or what stands against it; `well` is False where texts were brought and the budget is not
    proven by them, or too little is caught. `bad` rates are None without bad texts."""

    policy: str
    rule: Rule
    budget: float | None
    parts: tuple[Part, ...]
    honest_now: Rate
    honest_then: Rate
    bad_now: Rate | None
    bad_then: Rate | None
    note: str
    well: bool

    @property
    def changes(self) -> tuple[Part, ...]:
        """The thresholds to write."""
        return tuple(part for part in self.parts if part.then != part.now) if self.well else ()


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

    def strengths(self, rule: Rule) -> Floats:
        """(texts that the rule reads, parts of its condition): the highest score that each part meets, 0 for none."""
        parts = [wanted(part) for part in rule.conditions[0]]
        rows = [
            [max((f.score for f in seen if asks(f)), default=0.0) for asks in parts]
            for text, seen in zip(self.texts, self.findings, strict=True)
            if text.role in rule.roles and stage_of(text.role) in rule.stages
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


def fires(strengths: Floats, at_least: Sequence[float], every: bool) -> NDArray[np.bool_]:
    """(n,) whether the condition is true in each text."""
    true = strengths >= np.asarray(at_least)
    return np.asarray(true.all(axis=1) if every else true.any(axis=1), np.bool_)


def calibrate(policies: PolicySet, honest: Judged, bad: Judged | None, budget: Budget) -> list[Outcome]:
    """What should become of the thresholds of every rule that is not off and has any, in the order of the set."""
    return [
        _rule(policy, place, rule, honest, bad, budget)
        for policy in policies.policies
        for place, rule in enumerate(policy.rules)
        if rule.mode is not Mode.OFF and rule.conditions[0]
    ]


def _rule(policy: Policy, place: int, rule: Rule, honest: Judged, bad: Judged | None, budget: Budget) -> Outcome:
    seen, every = rule.conditions
    now = [part.at_least for part in seen]
    strengths = honest.strengths(rule)
    worse = None if bad is None else bad.strengths(rule)
    then, note, well = _thresholds(strengths, now, every, budget.of(rule), budget.lower)
    if isinstance(rule.when, str) and then != now:
        then, note, well = now, f"its condition is an expression: write {spelled(max(then))} into it by hand", False

    def caught(at: Sequence[float]) -> Rate | None:
        return None if worse is None else rate(fires(worse, at, every))

    after = caught(then)
    if well and budget.of(rule) is not None and budget.catch is not None and after is not None:
        if after.count == 0:
            note, well = "no bad text of its roles: what it catches is not known", False
        elif after.share < budget.catch:
            note = f"catches too little ({after.share:.1%}) within its budget: narrow the rule, or let a judge decide"
            well = False
    paths = _paths(rule, place)
    parts = tuple(
        Part(tuple(part.finding), path, part.at_least, new) for part, path, new in zip(seen, paths, then, strict=True)
    )
    rates = rate(fires(strengths, now, every)), rate(fires(strengths, then, every))
    return Outcome(policy.id, rule, budget.of(rule), parts, *rates, caught(now), after, note, well)


def _thresholds(
    strengths: Floats, now: Sequence[float], every: bool, budget: float | None, lower: bool
) -> tuple[list[float], str, bool]:
    """(thresholds, note, whether the budget is proven or nobody asked: no budget, or no text of the rule's roles)."""
    old = list(now)
    if budget is None:
        return old, "", True
    if not len(strengths):
        return old, "not measured: no honest text of its roles; rows may name a 'role', or say --role", True
    if rate(fires(strengths, old, every)).bound <= budget and not lower:
        return old, "", True
    return _moved(strengths, old, every, budget, FLOOR if lower else 0.0)


def _moved(
    strengths: Floats, old: list[float], every: bool, budget: float, floor: float
) -> tuple[list[float], str, bool]:
    """The same for a rule whose thresholds are to be set: the lowest that the budget allows. With a `floor` they may
    fall so far, without one they do not fall."""
    margins = _margins(strengths, old, every)
    may = allowed(len(margins), budget)
    if may < 0:
        least = needed(budget)
        return old, f"{len(margins):,} honest texts prove nothing: {least:,} or more are needed, none flagged", False
    move = float(np.sort(margins)[::-1][may])
    if move == -math.inf:
        return old, "no honest text has such a finding at all: nothing to set a threshold by", True
    new = [max(above(float(sigmoid(_log_odds(np.asarray(value)) + move))), floor or value) for value in old]
    # On the way through log odds a score may lose its last bit, and the threshold then be the score itself.
    for tried in (new, [above(value) for value in new]):
        if rate(fires(strengths, tried, every)).bound <= budget:
            return tried, "", True
    top = int((margins >= _margins(np.ones((1, len(old))), old, every)[0]).sum())
    return old, f"{top} honest texts have the highest score there is: no threshold helps, narrow the rule", False


def _margins(strengths: Floats, at_least: Sequence[float], every: bool) -> Floats:
    """(n,) how far all thresholds of a rule would have to move together, in log odds, until it fires or no longer
    does: 0 and above fires now."""
    apart = _log_odds(strengths) - _log_odds(np.asarray(at_least, np.float64))
    found: Floats = apart.min(axis=1) if every else apart.max(axis=1)
    return found


def _log_odds(scores: Floats) -> Floats:
    """Of 0 minus infinity; of 1 a large number, so that a difference of two exists."""
    kept = np.clip(scores, 0.0, 1.0 - 1e-9)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(kept) - np.log1p(-kept), np.float64)


def _paths(rule: Rule, place: int) -> list[Path]:
    start: Path = ("rules", place, "when")
    if isinstance(rule.when, Seen):
        return [(*start, "at_least")]
    form = "all" if rule.conditions[1] else "any"
    return [(*start, form, number, "at_least") for number in range(len(rule.conditions[0]))]


def together(policies: PolicySet, judged: Judged, outcomes: Sequence[Outcome] | None = None) -> Rate:
    """How many texts any enforced rule would stop or change, with the proposed thresholds of `outcomes` if
    given."""
    stopped = np.zeros(len(judged.texts), np.bool_)
    new = (
        {} if outcomes is None else {each.rule.id: [part.then for part in each.parts] for each in outcomes if each.well}
    )
    for rule in policies.rules:
        if rule.acts and rule.action.protects:
            parts, every = rule.conditions
            at_least = new.get(rule.id, [part.at_least for part in parts])
            read_by = [text.role in rule.roles and stage_of(text.role) in rule.stages for text in judged.texts]
            stopped[np.asarray(read_by, np.bool_)] |= fires(judged.strengths(rule), at_least, every)
    return rate(stopped)


def marks(written: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[Path, float]:
    """The mocked scores of a file's cases that are a threshold to the digit, and what they become with it: such a case
    marks the bound, and is to go on doing so."""
    moved: dict[tuple[str, Any], float] = {
        (name, part.now): part.then for each in outcomes for part in each.changes for name in part.findings
    }
    found: dict[Path, float] = {}
    for number, case in enumerate(written.get("cases", ())):
        for name, told in case.get("scores", {}).items():
            path: Path = ("cases", number, "scores", name)
            score = told.get("score") if isinstance(told, dict) else told
            then = moved.get((name, score)) or moved.get((f"{name.partition('.')[0]}.*", score))
            if then is not None:
                found[(*path, "score") if isinstance(told, dict) else path] = then
    return found


# Into the file -----------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?[0-9.][0-9a-fA-FxoeE.+-]*")
_BREAK = re.compile(r"\r\n|[\n\r]")


def edited(raw: bytes, changes: Mapping[Path, float]) -> bytes:
    """The policy file with other numbers at these paths and not a byte changed beside them. Raises CalibrateError
    where that cannot be done safely."""
    document = read(raw, "policy")
    text = raw.decode("utf-8-sig") if not document.problems else ""
    starts = [0, *(found.end() for found in _BREAK.finditer(text))]
    spots = []
    for path, value in changes.items():
        line, column = document.places.get(path, (0, 0))
        at = starts[line - 1] + column - 1 if 0 < line <= len(starts) else len(text)
        found = _NUMBER.match(text, at)
        if found is None:
            raise CalibrateError("the threshold is not where it was: write it by hand")
        spots.append((found.start(), found.end(), spelled(value)))
    made = text
    for start, end, number in sorted(spots, reverse=True):
        made = made[:start] + number + made[end:]
    out = made.encode()
    if raw.startswith(b"\xef\xbb\xbf"):
        out = b"\xef\xbb\xbf" + out
    _same_but(document, read(out, "policy"), changes)
    return out


def _same_but(before: Document, after: Document, changes: Mapping[Path, float]) -> None:
    """That nothing else was touched is not believed but looked at."""
    if after.problems or before.places.keys() != after.places.keys():
        raise CalibrateError("the file cannot be edited in place: write the thresholds by hand")
    for path in before.places:
        old, new = _at(before.value, path), _at(after.value, path)
        if isinstance(old, dict | list) or (new == old and path not in changes):
            continue
        if path not in changes or new != float(spelled(changes[path])):
            raise CalibrateError("the file cannot be edited in place: write the thresholds by hand")


def _at(value: object, path: Path) -> object:
    for part in path:
        value = value[part]  # type: ignore[index]
    return value


def spelled(value: float) -> str:
    """A threshold as it is written: six decimals at most, never in powers of ten."""
    said = f"{value:.6f}".rstrip("0")
    return said + "0" if said.endswith(".") else said
