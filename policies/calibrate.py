"""Thresholds from local honest traffic: for each rule the lowest one whose false alarms are proven to be within a
budget, or why there is none.

A rule's *strength* in a text is the highest score of the findings that a part of its condition asks for; the part is
true from its threshold on. The thresholds of one rule move together, by the same step in log odds, so that one number
puts all texts in order. What the threshold must be so that at most a share of honest texts reach it follows from
order statistics alone: the bound is exact (Clopper-Pearson, 95 %, one-sided) whatever the scores look like.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from classifiers.lesson import above, allowed, needed
from classifiers.linear import sigmoid
from classifiers.statistics import clopper_pearson, upper_bound

from .document import Path
from .edited import at, spelled
from .forms import Mode
from .judged import Bools, CalibrateError, Floats, Judged, Side
from .model import Action, AllOf, AnyOf, Policy, Rule, Seen
from .ready import PolicySet
from .standing import Standing, standing

UNMEASURED = "not measured: no honest text of its roles; rows may name a 'role', or say --role"
FLOOR = 0.01
"""No threshold is lowered further: classifiers do not report lower scores."""


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


def rate(fired: Bools) -> Rate:
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
    """One rule of a policy. `then` rates are those with the proposed thresholds, equal to `now` where nothing is
    proposed. `note` says why nothing is, or what stands against it; `well` is False where texts were brought and the
    budget is not proven by them, or too little is caught. `bad` rates are None without bad texts. `written` is the
    policy in whose file the thresholds stand: a rule that is inherited moves with those of others."""

    policy: str
    written: str
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
        return tuple(part for part in self.parts if part.then != part.now)


def fires(strengths: Floats, at_least: Sequence[float], every: bool) -> Bools:
    """(n,) whether the condition is true in each text."""
    true = strengths >= np.asarray(at_least)
    return np.asarray(true.all(axis=1) if every else true.any(axis=1), np.bool_)


@dataclass(slots=True, eq=False)
class _Trial:
    """One rule while its thresholds are looked for. `now` and `then` have one for each part; `honest` and `bad` say in
    which texts it fires with such thresholds."""

    policy: Policy
    rule: Rule
    place: Standing
    honest: Callable[[Sequence[float]], Bools]
    bad: Callable[[Sequence[float]], Bools] | None
    budget: float | None
    now: list[float]
    then: list[float]
    note: str
    well: bool

    def caught(self, at: Sequence[float]) -> Rate | None:
        """What it catches with these thresholds."""
        return None if self.bad is None else rate(self.bad(at))

    def stay(self, why: str) -> None:
        """Nothing is proposed."""
        self.then, self.note, self.well = self.now, why, False

    def outcome(self) -> Outcome:
        paths = _paths(self.rule, self.place.path)
        seen = self.rule.conditions[0]
        parts = tuple(
            Part(tuple(part.finding), path, part.at_least, new)
            for part, path, new in zip(seen, paths, self.then, strict=True)
        )
        return Outcome(
            self.policy.id,
            self.place.policy,
            self.rule,
            self.budget,
            parts,
            rate(self.honest(self.now)),
            rate(self.honest(self.then)),
            self.caught(self.now),
            self.caught(self.then),
            self.note,
            self.well,
        )


def calibrate(policies: PolicySet, honest: Judged, bad: Judged | None, budget: Budget) -> list[Outcome]:
    """What should become of the thresholds of every rule that is not off and has any, in the order of the set."""
    by_id = {policy.id: policy for policy in policies.policies}
    passing, failing = Side.of(policies, honest), None if bad is None else Side.of(policies, bad)
    trials = [
        (_expression if isinstance(rule.when, str) else _rule)(
            policy, rule, standing(by_id, policy, rule.id), passing, failing, budget
        )
        for policy in policies.policies
        for rule in policy.rules
        if rule.mode is not Mode.OFF and rule.conditions[0]
    ]
    shared: dict[Standing, list[_Trial]] = {}
    for trial in trials:
        if not trial.place.path and trial.then != trial.now:
            trial.stay(_overridden(trial))
        key = trial.place if trial.place.path else Standing(trial.policy.id, (trial.rule.id,))
        shared.setdefault(key, []).append(trial)
    for same in shared.values():
        _agreed(same, budget.catch)
    return [trial.outcome() for trial in trials]


def _agreed(trials: Sequence[_Trial], catch: float | None) -> None:
    """One condition, as several policies have it: each keeps its budget with the highest threshold that any needs, and
    all stay as they are where one would then catch too little."""
    wanted = [trial.then for trial in trials]
    highest = [max(values) for values in zip(*wanted, strict=True)]
    short: list[tuple[_Trial, str]] = []
    for trial in trials:
        trial.then = highest
        after = trial.caught(highest)
        if not trial.well or trial.budget is None or catch is None or after is None:
            continue
        if after.count == 0:
            short.append((trial, "no bad text of its roles: what it catches is not known"))
        elif after.share < catch:
            what = f"catches too little ({after.share:.1%}) within its budget"
            short.append((trial, f"{what}: narrow the rule, or let a judge decide"))
    if not short:
        return
    for trial, mine in zip(trials, wanted, strict=True):
        trial.then = trial.now
        if mine != trial.now:
            trial.stay(f"its threshold is also that of '{short[0][0].policy.id}', where it would catch too little")
    for trial, why in short:
        trial.stay(why)


def _overridden(trial: _Trial) -> str:
    """Where the threshold of a rule that is inherited of a pack is to be written."""
    when = with_thresholds(trial.rule, trial.then).model_dump(mode="json")
    said = f"override: {{rules: {{{trial.rule.id}: {{when: {json.dumps(when)}}}}}}}"
    return f"its threshold stands in the shipped pack '{trial.place.policy}': write by hand {said}"


def _rule(policy: Policy, rule: Rule, place: Standing, honest: Side, bad: Side | None, budget: Budget) -> _Trial:
    seen, every = rule.conditions
    now = [part.at_least for part in seen]
    strengths = honest.judged.strengths(rule)
    worse = None if bad is None else bad.judged.strengths(rule)
    then, note, well = _thresholds(strengths, now, every, budget.of(rule), budget.lower)
    return _Trial(
        policy,
        rule,
        place,
        partial(fires, strengths, every=every),
        None if worse is None else partial(fires, worse, every=every),
        budget.of(rule),
        now,
        then,
        note,
        well,
    )


def _expression(policy: Policy, rule: Rule, place: Standing, honest: Side, bad: Side | None, budget: Budget) -> _Trial:
    """The same for a rule whose condition is an expression: it stays as it is, and the note says what to write."""
    now = [part.at_least for part in rule.conditions[0]]
    fired, may = honest.fired(policy, rule), honest.fired(policy, rule, may=True)
    caught = None if bad is None else bad.fired(policy, rule)
    share = budget.of(rule)
    note, well = "", True
    if share is not None and not len(may):
        note = UNMEASURED
    elif share is not None and rate(may).bound > share:
        note, well = f"its condition is an expression: {_by_hand(rule, honest.judged.strengths(rule), share)}", False
    if may.sum() != fired.sum():
        told = f"its rate is that of a plain request; in another it may fire on {may.sum()} of these texts"
        note = f"{note}; {told}" if note else told
    return _Trial(
        policy, rule, place, lambda _: fired, None if caught is None else lambda _: caught, share, now, now, note, well
    )


def _by_hand(rule: Rule, strengths: Floats, budget: float) -> str:
    """What to do about an expression that fires too often. A number is said only where it is sure to do: where the
    condition is false whenever the scores that speak for it are below."""
    from .cel.condition import compiled

    assert isinstance(rule.when, str)
    seen, every = rule.conditions
    then, why, well = _moved(strengths, [part.at_least for part in seen], every, budget, 0.0)
    if allowed(len(strengths), budget) < 0:
        return why
    if not every and not compiled(rule.when, rule.stages[0], frozenset(rule.roles)).told():
        return "its scores alone do not decide it; narrow it by hand, and calibrate again"
    return f"write {spelled(max(then))} into it by hand" if well else why


def _thresholds(
    strengths: Floats, now: Sequence[float], every: bool, budget: float | None, lower: bool
) -> tuple[list[float], str, bool]:
    """(thresholds, note, whether the budget is proven or nobody asked: no budget, or no text of the rule's roles)."""
    old = list(now)
    if budget is None:
        return old, "", True
    if not len(strengths):
        return old, UNMEASURED, True
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


def _paths(rule: Rule, start: Path) -> list[Path]:
    """Where the threshold of each part stands, for a condition at `start`."""
    if isinstance(rule.when, Seen):
        return [(*start, "at_least")]
    form = "all" if rule.conditions[1] else "any"
    return [(*start, form, number, "at_least") for number in range(len(rule.conditions[0]))]


def with_thresholds(rule: Rule, at_least: Sequence[float]) -> Seen | AnyOf | AllOf:
    """The rule's condition, which is no expression, with other thresholds."""
    parts = [part.model_copy(update={"at_least": new}) for part, new in zip(rule.conditions[0], at_least, strict=True)]
    match rule.when:
        case AnyOf():
            return AnyOf(any=parts)
        case AllOf():
            return AllOf(all=parts)
        case _:
            return parts[0]


def together(policies: PolicySet, judged: Judged, outcomes: Sequence[Outcome] = ()) -> Rate:
    """How many texts the engine would stop or change in a plain request, with the proposed thresholds of `outcomes`:
    all policies of the set asked, the base beside those that stand in its place elsewhere."""
    new = {
        (each.policy, each.rule.id): with_thresholds(each.rule, [part.then for part in each.parts])
        for each in outcomes
        if each.changes
    }
    moved = policies.with_conditions(new) if new else policies
    return rate(np.asarray([decision.action.protects for decision in judged.decided(moved)], np.bool_))


def moves(written: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[Path, float]:
    """The thresholds that stand in a file, and what they are to be. Raises CalibrateError where one is another now."""
    found: dict[Path, float] = {}
    for part in (part for each in outcomes if each.written == written["id"] for part in each.changes):
        if at(written, part.path) != part.now:
            raise CalibrateError("a threshold is not what it was: the file was changed meanwhile, calibrate again")
        found[part.path] = part.then
    return found


def marks(written: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[Path, float]:
    """The mocked scores of a file's cases that are a threshold of its policy to the digit, written there or inherited,
    and what they become with it: such a case marks the bound, and is to go on doing so."""
    own = [each for each in outcomes if each.policy == written["id"]]
    moved: dict[tuple[str, Any], float] = {
        (name, part.now): part.then for each in own for part in each.changes for name in part.findings
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
