"""Which policies are for which requests."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Finding, Report
from policies.cases import Outcome, run_cases
from policies.engine import Action, Stage, decide
from policies.facts import Account, Facts, Settings
from policies.forms import AppliesTo, _meets

from .test_engine import USER, built, make, rule

FACTS = Facts(
    dialect="chat",
    model="GPT-5-mini",
    settings=Settings(effort="high", n=3, stream=True, max_tokens=500),
    tools=("search",),
    account=Account("acme-1", tier="gold"),
)
MEET: list[tuple[dict[str, Any], bool]] = [
    ({"models": ["gpt-5*"]}, True),
    ({"models": ["other", "*MINI"]}, True),
    ({"models": ["gpt-5"]}, False),
    ({"dialects": ["messages", "chat"]}, True),
    ({"dialects": ["messages"]}, False),
    ({"accounts": ["acme-*"], "tiers": ["gold"]}, True),
    ({"accounts": ["acme-*"], "tiers": ["silver"]}, False),
    ({"effort": ["high", "xhigh"]}, True),
    ({"effort": ["low"]}, False),
    ({"n": {"at_least": 2}}, True),
    ({"n": {"at_most": 2}}, False),
    ({"n": {"at_least": 3, "at_most": 3}}, True),
    ({"max_tokens": {"at_most": 499}}, False),
    ({"max_tokens": {"at_least": 500}}, True),
    ({"tools": True, "stream": True}, True),
    ({"tools": False}, False),
    ({"stream": False}, False),
]


@pytest.mark.parametrize(("written", "meets"), MEET)
def test_every_key_that_is_written_must_be_met(written: dict[str, Any], meets: bool) -> None:
    assert AppliesTo.model_validate(written, strict=False).covers(FACTS) is meets


def test_a_request_without_a_bound_is_within_no_bound() -> None:
    assert not AppliesTo.model_validate({"max_tokens": {"at_most": 10**6}}).covers(Facts())


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_stars_mean_what_they_mean_to_a_shell(pattern: str, name: str) -> None:
    assert _meets(pattern, name) is fnmatchcase(name, pattern)


def test_only_the_policies_that_are_for_a_request_decide_it_and_are_asked_for() -> None:
    loud = make([rule("loud", stages=["input"], when={"finding": "b.y", "at_least": 0.5})], id="loud")
    quiet = make([rule("quiet", action="log")], id="quiet")
    policies = built(loud.model_copy(update={"applies_to": AppliesTo(effort=["high"])}), quiet)
    high, low = policies.facing(Facts(settings=Settings(effort="high"))), policies.facing(Facts())
    report = Report((Finding("b", "y", 0.9, 0), Finding("a", "x", 0.9, 0)))
    assert decide(high, Stage.INPUT, USER, report).action is Action.BLOCK
    assert decide(low, Stage.INPUT, USER, report).action is Action.LOG
    assert [reading.classifier for reading in low.tables[Stage.INPUT].readings] == ["a"]
    assert high.revision == low.revision == policies.revision
    assert policies.facing(Facts()) is low, "the choice is made once"
    assert policies.facing(None) is policies, "where nothing is known all apply"
    assert built(quiet).facing(FACTS).facing(FACTS).policies == (quiet,)


def test_a_case_is_decided_by_its_own_policy_or_by_those_that_are_for_its_request() -> None:
    mine = {"name": "mine", "text": "w", "scores": {"a.x": 1.0}, "expect": {"action": "block"}}
    other = mine | {"name": "other", "request": {"model": "big"}, "expect": {"action": "pass"}}
    fitting = mine | {"name": "fitting", "request": {"model": "small-1"}}
    narrow = make([rule()], id="narrow", applies_to={"models": ["small*"]}, cases=[mine, other, fitting])
    broad = make(
        [rule("later", when={"finding": "b.y", "at_least": 0.5})],
        id="broad",
        cases=[mine | {"expect": {"action": "pass"}}],
    )
    results = run_cases(built(narrow, broad))
    assert [(case.name, case.outcome) for case in results if case.outcome is not Outcome.PASSED] == []
    assert len(results) == 4
