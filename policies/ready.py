"""Policies made ready to decide: names resolved and rules arranged once, so that a decision looks at few of
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Self

from classifiers.base import Classifier, Role
from classifiers.cascade import After

from .decision import Decision
from .facts import Facts
from .forms import Canary, Mode
from .model import NEEDED, Action, AllOf, AnyOf, ClassifierSpec, OnError, Policy, Rule, Seen, Stage

if TYPE_CHECKING:
    from .cel.condition import Condition

# Findings that do not come from a classifier of the policy: whoever asks for a decision states them as facts.
BUILT_IN: dict[str, frozenset[str]] = {"surface": frozenset({"unscannable", "opaque"})}


MOST_FACES = 1000
"""Choices of policies that are kept ready; more are made anew for each request."""

# Scores below this are not told by a classifier, unless its option `min_score` says otherwise.
UNTOLD = 0.01


class Reading(NamedTuple):
    """What a classifier is to read at a stage: messages of these roles, within `deadline` seconds, and of them only
    what the one named in `after` leaves in doubt. Those of the roles in `last` come last: nothing that stops or changes
    anything looks at them."""

    classifier: str
    roles: frozenset[Role]
    deadline: float
    after: After | None = None
    last: frozenset[Role] = frozenset()


@dataclass(frozen=True, slots=True)
class Ready:
    """A rule made ready. For each part of its condition, `needs` holds the classifiers that it asks and `looks` the
    roles of the texts in which they must have found something. `condition` is an expression in CEL, whose parts are
    its atoms; without one the parts are joined by `every`."""

    order: int
    policy: Policy
    rule: Rule
    roles: frozenset[Role]
    every: bool
    needs: tuple[frozenset[str], ...]
    looks: tuple[frozenset[Role], ...]
    condition: Condition | None
    message: str
    tags: tuple[str, ...]
    told: str
    share: float
    """Of the conversations on which it acts: 1 for an enforced rule, 0 for a shadow, between them for a canary."""

    def holds(self, parts: int) -> bool:
        """Whether the condition is true when the parts whose bits are set are."""
        return parts == (1 << len(self.needs)) - 1 if self.every else parts != 0


@dataclass(frozen=True, slots=True)
class Test:
    """One part of a rule's condition, met by a finding of the right label, score and role. `shown`: what meets it
    speaks for the rule and is what it masks. `reading`: only where it was seen in that reading of the text."""

    ready: Ready
    bit: int
    at_least: float
    roles: frozenset[Role]
    shown: bool = True
    reading: str = ""


# classifier -> label -> (lowest threshold, tests); the label "*" holds the tests for labels not listed.
Tests = dict[str, dict[str, tuple[float, tuple[Test, ...]]]]


@dataclass(frozen=True, slots=True)
class Table:
    """The rules of one stage, arranged so that a finding meets only the rules that ask for its label. `eager` are those
    that may fire though nothing was found."""

    tests: Tests
    eager: tuple[Ready, ...]
    dependents: dict[str, tuple[Ready, ...]]
    readings: tuple[Reading, ...]
    clear: Decision


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """Policies made ready to decide, with the classifiers that they name.

    `digest` (sha256, hex) covers the normalised policies and the classifiers' digests: equal digests decide
    equally. `revision` is its first twelve digits. `source` says for people where it came from. `specs` are the
    classifiers by name, as written. `places` say by the id of a policy where its rules and cases stand, and where it
    names what it extends (file:line:column); its "file" is that alone.
    """

    policies: tuple[Policy, ...]
    classifiers: Mapping[str, Classifier]
    digest: str
    tables: Mapping[Stage, Table]
    source: str = ""
    places: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    specs: Mapping[str, ClassifierSpec] = field(default_factory=dict)
    _faces: dict[tuple[str, ...], PolicySet] = field(default_factory=dict)

    @property
    def asks(self) -> bool:
        """Whether a decision depends on facts of the request: on which policies are for it, on a canary's draw, or on
        what an expression reads."""
        rules = [rule for rule in self.rules if rule.mode is not Mode.OFF]
        return self.selective or any(isinstance(rule.when, str) or isinstance(rule.mode, Canary) for rule in rules)

    @property
    def selective(self) -> bool:
        """Whether some policy is not for every request."""
        return any(policy.applies_to is not None for policy in self.policies)

    def facing(self, facts: Facts | None) -> PolicySet:
        """The policies of this set that apply to a request with these facts, under the same revision: one that extends
        another stands in its place. Without facts all apply."""
        if facts is None or not self.selective:
            return self
        chosen = [each.id for each in self.policies if each.applies_to is None or each.applies_to.covers(facts)]
        return self.only(self._standing(chosen))

    def for_case(self, owner: str, facts: Facts | None, base: str = "") -> PolicySet:
        """The policies that decide a case of the policy `owner`: those that apply to its request, or without one the
        owner beside those that are for everything. A case that is inherited of `base` is always decided by the owner,
        and by no other policy that extends the base."""
        if (facts is not None and not base) or not self.selective:
            return self.facing(facts)
        chosen = [
            each.id
            for each in self.policies
            if each.id == owner or (each.applies_to is None or (facts is not None and each.applies_to.covers(facts)))
        ]
        chosen = [name for name in chosen if not base or name == owner or base not in self._bases(name)]
        return self.only(self._standing(chosen))

    def _bases(self, name: str) -> list[str]:
        """What a policy extends, and what that extends in turn."""
        extends = {each.id: each.extends for each in self.policies}
        found = []
        base = extends.get(name)
        while base is not None and base not in found:
            found.append(base)
            base = extends.get(base)
        return found

    def _standing(self, chosen: Sequence[str]) -> tuple[str, ...]:
        """These policies, less those in whose place another one of them stands."""
        bases = {each.id: each.extends for each in self.policies}
        replaced = set[str]()
        for name in chosen:
            base = bases[name]
            while base in bases and base not in replaced:
                replaced.add(base)
                base = bases[base]
        return tuple(name for name in chosen if name not in replaced)

    def only(self, ids: tuple[str, ...]) -> PolicySet:
        """The policies of this set with these ids, under the same revision."""
        known = self._faces.get(ids)
        if known is None:
            policies = tuple(policy for policy in self.policies if policy.id in ids)
            tables = {stage: _table(policies, self.specs, stage, self.revision) for stage in Stage}
            known = replace(self, policies=policies, tables=tables, _faces={})
            if len(self._faces) < MOST_FACES:
                self._faces[ids] = known
        return known

    def with_conditions(self, changed: Mapping[tuple[str, str], Seen | AnyOf | AllOf]) -> PolicySet:
        """The same set with other conditions of some rules, by the ids of policy and rule, under the same revision."""
        policies = tuple(
            policy.model_copy(
                update={
                    "rules": [
                        rule.model_copy(update={"when": changed.get((policy.id, rule.id), rule.when)})
                        for rule in policy.rules
                    ]
                }
            )
            for policy in self.policies
        )
        tables = {stage: _table(policies, self.specs, stage, self.revision) for stage in Stage}
        return replace(self, policies=policies, tables=tables, _faces={})

    @property
    def revision(self) -> str:
        return self.digest[:12]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order in which equals are listed in a decision: a floor's come first."""
        return tuple(rule for _, rule in _ordered(self.policies))

    @classmethod
    def build(
        cls,
        policies: Sequence[Policy],
        classifiers: Mapping[str, Classifier],
        source: str = "",
        places: Mapping[tuple[str, str, int], str] | None = None,
    ) -> Self:
        """A set from checked policies. Raises KeyError for a classifier that is named and not given."""
        ordered = tuple(sorted(policies, key=lambda policy: policy.id))
        content = {
            "policies": [policy.model_dump(mode="json") for policy in ordered],
            "classifiers": {name: classifiers[name].digest for name in sorted(classifiers)},
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        # Two files may define one classifier only in equal words, so whichever comes last says the same.
        specs = {name: spec for policy in ordered for name, spec in policy.classifiers.items()}
        tables = {stage: _table(ordered, specs, stage, digest[:12]) for stage in Stage}
        return cls(ordered, dict(classifiers), digest, tables, source, places or {}, specs)


def _ordered(policies: Sequence[Policy]) -> list[tuple[Policy, Rule]]:
    return [(policy, rule) for policy in sorted(policies, key=lambda each: not each.floor) for rule in policy.ranked]


def _table(policies: Sequence[Policy], specs: Mapping[str, ClassifierSpec], stage: Stage, revision: str) -> Table:
    tests: dict[str, dict[str, list[Test]]] = {}
    dependents: dict[str, list[Ready]] = {}
    eager: list[Ready] = []
    for order, (policy, rule) in enumerate(_ordered(policies)):
        if rule.mode is Mode.OFF or stage not in rule.stages:
            continue
        parts, ready = _ready(order, policy, rule, stage)
        for place, part in enumerate(parts):
            for name in part.findings:
                classifier, _, label = name.partition(".")
                row = tests.setdefault(classifier, {}).setdefault(label, [])
                row.append(Test(ready, 1 << place, part.at_least, part.roles, part.shown, part.reading))
        for classifier in frozenset[str]().union(*ready.needs):
            dependents.setdefault(classifier, []).append(ready)
        if ready.condition is not None and not ready.condition.needed:
            eager.append(ready)
    return Table(
        {classifier: _rows(labels) for classifier, labels in tests.items()},
        tuple(eager),
        {classifier: tuple(rules) for classifier, rules in dependents.items()},
        _readings(specs, dependents),
        Decision(Action.PASS, stage=stage, revision=revision),
    )


class _Part(NamedTuple):
    """One part of a condition, whatever its form."""

    findings: Sequence[str]
    at_least: float
    roles: frozenset[Role]
    shown: bool
    reading: str = ""


def _ready(order: int, policy: Policy, rule: Rule, stage: Stage) -> tuple[list[_Part], Ready]:
    roles = frozenset(rule.roles)
    condition, every = None, False
    if isinstance(rule.when, str):
        from .cel.condition import compiled

        condition = compiled(rule.when, stage, roles)
        parts = [
            _Part([atom.finding], atom.at_least, atom.roles, at in condition.shown, atom.reading)
            for at, atom in enumerate(condition.atoms)
        ]
    else:
        seen, every = rule.conditions
        parts = [_Part(part.finding, part.at_least, roles, True) for part in seen]
    ready = Ready(
        order,
        policy,
        rule,
        roles,
        every,
        tuple(frozenset(name.partition(".")[0] for name in part.findings) for part in parts),
        tuple(part.roles for part in parts),
        condition,
        rule.message if rule.message is not None else policy.message,
        tuple(rule.tags),
        str(getattr(rule, NEEDED[rule.action])) if rule.action in NEEDED else "",
        rule.mode.canary if isinstance(rule.mode, Canary) else float(rule.mode is Mode.ENFORCE),
    )
    return parts, ready


def _rows(labels: dict[str, list[Test]]) -> dict[str, tuple[float, tuple[Test, ...]]]:
    wild = labels.get("*", [])
    rows: dict[str, tuple[float, tuple[Test, ...]]] = {}
    for label, own in labels.items():
        tests = tuple(own if label == "*" else own + wild)
        rows[label] = (min(test.at_least for test in tests), tests)
    return rows


def _readings(specs: Mapping[str, ClassifierSpec], dependents: Mapping[str, Sequence[Ready]]) -> tuple[Reading, ...]:
    roles = {
        name: frozenset[Role]().union(*(ready.roles for ready in rules))
        for name, rules in dependents.items()
        if name not in BUILT_IN
    }
    last = {
        name: roles[name].difference(*(ready.roles for ready in dependents[name] if _stops(ready.rule)))
        for name in roles
    }
    for name, wanted in list(roles.items()):
        # A gate reads, though no rule asks for it, whatever those read that wait for it.
        after = specs[name].after
        while after is not None:
            roles[after.classifier] = roles.get(after.classifier, frozenset()) | wanted
            after = specs[after.classifier].after
    chained = {each for name in roles if (after := specs[name].after) is not None for each in (name, after.classifier)}
    return tuple(
        Reading(
            name,
            roles[name],
            specs[name].deadline_ms / 1000,
            _after(specs[name], specs),
            frozenset() if name in chained else last[name],
        )
        for name in sorted(roles)
    )


def _stops(rule: Rule) -> bool:
    """Whether a rule can stop or change anything, if only by the silence of a classifier."""
    return rule.acts and (rule.action.protects or rule.silence is OnError.BLOCK)


def _after(spec: ClassifierSpec, specs: Mapping[str, ClassifierSpec]) -> After | None:
    if spec.after is None:
        return None
    least = specs[spec.after.classifier].options.get("min_score", UNTOLD)
    floor = max(UNTOLD, least) if isinstance(least, int | float) else UNTOLD
    low, high = spec.after.band
    return After(spec.after.classifier, frozenset(spec.after.labels), low, high, floor)
