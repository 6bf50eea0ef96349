"""A policy that is no looser than a floor, by the order that the loader holds it to, never decides milder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from classifiers.base import Message, Report, Role
from policies.cel.condition import compiled
from policies.cel.lifted import ANY, lifting
from policies.check import check
from policies.document import Document
from policies.engine import Action, Decision, Stage, decide
from policies.facts import Account, Facts
from policies.floors import looser
from policies.model import Policy, Rule
from policies.variants import extended

from .reference import ORDER, evaluate
from .test_engine import USER, built, make, messages, reports, rule, rules
from .test_expressions import expressions
from .test_expressions import facts as known_facts

LOTS = st.sampled_from([Facts(), Facts(lot=b"one"), Facts(lot=b"two"), Facts(lot=b"three")])


def one(given: dict[str, Any]) -> Policy:
    return make([given | {"id": "r", "description": "d"}])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """A rule, and another that is mostly a change of it: unrelated ones are hardly ever comparable."""
    floor: dict[str, Any] = {**draw(rules), "stream": "whole"}
    mine = dict(floor)
    other = draw(rules)
    for key in draw(st.sets(st.sampled_from(["stages", "roles", "action", "mode", "on_error", "when"]), max_size=3)):
        mine[key] = other[key]
    if draw(st.booleans()):
        mine["when"] = draw(changed(floor["when"]))
    for each in (floor, mine):
        if "output" not in each["stages"]:
            each.pop("stream", None)
    return one(floor), one(mine)


@st.composite
def changed(draw: st.DrawFn, when: dict[str, Any]) -> dict[str, Any]:
    """A condition with other numbers, more or fewer parts, or joined otherwise."""
    parts = when.get("any") or when.get("all") or [when]
    parts = [dict(part, at_least=draw(st.sampled_from([part["at_least"], 0.1, 0.2, 0.9]))) for part in parts]
    if draw(st.booleans()):
        parts = parts[: draw(st.integers(1, len(parts)))]
    if draw(st.booleans()):
        parts.append({"finding": [draw(st.sampled_from(["a.x", "a.*", "b.y"]))], "at_least": 0.3})
    return {draw(st.sampled_from(["any", "all"])): parts}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(pairs(), st.sampled_from(Stage), messages, reports, LOTS)
def test_what_is_no_looser_decides_nothing_milder(
    pair: tuple[Policy, Policy], stage: Stage, texts: list[Message], report: Report, facts: Facts
) -> None:
    floor, mine = pair
    assume(not list(looser(floor.rules[0], mine.rules[0])))
    before, after = (evaluate([policy], stage, texts, report, facts) for policy in (floor, mine))
    assert ORDER.index(after.action) >= ORDER.index(before.action)
    assert after.action in {"block", "rewrite"} or after.masked >= before.masked
    assert decide(built(mine), stage, texts, report, facts).action.severity >= Action(before.action).severity


@st.composite
def expressed(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """A rule with an expression, and a change of it."""
    roles = st.sampled_from([["user"], ["user", "tool_result"], ["user", "tool_result", "assistant"]])
    floor: dict[str, Any] = {
        "stages": ["input"],
        "roles": draw(roles),
        "when": draw(expressions()),
        "action": draw(st.sampled_from(["log", "rewrite", "block"])),
        "on_error": draw(st.sampled_from([None, "block", "log"])),
    }
    change = {"roles": draw(roles), "action": draw(st.sampled_from([floor["action"], "block"]))}
    return one(floor), one(floor | change)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(expressed(), messages, reports, known_facts)
def test_an_expression_that_is_no_looser_decides_nothing_milder(
    pair: tuple[Policy, Policy], texts: list[Message], report: Report, facts: Facts
) -> None:
    floor, mine = pair
    assume(not list(looser(floor.rules[0], mine.rules[0])))
    before, after = (evaluate([policy], Stage.INPUT, texts, report, facts).action for policy in (floor, mine))
    assert ORDER.index(after) >= ORDER.index(before)


@st.composite
def owned(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """A floor, and a policy that extends it with rules of its own, in front of which its places in the file put it."""

    often = {
        "roles": ["user", "tool_result", "assistant"],
        "when": {"finding": ["a.*"], "at_least": 0.2},
        "mode": "enforce",
    }
    ways = st.sampled_from(["rewrite", "route", "review", "mask"]).map(lambda action: often | {"action": action})

    def some(name: str) -> list[dict[str, Any]]:
        made = [each | draw(st.just({}) | ways | ways) for each in draw(st.lists(rules, min_size=1, max_size=3))]
        to = st.sampled_from(["small", "tiny"])
        return [
            {**each, "id": f"{name}{at}", "description": "d"}
            | ({"route_to": draw(to)} if each["action"] == "route" else {})
            for at, each in enumerate(made)
        ]

    floor = make(some("f"), id="z-floor", floor=True)
    own = make(some("o"), id="a-tenant", extends="z-floor", applies_to={"accounts": ["tenant"]})
    return floor, extended(Document("floor"), floor, own, Document("own"))


def _letters(decision: Decision) -> set[tuple[int, int]]:
    return {(mask.message, at) for mask in decision.masks for at in range(mask.start, mask.end)}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(owned(), st.sampled_from(Stage), messages, reports, LOTS)
def test_rules_of_its_own_undo_nothing_of_a_floor(
    pair: tuple[Policy, Policy], stage: Stage, texts: list[Message], report: Report, facts: Facts
) -> None:
    before, after = (decide(built(policy), stage, texts, report, facts) for policy in pair)
    assert after.action.severity >= before.action.severity
    if before.action is not Action.REVIEW:
        after = after.approved() if after.action is Action.REVIEW else after
        assert after.action.severity >= before.action.severity
    if before.fired and not before.fired[0].not_evaluated and after.action is before.action:
        assert after.rule == before.rule, "of equals the floor's decides"
    if before.stopped() is not None:
        assert after.stopped() is not None, "nor is a model asked where the floor answers in its place"
    if after.stopped() is None:
        assert _letters(after) >= _letters(before)
        assert set(after.advice) >= set(before.advice)
    if before.way is not None and before.way.action is Action.ROUTE:
        there = after.arrived({before.way.told})
        assert there.way is None or there.way.action is not Action.ROUTE, "it stays where the floor sent it"


@given(rules)
def test_a_rule_is_no_looser_than_itself(given: dict[str, Any]) -> None:
    (made,) = one(given).rules
    assert list(looser(made, made)) == []


BASE: dict[str, Any] = {
    "stages": ["input", "output"],
    "roles": ["user", "tool_result"],
    "when": {"any": [{"finding": ["a.x"], "at_least": 0.5}, {"finding": ["b.y"], "at_least": 0.5}]},
    "action": "mask",
    "mode": "canary 20%",
    "on_error": "log",
    "stream": {"hold_back": 100},
    "strike": "loud",
}
CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"action": "block", "mode": "enforce", "on_error": "block", "stream": "whole"}, []),
    ({"mode": "canary 30%", "stream": {"hold_back": 101}, "roles": ["user", "tool_result", "system"]}, []),
    ({"stages": ["output"]}, ["stages"]),
    ({"roles": ["user"]}, ["roles"]),
    ({"action": "log"}, ["action"]),
    ({"on_error": "pass"}, ["on_error"]),
    ({"mode": "off"}, ["mode"]),
    ({"mode": "shadow"}, ["mode"]),
    ({"mode": "canary 19%"}, ["mode"]),
    ({"stream": {"hold_back": 99}}, ["stream"]),
    ({"when": {"finding": "a.x", "at_least": 0.5}}, ["when"]),
    ({"when": {"finding": ["a.*", "b.y"], "at_least": 0.4}}, []),
    ({"when": {"finding": ["a.*", "b.y"], "at_least": 0.6}}, ["when"]),
    ({"when": 'score("a.x") > 0.1'}, ["when"]),
    ({"mask_with": "<{LABEL}_{n}>", "restore": True}, ["restore"]),
    ({"strike": {"name": "loud", "within": "24h"}, "flag": "banned"}, []),
    ({"strike": {"name": "loud", "within": "23h"}}, ["strike"]),
]


@pytest.mark.parametrize(("change", "keys"), CHANGES)
def test_each_way_of_being_looser_is_named(change: dict[str, Any], keys: list[str]) -> None:
    (floor,), (mine,) = one(BASE).rules, one(BASE | change).rules
    assert [key for key, _, _ in looser(floor, mine)] == keys


SAME: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"action": "rewrite", "rewrite_with": "Call the hotline."}, {"rewrite_with": "Go on."}, ["rewrite_with"]),
    ({"action": "advise", "advice": "Follow no orders."}, {"advice": "Follow all orders."}, ["advice"]),
    ({"action": "route", "route_to": "small"}, {"route_to": "big"}, ["route_to"]),
    ({"action": "rewrite", "rewrite_with": "Call the hotline."}, {"message": "No.", "tags": ["a"]}, []),
    ({"action": "log"}, {"action": "route", "route_to": "big"}, ["action"]),
    ({"action": "review", "hold": "60s"}, {"otherwise": "pass"}, ["otherwise"]),
    ({"action": "review", "hold": "60s", "otherwise": "pass"}, {"hold": "59s"}, ["hold"]),
    ({"action": "review", "hold": "60s", "otherwise": "pass"}, {"hold": "61s"}, []),
    ({"action": "review", "hold": "60s", "otherwise": "pass"}, {"otherwise": "block", "hold": "1s"}, []),
]


@pytest.mark.parametrize(("floor", "change", "keys"), SAME)
def test_an_action_that_stays_does_no_less(floor: dict[str, Any], change: dict[str, Any], keys: list[str]) -> None:
    base = rule() | floor
    (before,), (after,) = make([base]).rules, make([base | change]).rules
    assert [key for key, _, _ in looser(before, after)] == keys


def test_a_part_of_a_mask_is_not_dropped() -> None:
    both = [{"finding": ["a.x"], "at_least": 0.5}, {"finding": ["b.y"], "at_least": 0.5}]
    masks = {**rule(), "action": "mask", "on_error": "log"}
    floor, wider, fewer = (one({**masks, "when": when}).rules[0] for when in ({"all": both}, {"any": both}, both[0]))
    assert list(looser(floor, wider)) == []
    assert [key for key, _, _ in looser(floor, fewer)] == ["when"]


FLOOR = """
id: house
version: 1
owner: tests
description: The operator's floor.
floor: true
classifiers:
  w: {kind: patterns, patterns: {evil: {words: [evilword]}, drill: {words: [drillword]}}}
rules:
  - id: no-evil
    description: Evil, but for a drill.
    stages: [input]
    roles: [user]
    when: score("w.evil") >= 0.5 && score("w.drill") < 0.5
    action: rewrite
    rewrite_with: Please call the hotline.
"""
TENANT = """
id: a-tenant
version: 1
owner: tests
description: A tenant's variant.
extends: house
applies_to: {accounts: [tenant]}
"""
OTHER_ROLES = "override: {rules: {no-evil: {roles: [user, assistant, tool_result]}}}\n"
OWN_ROUTE = """
rules:
  - id: mine
    description: To a model of mine.
    stages: [input]
    roles: [user]
    when: {finding: w.evil, at_least: 0.5}
    action: route
    route_to: big
"""


def test_an_expression_of_a_floor_keeps_its_roles(tmp_path: Path) -> None:
    (tmp_path / "house.yaml").write_text(FLOOR)
    (tmp_path / "tenant.yaml").write_text(TENANT + OTHER_ROLES)
    told = "\n".join(check(str(tmp_path)).lines())
    assert "tenant.yaml:8:37: looser than the floor: its expression is another one" in told
    assert "leave them as they are" in told


def test_words_of_a_floor_stand_before_a_route_of_a_tenant(tmp_path: Path) -> None:
    (tmp_path / "house.yaml").write_text(FLOOR)
    (tmp_path / "tenant.yaml").write_text(TENANT + OWN_ROUTE)
    policies = check(str(tmp_path)).policy
    assert policies is not None
    text = [Message(USER[0].role, "evilword", "/m")]
    seen = [replace(finding, classifier="w") for finding in policies.classifiers["w"].classify(text)]
    for account in ("tenant", "other"):
        facts = Facts(account=Account(account))
        decision = decide(policies.facing(facts), Stage.INPUT, text, Report(tuple(seen)), facts)
        assert (decision.action, decision.rule) == (Action.REWRITE, "no-evil")


LIFTING: list[tuple[str, dict[str, Any], bool]] = [
    ('!("trusted" in account.flags)', {"flag": "trusted"}, True),
    ('!("trusted" in account.flags)', {"flag": "banned"}, False),
    ('!("trusted" in account.flags)', {"strike": "trusted"}, False),
    ('!("trusted" in account.flags)', {"flag": "trusted", "mode": "off"}, False),
    ('"trusted" in account.flags', {"flag": "trusted"}, False),
    ('!account.flags.exists(f, f == "trusted")', {"flag": "trusted"}, True),
    ('account.flags.all(f, f.startsWith("a"))', {"flag": "anything"}, True),
    ("size(account.flags) == 0", {"flag": "anything"}, True),
    ('"banned" in account.flags ? request.settings.n > 1 : request.settings.n > 0', {"flag": "banned"}, True),
    ('account.history["loud"] >= 3', {"strike": "loud"}, False),
    ('account.history["loud"] < 3', {"strike": "loud"}, True),
    ('!(account.history["loud"] >= 3)', {"strike": "loud"}, True),
    ('account.history["loud"] == 0 || request.settings.n > 1', {"strike": "loud"}, True),
    ('account.history["loud"] == 0', {"strike": "other"}, False),
    ("!has(account.history.loud)", {"strike": "loud"}, True),
    ("!has(account.history.loud)", {"strike": "other"}, False),
    ("has(account.history.loud)", {"strike": "loud"}, False),
    ("has(account.history.loud) ? request.settings.n > 1 : request.settings.n > 2", {"strike": "loud"}, True),
    ("size(account.flags) >= 2", {"flag": "anything"}, False),
    ("size(account.flags) > 0", {"flag": "anything"}, False),
    ("2 <= size(account.flags)", {"flag": "anything"}, False),
    ("size(account.flags) != 0", {"flag": "anything"}, False),
    ("size(account.flags) != 1", {"flag": "anything"}, True),
    ("size(account.flags) == 2", {"flag": "anything"}, True),
    ("size(account.flags) < 2", {"flag": "anything"}, True),
    ("!(size(account.flags) < 2)", {"flag": "anything"}, False),
    ("!(size(account.flags) == 0)", {"flag": "anything"}, False),
    ("!(size(account.flags) >= 2)", {"flag": "anything"}, True),
    ("size(account.history) > 1", {"strike": "loud"}, False),
    ("size(account.history) <= 1", {"strike": "loud"}, True),
    ('!(account.history["loud"] <= 3)', {"strike": "loud"}, False),
    ('account.history["loud"] != 0', {"strike": "loud"}, False),
    ('account.history["loud"] != 3', {"strike": "loud"}, True),
    ("size(tools) < 2", {"flag": "anything"}, False),
    ('!("trusted" in account.flags)', {"flag": "trusted", "mode": "shadow"}, False),
    ('account.history["loud"] < 3', {"strike": "loud", "mode": "shadow"}, False),
    ('!("trusted" in account.flags)', {"flag": "trusted", "mode": {"canary": "1%"}}, True),
    ('account.history["loud"] > account.history["mild"]', {"strike": "mild"}, True),
    ('request.model == "a"', {"flag": "a", "strike": "b"}, False),
]


@pytest.mark.parametrize(("when", "mark", "lifts"), LIFTING)
def test_no_mark_of_a_tenant_lifts_a_rule_of_a_floor(when: str, mark: dict[str, Any], lifts: bool) -> None:
    floor = make([rule(id="f", when=f'score("a.x") >= 0.5 && ({when})'), rule(id="g")], floor=True)
    every: list[dict[str, Any]] = [{"rules": [rule(id="o") | mark]}, {"override": {"rules": {"g": mark}}}]
    for own in every:
        if "override" in own and "mode" in mark:
            continue  # which is looser for another reason
        document, given = Document("t"), {"id": "t", "extends": "p", "applies_to": {"n": {"at_least": 2}}, **own}
        extended(Document("f"), floor, make(given.pop("rules", []), **given), document)
        assert [problem.what for problem in document.problems if "may fire no more" in problem.what] == [
            problem.what for problem in document.problems
        ]
        assert bool(document.problems) == lifts, own


WORDS = ("a", "b")
_LEAVES = [
    *(form.format(word) for word in WORDS for form in (
        '"{}" in account.flags', 'account.flags.exists(f, f == "{}")', "has(account.history.{})",
        '"{}" in account.history', 'account.flags.all(f, f != "{}")', "account.history.{} == account.history.b",
    )),
    *(f"{thing} {sign} {number}" for thing in ("size(account.flags)", "size(account.history)", "account.history.a")
      for sign in ("<", "<=", ">", ">=", "==", "!=") for number in (0, 1, 2)),
    "request.settings.n > 1",
]  # fmt: skip
CONDITIONS = st.recursive(
    st.sampled_from(_LEAVES),
    lambda inner: st.one_of(
        st.builds("!({})".format, inner),
        st.builds("({}) && ({})".format, inner, inner),
        st.builds("({}) || ({})".format, inner, inner),
        st.builds("({}) ? ({}) : ({})".format, inner, inner, inner),
    ),
    max_leaves=4,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    when=CONDITIONS,
    flags=st.frozensets(st.sampled_from(WORDS)),
    history=st.dictionaries(st.sampled_from(WORDS), st.integers(1, 3)),
    kind=st.sampled_from(("flag", "strike")),
    word=st.sampled_from(WORDS),
)
def test_a_condition_that_is_true_stays_so_but_for_marks_that_are_named(
    when: str, flags: frozenset[str], history: dict[str, int], kind: Any, word: str
) -> None:
    condition = compiled(when, Stage.INPUT, frozenset(Role))

    def holds(account: Account) -> bool:
        return condition.weigh(0, 0, Stage.INPUT, [], [], Facts(account=account))[0]

    before = Account("x", flags=flags, history=history)
    after = replace(before, flags=flags | {word})
    if kind == "strike":
        after = replace(before, history=history | {word: history.get(word, 0) + 1})
    if holds(before) and not holds(after):
        assert not lifting(when, [Stage.INPUT], list(Role)).isdisjoint({(kind, word), (kind, ANY)})


READ = rule(id="f", when='score("a.x") >= 0.5 && account.history["loud"] >= 3')
SHORTER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"within": "1s"}, "1d"),
    ({}, {"within": "1d"}, ""),
    ({}, {"within": "7d"}, ""),
    ({"strike": {"name": "loud", "within": "2h"}}, {"within": "1h"}, "2h"),
    ({"strike": {"name": "loud", "within": "2h"}}, {"within": "2h"}, ""),
    ({"strike": {"name": "loud", "within": "2h"}, "mode": "off"}, {"within": "2h"}, "1d"),
    ({}, {"name": "mild", "within": "1s"}, ""),
]


@pytest.mark.parametrize(("left", "strike", "least"), SHORTER)
def test_no_strike_of_a_tenant_is_counted_over_less_than_a_floor_counts_it(
    left: dict[str, Any], strike: dict[str, Any], least: str
) -> None:
    floor = make([READ, rule(id="g"), rule(id="h") | left], floor=True)
    mark = {"strike": {"name": "loud"} | strike}
    every: list[dict[str, Any]] = [{"rules": [rule(id="o") | mark]}, {"override": {"rules": {"g": mark}}}]
    for own in every:
        document, given = Document("t"), {"id": "t", "extends": "p", "applies_to": {"n": {"at_least": 2}}, **own}
        extended(Document("f"), floor, make(given.pop("rules", []), **given), document)
        told = [f"looser than the floor: it counts 'loud' over {least}, for all accounts"] if least else []
        assert [problem.what for problem in document.problems] == told, own


def test_an_expression_stays_as_it_is() -> None:
    kept = rule(when='score("a.x") >= 0.5')
    (floor,), (same,) = make([kept]).rules, make([kept | {"action": "block"}]).rules
    (other,) = make([kept | {"when": 'score("a.x") >= 0.4'}]).rules
    (fewer,), (more,) = (make([kept | {"roles": roles}]).rules for roles in (["user"], ["user", "tool_result"]))
    assert list(looser(floor, same)) == []
    assert [key for key, _, _ in looser(floor, other)] == ["when"]
    assert [key for key, _, _ in looser(fewer, more)] == ["roles"]
    assert [key for key, _, _ in looser(more, fewer)] == ["roles"]


def test_a_part_that_is_dropped_must_not_hide_its_silence() -> None:
    both = [{"finding": ["a.x"], "at_least": 0.5}, {"finding": ["b.y"], "at_least": 0.5}]
    floor: Rule = one({**rule(), "when": {"all": both}, "action": "log", "on_error": "block"}).rules[0]
    mine = one({**rule(), "when": both[0], "action": "log", "on_error": "block"}).rules[0]
    assert [key for key, _, _ in looser(floor, mine)] == ["action"]
