"""Canaries: who is drawn, that it never changes, and that a larger share draws all that a smaller one did."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Finding, Report
from policies.engine import Action, Stage, decide
from policies.facts import Facts
from policies.forms import CHARACTERS_A_TOKEN, Canary, HoldBack, Mode
from policies.plan import Hold, StreamMode, stream_mode

from .test_engine import USER, built, make, rule

SEEN = Report((Finding("a", "x", 0.9, 0, (0, 2)),))


@pytest.mark.parametrize("written", ["canary 5%", "canary: 5%", "canary 5 %", {"canary": "5%"}])
def test_a_share_may_be_written_in_either_form(written: object) -> None:
    (made,) = make([rule(mode=written)]).rules
    assert isinstance(made.mode, Canary)
    assert made.mode.canary == 0.05
    assert str(made.mode) == "canary 5%"
    assert made.acts


def test_the_share_is_kept_and_no_rule_draws_like_another() -> None:
    lots = [Facts(lot=number.to_bytes(4)) for number in range(4000)]
    one, two = ([facts.drawn(name, 0.25) for facts in lots] for name in ("one", "two"))
    assert 850 < sum(one) < 1150
    assert 150 < sum(a and b for a, b in zip(one, two, strict=True)) < 350


@given(st.binary(max_size=80), st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_draws_all_that_a_smaller_one_did(lot: bytes, name: str, one: float, other: float) -> None:
    facts, (less, more) = Facts(lot=lot), sorted((one, other))
    assert facts.drawn(name, less) <= facts.drawn(name, more)
    assert facts.drawn(name, 1.0)


def test_a_canary_acts_on_those_drawn_and_is_a_shadow_for_the_others() -> None:
    ready = built(make([rule(mode="canary 50%")]))
    decisions = [decide(ready, Stage.INPUT, USER, SEEN, Facts(lot=bytes([number]))) for number in range(1, 40)]
    acted = [decision for decision in decisions if decision.action is Action.BLOCK]
    spared = [decision for decision in decisions if decision.action is Action.PASS]
    assert acted
    assert spared
    assert {fired.mode for decision in acted for fired in decision.fired} == {Mode.CANARY}
    assert {fired.mode for decision in spared for fired in decision.shadow} == {Mode.SHADOW}
    assert not any(decision.fired for decision in spared)


@pytest.mark.parametrize("facts", [None, Facts()])
def test_where_nobody_can_be_drawn_a_canary_acts(facts: Facts | None) -> None:
    ready = built(make([rule(mode="canary 1%", action="mask")]))
    decision = decide(ready, Stage.INPUT, USER, SEEN, facts)
    assert (decision.action, len(decision.masks)) == (Action.MASK, 1)


def test_a_stream_waits_for_a_canary_too() -> None:
    hold: dict[str, Any] = {"stages": ["output"], "stream": {"hold_back": "50 tokens"}, "mode": "canary 5%"}
    policy = make([rule(**hold)])
    assert policy.rules[0].stream == HoldBack(hold_back=50 * CHARACTERS_A_TOKEN)
    assert stream_mode(built(policy)) == StreamMode(Hold.HOLD_BACK, 50 * CHARACTERS_A_TOKEN)
