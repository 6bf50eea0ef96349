"""Policies that extend others: what they inherit, and in whose place they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifiers.base import Finding, Message, Report, Role
from policies.check import check
from policies.engine import Action, PolicySet, Stage, decide
from policies.facts import Facts, Settings

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
override: {rules: {harmful-request: {mode: shadow}}}
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
