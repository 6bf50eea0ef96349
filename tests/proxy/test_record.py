"""What a record keeps of what was seen: enough to decide again by other rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Failure, Finding, Message, Role, Silence
from policies.decision import Decision
from policies.model import Action, Stage
from proxy.metrics import Metrics
from proxy.record import Notes

USER, TOOL = Message(Role.USER, "a", "/messages/0"), Message(Role.TOOL_RESULT, "b", "/messages/1")
DERIVED = Message(Role.TOOL_CALL, "c", "/messages/2#decoded")


def facts(*decisions: tuple[tuple[Finding, ...], tuple[Failure, ...]], **more: Any) -> dict[str, Any]:
    notes = Notes(Metrics(), "chat", "POST", "/", "someone", "r1")
    for findings, failures in decisions:
        decision = Decision(Action.PASS, findings=findings, failures=failures, stage=Stage.OUTPUT)
        notes.decided(decision, [USER, TOOL, DERIVED], **more)
    return dict(notes.outcome().body["output"])


def test_one_role_is_named_beside_its_scores() -> None:
    seen = (Finding("g", "x", 0.25, 0, (0, 1)), Finding("g", "x", 0.5, 0), Finding("p", "y", 1.0, 0, (0, 1)))
    assert facts((seen, ())) == {"scores": {"g.x": 0.5, "p.y": 1.0}, "role": "user"}


def test_several_roles_have_scores_of_their_own_and_a_stream_adds_up() -> None:
    first = (Finding("g", "x", 0.25, 0), Finding("g", "x", 0.75, 1))
    later = (Finding("g", "x", 0.5, 0), Finding("g", "x", 0.125, 1))
    assert facts((first, ()), (later, ())) == {
        "scores": {"g.x": 0.75},
        "by_role": {"user": {"g.x": 0.5}, "tool_result": {"g.x": 0.75}},
    }


def test_what_has_no_place_and_what_was_not_read_is_told() -> None:
    seen = (Finding("p", "y", 0.5, 2), Finding("p", "y", 0.75, 2), Finding("p", "y", 1.0, 0, (0, 1)))
    told = facts((seen, (Failure("g", Silence.TIMEOUT),)))
    assert told["unplaced"] == {"tool_call": {"p.y": 0.75}}
    assert told["failures"] == {"g": "timeout"}
    assert told["present"] == ["tool_call", "tool_result", "user"]


def test_readings_are_told_where_a_classifier_tells_them() -> None:
    raw = Finding("p", "y", 1.0, 0, (0, 1), "raw")
    hidden = Finding("p", "y", 0.5, 0, (0, 1), "plain.decoded")
    derived = Finding("p", "y", 0.75, 2, None, "leet")
    assert facts(((raw,), ())) == {"scores": {"p.y": 1.0}, "role": "user", "views": {}}
    told = facts(((raw, hidden, derived), ()))["views"]
    assert told == {"user": {"plain.decoded": {"p.y": 0.5}}, "tool_call": {"leet#": {"p.y": 0.75}}}
    assert "views" not in facts(((Finding("g", "x", 0.5, 0),), ()))


def test_an_unreadable_part_has_the_role_of_its_place() -> None:
    places = [(Message(Role.ASSISTANT, "", "/image"), "image")]
    told = facts(((Finding("surface", "unscannable", 1.0, 3),), ()), places=places)
    assert told == {"scores": {"surface.unscannable": 1.0}, "role": "assistant"}


def kept(score: float) -> float:
    told = facts(((Finding("g", "x", score, 0),), ()))["scores"]
    return float(told["g.x"])


@given(st.floats(0, 1), st.integers(1, 1_000_000))
def test_a_kept_score_is_on_the_same_side_of_every_threshold_of_six_decimals(score: float, millionths: int) -> None:
    threshold = millionths / 1e6
    assert kept(score) <= score + 1e-12
    if abs(score - threshold) > 1e-11:
        assert (kept(score) >= threshold) == (score >= threshold)


@pytest.mark.parametrize("threshold", [0.9439, 0.8783, 0.9999, 0.1, 0.3, 1.0, 0.000001])
def test_a_score_at_a_threshold_stays_there(threshold: float) -> None:
    assert kept(threshold) >= threshold


def test_no_number_is_the_highest() -> None:
    assert kept(float("nan")) == 1.0
