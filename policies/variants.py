"""Policies that extend others: what is inherited, what is overridden, and what may not be.

A variant has the rules, classifiers, message and on_block of its base, less what it says otherwise; `applies_to` is its
own. Where it applies it stands in place of its base. Its own rules come first, so that their places in the file stay
those of the list. The cases of its base are to hold for it, too, less those for which it says why not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic_core import PydanticCustomError

from .document import Document
from .document import Path as Place
from .floors import lifted, looser, looser_case, shorter
from .mends import did_you_mean
from .model import KEYS_OF, Inherited, Policy, Rule, RulePatch, Stage

Pack = Callable[[str], tuple[Document, Policy] | None]
"""A shipped pack with all that it inherits, and its document; None where there is no such pack."""


@dataclass(slots=True)
class Family:
    """The policies of a set, as written, by id. `pack` reads a shipped one; `names` are those there are."""

    written: Mapping[str, tuple[Document, Policy]]
    pack: Pack
    names: tuple[str, ...]
    _whole: dict[str, Policy] = field(default_factory=dict)

    def whole(self, name: str) -> Policy:
        """The policy with all that it inherits. What is wrong is added to its document's problems."""
        if name not in self._whole:
            document, policy = self.written[name]
            self._whole[name] = policy  # what comes round to itself finds it bare
            found = self._base(document, policy)
            if found is not None:
                self._whole[name] = extended(*found, policy, document)
        return self._whole[name]

    def _base(self, document: Document, policy: Policy) -> tuple[Document, Policy] | None:
        name = policy.extends
        if name is None:
            if policy.override is not None:
                mend = "write 'extends' with the id of a policy, or remove it"
                document.problems.append(document.problem(("override",), "nothing to override", mend, True))
            return None
        if name in self.written:
            round_trip = self._round(policy.id)
            if round_trip:
                what = "it extends itself: " + " extends ".join(f"'{each}'" for each in round_trip)
                document.problems.append(document.problem(("extends",), what, "let one of them stand by itself"))
                return None
            if policy.applies_to is None:
                what = f"it would stand in place of '{name}' for every request"
                mend = f"write 'applies_to', or change '{name}' itself"
                document.problems.append(document.problem(("extends",), what, mend))
            return self.written[name][0], self.whole(name)
        found = self.pack(name)
        if found is None:
            known = sorted({*self.written, *self.names} - {policy.id})
            document.problems.append(
                document.problem(("extends",), f"no policy or pack '{name}'", did_you_mean(name, known))
            )
            return None
        base = found[1]
        for own, spec in policy.classifiers.items():
            if base.classifiers.get(own, spec) != spec:
                what = f"classifier '{own}' is defined otherwise in '{base.id}'"
                document.problems.append(document.problem(("classifiers", own), what, "rename it", True))
        return found

    def _round(self, name: str) -> list[str]:
        """The way from a policy by its bases back to itself, or nothing."""
        way = [name]
        while (base := self.written[way[-1]][1].extends) in self.written:
            assert base is not None
            if base == name:
                return [*way, name]
            if base in way:
                return []  # some of its bases do, and say so themselves
            way.append(base)
        return []


def extended(source: Document, base: Policy, policy: Policy, document: Document) -> Policy:
    """`policy`, written in `document`, with all that it inherits of `base`, which is whole and written in `source`."""
    patches = policy.override.rules if policy.override is not None else {}
    inherited = {rule.id: rule for rule in base.rules}
    for name in patches:
        if name not in inherited:
            what = f"'{base.id}' has no rule '{name}'"
            mend = did_you_mean(name, sorted(inherited)) if inherited else "remove it"
            document.problems.append(document.problem(("override", "rules", name), what, mend, True))
    for at, rule in enumerate(policy.rules):
        if rule.id in inherited:
            what = f"rule '{rule.id}' is inherited of '{base.id}'"
            mend = f"write what differs under override: rules: {rule.id}, or choose another id"
            document.problems.append(document.problem(("rules", at, "id"), what, mend))
    if base.floor:
        for at, rule in enumerate(policy.rules):
            _no_looser((*lifted(base.rules, rule), *shorter(base.rules, rule)), ("rules", at), document)
    rules = [_patched(rule, patches[rule.id], document, base) if rule.id in patches else rule for rule in base.rules]
    kept = {key: getattr(base, key) for key in ("message", "on_block") if key not in policy.model_fields_set}
    whole = policy.model_copy(
        update={
            **kept,
            "rules": [*policy.rules, *rules],
            "classifiers": {**base.classifiers, **policy.classifiers},
            "floor": base.floor or policy.floor,
        }
    )
    whole._inherited = frozenset(inherited)
    own, others = [rule.id for rule in policy.rules], [rule.id for rule in base.ranked]
    whole._ranked = (*others, *own) if base.floor else (*own, *others)
    whole._cases = tuple(_cases(source, base, policy, document))
    return whole


def _cases(source: Document, base: Policy, policy: Policy, document: Document) -> Iterator[Inherited]:
    """The cases of `base` and of what it extends, as `policy` has them."""
    own = [
        Inherited(base.id, source.problem(("cases", at), "").place, case)
        for at, case in enumerate(base.cases)
        # One about a request that its policy is not for says something of others.
        if case.request is None or base.applies_to is None or base.applies_to.covers(case.facts)
    ]
    every = [*own, *base.inherited_cases]
    patches = policy.override.cases if policy.override is not None else {}
    names = sorted({each.case.name for each in every})
    for name in patches:
        if name not in names:
            what = f"'{base.id}' has no case '{name}'"
            mend = did_you_mean(name, names) if names else "remove it"
            document.problems.append(document.problem(("override", "cases", name), what, mend, True))
    for each in every:
        patch = patches.get(each.case.name)
        if patch is None:
            yield each
            continue
        if base.floor:
            for key, what, mend in looser_case(each.case, patch):
                path: Place = ("override", "cases", each.case.name, key)
                document.problems.append(document.problem(path, f"looser than the floor: {what}", mend))
        if patch.expect is not None:
            yield each._replace(case=each.case.model_copy(update={"expect": patch.expect}))


def _patched(rule: Rule, patch: RulePatch, document: Document, base: Policy) -> Rule:
    path: Place = ("override", "rules", rule.id)
    said = {name: getattr(patch, name) for name in patch.model_fields_set}
    made = rule.model_copy(update=said)
    # What was said for another action or stage has no meaning any more, unless it is said again.
    idle = {key for key, action in KEYS_OF.items() if made.action is not action}
    idle |= {"stream"} if Stage.OUTPUT not in made.stages else set()
    made.model_fields_set.difference_update(idle - said.keys())
    try:
        made.check_keys()
    except PydanticCustomError as error:
        key = str((error.context or {}).get("key", ""))
        document.problems.append(document.problem((*path, key), error.message(), at_key=True))
    if base.floor:
        _no_looser(looser(rule, made), path, document)
        if said.keys() & {"flag", "strike"}:
            _no_looser((*lifted(base.rules, made), *shorter(base.rules, made)), path, document)
    return made


def _no_looser(found: Iterable[tuple[str, str, str]], path: Place, document: Document) -> None:
    """The problems of a rule at `path`, with the key that each is about."""
    for key, what, mend in found:
        document.problems.append(document.problem((*path, key), f"looser than the floor: {what}", mend))
