"""A policy that is no looser than a floor, by the order that the loader holds it to, never decides milder."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from classifiers.base import Message, Report
from policies.engine import Action, Stage, decide
from policies.facts import Facts
from policies.floors import looser
from policies.model import Policy, Rule

from .reference import ORDER, evaluate
from .test_engine import built, make, messages, reports, rule, rules

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
    before, after = (evaluate([policy], stage, texts, report, facts).action for policy in (floor, mine))
    assert ORDER.index(after) >= ORDER.index(before)
    assert decide(built(mine), stage, texts, report, facts).action.severity >= Action(before).severity


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
    ({"strike": {"name": "loud", "within": "24h"}, "flag": "banned"}, []),
    ({"strike": {"name": "loud", "within": "23h"}}, ["strike"]),
]


@pytest.mark.parametrize(("change", "keys"), CHANGES)
def test_each_way_of_being_looser_is_named(change: dict[str, Any], keys: list[str]) -> None:
    (floor,), (mine,) = one(BASE).rules, one(BASE | change).rules
    assert [key for key, _, _ in looser(floor, mine)] == keys


def test_an_expression_stays_as_it_is() -> None:
    kept = rule(when='score("a.x") >= 0.5')
    (floor,), (same,) = make([kept]).rules, make([kept | {"action": "block"}]).rules
    (other,) = make([kept | {"when": 'score("a.x") >= 0.4'}]).rules
    assert list(looser(floor, same)) == []
    assert [key for key, _, _ in looser(floor, other)] == ["when"]


def test_a_part_that_is_dropped_must_not_hide_its_silence() -> None:
    both = [{"finding": ["a.x"], "at_least": 0.5}, {"finding": ["b.y"], "at_least": 0.5}]
    floor: Rule = one({**rule(), "when": {"all": both}, "action": "log", "on_error": "block"}).rules[0]
    mine = one({**rule(), "when": both[0], "action": "log", "on_error": "block"}).rules[0]
    assert [key for key, _, _ in looser(floor, mine)] == ["action"]
