"""What differs between two policy sets, in the words of the person who reads a change before it is shipped.

Rules are matched by their id, wherever they stand. A change that makes a rule fire on more, or do more when it fires,
is stricter; the opposite is looser; where neither can be said for sure, nothing is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from .case_form import CasePatch
from .forms import Canary, Mode
from .lint import implies
from .model import Action, AllOf, AnyOf, Case, OnError, Policy, Rule, Seen
from .ready import PolicySet


class Effect(StrEnum):
    """What a change does to traffic."""

    STRICTER = "stricter"
    LOOSER = "looser"
    OTHER = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `subject` is policy, rule, classifier or case, `what` says what differs of the one called `id`;
    `old` and `new` are JSON-able, None where there is none."""

    subject: str
    id: str
    what: str
    old: Any = None
    new: Any = None
    effect: Effect = Effect.OTHER

    def __str__(self) -> str:
        values = "" if self.old is None and self.new is None else f" {_shown(self.old)} -> {_shown(self.new)}"
        return f"{self.subject} {self.id}: {self.what}{values}" + (f": {self.effect}" if self.effect else "")


def diff(old: PolicySet, new: PolicySet) -> list[Change]:
    """Every difference: policies, classifiers, rules, cases, in this order."""
    before, after = _by_id(old), _by_id(new)
    return [
        *_policies(before, after),
        *_classifiers(old, new),
        *_rules(before, after),
        *_cases(before, after),
    ]


def _by_id(policies: PolicySet) -> dict[str, Policy]:
    return {policy.id: policy for policy in policies.policies}


def _policies(before: Mapping[str, Policy], after: Mapping[str, Policy]) -> Iterator[Change]:
    heirs = {name: heir for name in before.keys() - after.keys() for heir in after if _extends(after, heir, name)}
    for name in sorted(before.keys() - after.keys()):
        what = f"replaced by '{heirs[name]}', which extends it" if name in heirs else "removed"
        yield Change("policy", name, what)
    for name, policy in after.items():
        if name not in before:
            if name not in heirs.values():
                yield Change("policy", name, "added")
            continue
        for key, old, new in _fields(before[name], policy, {"rules", "cases", "classifiers", "override"}):
            yield Change("policy", name, key, old, new)


def _fields(old: BaseModel, new: BaseModel, without: set[str]) -> Iterator[tuple[str, Any, Any]]:
    """The fields that differ, as JSON has them."""
    before, after = (model.model_dump(mode="json", exclude=without) for model in (old, new))
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            yield key, before.get(key), after.get(key)


# Classifiers ---------------------------------------------------------------------------------------------------------


def _classifiers(old: PolicySet, new: PolicySet) -> Iterator[Change]:
    before, after = (
        {name: spec for policy in policies.policies for name, spec in policy.classifiers.items()}
        for policies in (old, new)
    )
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Change("classifier", name, "removed")
        elif name not in before:
            yield Change("classifier", name, f"added ({after[name].kind})")
        elif before[name] == after[name]:
            if old.classifiers[name].digest != new.classifiers[name].digest:
                yield Change("classifier", name, "its files or weights changed")
        else:
            for path, was, is_ in _leaves(before[name].model_dump(mode="json"), after[name].model_dump(mode="json")):
                yield Change("classifier", name, path, was, is_)


def _leaves(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, old, new) of the innermost differences of two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _leaves(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield path, old, new


# Rules ---------------------------------------------------------------------------------------------------------------


def _rules(before: Mapping[str, Policy], after: Mapping[str, Policy]) -> Iterator[Change]:
    was, is_ = (_named(policies) for policies in (before, after))
    for name in {**was, **is_}:
        if name not in is_:
            yield Change("rule", name, f"removed ({_doing(was[name][1])})", effect=_whole(was[name][1], Effect.LOOSER))
        elif name not in was:
            yield Change("rule", name, f"added ({_doing(is_[name][1])})", effect=_whole(is_[name][1], Effect.STRICTER))
        else:
            old, new = was[name][0], is_[name][0]
            if old != new and not _extends(before, old, new) and not _extends(after, new, old):
                yield Change("rule", name, "moved to another policy", old, new)
            yield from _rule(was[name][1], is_[name][1])


def _named(policies: Mapping[str, Policy]) -> dict[str, tuple[str, Rule]]:
    """(policy, rule) by the rule's id; one that is inherited in a set that has the base as well is named by both."""
    count = Counter(rule.id for policy in policies.values() for rule in policy.rules)
    return {
        rule.id if policy.extends is None or count[rule.id] == 1 else f"{policy.id}: {rule.id}": (policy.id, rule)
        for policy in policies.values()
        for rule in policy.rules
    }


def _extends(policies: Mapping[str, Policy], name: str, base: str) -> bool:
    """Whether a policy of the set extends one that need not be in it."""
    seen = set[str]()
    while name in policies and name not in seen:
        seen.add(name)
        name = policies[name].extends or ""
        if name == base:
            return True
    return False


def _doing(rule: Rule) -> str:
    return str(rule.action) if rule.mode is Mode.ENFORCE else f"{rule.action}, {rule.mode}"


def _whole(rule: Rule, effect: Effect) -> Effect:
    """Of a rule that came or went: one that never acts, or only writes, makes nothing stricter."""
    return effect if _share(rule) > 0 and rule.action.severity > Action.LOG.severity else Effect.OTHER


def _rule(old: Rule, new: Rule) -> Iterator[Change]:
    if old.when != new.when:
        yield from _condition(old, new)
    for key, was, is_ in _fields(old, new, {"when"}):
        what = "its words for people" if key == "description" else key
        before, after = (str(old.mode), str(new.mode)) if key == "mode" else (was, is_)
        yield Change("rule", new.id, what, before, after, _effect(key, old, new))


def _condition(old: Rule, new: Rule) -> Iterator[Change]:
    parts, others = old.when, new.when
    before, after = _parts(parts), _parts(others)
    if type(parts) is type(others) and before and [p.finding for p in before] == [p.finding for p in after]:
        for was, is_ in zip(before, after, strict=True):
            if was.at_least != is_.at_least:
                what = f"threshold of {', '.join(is_.finding)}"
                yield Change("rule", new.id, what, was.at_least, is_.at_least, _rising(is_.at_least, was.at_least))
        return
    wider, narrower = implies(old, new), implies(new, old)
    effect = Effect.OTHER if wider == narrower else Effect.STRICTER if wider else Effect.LOOSER
    yield Change("rule", new.id, "condition", _said(old), _said(new), effect)


def _parts(when: Any) -> list[Seen]:
    match when:
        case Seen():
            return [when]
        case AnyOf():
            return when.any
        case AllOf():
            return when.all
        case _:
            return []


def _said(rule: Rule) -> str:
    """A condition in a line."""
    parts = [f"{' or '.join(part.finding)} >= {part.at_least:g}" for part in _parts(rule.when)]
    return (" and " if isinstance(rule.when, AllOf) else ", or ").join(parts) if parts else str(rule.when)


_LAX = tuple(OnError)[::-1]


def _effect(key: str, old: Rule, new: Rule) -> Effect:
    if key == "on_error":
        return _rising(_LAX.index(old.silence), _LAX.index(new.silence))
    if key == "action":
        return _rising(old.action.severity, new.action.severity)
    if key == "mode":
        return _rising(_share(old), _share(new))
    if key in ("roles", "stages"):
        before, after = set(getattr(old, key)), set(getattr(new, key))
        return Effect.STRICTER if before < after else Effect.LOOSER if after < before else Effect.OTHER
    return Effect.OTHER


def _share(rule: Rule) -> float:
    """Of the conversations on which a rule acts; below 0 where it is not even evaluated."""
    if isinstance(rule.mode, Canary):
        return rule.mode.canary
    return {Mode.OFF: -1.0, Mode.SHADOW: 0.0}.get(rule.mode, 1.0)


def _rising(was: Any, is_: Any) -> Effect:
    return Effect.OTHER if was == is_ else Effect.STRICTER if was < is_ else Effect.LOOSER


# Cases ---------------------------------------------------------------------------------------------------------------


def _cases(before: Mapping[str, Policy], after: Mapping[str, Policy]) -> Iterator[Change]:
    was, is_ = (_cases_of(policies) for policies in (before, after))
    yield from _inherited_cases(before, after)
    told = {name for policy in (*before.values(), *after.values()) if policy.override for name in policy.override.cases}
    for name in {**was, **is_}:
        owner, _, own = name.partition("/")
        if own in told and not (owner in before and owner in after):
            continue
        if name not in is_:
            yield Change("case", name, "removed")
        elif name not in was:
            yield Change("case", name, "added")
        elif was[name] != is_[name]:
            old, new = _expected(was[name]), _expected(is_[name])
            if old != new:
                yield Change("case", name, "expects", old, new)
            else:
                yield Change("case", name, "its text or scores changed")


def _cases_of(policies: Mapping[str, Policy]) -> dict[str, Case]:
    """Cases by policy and name, those of packs that are only extended under the pack's name."""
    own = {f"{policy.id}/{case.name}": case for policy in policies.values() for case in policy.cases}
    inherited = {
        f"{base}/{case.name}": case
        for policy in policies.values()
        for base, _, case in policy.inherited_cases
        if base not in policies
    }
    return {**inherited, **own}


def _inherited_cases(before: Mapping[str, Policy], after: Mapping[str, Policy]) -> Iterator[Change]:
    """What is said otherwise of cases that are inherited."""
    was, is_ = (
        {
            f"{policy.id}/{name}": patch
            for policy in policies.values()
            if policy.override is not None
            for name, patch in policy.override.cases.items()
        }
        for policies in (before, after)
    )
    for name in {**was, **is_}:
        old, new = (_patched(each.get(name)) for each in (was, is_))
        if old != new:
            yield Change("inherited case", name, "expects", old, new)


def _patched(patch: CasePatch | None) -> str:
    if patch is None:
        return "what its base says"
    return "nothing: it is dropped" if patch.expect is None else _expected(patch)


def _expected(case: Case | CasePatch) -> str:
    assert case.expect is not None  # what is dropped expects nothing
    return f"{case.expect.action} by {case.expect.rule}" if case.expect.rule else str(case.expect.action)


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return f"[{', '.join(value)}]"
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 100 else said[:97] + "..."
