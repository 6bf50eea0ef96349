"""P14: the verdict is a pure function of the facts, and it is the one that the reference gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.base import Failure, Finding, Message, Report, Role, Silence
from policies.engine import Action, Decision, Mask, PolicySet, Stage, decide, merge_masks
from policies.facts import Facts
from policies.model import Policy

from .reference import evaluate
from .words import Words

LABELS = ["x", "y", "z"]
CLASSIFIERS = ["a", "b"]
ROLES = [Role.USER, Role.TOOL_RESULT, Role.ASSISTANT]


def fitting(given: dict[str, Any]) -> dict[str, Any]:
    """The rule with what its action needs."""
    match given.get("action"):
        case "rewrite":
            return {"rewrite_with": f"words of {given['id']}"} | given
        case "advise" | "route" as action:
            kept = {key: value for key, value in given.items() if key != "stream"}
            more = {"advice": "a note"} if action == "advise" else {"route_to": "small"}
            return more | kept | {"stages": ["input"]}
    return given


def make(rules: list[dict[str, Any]], **more: Any) -> Policy:
    specs = {name: {"kind": "words"} for name in CLASSIFIERS}
    base: dict[str, Any] = {"id": "p", "version": 1, "owner": "o", "description": "d", "classifiers": specs}
    return Policy.model_validate(base | {"rules": [fitting(each) for each in rules]} | more, strict=False)


def built(*policies: Policy) -> PolicySet:
    words = dict.fromkeys(LABELS, "w")
    return PolicySet.build(policies, {name: Words(name, words) for name in CLASSIFIERS})


def rule(id: str = "r", **more: Any) -> dict[str, Any]:
    base = {"id": id, "description": "d", "stages": ["input"], "action": "block"}
    return base | {"when": {"finding": "a.x", "at_least": 0.5}} | more


names = st.sampled_from(
    [f"{name}.{label}" for name in CLASSIFIERS for label in [*LABELS, "*"]] + ["surface.unscannable"]
)
levels = st.sampled_from([0.2, 0.5, 0.8, 1.0])
seen = st.fixed_dictionaries({"finding": st.lists(names, min_size=1, max_size=3, unique=True), "at_least": levels})
parts = st.lists(seen, min_size=1, max_size=3)
rules = st.fixed_dictionaries(
    {
        "stages": st.sampled_from([["input"], ["output"], ["input", "output"]]),
        "roles": st.lists(st.sampled_from(ROLES), min_size=1, unique=True),
        "when": st.one_of(seen, st.fixed_dictionaries({"any": parts}), st.fixed_dictionaries({"all": parts})),
        "action": st.sampled_from(["pass", "log", "advise", "rewrite", "mask", "mask", "route", "review", "block"]),
        "mode": st.sampled_from(["off", "shadow", "canary 50%", "enforce", "enforce"]),
        "on_error": st.sampled_from([None, "block", "log", "pass"]),
    }
)
GOOD_SPANS = [(0, 1), (0, 3), (1, 3), (3, 4), (2, 6), (5, 6)]
spans = st.sampled_from([*GOOD_SPANS, *GOOD_SPANS, *GOOD_SPANS, None, (2, 2), (3, 1), (-1, 2), (4, 7)])
findings = st.builds(
    Finding,
    st.sampled_from([*CLASSIFIERS, "surface", "stranger"]),
    st.sampled_from([*LABELS, "unscannable", "undeclared"]),
    st.sampled_from([0.0, 0.2, 0.49, 0.5, 0.8, 1.0, 1.0, 1.0, math.nan]),
    st.sampled_from([0, 0, 0, 0, 1, 1, 1, 2, -1, 9]),
    spans,
)
unread = st.none() | st.frozensets(st.sampled_from(ROLES), max_size=2)
failures = st.builds(
    Failure, st.sampled_from([*CLASSIFIERS, "stranger"]), st.sampled_from(list(Silence)), st.just(""), unread
)
texts = st.sampled_from(["abcdef", "abcdef", "abcdef", "abc", ""])
messages = st.lists(
    st.builds(Message, st.sampled_from(ROLES), texts, st.sampled_from(["/t", "/t", "/u", ""])), max_size=4
)
reports = st.builds(
    Report, st.lists(findings, max_size=6).map(tuple), st.one_of(st.just(()), st.lists(failures, max_size=2).map(tuple))
)


def policies_of(groups: list[list[dict[str, Any]]]) -> list[Policy]:
    return [
        make(
            [given | {"id": f"r{at}.{number}", "description": "d"} for number, given in enumerate(group)],
            id=f"p{9 - at}",
        )
        for at, group in enumerate(groups)
    ]


@settings(max_examples=200)
@given(
    st.lists(st.lists(rules, min_size=1, max_size=4), min_size=1, max_size=2).map(policies_of),
    st.sampled_from(Stage),
    messages,
    reports,
    st.sampled_from([None, Facts(), Facts(lot=b"one"), Facts(lot=b"two"), Facts(lot=b"three")]),
)
def test_reference(
    policies: list[Policy], stage: Stage, texts: list[Message], report: Report, facts: Facts | None
) -> None:
    decision = decide(built(*policies), stage, texts, report, facts)
    expected = evaluate(policies, stage, texts, report, facts)
    assert decision.action.value == expected.action
    assert [(each.rule, each.action.value, each.not_evaluated) for each in decision.fired] == expected.fired
    assert [(each.rule, each.action.value, each.not_evaluated) for each in decision.shadow] == expected.shadow
    assert (decision.way.rule if decision.way else None) == expected.way
    assert decision.advice == tuple(dict.fromkeys(expected.advice))
    stopped = decision.stopped()
    ends = decision.way is not None and decision.way.action in {Action.BLOCK, Action.REWRITE}
    assert (stopped is not None) == ends
    assert stopped is None or (stopped.rule == expected.way and set(stopped.fired) == set(decision.fired))
    assert decision.arrived({"elsewhere"}) is decision
    there = decision.arrived({"small"})
    assert list(there.fired) == [each for each in decision.fired if each.action is not Action.ROUTE]
    assert there.action is (there.fired[0].action if there.fired else Action.PASS)
    if decision.action is Action.REVIEW:
        left = [each for each in decision.fired if each.action is not Action.REVIEW]
        assert list(decision.approved().fired) == left
        assert decision.approved().action is (left[0].action if left else Action.PASS)
        assert decision.approved().masks == decision.masks
        denied = decision.denied().stopped()
        assert denied is not None
        assert (denied.action, denied.rule, denied.masks) == (Action.BLOCK, expected.way, ())
    assert {(mask.message, at) for mask in decision.masks for at in range(mask.start, mask.end)} == expected.masked
    check_shape(decision, texts, report, stage)


def check_shape(decision: Decision, texts: list[Message], report: Report, stage: Stage) -> None:
    """What holds for every decision, whatever the rules."""
    assert decision.findings == report.findings
    assert decision.failures == report.failures
    assert decision.stage is stage
    masking = any(each.action is Action.MASK for each in decision.fired)
    assert bool(decision.masks) == (masking and decision.action is not Action.BLOCK)
    severities = [each.action.severity for each in decision.fired]
    assert severities == sorted(severities, reverse=True)
    for before, after in zip(decision.masks, decision.masks[1:], strict=False):
        assert (before.message, before.end) <= (after.message, after.start) or before.message < after.message
    for mask in decision.masks:
        assert 0 <= mask.start < mask.end <= len(texts[mask.message].text)


@settings(max_examples=150)
@given(st.lists(rules, min_size=1, max_size=4).map(lambda one: policies_of([one])), messages, reports, failures)
def test_a_failure_more_never_makes_it_milder(
    policies: list[Policy], texts: list[Message], report: Report, failure: Failure
) -> None:
    ready = built(*policies)
    worse = Report(report.findings, (*report.failures, failure))
    before = decide(ready, Stage.INPUT, texts, report).action.severity
    assert decide(ready, Stage.INPUT, texts, worse).action.severity >= before


@settings(max_examples=100)
@given(
    st.lists(
        st.builds(
            lambda m, s, n, r: Mask(m, s, s + n, r),
            st.integers(0, 1),
            st.integers(0, 20),
            st.integers(1, 8),
            st.sampled_from("XY"),
        )
    )
)
def test_merged_masks_cover_the_same_letters_once(masks: list[Mask]) -> None:
    merged = merge_masks([(mask, 0) for mask in masks])
    letters = [(mask.message, at) for mask in merged for at in range(mask.start, mask.end)]
    assert len(letters) == len(set(letters))
    assert letters == sorted({(mask.message, at) for mask in masks for at in range(mask.start, mask.end)})
    assert merged == merge_masks([(mask, 0) for mask in merged])


USER = [Message(Role.USER, "0123456789", "/t")]


def test_a_finding_stands_for_copies_of_its_text() -> None:
    policies = built(make([rule(action="mask", mask_with="[X]"), rule("many", when="count('a.x', 0.5) > 2")]))
    messages = [Message(Role.USER, text, f"/{at}") for at, text in enumerate(["a x", "b", "a x", "a x"])]
    one = Finding("a", "x", 0.9, 0, (2, 3), twins=(2, 3))
    shared, apart = (decide(policies, Stage.INPUT, messages, Report(found)) for found in ((one,), tuple(one.each())))
    assert (shared.action, [item.rule for item in shared.fired]) == (apart.action, [item.rule for item in apart.fired])
    assert {item.rule for item in shared.fired} == {"r", "many"}
    policies = built(make([rule(action="mask", mask_with="[X]")]))
    shared, apart = (decide(policies, Stage.INPUT, messages, Report(found)) for found in ((one,), tuple(one.each())))
    assert shared.masks == apart.masks == tuple(Mask(at, 2, 3, "[X]") for at in (0, 2, 3))


def test_what_is_read_from_one_place_in_two_roles_is_masked_once_for_both() -> None:
    policies = built(
        make(
            [
                rule(action="mask", mask_with="[U]", roles=["user"]),
                rule("told", action="mask", mask_with="[TOLD]", roles=["tool_result"]),
            ]
        )
    )
    told = Message(Role.TOOL_RESULT, "0123456789", "/t")
    found = [Finding("a", "x", 0.9, 0, (0, 4)), Finding("a", "x", 0.9, 1, (2, 9)), Finding("a", "x", 0.9, 2, (9, 10))]
    for place, other in (("/t", True), ("/u", False)):
        texts = [*USER, told, Message(Role.USER, "0123456789", place)]
        masks = decide(policies, Stage.INPUT, texts, Report(tuple(found))).masks
        both = [Mask(at, *span) for at in (0, 1, 2) for span in ((0, 9, "[TOLD]"), (9, 10, "[U]"))]
        apart = [Mask(at, 0, 9, "[TOLD]") for at in (0, 1)] + [Mask(2, 9, 10, "[U]")]
        assert list(masks) == (both if other else apart)
    unlike = [*USER, Message(Role.TOOL_RESULT, "9876543210", "/t")]
    assert [mask.message for mask in decide(policies, Stage.INPUT, unlike, Report((found[0],))).masks] == [0]
    nowhere = [Message(Role.USER, "0123456789", ""), Message(Role.TOOL_RESULT, "0123456789", "")]
    assert [mask.message for mask in decide(policies, Stage.INPUT, nowhere, Report((found[0],))).masks] == [0]


def test_masks_carry_the_label_and_the_longest_speaks_for_overlapping_ones() -> None:
    ready = built(
        make(
            [
                rule("one", action="mask"),
                rule("two", action="mask", when={"finding": "b.y", "at_least": 0.5}, mask_with="<{label}>"),
            ]
        )
    )
    found = (
        Finding("a", "x", 0.9, 0, (0, 2)),
        Finding("a", "x", 0.9, 0, (4, 6)),
        Finding("b", "y", 0.9, 0, (5, 9)),
        Finding("b", "y", 0.1, 0, (9, 10)),
    )
    decision = decide(ready, Stage.INPUT, USER, Report(found))
    assert decision.masks == (Mask(0, 0, 2, "[X]"), Mask(0, 4, 9, "<y>"))


NO_PLACE = [None, (2, 2), (3, 1), (-1, 2), (9, 11)]


@pytest.mark.parametrize("span", NO_PLACE)
def test_what_cannot_be_located_is_blocked_and_says_so(span: tuple[int, int] | None) -> None:
    found = (Finding("a", "x", 0.9, 0, (0, 1)), Finding("a", "x", 0.9, 0, span))
    decision = decide(built(make([rule(action="mask")])), Stage.INPUT, USER, Report(found))
    assert decision.action is Action.BLOCK
    assert decision.masks == ()
    assert "cannot be masked" in decision.fired[0].note


def test_masks_that_touch_stay_apart_and_shadow_rules_mask_nothing() -> None:
    other = {"finding": "b.y", "at_least": 0.5}
    ready = built(make([rule(action="mask"), rule("dark", action="mask", when=other, mode="shadow")]))
    found = (Finding("a", "x", 0.9, 0, (0, 2)), Finding("a", "x", 0.9, 0, (2, 4)), Finding("b", "y", 0.9, 0, (6, 8)))
    decision = decide(ready, Stage.INPUT, USER, Report(found))
    assert decision.masks == (Mask(0, 0, 2, "[X]"), Mask(0, 2, 4, "[X]"))
    assert [each.rule for each in decision.shadow] == ["dark"]


def test_a_block_beside_a_mask_masks_nothing() -> None:
    ready = built(make([rule(action="mask"), rule("stop", when={"finding": "b.y", "at_least": 0.5})]))
    found = (Finding("a", "x", 0.9, 0, (0, 2)), Finding("b", "y", 0.9, 0, (4, 6)))
    decision = decide(ready, Stage.INPUT, USER, Report(found))
    assert (decision.action, decision.masks, decision.rule) == (Action.BLOCK, (), "stop")


def test_shadow_never_acts() -> None:
    ready = built(make([rule(mode="shadow"), rule("log", action="log")]))
    decision = decide(ready, Stage.INPUT, USER, Report((Finding("a", "x", 0.9, 0),)))
    assert (decision.action, decision.rule) == (Action.LOG, "log")
    assert [each.rule for each in decision.shadow] == ["r"]


ON_ERROR = [
    ({"action": "block"}, Action.BLOCK),
    ({"action": "mask"}, Action.BLOCK),
    ({"action": "log"}, Action.LOG),
    ({"action": "pass"}, Action.LOG),
    ({"action": "block", "on_error": "pass"}, Action.PASS),
    ({"action": "block", "on_error": "log"}, Action.LOG),
    ({"action": "log", "on_error": "block"}, Action.BLOCK),
]


@pytest.mark.parametrize(("given_rule", "action"), ON_ERROR)
@pytest.mark.parametrize("reason", list(Silence))
def test_silence_does_what_the_rule_says(given_rule: dict[str, Any], action: Action, reason: Silence) -> None:
    decision = decide(built(make([rule(**given_rule)])), Stage.INPUT, USER, Report((), (Failure("a", reason),)))
    assert decision.action is action
    assert [each.not_evaluated for each in decision.fired] == [True]


def test_silence_about_texts_that_a_rule_never_looks_at_changes_nothing() -> None:
    ready = built(make([rule(roles=["tool_result"])]))
    assert decide(ready, Stage.INPUT, USER, Report((), (Failure("a", Silence.CRASH),))).action is Action.PASS


def test_a_part_known_to_be_false_settles_an_all_rule_whatever_is_silent() -> None:
    both = {"all": [{"finding": "a.x", "at_least": 0.5}, {"finding": "b.y", "at_least": 0.5}]}
    ready = built(make([rule(when=both)]))
    silent = (Failure("b", Silence.TIMEOUT),)
    assert decide(ready, Stage.INPUT, USER, Report((), silent)).action is Action.PASS
    seen_a = (Finding("a", "x", 0.9, 0),)
    assert decide(ready, Stage.INPUT, USER, Report(seen_a, silent)).action is Action.BLOCK


def test_refusal_names_policy_and_decision_and_fills_nothing_twice() -> None:
    policy = make([rule(message="no: {policy} {reason} {decision_id}")], id="p.one")
    decision = decide(built(policy), Stage.INPUT, USER, Report((Finding("a", "x", 0.9, 0),)))
    assert decision.refusal("pn_{policy}") == "no: p.one content_policy_violation pn_{policy}"
    assert (decision.policy, decision.rule, decision.reason) == ("p.one", "r", "content_policy_violation")


def test_nothing_seen_is_one_ready_answer() -> None:
    ready = built(make([rule()]))
    assert decide(ready, Stage.INPUT, USER, Report()) is decide(ready, Stage.INPUT, [], Report())


def test_revision_follows_content_and_digests_and_no_order_of_files() -> None:
    one, two = make([rule("r1")], id="one"), make([rule("r2")], id="two")
    assert built(one, two).digest == built(two, one).digest
    assert built(one, two).digest != built(one).digest
    other = PolicySet.build([one], {name: Words(name, {"x": "else"}) for name in CLASSIFIERS})
    assert other.digest != built(one).digest
    assert built(one).revision == built(one).digest[:12]
