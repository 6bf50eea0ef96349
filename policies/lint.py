"""What is allowed and still looks like a mistake: one small pure function for each kind, from a set to its notices.

A problem (see `load`) means that a set has no meaning. A notice means that it has one which its author hardly wanted:
a rule that never fires, one that another rule makes idle, a pattern that runs over a whole page. Errors are those
that no intention explains; warnings may be meant, and then stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from classifiers.base import Role
from classifiers.catalog import nearly

from .decision import WAYS
from .document import Document, Path, Problem
from .forms import HoldBack, Mode
from .lint_patterns import Source, expressions, flaws, literal, widest
from .marks import read_by
from .mends import did_you_mean
from .model import Action, AllOf, AnyOf, ClassifierSpec, OnError, Policy, Rule, Seen, Stage
from .ready import BUILT_IN, UNTOLD, PolicySet

__all__ = ["LINTS", "Grade", "Notice", "implies", "lint", "placed", "sees_all"]


class Grade(StrEnum):
    """How sure it is that this was not meant."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Notice:
    """One finding of the lint called `id`, about the policy `policy`, at `path` in its file."""

    id: str
    grade: Grade
    policy: str
    path: Path
    what: str
    mend: str = ""
    at_key: bool = False


Lint = Callable[[PolicySet], Iterator[Notice]]
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Words for the effort that models know; others may come."""
EXACT = frozenset({"patterns", "secrets", "pii"})
"""Kinds that say 1 where they are sure; a learned classifier hardly ever does."""
_UNSCANNABLE = {Stage.INPUT: Role.USER, Stage.OUTPUT: Role.ASSISTANT}
"""Whose part an unreadable one is taken for."""


_ASKING = frozenset({Role.SYSTEM, Role.USER})
"""Roles whose texts an answer holds only where it repeats its request."""


def lint(policies: PolicySet) -> list[Notice]:
    """All notices, in the order of LINTS."""
    by_id = {policy.id: policy for policy in policies.policies}
    return [_at_home(notice, by_id[notice.policy]) for check in LINTS for notice in check(policies)]


def _at_home(notice: Notice, policy: Policy) -> Notice:
    """The notice at the place where its policy says something: of a rule that is inherited, under `override`."""
    patches = policy.override.rules if policy.override is not None else {}
    match notice.path:
        case ("rules", int(at), *rest) if policy.rules[at].id in patches:
            return replace(notice, path=("override", "rules", policy.rules[at].id, *rest))
    return notice


def placed(notices: Sequence[Notice], documents: Mapping[str, Document]) -> list[tuple[Notice, Problem]]:
    """Each notice with its place, sorted by it. `documents` are the files by the id of their policy."""
    found = [
        (each, documents[each.policy].problem(each.path, each.what, each.mend, each.at_key))
        if each.policy in documents
        else (each, Problem(each.policy, 0, 0, each.what, each.mend))
        for each in notices
    ]
    return sorted(found, key=lambda pair: (pair[1], pair[0].id))


def _rules(policies: PolicySet) -> Iterator[tuple[Policy, int, Rule]]:
    """Rules that are not off, with their policy and their place in it. What is inherited unchanged is its base's."""
    for policy in policies.policies:
        for at, rule in enumerate(policy.rules):
            if rule.mode is not Mode.OFF and rule.id not in policy.untouched:
                yield policy, at, rule


def _parts(rule: Rule) -> list[tuple[Path, Seen]]:
    """The parts of a rule's condition with their paths below the rule; of an expression, the comparisons of scores that
    speak for it."""
    match rule.when:
        case Seen():
            return [(("when",), rule.when)]
        case AnyOf():
            return [(("when", "any", at), part) for at, part in enumerate(rule.when.any)]
        case AllOf():
            return [(("when", "all", at), part) for at, part in enumerate(rule.when.all)]
        case str():
            return [(("when",), part) for part in rule.conditions[0]]


def _specs(policies: PolicySet) -> dict[str, ClassifierSpec]:
    return {name: spec for policy in policies.policies for name, spec in policy.classifiers.items()}


def _own_specs(policies: PolicySet, policy: Policy) -> Iterator[tuple[str, ClassifierSpec]]:
    """The classifiers that a policy defines; what it inherits of another one of the set is that one's."""
    base = next((each for each in policies.policies if each.id == policy.extends), None)
    for name, spec in policy.classifiers.items():
        if base is None or name not in base.classifiers:
            yield name, spec


def _stops(rule: Rule) -> bool:
    return rule.action.protects


# Rules that do nothing -----------------------------------------------------------------------------------------------


def never_fires(policies: PolicySet) -> Iterator[Notice]:
    """Rules whose condition nothing can meet."""
    highest = {name: _highest(spec) for name, spec in _specs(policies).items()}
    for policy, at, rule in _rules(policies):
        path: Path = ("rules", at)
        if rule.stages == [Stage.INPUT] and set(rule.roles) == {Role.ERROR}:
            what = f"rule '{rule.id}' can never fire: errors come from the model, on output"
            yield Notice("never-fires", Grade.ERROR, policy.id, (*path, "roles"), what, "write stages: [output]")
            continue
        if rule.stages == [Stage.OUTPUT] and set(rule.roles) <= _ASKING:
            what = f"rule '{rule.id}' looks for {' and '.join(sorted(rule.roles))} in answers, where a model speaks"
            yield Notice("never-fires", Grade.WARNING, policy.id, (*path, "roles"), what, "write stages: [input]")
        dead = [(place, found) for place, part in _parts(rule) if (found := _dead(rule, part, highest))]
        every = isinstance(rule.when, AllOf)
        # What else an expression asks may be true by itself.
        if dead and not isinstance(rule.when, str) and (every or len(dead) == len(_parts(rule))):
            place, (why, mend) = dead[0]
            what = f"rule '{rule.id}' can never fire: {why}"
            yield Notice("never-fires", Grade.ERROR, policy.id, (*path, *place), what, mend)
            continue
        for place, (why, mend) in dead:
            what = f"a part of rule '{rule.id}' can never be true: {why}"
            yield Notice("never-fires", Grade.WARNING, policy.id, (*path, *place), what, mend)


def _dead(rule: Rule, part: Seen, highest: Mapping[str, Mapping[str, float]]) -> tuple[str, str] | None:
    """Why no finding can meet this part, and the mend."""
    reasons: list[tuple[str, str]] = []
    for name in part.finding:
        classifier, _, label = name.partition(".")
        scores = highest.get(classifier, {})
        most = max(scores.values(), default=1.0) if label == "*" else scores.get(label, 1.0)
        if most < part.at_least:
            reasons.append((f"the highest score of {name} is {most:g}", f"lower 'at_least' to {most:g} or less"))
        elif classifier in BUILT_IN and not any(_UNSCANNABLE[stage] in rule.roles for stage in rule.stages):
            said = " and ".join(f"of the {_UNSCANNABLE[stage]} on {stage}" for stage in rule.stages)
            reasons.append((f"{name} is {said}, and 'roles' leaves that out", "leave 'roles' out of this rule"))
    return reasons[0] if len(reasons) == len(part.finding) else None


def _highest(spec: ClassifierSpec) -> dict[str, float]:
    """The highest score of each label, where the options say it."""
    scores: dict[str, float] = {}
    if spec.kind == "patterns":
        for source in expressions(spec.options):
            scores[source.label] = max(scores.get(source.label, 0.0), source.score)
    return scores


def shadowed(policies: PolicySet) -> Iterator[Notice]:
    """Rules beside which another one, no milder and no narrower, always fires."""
    rules = list(_rules(policies))
    above = {policy.id: _above(policies, policy) for policy in policies.policies}
    asking = _asking(rules)
    for place, (policy, at, rule) in enumerate(rules):
        for other_place in sorted(set().union(*(asking.get(name, ()) for name in _wider(rule)))):
            owner, _, other = rules[other_place]
            # One that extends the other stands in its place: they are never for one request together.
            if owner.id in above[policy.id] or policy.id in above[owner.id]:
                continue
            if owner.applies_to not in (None, policy.applies_to):
                continue
            if other is not rule and _covers(other, rule) and _comes_first(other, rule, other_place < place):
                what = f"rule '{rule.id}' ({rule.action}) decides nothing: '{other.id}' ({other.action}) fires with it"
                mend = "remove it, or narrow the other one"
                yield Notice("shadowed", Grade.WARNING, policy.id, ("rules", at), what, mend)
                break


def _asking(rules: Sequence[tuple[Policy, int, Rule]]) -> dict[str, list[int]]:
    """The places of the rules that ask for a finding, by its name; expressions by their text."""
    found: dict[str, list[int]] = {}
    for place, (_, _, rule) in enumerate(rules):
        for name in {rule.when} if isinstance(rule.when, str) else _findings(rule):
            found.setdefault(name, []).append(place)
    return found


def _wider(rule: Rule) -> set[str]:
    """What a rule asks for, one of which another must that covers it (`implies`): there may be a thousand rules."""
    if isinstance(rule.when, str):
        return {rule.when}
    names = _findings(rule)
    return names | {f"{name.partition('.')[0]}.*" for name in names}


def _findings(rule: Rule) -> set[str]:
    return {name for _, part in _parts(rule) for name in part.finding}


def _above(policies: PolicySet, policy: Policy) -> set[str]:
    """The ids of all that a policy extends."""
    extends = {each.id: each.extends for each in policies.policies}
    found: set[str] = set()
    base = policy.extends
    while base is not None and base not in found:
        found.add(base)
        base = extends.get(base)
    return found


def _comes_first(wide: Rule, narrow: Rule, earlier: bool) -> bool:
    """Whether what `wide` asks for is done when both fire. Of equals the first decides; logs are all written, so one
    says nothing new only where its condition is the same. What changes a request or an answer is done beside all but a
    block."""
    if wide.action is not narrow.action:
        beside = wide.action is not Action.BLOCK and narrow.action not in {Action.LOG, Action.PASS}
        return narrow.action is not Action.PASS and not beside
    if wide.action is Action.ADVISE:
        return earlier and wide.advice == narrow.advice
    return earlier and (wide.action.protects or _covers(narrow, wide))


def _covers(wide: Rule, narrow: Rule) -> bool:
    """Whether `wide` fires wherever `narrow` does, on the same findings, and asks for no less."""
    return (
        wide.mode == narrow.mode
        and wide.action.severity >= narrow.action.severity
        and Action(wide.silence.value).severity >= Action(narrow.silence.value).severity
        and set(wide.stages) >= set(narrow.stages)
        and set(wide.roles) >= set(narrow.roles)
        and implies(narrow, wide)
    )


def implies(narrow: Rule, wide: Rule) -> bool:
    """Whether the condition of `narrow` is never true without that of `wide`."""
    if isinstance(narrow.when, str) or isinstance(wide.when, str):
        return narrow.when == wide.when and set(narrow.roles) == set(wide.roles)
    given, asked = [part for _, part in _parts(narrow)], [part for _, part in _parts(wide)]
    met = [[_within(one, other) for other in asked] for one in given]
    if isinstance(narrow.when, AllOf):
        columns = list(zip(*met, strict=True))
        return all(any(column) for column in columns) if isinstance(wide.when, AllOf) else any(any(row) for row in met)
    return all(all(row) if isinstance(wide.when, AllOf) else any(row) for row in met)


def sees_all(narrow: Rule, wide: Rule) -> bool:
    """Whether each finding that a part of `narrow` is met by meets one of `wide`, too. No expressions."""
    asked = [part for _, part in _parts(wide)]
    return all(any(_within(part, other) for other in asked) for _, part in _parts(narrow))


def _within(narrow: Seen, wide: Seen) -> bool:
    names = set(wide.finding)
    known = all(name in names or f"{name.partition('.')[0]}.*" in names for name in narrow.finding)
    return known and wide.at_least <= narrow.at_least


# Thresholds ----------------------------------------------------------------------------------------------------------


def thresholds(policies: PolicySet) -> Iterator[Notice]:
    """Thresholds at 1 of classifiers that are never quite sure, and those below what is told at all."""
    specs = _specs(policies)
    for policy, at, rule in _rules(policies):
        for place, part in _parts(rule):
            path: Path = ("rules", at, *place, *(() if isinstance(rule.when, str) else ("at_least",)))
            named = [name.partition(".")[0] for name in part.finding]
            unsure = [name for name in named if name in specs and specs[name].kind not in EXACT]
            if part.at_least == 1 and unsure:
                what = f"a threshold of 1: '{unsure[0]}' hardly ever says exactly 1"
                yield Notice("threshold-one", Grade.WARNING, policy.id, path, what, "write 0.99, or what was measured")
            least = max((_told(specs[name]) for name in unsure), default=0.0)
            if part.at_least < least:
                what = f"a threshold of {part.at_least:g}: no score below {least:g} is told"
                mend = f"write {least:g} or more, or lower the classifier's min_score"
                yield Notice("threshold-untold", Grade.WARNING, policy.id, path, what, mend)


def _told(spec: ClassifierSpec) -> float:
    """The lowest score that a classifier tells."""
    least = spec.options.get("min_score", UNTOLD)
    return float(least) if isinstance(least, int | float) else UNTOLD


def gates(policies: PolicySet) -> Iterator[Notice]:
    """Bands of doubt in which every score lies."""
    for policy in policies.policies:
        for name, spec in _own_specs(policies, policy):
            if spec.after is not None and spec.after.band[0] == 0 and spec.after.band[1] == 1:
                what = f"every score lies in the band: '{name}' reads all that '{spec.after.classifier}' reads"
                path: Path = ("classifiers", name, "after", "band")
                yield Notice("gate-of-all", Grade.WARNING, policy.id, path, what, "remove 'after', or narrow the band")


# What is left unsaid -------------------------------------------------------------------------------------------------


def no_on_error(policies: PolicySet) -> Iterator[Notice]:
    """Rules that stop or change traffic and do not say what silence of a classifier means."""
    for policy, at, rule in _rules(policies):
        asked = {name.partition(".")[0] for part in rule.conditions[0] for name in part.finding}
        asked |= {"facts"} if isinstance(rule.when, str) else set()
        if rule.on_error is None and _stops(rule) and not asked <= BUILT_IN.keys():
            what = f"rule '{rule.id}' has no 'on_error': it blocks where a classifier gives no answer"
            mend = "write on_error: block if that is meant, else log or pass"
            yield Notice("no-on-error", Grade.WARNING, policy.id, ("rules", at, "id"), what, mend)


def no_stream(policies: PolicySet) -> Iterator[Notice]:
    """Output rules that stop or change answers and do not say how much of a streamed one waits."""
    for policy, at, rule in _rules(policies):
        stops = (_stops(rule) or rule.silence is OnError.BLOCK) and rule.action is not Action.REVIEW
        if Stage.OUTPUT in rule.stages and stops and "stream" not in rule.model_fields_set:
            what = f"rule '{rule.id}' has no 'stream': every streamed answer waits for its end"
            mend = "write stream: {hold_back: 256}, or stream: whole if that is meant"
            yield Notice("no-stream", Grade.WARNING, policy.id, ("rules", at, "id"), what, mend)


def no_cases(policies: PolicySet) -> Iterator[Notice]:
    """Policies without a case, and rules that say who answers without one that must be stopped and one that
    must not."""
    for policy in policies.policies:
        if policy.rules and not policy.cases and not policy.inherited_cases:
            what = f"policy '{policy.id}' has no cases: nothing shows that it does what it says"
            mend = "write one text that must be stopped and one that must pass under 'cases'"
            yield Notice("no-cases", Grade.WARNING, policy.id, ("id",), what, mend)
    cases = [case for policy in policies.policies for case in policy.cases]
    cases += [case for policy in policies.policies for _, _, case in policy.inherited_cases]
    for policy, at, rule in _rules(policies):
        if not policy.cases or rule.action not in WAYS or rule.mode is not Mode.ENFORCE:
            continue
        own = [case for case in cases if case.stage in rule.stages]
        missing = []
        if not any(case.expect.rule == rule.id and case.expect.action is rule.action for case in own):
            missing.append(f"a case that it must {rule.action} (expect: {{action: {rule.action}, rule: {rule.id}}})")
        if not any(case.expect.action not in WAYS for case in own):
            missing.append(f"a case on {rule.stages[0]} that must pass")
        if missing:
            what = f"rule '{rule.id}' {rule.action}s and lacks {' and '.join(missing)}"
            yield Notice(
                "untested-block", Grade.WARNING, policy.id, ("rules", at, "id"), what, "write it under 'cases'"
            )


# What is counted -----------------------------------------------------------------------------------------------------


def uncounted(policies: PolicySet) -> Iterator[Notice]:
    """Conditions that look up a count which no rule here raises."""
    struck = sorted({rule.strike.name for policy in policies.policies for rule in policy.rules if rule.strike})
    for policy, at, rule in _rules(policies):
        for name in sorted(read_by(rule) - set(struck)):
            what = f"no rule here strikes '{name}': rule '{rule.id}' reads 0, unless another policy's rules do"
            mend = did_you_mean(name, struck) if struck else f"write strike: {name} in the rule that it counts"
            yield Notice("uncounted", Grade.WARNING, policy.id, ("rules", at, "when"), what, mend)


# What requests say ---------------------------------------------------------------------------------------------------


def words(policies: PolicySet) -> Iterator[Notice]:
    """What a condition or `applies_to` compares with, and no request is likely to say."""
    for policy in policies.policies:
        for at, said in enumerate((policy.applies_to and policy.applies_to.effort) or ()):
            if mend := _effort(said.lower()):
                path: Path = ("applies_to", "effort", at)
                yield Notice("effort", Grade.WARNING, policy.id, path, f"no request asks for the effort '{said}'", mend)
    for policy, at, rule in _rules(policies):
        for what, mend in _unlikely(rule):
            yield Notice("unlikely-word", Grade.WARNING, policy.id, ("rules", at, "when"), what, mend)


def _unlikely(rule: Rule) -> Iterator[tuple[str, str]]:
    if not isinstance(rule.when, str):
        return
    import re2

    for leaf in rule.facts:
        if not isinstance(leaf.value, str):
            continue
        if leaf.sign not in {"==", "!="}:
            continue
        if leaf.variable == "request.settings.effort" and (mend := _effort(leaf.value)):
            yield f"no request asks for the effort '{leaf.value}'", mend
        elif "*" in leaf.value:
            start, _, rest = leaf.value.partition("*")
            meant = f'startsWith("{start}")' if start and not rest else 'matches("...")'
            yield f"'*' in '{leaf.value}' is that sign itself", f"write {leaf.variable}.{meant}"
    for source in _MATCHES.findall(rule.when):
        if all(re2.search(source, text) for text in _ANY_TEXT):
            yield f"'{source}' matches every text", "leave it out, or say what the text must hold"
    for source in re.findall(r"""\.matches\(\s*r?["'](/[^"']{1,200})["']""", rule.when):
        if (flaw := literal(source, True)) is not None:
            yield flaw.what, f"write '{source[1:].rpartition('/')[0]}' alone; (?i) before it takes any case"


_MATCHES = re.compile(r"""\.matches\(\s*r?["']([^"'\\]{0,200})["']""")
_ANY_TEXT = ("", "q", "0-_~ %", "Ж漢!\t")
"""Texts of which no expression with a meaning takes all."""


def _effort(said: str) -> str:
    """A mend for an effort that is nearly one that models know."""
    return "" if said in EFFORTS or "*" in said or not nearly(said, EFFORTS) else did_you_mean(said, [*EFFORTS])


# Patterns ------------------------------------------------------------------------------------------------------------


def patterns(policies: PolicySet) -> Iterator[Notice]:
    """Expressions that match more than their author thinks of."""
    for policy, name, source in _expressions(policies):
        found = list(flaws(source.text)) if source.is_regex else []
        meant = literal(source.text, source.is_regex)
        for flaw in [*found, *([meant] if meant is not None else [])]:
            yield Notice(flaw.id, Grade.WARNING, policy.id, ("classifiers", name, *source.path), flaw.what, flaw.mend)


def longer_than_hold_back(policies: PolicySet) -> Iterator[Notice]:
    """Expressions that can match more than the letters of a stream that wait: their beginning may have left."""
    waits: dict[tuple[str, str], tuple[int, str]] = {}
    for _, _, rule in _rules(policies):
        if Stage.OUTPUT not in rule.stages or not _stops(rule) or not isinstance(rule.stream, HoldBack):
            continue
        for _, part in _parts(rule):
            for finding in part.finding:
                classifier, _, label = finding.partition(".")
                least = min(waits.get((classifier, label), (1 << 30, "")), (rule.stream.hold_back, rule.id))
                waits[classifier, label] = least
    for policy, name, source in _expressions(policies):
        held, rule_id = min(
            (waits[key] for key in ((name, source.label), (name, "*")) if key in waits), default=(1 << 30, "")
        )
        most = widest(source.text) if source.is_regex else len(source.text)
        if held < (1 << 30) and (most is None or most > held):
            many = "any number of" if most is None else f"{most}"
            what = f"it can match {many} characters, and rule '{rule_id}' lets {held} of a stream wait"
            mend = "bound the expression, raise hold_back, or write stream: whole"
            path: Path = ("classifiers", name, *source.path)
            yield Notice("longer-than-hold-back", Grade.WARNING, policy.id, path, what, mend)


def _expressions(policies: PolicySet) -> Iterator[tuple[Policy, str, Source]]:
    for policy in policies.policies:
        for name, spec in _own_specs(policies, policy):
            if spec.kind == "patterns":
                for source in expressions(spec.options):
                    yield policy, name, source


LINTS: tuple[Lint, ...] = (
    never_fires,
    shadowed,
    thresholds,
    no_on_error,
    no_stream,
    no_cases,
    uncounted,
    gates,
    words,
    patterns,
    longer_than_hold_back,
)
