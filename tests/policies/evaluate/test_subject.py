"""What is measured is what the engine decides: rank scores and actions tell the same story, always."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Failure, Finding, Message, Report, Role, Silence
from policies.engine import Action, PolicySet, Stage, decide
from policies.evaluate.dataset import Row
from policies.evaluate.evaluation import CannotEvaluate, classifier_subject
from policies.evaluate.subject import LONG, ClassifierSubject, PolicySubject, choose_labels
from policies.model import Policy

from .graded import Graded

SCORES = st.sampled_from([0.0, 0.2, 0.5, 0.5000000000000001, 0.9, 1 - 1e-16, 1.0])
EDGES = st.sampled_from([1e-300, 0.2, 0.5, 0.9, 1.0])
NAMES = st.sampled_from(["a.harmful", "a.injection", "a.*", "b.harmful"])


@st.composite
def rules(draw: st.DrawFn, at: int) -> dict[str, Any]:
    seen = st.builds(
        lambda names, edge: {"finding": names, "at_least": edge}, st.lists(NAMES, min_size=1, unique=True), EDGES
    )
    when: Any = draw(seen)
    if draw(st.booleans()):
        when = {draw(st.sampled_from(["any", "all"])): draw(st.lists(seen, min_size=1, max_size=3))}
    return {
        "id": f"r{at}",
        "description": "d",
        "stages": draw(st.lists(st.sampled_from(["input", "output"]), min_size=1, unique=True)),
        "roles": draw(st.lists(st.sampled_from(["user", "tool_result", "assistant"]), min_size=1, unique=True)),
        "when": when,
        "action": draw(st.sampled_from(["pass", "log", "mask", "block"])),
        "mode": draw(st.sampled_from(["enforce", "enforce", "shadow", "off"])),
    }


@st.composite
def policies(draw: st.DrawFn) -> PolicySet:
    written = [draw(rules(at)) for at in range(draw(st.integers(1, 5)))]
    base: dict[str, Any] = {"id": "p", "version": 1, "owner": "o", "description": "d", "rules": written}
    base["classifiers"] = {name: {"kind": "graded"} for name in "ab"}
    policy = Policy.model_validate(base, strict=False)
    return PolicySet.build([policy], {name: Graded(name) for name in "ab"})


FINDINGS = st.builds(
    Finding,
    st.sampled_from("ab"),
    st.sampled_from(["harmful", "injection"]),
    SCORES,
    st.integers(0, 1),
    st.sampled_from([None, (0, 1)]),
)


@given(policies(), st.lists(FINDINGS, max_size=5), st.sampled_from(list(Stage)))
def test_a_rank_score_from_zero_up_is_the_action(policies: PolicySet, findings: list[Finding], stage: Stage) -> None:
    messages = (Message(Role.TOOL_RESULT, "one", "/0"), Message(Role.USER, "two", "/1"))
    subject = PolicySubject(policies)
    row = Row("1", "s", "harmful", True, stage, messages)
    outcome = subject.judged(row, Report(tuple(findings)))
    decision = decide(policies, stage, messages, Report(tuple(findings)))
    assert outcome.action == decision.action
    assert outcome.fired == tuple(sorted({fired.rule for fired in decision.fired + decision.shadow}))
    for name in subject.ranks:
        assert (outcome.scores[name] >= 0) is (decision.action.severity >= Action(name).severity)
    # A milder action is never further away.
    ordered = [outcome.scores[name] for name in subject.ranks]
    assert ordered == sorted(ordered)


@given(policies(), st.lists(FINDINGS, min_size=1, max_size=5), st.integers(0, 4))
def test_a_higher_score_never_ranks_lower(policies: PolicySet, findings: list[Finding], at: int) -> None:
    subject = PolicySubject(policies)
    row = Row(
        "1", "s", "harmful", True, Stage.INPUT, (Message(Role.USER, "one", "/0"), Message(Role.USER, "two", "/1"))
    )
    before = subject.judged(row, Report(tuple(findings)))
    at = at % len(findings)
    each = findings[at]
    findings[at] = Finding(each.classifier, each.label, min(1.0, each.score + 0.3), each.message, each.span)
    after = subject.judged(row, Report(tuple(findings)))
    assert all(after.scores[name] >= before.scores[name] for name in subject.ranks)


def test_failures_are_told_and_decided_by_the_policy() -> None:
    policy = {
        **{"id": "p", "version": 1, "owner": "o", "description": "d", "classifiers": {"a": {"kind": "graded"}}},
        "rules": [
            {"id": "r", "description": "d", "stages": ["input"], "action": "block"}
            | {"when": {"finding": "a.harmful", "at_least": 0.5}}
        ],
    }
    subject = PolicySubject(PolicySet.build([Policy.model_validate(policy, strict=False)], {"a": Graded("a")}))
    row = Row("1", "s", "benign", False, Stage.INPUT, (Message(Role.USER, "x", "/0"),))
    outcome = subject.judged(row, Report((), (Failure("a", Silence.TIMEOUT, "secret detail"),)))
    assert outcome.failures == ("a: timeout",)
    assert outcome.action == "block"
    assert subject.asked(Stage.INPUT)[0].deadline == LONG
    assert PolicySubject(subject.policies, deadlines=True).asked(Stage.INPUT)[0].deadline == 2.0


def test_actions_are_those_of_rules_that_act_whether_a_finding_asks_for_them_or_not() -> None:
    def of(*written: dict[str, Any]) -> tuple[str, ...]:
        base = {"id": "p", "version": 1, "owner": "o", "description": "d", "classifiers": {"a": {"kind": "graded"}}}
        made = [{"id": f"r{at}", "description": "d", "stages": ["input"], **rule} for at, rule in enumerate(written)]
        policy = Policy.model_validate(base | {"rules": made}, strict=False)
        return PolicySubject(PolicySet.build([policy], {"a": Graded("a")})).actions

    seen = {"finding": "a.harmful", "at_least": 0.5}
    block = {"when": seen, "action": "block"}
    assert of(block, {"when": seen, "action": "log"}, {"when": seen, "action": "pass"}) == ("log", "block")
    assert of(block | {"mode": "shadow"}, {"when": seen, "action": "log", "mode": "off"}) == ()
    assert of({"when": '"banned" in account.flags', "action": "block"}) == ("block",)


def row(text: str, role: Role = Role.USER) -> Row:
    return Row("1", "s", "harmful", True, Stage.INPUT, (Message(role, text, "/text"),))


def test_a_classifier_counts_the_labels_of_its_surface() -> None:
    labels = choose_labels(
        Graded("g"), {"user": frozenset({"harmful", "odd"}), "tool_result": frozenset({"injection"})}
    )
    assert labels == {"user": {"harmful"}, "tool_result": {"injection_indirect"}}
    subject = ClassifierSubject(Graded("g"), labels)
    found = Report((Finding("g", "harmful", 0.4, 0), Finding("g", "injection", 0.9, 0)))
    assert subject.judged(row("x"), found).scores == {"score": 0.4}
    assert subject.judged(row("x"), found).nearest == "g.harmful"
    assert subject.judged(row("x", Role.TOOL_RESULT), found).scores == {"score": 0.0}
    assert choose_labels(Graded("g"), {"user": frozenset({"odd"})}) == {"user": Graded("g").labels}
    with pytest.raises(ValueError, match="finds no 'odd'; it finds harmful, injection"):
        choose_labels(Graded("g"), {}, ["odd"])


def test_which_classifier_is_meant() -> None:
    """By kind, by name in a policy, or an error that names what there is."""
    small = str(Path(__file__).parent / "small" / "policy.yaml")
    labels = {"user": frozenset({"harmful"})}
    assert classifier_subject("secrets", labels).classifier.name == "secrets"
    named = classifier_subject("words", labels, small)
    assert named.labels == {"user": {"harmful"}}
    assert classifier_subject("words", labels, small, deadlines=True).deadline == 2.0
    with pytest.raises(CannotEvaluate, match=r"no classifier of .* is called so; there are words"):
        classifier_subject("guard", labels, small)
    with pytest.raises(CannotEvaluate, match="define it in a policy"):
        classifier_subject("patterns", labels)
    with pytest.raises(CannotEvaluate, match="--finding: classifier 'words' finds no 'x'"):
        classifier_subject("words", labels, small, ["x"])


def test_no_finding_is_the_lowest_score() -> None:
    subject = ClassifierSubject(Graded("g"), {})
    assert subject.judged(row("x"), Report()).scores == {"score": 0.0}
    assert math.isinf(PolicySubject(PolicySet.build([], {})).longest_deadline)
