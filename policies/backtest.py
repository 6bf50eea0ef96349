"""What a policy would have decided about recorded exchanges, from the scores that were kept of them.

No classifier is asked, and no rule is written a second time here. Between two neighbouring thresholds all scores decide
alike, so a million exchanges come down to some hundred patterns: numpy finds them, and `decide` itself decides each
pattern once. What the record cannot tell (a classifier that was not asked, or is another one now, a place that was not
kept) is decided twice, as mildly and as severely as it could have been; where the two differ, the decision is unknown
and not guessed. What a classifier saw or failed at says nothing of the one that has its name now.

What an expression asks beside scores (an account, its strikes, counts, sequences) is in no record. But where the same
rule was in force, whether it fired is; what rules would have left on accounts is taken as it was.

Two things follow from what a record keeps, the highest score for each label and role: an answer that was judged in
pieces is decided as one, and parts of an `all` may meet in different pieces of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifiers.base import Failure, Finding, Message, Report, Role, Silence

from .answered import among, answered, named, read_as
from .decision import ENDS, Decision
from .engine import decide
from .facts import Account, Facts, Settings
from .forms import AppliesTo
from .heard import Description, Gap, gaps, same_rules
from .lint import EXACT
from .model import Action, Rule, Seen, Stage
from .ready import BUILT_IN, PolicySet

Sparse = tuple[list[int], list[float]]
"""Rows, and the value of each."""
Column = tuple[str, str, bool, str]
"""The highest score of "classifier.label" in messages of a role; True for findings without a place in the text. Then
the reading in which they were seen, empty for all of them."""
Silences = tuple[frozenset[str], frozenset[str]]
"""Classifiers that failed, and the roles that were there."""
NOTHING: Silences = (frozenset(), frozenset())
_RANK = {action: place for place, action in enumerate(Action)}
_WIDEST = 1 << 60
"""Codes of patterns stay below it, so that they fit 64 bits."""


@dataclass(slots=True)
class Part:
    """What was recorded of one stage of some exchanges. `judged` are the rows that came to this stage, `unclear` those
    whose record does not say whose texts the scores are of, `untold` those with scores of which it says no reading.
    `fired` are the rules that fired, shadows too, and what each did."""

    judged: list[int] = field(default_factory=list)
    columns: dict[Column, Sparse] = field(default_factory=dict)
    silent: dict[int, Silences] = field(default_factory=dict)
    unclear: list[int] = field(default_factory=list)
    untold: list[int] = field(default_factory=list)
    fired: dict[int, dict[str, str]] = field(default_factory=dict)


class Scope(NamedTuple):
    """What a record says of a request beside its texts: what `applies_to` can be held against."""

    dialect: str = ""
    model: str = ""
    account: str = ""
    stream: bool = False


@dataclass(slots=True)
class Rows:
    """Some recorded exchanges: of each its id, what was done and by which rule, the policy revision that decided, whose
    request it was, and both stages."""

    ids: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    unreadable: set[int] = field(default_factory=set)
    """Rows whose record is not as Penstock writes it."""
    ended: set[int] = field(default_factory=set)
    """Rows whose request a rule or a person answered, so that no model was asked."""
    routed: dict[int, str] = field(default_factory=dict)
    """The models that rows were routed to."""
    stages: dict[Stage, Part] = field(default_factory=lambda: {stage: Part() for stage in Stage})


class Verdict(NamedTuple):
    """The mildest and the most severe that a decision could have been, and what decided the milder one. `ends`: a rule
    answers in the model's place, `may_end`: one could.
    `routes` is another model that answers, or could. `blind`: a rule asks for readings that were not recorded."""

    low: Action
    high: Action
    rule: str = ""
    policy: str = ""
    reason: str = ""
    tags: tuple[str, ...] = ()
    ends: bool = False
    may_end: bool = False
    routes: str = ""
    blind: bool = False


class Context(NamedTuple):
    """What beside the scores decides: whether the stage was reached, what was not asked, the policies that apply for
    sure and those that may, what failed, the model that was asked where a rule routes to it, whether it was not
    recorded in which readings something was seen, which revision decided, and the rules that fired then with what they
    did, of those that are the same now; None where that cannot be told."""

    reached: bool
    missing: frozenset[Gap]
    sure: PolicySet
    maybe: PolicySet
    silent: Silences = NOTHING
    asked: str = ""
    blind: bool = False
    revision: str = ""
    fired: frozenset[tuple[str, str]] | None = frozenset()


PASSED = Verdict(Action.PASS, Action.PASS)


@dataclass(frozen=True, slots=True)
class Again:
    """One exchange decided again. `action` is None where it cannot be known, and `why` then says why. `unasked`: the
    model would be asked now, and nobody knows what it says."""

    action: Action | None
    by: Verdict
    unasked: bool = False
    why: str = ""


UNREADABLE = Again(None, PASSED, why="its record is not as Penstock writes it")
UNCLEAR = Again(None, PASSED, why="it was recorded without roles")
ELSEWHERE = Again(None, PASSED, why="it was routed to another model, and whose policy found what is not recorded")


class Backtest:
    """Decides recorded exchanges again by `policies`. `heard` describes a recorded revision, or is None for one that
    is not known."""

    def __init__(self, policies: PolicySet, heard: Callable[[str], Description | None]) -> None:
        self._policies, self._heard = policies, heard
        self._gaps: dict[tuple[Stage, str], frozenset[Gap]] = {}
        self._verdicts: dict[object, Verdict] = {}
        self._parts: dict[object, PolicySet] = {}
        self._same: dict[tuple[Stage, str], dict[str, tuple[str, str]]] = {}
        self._steps: dict[tuple[Stage, str], NDArray[np.float64] | None] = {}
        self._readings = {stage: read_as(policies, stage) for stage in Stage}
        self._targets = {rule.route_to for rule in policies.rules if rule.action is Action.ROUTE}

    def decide(self, rows: Rows) -> list[Again]:
        """Each row decided again, in order."""
        inputs, on_input = self._stage(Stage.INPUT, rows)
        outputs, on_output = self._stage(Stage.OUTPUT, rows)
        unclear = {row for part in rows.stages.values() for row in part.unclear}
        known: dict[tuple[int, int, str, bool, str], Again] = {}
        again: list[Again] = []
        for row, key in enumerate(zip(inputs.tolist(), outputs.tolist(), rows.actions, rows.revisions, strict=True)):
            first, second, action, revision = key
            routed, to = rows.routed.get(row, ""), on_input[first].routes
            # What a model says that is asked now is known only where it was asked then.
            same = to == routed or (not routed and to == rows.scopes[row].model)
            stopped = row in rows.ended or not same
            place = first, second, action, stopped, revision
            one = known.get(place)
            if one is None:
                one = self._one(on_input[first], on_output[second], stopped, action, revision)
                known[place] = one
            elsewhere = routed and self._policies.selective and revision != self._policies.revision
            again.append(UNCLEAR if row in unclear else ELSEWHERE if elsewhere else one)
        for row in rows.unreadable:
            again[row] = UNREADABLE
        return again

    def _one(self, first: Verdict, second: Verdict, stopped: bool, action: str, revision: str) -> Again:
        if revision == self._policies.revision:
            # Equal digests decide equally: what the record leaves out need not be known.
            worse = first if stopped or first.low.severity >= second.low.severity else second
            return Again(Action(action), worse)
        one = _together(first, second, stopped)
        return one if one.action is not None else replace(one, why=self._why(revision, first.blind or second.blind))

    def _why(self, revision: str, blind: bool) -> str:
        """Why something is unknown of a decision by `revision`."""
        if self._heard(revision) is None:
            return f"revision {revision or '(none)'} is not kept: nobody knows what it asked"
        names = sorted({name for stage in Stage for name, _ in self._missing(stage, revision)})
        if names:
            return f"revision {revision} did not ask {', '.join(names)} about the same texts, or it is another one now"
        if blind:
            return "in which reading of a text something was seen was not recorded then"
        if any(self._open(stage, frozenset()) for stage in Stage):
            return "a rule's expression asks more than is recorded (facts, counts, sequences), and was another one then"
        if self._policies.selective:
            return "the record does not say whether a policy with such an 'applies_to' is for it"
        return "where a finding stood was not kept, and what cannot be masked is blocked"

    def _missing(self, stage: Stage, revision: str) -> frozenset[Gap]:
        key = stage, revision
        if key not in self._gaps:
            heard = self._heard(revision)
            self._gaps[key] = gaps(self._policies, stage, heard)
        return self._gaps[key]

    def _stage(self, stage: Stage, rows: Rows) -> tuple[NDArray[np.int64], list[Verdict]]:
        """(rows,) the number of each row's verdict, and the verdicts."""
        part, count = rows.stages[stage], len(rows.ids)
        columns, codes = self._codes(stage, part, count)
        context, contexts = self._contexts(stage, rows)
        pattern = codes * len(contexts) + context
        _, first, inverse = np.unique(pattern, return_index=True, return_inverse=True)
        verdicts = []
        for row in first.tolist():
            bins = tuple((column, int(dense[row])) for column, dense in columns if dense[row])
            verdicts.append(self._verdict(stage, contexts[int(context[row])], bins))
        return inverse.reshape(count).astype(np.int64), verdicts

    def _codes(
        self, stage: Stage, part: Part, count: int
    ) -> tuple[list[tuple[Column, NDArray[np.int64]]], NDArray[np.int64]]:
        """For each column that a rule could look at the step between thresholds that each row stands on, and one code
        for all steps of a row."""
        columns = []
        codes, base = np.zeros(count, np.int64), 1
        for column, (at, values) in part.columns.items():
            steps = self._thresholds(stage, column[1])
            if steps is None or (column[3] and not self._readings[stage]):
                continue
            dense = np.zeros(count, np.int64)
            dense[np.asarray(at, np.int64)] = np.searchsorted(steps, np.asarray(values, np.float64), side="right")
            if not dense.any():
                continue
            columns.append((column, dense))
            wide = len(steps) + 1
            if base * wide >= _WIDEST:
                _, inverse = np.unique(codes, return_inverse=True)
                codes, base = inverse.reshape(count).astype(np.int64), int(inverse.max()) + 1
            codes, base = codes * wide + dense, base * wide
        _, inverse = np.unique(codes, return_inverse=True)
        return columns, inverse.reshape(count).astype(np.int64)

    def _thresholds(self, stage: Stage, name: str) -> NDArray[np.float64] | None:
        """All thresholds of a finding at a stage, rising; None where no rule asks for it."""
        key = stage, name
        if key not in self._steps:
            classifier, _, label = name.partition(".")
            labels = self._policies.tables[stage].tests.get(classifier, {})
            row = labels.get(label) or labels.get("*")
            self._steps[key] = None if row is None else np.unique([test.at_least for test in row[1]])
        return self._steps[key]

    def _contexts(self, stage: Stage, rows: Rows) -> tuple[NDArray[np.int64], list[Context]]:
        """(rows,) the number of each row's context, and the contexts."""
        part, count = rows.stages[stage], len(rows.ids)
        names: dict[tuple[str, Scope, str], int] = {}
        scopes = rows.scopes if self._policies.selective else [_ANYWHERE] * count
        asked = [scope.model if scope.model in self._targets else "" for scope in rows.scopes]
        codes = np.asarray(
            [names.setdefault(key, len(names)) for key in zip(rows.revisions, scopes, asked, strict=True)], np.int64
        )
        codes *= 4
        codes[np.asarray(part.judged, np.int64)] += 1
        codes[self._blind(stage, part)] += 2
        contexts = [
            Context(reached, self._missing(stage, revision), *self._applying(scope), NOTHING, model, blind, revision)
            for revision, scope, model in names
            for blind in (False, True)
            for reached in (False, True)
        ]
        more: dict[tuple[int, object, object], int] = {}
        for row in {*part.silent, *part.fired, *rows.routed}:
            code, silent = int(codes[row]), part.silent.get(row, NOTHING)
            same = self._same_rules(stage, rows.revisions[row])
            known = frozenset(each for each in part.fired.get(row, {}).items() if each[0] in same)
            fired = None if row in rows.routed else known
            if silent is NOTHING and fired == frozenset():
                continue
            place = more.setdefault((code, silent, fired), len(contexts))
            if place == len(contexts):
                contexts.append(contexts[code]._replace(silent=silent, fired=fired))
            codes[row] = place
        return codes.reshape(count), contexts

    def _same_rules(self, stage: Stage, revision: str) -> dict[str, tuple[str, str]]:
        key = stage, revision
        if key not in self._same:
            self._same[key] = same_rules(self._policies, stage, self._heard(revision))
        return self._same[key]

    def _blind(self, stage: Stage, part: Part) -> NDArray[np.int64]:
        """The rows in which something was seen that a rule asks for in some reading, and no reading was recorded."""
        named = self._readings[stage]
        if not named or not part.untold:
            return np.zeros(0, np.int64)
        seen = [at for (_, name, _, _), (at, _) in part.columns.items() if among(name, named)]
        return np.intersect1d(np.concatenate([np.zeros(0, np.int64), *seen]).astype(np.int64), part.untold)

    def _applying(self, scope: Scope) -> tuple[PolicySet, PolicySet]:
        """The policies that are for such a request for sure, and with them those that may be."""
        if not self._policies.selective:
            return self._policies, self._policies
        covered = {policy.id: _covers(policy.applies_to, scope) for policy in self._policies.policies}
        sure = self._policies.only(tuple(name for name, is_ in covered.items() if is_))
        return sure, self._policies.only(tuple(name for name, is_ in covered.items() if is_ is not False))

    def _verdict(self, stage: Stage, context: Context, bins: tuple[tuple[Column, int], ...]) -> Verdict:
        if not context.reached:
            return PASSED
        key = stage, context, frozenset(bins)
        if key not in self._verdicts:
            left = self._open(stage, context.missing, context.blind)
            settled = self._settled(stage, context, left)
            open_ = [rule for rule in left if rule.id not in settled]
            could = {Action(rule.silence.value) for rule in open_}
            # A mask that finds no place in the text becomes a block.
            could |= {Action.BLOCK if rule.action is Action.MASK else rule.action for rule in open_}
            gone = frozenset(rule.id for rule in open_)
            sure, maybe = (self._with(each, gone, settled) for each in (context.sure, context.maybe))
            did = [rule for rule in left if settled.get(rule.id)]
            low = self._decided(sure, stage, context, bins, did, severe=False)
            high = self._decided(maybe, stage, context, bins, did, severe=True)
            most = max({high.action, *could}, key=_RANK.__getitem__)
            first = low.fired[0] if low.fired else None
            # A route to the model that was asked for asks for nothing.
            ends, high_ends = (each.arrived({context.asked}).stopped() is not None for each in (low, high))
            may_end = not could.isdisjoint(ENDS) or high_ends
            routes = _routes(low, high, context.asked)
            to = "?" if len(routes) > 1 or Action.ROUTE in could else "".join(routes)
            said = ("", "", "", ()) if first is None else (first.rule, first.policy, first.reason, first.tags)
            self._verdicts[key] = Verdict(low.action, most, *said, ends, may_end, to, context.blind)
        return self._verdicts[key]

    def _open(self, stage: Stage, missing: frozenset[Gap], blind: bool = False) -> list[Rule]:
        """The rules of a stage whose expressions ask what is not recorded."""
        unasked = {name for name, _ in missing}
        rules = [rule for rule in self._policies.rules if rule.acts and stage in rule.stages]
        return [rule for rule in rules if isinstance(rule.when, str) and not answered(rule, stage, unasked, blind)]

    def _settled(self, stage: Stage, context: Context, rules: Sequence[Rule]) -> dict[str, Action | None]:
        """What those of the rules did that were in force then, word for word; None where one did not fire."""
        wild = "*" in self._policies.tables[stage].tests.get(_FIRED, {})
        if context.fired is None or wild:
            return {}
        same, fired = self._same_rules(stage, context.revision), dict(context.fired)
        unasked = {name for name, _ in context.missing}
        settled: dict[str, Action | None] = {}
        for rule in rules:
            if rule.id not in same or named(rule, stage) & unasked:
                continue
            did, (action, silence) = fired.get(rule.id), same[rule.id]
            if did is None or (action, silence) == (rule.action, rule.silence):
                settled[rule.id] = None if did is None else Action(did)
            elif did == action != silence and rule.action is not Action.MASK:
                settled[rule.id] = rule.action
        return settled

    def _with(self, policies: PolicySet, gone: frozenset[str], settled: Mapping[str, Action | None]) -> PolicySet:
        """The set without some of its rules, and with others that fire where it is said that they did."""
        key = policies, gone, frozenset(settled.items())
        if not gone and not settled:
            return policies
        if key not in self._parts:
            lost = gone.union(name for name, action in settled.items() if action is None)
            fewer = [
                each.model_copy(update={"rules": [_told(rule, settled) for rule in each.rules if rule.id not in lost]})
                for each in policies.policies
            ]
            self._parts[key] = PolicySet.build(fewer, policies.classifiers)
        return self._parts[key]

    def _decided(
        self,
        policies: PolicySet,
        stage: Stage,
        context: Context,
        bins: Sequence[tuple[Column, int]],
        did: Sequence[Rule],
        severe: bool,
    ) -> Decision:
        """What the engine says of such findings; rules in `did` fire. Classifiers that were not asked find nothing, and
        what they found or failed at as others is not theirs. With `severe` they find all they can and fail as well,
        and what may have had no place in the text has none."""
        (failed, present), missing = context.silent, context.missing
        roles = sorted({*present, *(column[0] for column, _ in bins), *(str(role) for _, role in missing if severe)})
        place = {role: at for at, role in enumerate(roles)}
        found: list[Finding] = []
        for (role, name, placeless, view), step in bins:
            steps = self._thresholds(stage, name)
            assert steps is not None  # columns that no rule asks for are left out
            classifier, _, label = name.partition(".")
            if (classifier, role) in missing:
                continue
            score, at = float(steps[step - 1]), place[role]
            nowhere = placeless or classifier in BUILT_IN
            if not nowhere:
                found.append(Finding(classifier, label, score, at, (0, 1), view))
            if nowhere or (severe and not self._exact(classifier)):
                found.append(Finding(classifier, label, score, at, None, view))
        left = frozenset(map(Role, present))
        unread = {name: left - {role for one, role in missing if one == name} for name in failed}
        failures = [Failure(name, Silence.UNAVAILABLE, roles=unread[name]) for name in sorted(failed)]
        if severe:
            tests = policies.tables[stage].tests
            for classifier, role in missing:
                for label in tests.get(classifier, ()):
                    found += [Finding(classifier, label, 1.0, place[str(role)], span) for span in ((0, 1), None)]
            failures += [Failure(name, Silence.UNAVAILABLE) for name in sorted({name for name, _ in missing})]
        messages = [Message(Role(role), "x", f"/{role}") for role in roles]
        for rule in did:
            found.append(Finding(_FIRED, _label(rule), 1.0, len(messages), (0, 1)))
            messages.append(Message(rule.roles[0], "x", "/fired"))
        return decide(policies, stage, messages, Report(tuple(found), tuple(failures)))

    def _exact(self, classifier: str) -> bool:
        """Whether its findings have a place, unless the record says otherwise."""
        spec = self._policies.specs.get(classifier)
        return spec is not None and spec.kind in EXACT


def decided(first: Decision | None, second: Decision | None, stopped: bool, asked: str = "") -> Again:
    """What the decisions on a request to the model `asked` and on its answer come to, where both are known; None where
    there was nothing to decide. `stopped`: the model was not asked then."""
    return _together(_known(first, asked), _known(second, asked), stopped)


def _known(decision: Decision | None, asked: str) -> Verdict:
    if decision is None:
        return PASSED
    ends = decision.arrived({asked}).stopped() is not None
    if not decision.fired:
        return Verdict(decision.action, decision.action, ends=ends, may_end=ends)
    one = decision.fired[0]
    return Verdict(decision.action, decision.action, one.rule, one.policy, one.reason, one.tags, ends, ends)


def _routes(low: Decision, high: Decision, asked: str) -> set[str]:
    """The models that could answer in place of the one that was asked, "" for none, where rules beside those of `low`
    could have fired, up to all of `high`."""
    way = low.arrived({asked}).way
    least, most = ([each for each in one.fired if each.action is Action.ROUTE] for one in (low, high))
    routes = {way.told if way is not None and way.action is Action.ROUTE else ""}
    if [each.rule for each in least] != [each.rule for each in most]:
        routes |= {"" if each.told == asked else each.told for each in most}
    return routes


def _together(first: Verdict, second: Verdict, stopped: bool) -> Again:
    """The decision on an exchange from those on its request and its answer. `stopped`: the model that would be asked
    was not asked, so there is no answer to judge."""
    if first.ends:
        return Again(first.low if first.low is first.high else None, first)
    if first.may_end:
        return Again(None, first)
    if stopped:
        return Again(first.low if first.low is first.high else None, first, unasked=True)
    worse = second if _RANK[second.low] > _RANK[first.low] else first
    low = max(first.low, second.low, key=_RANK.__getitem__)
    high = max(first.high, second.high, key=_RANK.__getitem__)
    return Again(low if low is high else None, worse)


_ANYWHERE = Scope()
_KNOWN = frozenset({"models", "dialects", "accounts", "stream"})
"""Keys of `applies_to` that a record can answer."""


def _covers(applies: AppliesTo | None, scope: Scope) -> bool | None:
    """Whether a policy is for a request, None where the record does not say."""
    if applies is None:
        return True
    facts = Facts(scope.dialect, scope.model, Settings(stream=scope.stream), account=Account(scope.account))
    unsaid = dict.fromkeys(applies.model_fields_set - _KNOWN)
    if not applies.model_copy(update=unsaid).covers(facts):
        return False
    return None if unsaid else True


_FIRED = "surface"
"""Whose finding says that a rule fired: a source that no policy can ask by such a label."""


def _label(rule: Rule) -> str:
    return f"fired:{rule.id}"  # no label of anything else has a colon


def _told(rule: Rule, settled: Mapping[str, Action | None]) -> Rule:
    """The rule, or one that fires where it is said to."""
    action = settled.get(rule.id)
    if action is None:
        return rule
    when = Seen.model_construct(finding=[f"{_FIRED}.{_label(rule)}"], at_least=1.0)
    return rule.model_copy(update={"when": when, "action": action})
