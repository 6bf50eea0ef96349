"""Policies that extend others: what they inherit, and in whose place they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifiers.base import Finding, Message, Report, Role
from policies.check import check
from policies.diff import diff
from policies.engine import Action, PolicySet, Stage, decide
from policies.facts import Facts, Settings
from policies.load import load

HEAD = "id: {}\nversion: 1\nowner: o\ndescription: d\n"
BASE = """
message: "base says no: {policy}"
on_block: message
classifiers:
  canary: {kind: words}
rules:
  - id: first
    description: d
    stages: [input]
    when: {finding: canary.mark, at_least: 0.8}
    action: mask
    mask_with: "[X]"
  - id: second
    description: d
    stages: [input]
    when: {finding: canary.other, at_least: 0.5}
    action: log
"""
VARIANT = """
extends: base
applies_to: {effort: [high]}
override:
  rules:
    first: {action: block, when: {finding: canary.mark, at_least: 0.3}}
rules:
  - id: third
    description: d
    stages: [input]
    when: score("canary.other") >= 0.9
    action: block
cases:
  - {name: stopped, text: x, scores: {canary.mark: 0.4}, expect: {action: block, rule: first}}
  - {name: as the base has it, text: x, scores: {canary.mark: 0.4}, request: {effort: low}, expect: {action: pass}}
"""
USER = [Message(Role.USER, "text", "/t")]


def loaded(folder: Path, **files: str) -> PolicySet:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(HEAD.format(name) + text)
    result = check(str(folder))
    assert result.policy is not None, result.lines()
    assert result.ok, result.lines()
    return result.policy


def decided(policies: PolicySet, effort: str, **scores: float) -> tuple[str, str | None, str | None]:
    facts = Facts(settings=Settings(effort=effort))
    report = Report(tuple(Finding("canary", label, score, 0, (0, 4)) for label, score in scores.items()))
    decision = decide(policies.facing(facts), Stage.INPUT, USER, report, facts)
    return decision.action.value, decision.policy, decision.message


@pytest.mark.usefixtures("words_only")
def test_a_variant_inherits_and_stands_in_place_of_its_base(tmp_path: Path) -> None:
    policies = loaded(tmp_path, base=BASE, variant=VARIANT)
    says = "base says no: {policy}"
    assert decided(policies, "low", mark=0.9) == ("mask", "base", says)
    assert decided(policies, "low", mark=0.4) == ("pass", None, None)
    assert decided(policies, "high", mark=0.4) == ("block", "variant", says)
    assert decided(policies, "high", other=0.6) == ("log", "variant", says)
    assert decided(policies, "high", other=0.95) == ("block", "variant", says)
    base, variant = policies.policies
    assert [rule.id for rule in variant.rules] == ["third", "first", "second"]
    assert variant.on_block is base.on_block
    assert decide(policies, Stage.INPUT, USER, Report((Finding("canary", "mark", 0.4, 0),))).action is Action.BLOCK


@pytest.mark.usefixtures("words_only")
def test_a_variant_of_a_variant(tmp_path: Path) -> None:
    grand = """
extends: variant
applies_to: {effort: [high], n: {at_least: 2}}
override: {rules: {third: {mode: "off"}}}
"""
    policies = loaded(tmp_path, base=BASE, variant=VARIANT, grand=grand)
    many = Facts(settings=Settings(effort="high", n=2))
    assert [policy.id for policy in policies.facing(many).policies] == ["grand"]
    assert [policy.id for policy in policies.facing(Facts()).policies] == ["base"]


@pytest.mark.usefixtures("words_only")
def test_a_floor_may_be_tightened(tmp_path: Path) -> None:
    policies = loaded(tmp_path, base="floor: true" + BASE, variant=VARIANT)
    assert [policy.floor for policy in policies.policies] == [True, True]


def test_a_pack_may_be_extended_from_outside_the_set(tmp_path: Path) -> None:
    mine = """
extends: baseline
override:
  rules: {harmful-request: {mode: shadow}}
  cases: {silence of the guard stops a request: {expect: {action: block}, because: that rule is tried}}
"""
    policies = loaded(tmp_path, mine=mine)
    (policy,) = policies.policies
    modes = {rule.id: str(rule.mode) for rule in policy.rules}
    assert modes["harmful-request"] == "shadow"
    assert modes["jailbreak"] == "enforce"
    assert {"guard", "secrets", "pii"} == policies.classifiers.keys()


@pytest.mark.usefixtures("words_only")
def test_what_is_inherited_as_it_is_is_linted_in_the_base(tmp_path: Path) -> None:
    loaded(tmp_path, base=BASE, variant=VARIANT)
    notices = [(notice.policy, notice.what) for notice, _ in check(str(tmp_path), linted=True).notices]
    assert [what for policy, what in notices if policy == "variant" and "second" in what] == []
    assert [what for policy, what in notices if policy == "variant" and "rule 'first' has no 'on_error'" in what]
    assert [what for policy, what in notices if policy == "base" and "rule 'first' has no 'on_error'" in what]


CASES = """
cases:
  - {name: marked, text: a MARK, expect: {action: mask, rule: first}}
  - {name: marked for many, text: a MARK, request: {n: 3}, expect: {action: mask}}
  - {name: hardly marked, text: x, scores: {canary.mark: 0.4}, expect: {action: pass}}
"""
STRICTER = """
extends: base
applies_to: {effort: [high]}
override: {rules: {first: {when: {finding: canary.mark, at_least: 0.3}}}}
"""


def told(folder: Path, **files: str) -> list[str]:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(HEAD.format(name) + text)
    return [line.removeprefix(f"{folder}/") for line in check(str(folder)).lines()[:-1]]


@pytest.mark.usefixtures("words_only")
def test_cases_of_the_base_are_to_hold_for_the_variant(tmp_path: Path) -> None:
    (line,) = told(tmp_path, base=BASE + CASES, variant=STRICTER)
    assert line == (
        f"variant.yaml:6:10: case 'hardly marked' of base 'base' ({tmp_path}/base.yaml:26:5) failed for "
        "'variant': expected pass, decided mask; fired: 'first' (mask); seen: canary.mark 0.40; where that is "
        'meant, write it under override: {cases: {"hardly marked": {expect: {action: mask}, because: ...}}}'
    )
    inherited = check(str(tmp_path)).cases[3:]
    assert [(case.policy, case.base, case.name, case.outcome.value) for case in inherited] == [
        ("variant", "base", "marked", "passed"),
        ("variant", "base", "marked for many", "passed"),
        ("variant", "base", "hardly marked", "failed"),
    ]


@pytest.mark.usefixtures("words_only")
@pytest.mark.parametrize("change", ["expect: {action: mask, rule: first}", "drop: true"])
def test_a_case_comes_out_otherwise_where_it_is_said_to(tmp_path: Path, change: str) -> None:
    cases = f"\n  cases: {{hardly marked: {{{change}, because: high effort is watched}}}}\n"
    variant = STRICTER.replace("override: {rules: {first", "override:\n  rules: {first").replace("}}}\n", "}}" + cases)
    assert told(tmp_path, base=BASE + CASES, variant=variant) == []
    results = check(str(tmp_path)).cases
    assert len([case for case in results if case.base]) == (2 if "drop" in change else 3)


@pytest.mark.usefixtures("words_only")
def test_a_case_is_decided_by_who_inherits_it_whoever_else_does(tmp_path: Path) -> None:
    """Its request says n: 3, which is what a sibling is for, and one below it; neither stands in its place."""
    other = "extends: base\napplies_to: {n: {at_least: 2}}\noverride: {rules: {first: {action: block}}, cases: {marked: {expect: {action: block}, because: b}, marked for many: {drop: true, because: b}}}\n"  # noqa: E501
    below = "extends: variant\napplies_to: {n: {at_least: 3}}\noverride: {rules: {first: {mode: 'off'}}, cases: {marked: {expect: {action: pass}, because: b}, marked for many: {expect: {action: pass}, because: b}, hardly marked: {drop: true, because: b}}}\n"  # noqa: E501
    lines = told(tmp_path, base=BASE + CASES, variant=STRICTER.replace("0.3", "0.7"), other=other, below=below)
    # The base's own case is decided by what is for its request, as live traffic is.
    assert [line.partition(": expected")[0] for line in lines] == ["base.yaml:25:5: case 'marked for many' failed"]


def test_a_pack_that_extends_another_is_extended_whole(tmp_path: Path) -> None:
    policies = loaded(tmp_path, mine="extends: strict\n")
    assert {rule.id for rule in policies.rules} >= {"harmful-request", "strict-number-sent"}
    assert policies.rules[-1] == load("strict").rules[-1]


def test_what_is_overridden_of_a_base(tmp_path: Path) -> None:
    head = "id: mine\nversion: 1\nowner: o\ndescription: d\nextends: baseline\n"
    other = """override:
  rules: {harmful-request: {mode: shadow}}
  cases:
    silence of the guard stops a request: {expect: {action: block}, because: tried}
    history of a crime: {drop: true, because: no longer}
"""
    files = [tmp_path / "old.yaml", tmp_path / "new.yaml"]
    for file, text in zip(files, (head, head + other), strict=True):
        file.write_text(text)
    assert [str(each) for each in diff(*(load(str(file)) for file in files))] == [
        "rule harmful-request: mode enforce -> shadow: looser",
        "inherited case mine/silence of the guard stops a request: expects what its base says -> block",
        "inherited case mine/history of a crime: expects what its base says -> nothing: it is dropped",
    ]


def test_a_pack_beside_what_extends_it(tmp_path: Path) -> None:
    """Only what is said otherwise differs, not every rule by its owner."""
    other = tmp_path / "mine.yaml"
    head = "id: mine\nversion: 1\nowner: o\ndescription: d\nextends: baseline\n"
    other.write_text(
        head + "override: {rules: {jailbreak: {mode: shadow}}, cases: {a harmless persona: {drop: true, because: b}}}\n"
    )
    assert [str(each) for each in diff(load("baseline"), load(str(other)))] == [
        "policy baseline: replaced by 'mine', which extends it",
        "rule jailbreak: mode enforce -> shadow: looser",
        "inherited case mine/a harmless persona: expects what its base says -> nothing: it is dropped",
    ]
    back = [str(each) for each in diff(load(str(other)), load("baseline"))]
    assert back[:3] == [
        "policy mine: removed",
        "policy baseline: added",
        "rule jailbreak: mode shadow -> enforce: stricter",
    ]
