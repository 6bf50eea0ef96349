"""Thresholds from honest traffic: within the budget and no higher than it asks, by the same rules that decide."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.base import Finding, Message, Report, Role
from classifiers.lesson import above
from classifiers.statistics import upper_bound
from policies.calibrate import Budget, Outcome, Part, calibrate, marks, together
from policies.edited import EditError, edited, spelled
from policies.engine import decide
from policies.judged import CalibrateError, Judged, judge
from policies.load import load
from policies.model import Action, Policy, Stage
from policies.ready import PolicySet
from policies.texts import Text


class Told:
    """A classifier that says of a text the scores that stand in it: "a=0.5 b=0.25"."""

    name, labels, digest, inline = "c", frozenset({"a", "b"}), "0", True

    def classify(self, messages: Sequence[Message]) -> list[Finding]:
        return [
            Finding("c", label, float(score), at)
            for at, message in enumerate(messages)
            for label, _, score in (part.partition("=") for part in message.text.split())
        ]


def policy(when: dict[str, Any], **rule: Any) -> PolicySet:
    content = {
        "id": "p",
        "version": 1,
        "owner": "o",
        "description": "d",
        "classifiers": {"c": {"kind": "patterns"}},
        "rules": [{"id": "r", "description": "d", "stages": ["input"], "when": when, "action": "block"} | rule],
    }
    return PolicySet.build([Policy.model_validate_json(json.dumps(content))], {"c": Told()})


def texts(*said: str, role: Role = Role.USER) -> list[Text]:
    return [Text(text, None, role, "f", at) for at, text in enumerate(said, 1)]


def run(policies: PolicySet, honest: Sequence[Text], budget: Budget, bad: Sequence[Text] = ()) -> Outcome:
    (outcome,) = calibrate(policies, judge(policies, honest), judge(policies, bad) if bad else None, budget)
    return outcome


def moved(policies: PolicySet, outcome: Outcome) -> PolicySet:
    """The set with the proposed thresholds."""
    content = policies.policies[0].model_dump(mode="json", exclude_unset=True)
    for part in outcome.parts:
        place: Any = content
        for key in part.path[:-1]:
            place = place[key]
        place[part.path[-1]] = part.then
    return PolicySet.build([Policy.model_validate_json(json.dumps(content))], policies.classifiers)


def blocked(policies: PolicySet, honest: Sequence[Text]) -> int:
    """How many texts the engine itself stops."""
    count = 0
    for text in honest:
        message = Message(text.role, text.text, "")
        found = policies.classifiers["c"].classify([message])
        count += decide(policies, Stage.INPUT, [message], Report(tuple(found))).action is Action.BLOCK
    return count


scores = st.integers(0, 50).map(lambda value: value / 50)
pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=150)
WHENS: tuple[dict[str, Any], ...] = (
    {"finding": "c.a", "at_least": 0.5},
    {"finding": ["c.a", "c.b"], "at_least": 0.5},
    {"finding": "c.*", "at_least": 0.9},
    {"any": [{"finding": "c.a", "at_least": 0.3}, {"finding": "c.b", "at_least": 0.9}]},
    {"all": [{"finding": "c.a", "at_least": 0.2}, {"finding": "c.b", "at_least": 0.6}]},
)


@settings(deadline=None, max_examples=60)
@given(pairs, st.sampled_from(WHENS), st.sampled_from([0.02, 0.05, 0.2]), st.booleans())
def test_the_engine_with_these_thresholds_keeps_the_budget(
    said: list[tuple[float, float]], when: dict[str, Any], share: float, lower: bool
) -> None:
    policies, honest = policy(when), texts(*(f"a={one} b={other}" for one, other in said))
    outcome = run(policies, honest, Budget(block=share, lower=lower))
    assert outcome.honest_now.hits == blocked(policies, honest)
    after = moved(policies, outcome)
    assert outcome.honest_then.hits == blocked(after, honest)
    assert outcome.honest_then.bound == upper_bound(outcome.honest_then.hits, len(honest))
    if outcome.well:
        assert outcome.honest_then.bound <= share or "nothing to set" in outcome.note
        if not lower:
            assert all(part.then >= part.now for part in outcome.parts)
    else:
        assert outcome.changes == ()
        assert outcome.note
    if outcome.honest_now.bound <= share and not lower:
        assert all(part.then == part.now for part in outcome.parts)


@settings(deadline=None, max_examples=40)
@given(st.lists(scores, min_size=60, max_size=200), st.sampled_from([0.05, 0.1]))
def test_no_lower_threshold_would_do(said: list[float], share: float) -> None:
    honest = texts(*(f"a={one}" for one in said))
    outcome = run(policy(WHENS[0]), honest, Budget(block=share, lower=True))
    below = [score for score in said if score < outcome.parts[0].then]
    if outcome.well and outcome.parts[0].then > 0.01 and below:
        assert upper_bound(sum(score >= max(below) for score in said), len(said)) > share


def test_an_unproven_budget_says_what_it_needs() -> None:
    outcome = run(policy(WHENS[0]), texts(*["a=0.1"] * 298), Budget(block=0.01))
    assert not outcome.well
    assert "298 honest texts prove nothing: 299 or more are needed" in outcome.note
    assert run(policy(WHENS[0]), texts(*["a=0.1"] * 299), Budget(block=0.01)).well


def test_certain_false_alarms_are_not_set_right_by_a_threshold() -> None:
    outcome = run(policy(WHENS[0]), texts(*["a=1.0"] * 30, *["a=0.1"] * 400), Budget(block=0.01))
    assert not outcome.well
    assert "30 honest texts have the highest score" in outcome.note
    assert outcome.changes == ()


def test_what_is_caught_is_told_and_may_be_asked_for() -> None:
    honest = texts(*["a=0.7"] * 10, *["a=0.1"] * 400)
    bad = texts(*["a=0.6"] * 30, *["a=0.8"] * 10)
    outcome = run(policy(WHENS[0]), honest, Budget(block=0.01), bad)
    assert outcome.well
    assert outcome.bad_now is not None
    assert outcome.bad_then is not None
    assert (outcome.bad_now.hits, outcome.bad_then.hits, outcome.bad_then.count) == (40, 10, 40)
    short = run(policy(WHENS[0]), honest, Budget(block=0.01, catch=0.5), bad)
    assert not short.well
    assert "catches too little (25.0%)" in short.note
    assert short.changes == ()


def test_rules_are_measured_on_texts_that_they_read() -> None:
    reads = policy(WHENS[0], roles=["tool_result"])
    outcome = run(reads, texts("a=0.9"), Budget(block=0.3))
    assert outcome.honest_now.count == 0
    assert outcome.well
    assert "not measured" in outcome.note
    both = [*texts("a=0.9"), *texts(*["a=0.2"] * 20, role=Role.TOOL_RESULT), *texts("a=0.9", role=Role.ASSISTANT)]
    assert run(reads, both, Budget(block=0.2)).honest_now.count == 20
    assert together(reads, judge(reads, both)).hits == 0


@pytest.mark.parametrize(
    ("rule", "budget", "asked"),
    [
        ({"action": "log"}, Budget(block=0.2), False),
        ({"action": "log"}, Budget(block=0.2, log=0.3), True),
        ({"action": "mask"}, Budget(block=0.2), True),
        ({"action": "pass"}, Budget(block=0.2, log=0.3), False),
        ({"mode": "shadow"}, Budget(block=0.2), True),
    ],
)
def test_a_budget_is_for_an_action(rule: dict[str, Any], budget: Budget, asked: bool) -> None:
    outcome = run(policy(WHENS[0], **rule), texts(*["a=0.6"] * 25, *["a=0.1"] * 60), budget)
    assert bool(outcome.changes) is asked


def test_rules_that_are_off_are_left_alone() -> None:
    off = policy(WHENS[0], mode="off")
    assert calibrate(off, judge(off, texts("a=0.6")), None, Budget()) == []


def test_a_classifier_that_fails_stops_it() -> None:
    broken = policy(WHENS[0])
    with pytest.raises(CalibrateError, match="f:2: classifier 'c' failed: crash ValueError"):
        judge(broken, texts("a=0.1", "a=what"))
    with pytest.raises(CalibrateError, match="failed: bad_answer"):
        judge(broken, texts("a=nan"))


@pytest.mark.parametrize("every", [1, 251, 498, 10_007])
def test_a_threshold_is_above_the_score_that_it_is_to_pass(every: int) -> None:
    for step in range(every, 1_000_000, 997):
        score = step / 1e6
        assert score < above(score) < score + 2e-6
    assert above(1.0) == 1.0


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(1, 999_998), min_size=30, max_size=60),
    st.sampled_from([0.5, 0.000249, 0.93, 0.999999]),
    st.booleans(),
)
def test_what_is_written_keeps_the_budget_to_the_last_digit(steps: list[int], now: float, lower: bool) -> None:
    honest, budget = texts(*(f"a={step / 1e6:.6f}" for step in steps)), Budget(block=0.2, lower=lower)
    policies = policy({"finding": "c.a", "at_least": now})
    outcome = run(policies, honest, budget)
    assert outcome.well
    after = moved(policies, replace(outcome, parts=tuple(_as_written(part) for part in outcome.parts)))
    assert upper_bound(blocked(after, honest), len(honest)) <= 0.2
    assert not run(after, honest, Budget(block=0.2)).changes


def _as_written(part: Part) -> Part:
    return replace(part, then=float(spelled(part.then)))


def test_cases_that_mark_a_bound_move_with_it() -> None:
    part = Part(("c.a", "d.*"), ("rules", 0, "when", "at_least"), 0.9, 0.95)
    outcome = replace(run(policy(WHENS[0]), texts("a=0.1"), Budget(block=0.5)), parts=(part,), well=True)
    cases = [
        {"scores": {"c.a": 0.9, "c.b": 0.9}},
        {"scores": {"c.a": 0.8999}},
        {"text": "no scores"},
        {"scores": {"d.x": {"score": 0.9, "reading": "decoded"}}},
    ]
    assert marks({"id": "other", "cases": cases}, [outcome]) == {}
    assert marks({"id": "p", "cases": cases}, [outcome]) == {
        ("cases", 0, "scores", "c.a"): 0.95,
        ("cases", 3, "scores", "d.x", "score"): 0.95,
    }


# Into the file ------------------------------------------------------------------------------------------------------

WRITTEN = textwrap.dedent("""\
    # A comment — with "0.9" in it
    id: p
    version: 1   # 0.5
    owner: o
    description: d
    classifiers:
      c: {kind: patterns, patterns: {a: ["x"]}}
    rules:
      - id: one
        description: "at_least: 0.5"
        stages: [input]
        when: {finding: c.a, at_least: 0.5}   # why so
        action: block
      - id: two
        description: é 😀
        stages: [input]
        when:
          any:
            - { at_least: .25, finding: c.a }
            -   finding: c.*
                at_least: 5e-1
        action: log
    """)
PATHS: tuple[tuple[str | int, ...], ...] = (
    ("rules", 0, "when", "at_least"),
    ("rules", 1, "when", "any", 0, "at_least"),
    ("rules", 1, "when", "any", 1, "at_least"),
)


@settings(deadline=None, max_examples=60)
@given(
    st.sets(st.sampled_from(PATHS), min_size=1),
    st.integers(1, 1_000_000).map(lambda value: value / 1e6),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_only_the_number_changes(chosen: set[Any], value: float, ends: str, mark: bool) -> None:
    raw = (b"\xef\xbb\xbf" if mark else b"") + WRITTEN.replace("\n", ends).encode()
    made = edited(raw, dict.fromkeys(chosen, value))
    expected = WRITTEN.replace("\n", ends)
    for path, old in zip(PATHS, ("at_least: 0.5}", "at_least: .25,", "at_least: 5e-1"), strict=True):
        if path in chosen:
            new = old.replace(old[10:].rstrip("},"), spelled(value))
            expected = expected.replace(old, new)
    assert made == (b"\xef\xbb\xbf" if mark else b"") + expected.encode()


@pytest.mark.parametrize("path", [("rules", 5, "when", "at_least"), ("rules", 0, "id"), ("rules", 0, "when")])
def test_what_is_no_number_is_not_touched(path: tuple[str | int, ...]) -> None:
    with pytest.raises(EditError, match="by hand"):
        edited(WRITTEN.encode(), {path: 0.5})


def test_numbers_are_written_plainly() -> None:
    assert [spelled(value) for value in (0.5, 1.0, 1e-6, 0.123456, 0.99999)] == [
        "0.5",
        "1.0",
        "0.000001",
        "0.123456",
        "0.99999",
    ]


def test_a_real_policy_is_calibrated_and_still_loads(tmp_path: Path) -> None:
    place = tmp_path / "p.yaml"
    place.write_text(WRITTEN, "utf-8")
    policies = load(str(place))
    # Patterns score 1: one honest text in twenty meets them.
    outcomes = calibrate(policies, judge(policies, texts(*["x"] * 5, *["y"] * 95)), None, Budget(block=0.05, log=0.2))
    assert [outcome.well for outcome in outcomes] == [False, True]
    changes = {part.path: part.now / 2 for outcome in outcomes for part in outcome.parts}
    place.write_bytes(edited(place.read_bytes(), changes))
    again = load(str(place))
    assert [[part.at_least for part in rule.conditions[0]] for rule in again.rules] == [[0.25], [0.125, 0.25]]


def test_all_rules_together() -> None:
    policies = policy(WHENS[0])
    judged = judge(policies, texts("a=0.6", "a=0.7", "a=0.1"))
    assert together(policies, judged).hits == 2
    (outcome,) = calibrate(policies, judged, None, Budget(block=0.5))
    raised = replace(outcome, parts=tuple(replace(part, then=0.65) for part in outcome.parts), well=True)
    assert together(policies, judged, [raised]).hits == 1


def test_judged_texts_are_split_in_order() -> None:
    policies = policy(WHENS[0])
    judged = judge(policies, texts("a=0.1", "a=0.2", "a=0.3"))
    for count in range(4):
        one, other = judged.split(count)
        assert isinstance(one, Judged)
        assert [text.text for text in itertools.chain(one.texts, other.texts)] == ["a=0.1", "a=0.2", "a=0.3"]
        assert len(one.texts) == count
        assert np.allclose(one.strengths(policies.rules[0])[:, 0], [0.1, 0.2, 0.3][:count])
