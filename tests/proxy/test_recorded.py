"""Deciding again from records: exactly what the engine would have decided, or an honest "unknown"."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.base import Failure, Finding, Message, Report, Role, Silence
from policies import backtest
from policies.backtest import Again, Backtest, Rows
from policies.changes import Changes
from policies.engine import Decision, PolicySet, decide
from policies.facts import Account, Facts
from policies.heard import describe
from policies.model import Action, Policy, Stage
from proxy.metrics import Metrics
from proxy.record import Notes
from proxy.recorded import _parsed, take
from tests.policies.test_engine import CLASSIFIERS, LABELS, ROLES, built, make, policies_of, rule, rules
from tests.policies.words import Words

Seen = tuple[list[Message], Report]


@st.composite
def seen(draw: st.DrawFn) -> Seen:
    """What the panel saw of some texts: a finding without a place is in a derived text, as it is in live traffic."""
    texts = draw(
        st.lists(
            st.builds(Message, st.sampled_from(ROLES), st.just("abcdef"), st.sampled_from(["/t", "/t", "/t#decoded"])),
            min_size=1,
            max_size=4,
        )
    )
    found = draw(
        st.lists(
            st.builds(
                Finding,
                st.sampled_from([*CLASSIFIERS, "stranger"]),
                st.sampled_from([*LABELS, "undeclared"]),
                st.one_of(st.sampled_from([0.2, 0.49, 0.5, 0.8, 1.0]), st.floats(0, 1)),
                st.integers(0, len(texts) - 1),
            ),
            max_size=6,
        )
    )
    views = draw(st.lists(st.sampled_from(["raw", "decoded", "plain.leet_l"]), min_size=6, max_size=6))
    placed = tuple(
        replace(each, span=None if "#" in texts[each.message].origin else (0, 3), view=view)
        for each, view in zip(found, views, strict=False)
    )
    silent = draw(st.lists(st.sampled_from([*CLASSIFIERS, "stranger"]), max_size=1))
    return texts, Report(placed, tuple(Failure(name, Silence.CRASH) for name in silent))


readings = st.sampled_from(
    [
        'score("a.x", "decoded") >= 0.5',
        'score("a.*", "disguised") > 0.49',
        'score("b.y") >= 0.5 && score("b.y", "leet") < 0.8',
        'score("a.x", "user", "plain") >= 0.2 || score("b.z") >= 0.8',
    ]
)
asking = st.builds(lambda given, when: given | {"when": when, "roles": list(map(str, ROLES))}, rules, readings)
sets = st.lists(st.lists(st.one_of(rules, asking), min_size=1, max_size=4), min_size=1, max_size=2).map(policies_of)
exchange = st.tuples(seen(), seen())
exchanges = st.lists(exchange, min_size=1, max_size=5)


@pytest.fixture(autouse=True)
def _words_have_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "EXACT", frozenset({"words"}))


def decided(policies: PolicySet, first: Seen, second: Seen) -> tuple[list[Decision], Action]:
    """What live traffic gets: the decision on the input, and where no rule answers it that on the output."""
    one = decide(policies, Stage.INPUT, *first)
    if one.stopped() is not None:
        return [one], one.action
    two = decide(policies, Stage.OUTPUT, *second)
    return [one, two], max(one.action, two.action, key=lambda action: action.severity)


def record(rows: Rows, policies: PolicySet, first: Seen, second: Seen) -> None:
    """As the proxy writes it, and as the backtest reads it."""
    notes = Notes(Metrics(), "chat", "POST", "/v1/chat/completions", "someone", policies.revision)
    decisions, _ = decided(policies, first, second)
    for decision, (texts, _) in zip(decisions, (first, second), strict=False):
        notes.decided(decision, texts)
    way = decisions[0].way
    if way is not None and way.action is Action.ROUTE:
        notes.routed("", way.told, way.rule)
    body = orjson.loads(orjson.dumps(notes.outcome().body))
    take(rows, notes.id, body["action"], body["rule"] or "", body)


def heard_by(policies: PolicySet, stage: Stage, what: Seen) -> Seen:
    """The same texts, with only what this set asks for."""
    texts, report = what
    asked = {reading.classifier: reading.roles for reading in policies.tables[stage].readings}
    found = tuple(f for f in report.findings if texts[f.message].role in asked.get(f.classifier, ()))
    return texts, Report(found, tuple(f for f in report.failures if f.classifier in asked))


def without_six_decimals(what: Seen) -> Seen:
    """Scores as they are kept, so that the test is not about the seventh decimal."""
    texts, report = what
    found = tuple(replace(f, score=int(f.score * 1e6 + 1e-6) / 1e6) for f in report.findings)
    return texts, report._replace(findings=found)


@settings(max_examples=50, deadline=None)
@given(sets, exchanges)
def test_by_the_same_policy_all_is_as_it_was(policies: list[Policy], all_seen: list[tuple[Seen, Seen]]) -> None:
    ready, rows = built(*policies), Rows()
    for first, second in all_seen:
        record(rows, ready, without_six_decimals(first), without_six_decimals(second))
    rows.revisions = ["another that asked the same"] * len(all_seen)
    again = Backtest(ready, lambda _: describe(ready)).decide(rows)
    assert [one.action for one in again] == rows.actions
    changes = Changes()
    changes.add(rows, again)
    assert (changes.decisions, changes.changed, changes.unknown) == (len(all_seen), 0, {})


@settings(max_examples=50, deadline=None)
@given(sets, sets, exchanges)
def test_what_is_known_of_another_policy_is_what_it_decides(
    old: list[Policy], new: list[Policy], all_seen: list[tuple[Seen, Seen]]
) -> None:
    then, now, rows = built(*old), built(*new), Rows()
    truth: list[Action] = []
    for seen_in, seen_out in all_seen:
        first, second = without_six_decimals(seen_in), without_six_decimals(seen_out)
        record(rows, then, heard_by(then, Stage.INPUT, first), heard_by(then, Stage.OUTPUT, second))
        truth.append(decided(now, heard_by(now, Stage.INPUT, first), heard_by(now, Stage.OUTPUT, second))[1])
    for one, expected in zip(Backtest(now, {then.revision: describe(then)}.get).decide(rows), truth, strict=True):
        if one.action is not None and not one.unasked:
            assert one.action is expected
        assert (one.action is None) == bool(one.why)


def again(old: list[dict[str, Any]], new: list[dict[str, Any]], *findings: Finding, **more: Any) -> Again:
    """One exchange with these findings in a user's text, decided again."""
    then, now = built(make(old, owner="then")), built(make(new, **more))
    rows = Rows()
    record(rows, then, ([Message(Role.USER, "abcdef", "/t")], Report(findings)), ([], Report()))
    (one,) = Backtest(now, {then.revision: describe(then)}.get).decide(rows)
    return one


def otherwise(policies: list[Policy], changed: Collection[str]) -> PolicySet:
    """As `built`, where classifiers in `changed` look for something else under their old names."""
    words = {name: dict.fromkeys(LABELS, "v" if name in changed else "w") for name in CLASSIFIERS}
    return PolicySet.build(policies, {name: Words(name, words[name]) for name in CLASSIFIERS})


@settings(max_examples=100, deadline=None)
@given(
    sets, sets, st.lists(st.tuples(exchange, exchange), min_size=1, max_size=5), st.sets(st.sampled_from(CLASSIFIERS))
)
def test_what_a_changed_classifier_saw_is_not_known(
    old: list[Policy], new: list[Policy], all_seen: list[tuple[tuple[Seen, Seen], tuple[Seen, Seen]]], changed: set[str]
) -> None:
    """Of the same texts: what it finds and fails at now has nothing to do with what it found and failed at then."""
    then, now, rows = built(*old), otherwise(new, changed), Rows()
    truth: list[Action] = []
    for was, is_ in all_seen:
        first, second = map(without_six_decimals, was)
        record(rows, then, heard_by(then, Stage.INPUT, first), heard_by(then, Stage.OUTPUT, second))
        stages = zip(Stage, (first, second), map(without_six_decimals, is_), strict=True)
        answers = [heard_by(now, stage, mixed(before, after, changed)) for stage, before, after in stages]
        truth.append(decided(now, *answers)[1])
    for one, expected in zip(Backtest(now, {then.revision: describe(then)}.get).decide(rows), truth, strict=True):
        if one.action is not None and not one.unasked:
            assert one.action is expected


def mixed(then: Seen, now: Seen, changed: Collection[str]) -> Seen:
    """The texts of `then`, and what is seen of them where the `changed` classifiers see what `now` says."""
    (texts, was), is_ = then, now[1]
    found = [each for each in was.findings if each.classifier not in changed]
    found += [
        replace(each, message=at, span=None if "#" in texts[at].origin else (0, 3))
        for each in is_.findings
        if each.classifier in changed
        for at in [each.message % len(texts)]
    ]
    failures = [each for each in was.failures if each.classifier not in changed]
    failures += [each for each in is_.failures if each.classifier in changed]
    return texts, Report(tuple(found), tuple(failures))


@pytest.mark.parametrize(
    ("found", "fails", "now", "action"),
    [
        # It blocked, and looks for less now.
        ([Finding("a", "x", 0.9, 0, (0, 3))], False, {}, None),
        # It failed, and was replaced.
        ([], True, {}, None),
        ([], True, {"action": "log"}, None),
        ([Finding("a", "x", 0.9, 0, (0, 3))], False, {"action": "log", "on_error": "log"}, None),
        # Whatever it finds now, nothing comes of it, or the other one blocks.
        ([Finding("a", "x", 0.9, 0, (0, 3))], True, {"mode": "shadow"}, Action.PASS),
        ([Finding("b", "x", 0.9, 0, (0, 3))], False, {}, Action.BLOCK),
    ],
)
def test_an_old_finding_or_failure_is_not_the_new_classifiers(
    found: list[Finding], fails: bool, now: dict[str, Any], action: Action | None
) -> None:
    other = rule("s", when={"finding": "b.x", "at_least": 0.5})
    then = built(make([rule(), other]))
    trial, rows = Backtest(otherwise([make([rule(**now), other])], {"a"}), {then.revision: describe(then)}.get), Rows()
    report = Report(tuple(found), (Failure("a", Silence.TIMEOUT),) if fails else ())
    record(rows, then, ([Message(Role.USER, "abcdef", "/t")], report), ([], Report()))
    (one,) = trial.decide(rows)
    assert one.action is action
    assert ("did not ask a about the same texts, or it is another one now" in one.why) == (action is None)


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_failure_stands_for_the_roles_that_were_asked_about(role: str) -> None:
    """Of a role that it is asked about since, nobody knows whether it would have failed there."""
    then = built(make([rule(roles=["user"])]))
    now, rows = built(make([rule(roles=["user", "system"])])), Rows()
    texts = [Message(Role(role), "abcdef", "/t")]
    record(rows, then, (texts, Report((), (Failure("a", Silence.TIMEOUT),))), ([], Report()))
    (one,) = Backtest(now, {then.revision: describe(then)}.get).decide(rows)
    assert one.action is (Action.BLOCK if role == "user" else None)


def test_the_answer_of_a_model_that_perhaps_would_not_be_asked_is_not_known() -> None:
    """What a changed classifier routed to another model may stay with the one that was asked for."""
    way = rule("way", action="route", route_to="small", on_error="pass")
    answered = rule("out", stages=["output"], when={"finding": "b.x", "at_least": 0.5})
    then, now = built(make([way, answered])), otherwise([make([way, answered])], {"a"})
    rows = Rows()
    said = [Message(Role.ASSISTANT, "abcdef", "/t")], Report((Finding("b", "x", 0.9, 0, (0, 3)),))
    record(rows, then, ([Message(Role.USER, "abcdef", "/t")], Report((HIGH,))), said)
    assert rows.actions == ["block"]
    (one,) = Backtest(now, {then.revision: describe(then)}.get).decide(rows)
    assert one.action is None


HIGH = Finding("a", "x", 0.7, 0, (0, 3))
LOWER = {"finding": "a.x", "at_least": 0.8}


@pytest.mark.parametrize(
    ("old", "new", "action", "why"),
    [
        (rule(), rule(), Action.BLOCK, ""),
        (rule(when=LOWER), rule(), Action.BLOCK, ""),
        (rule(), rule(when=LOWER), Action.PASS, ""),
        (rule(roles=["user"]), rule(roles=["user", "system"]), Action.BLOCK, ""),
        (rule(action="log", roles=["user"]), rule(action="log", roles=["system"]), None, "did not ask a about"),
        (rule(action="log"), rule(when={"finding": "b.x", "at_least": 0.5}), None, "did not ask b about"),
        (rule(action="log"), rule(action="mask"), Action.MASK, ""),
        (rule(), rule(mode="shadow"), Action.PASS, ""),
        (rule(action="log"), rule(mode="canary 5%"), Action.BLOCK, ""),
        (rule(action="log"), rule(when='score("a.x") >= 0.7'), Action.BLOCK, ""),
        (rule(action="log"), rule(when='score("a.x") > 0.7'), Action.PASS, ""),
        (rule(action="log"), rule(when='score("a.x") >= 0.5 && !(score("a.y") >= 0.5)'), Action.BLOCK, ""),
        (rule(action="log"), rule(when='score("a.x") >= 0.5 && score("b.x") < 0.5'), None, "did not ask b"),
        (rule(action="log"), rule(when='score("a.x") >= 0.5 && account.tier == "x"'), None, "more than is recorded"),
        (rule(action="log"), rule(when='count("a.x", 0.5) >= 2'), None, "more than is recorded"),
        (rule(action="log"), rule(when='count("a.x", 0.5) >= 2', action="log"), None, "more than is recorded"),
    ],
)
def test_one_exchange(old: dict[str, Any], new: dict[str, Any], action: Action | None, why: str) -> None:
    one = again([old], [new], HIGH)
    assert one.action is action
    assert why in one.why
    assert one.unasked == (old["action"] == "block" and action is not Action.BLOCK and old["when"] != LOWER)


@pytest.mark.parametrize(
    ("applies", "action"),
    [
        ({"dialects": ["chat"]}, Action.BLOCK),
        ({"dialects": ["messages"]}, Action.PASS),
        ({"accounts": ["some*"], "stream": False}, Action.BLOCK),
        ({"accounts": ["other"], "tiers": ["gold"]}, Action.PASS),
        ({"tiers": ["gold"]}, None),
    ],
)
def test_a_policy_for_some_requests(applies: dict[str, Any], action: Action | None) -> None:
    one = again([rule(action="log")], [rule()], HIGH, applies_to=applies)
    assert one.action is action
    assert ("applies_to" in one.why) == (action is None)


@pytest.mark.parametrize(
    ("seen_as", "when", "action"),
    [
        ("plain.decoded", 'score("a.x", "decoded") >= 0.5', Action.BLOCK),
        ("plain.decoded", 'score("a.x", "disguised") >= 0.8', Action.PASS),
        ("plain.decoded", 'score("a.x", "leet") >= 0.5', Action.PASS),
        ("raw", 'score("a.x", "disguised") >= 0.5', Action.PASS),
        ("raw", 'score("a.x") >= 0.5 && score("a.x", "disguised") < 0.5', Action.BLOCK),
        # As it was written before readings were told: known only where nothing was seen.
        ("", 'score("a.x", "decoded") >= 0.5', None),
        ("", 'score("a.x") >= 0.5 && score("a.x", "decoded") < 0.5', None),
        ("", 'score("a.y", "decoded") >= 0.5', Action.PASS),
        ("", 'score("a.x") >= 0.5', Action.BLOCK),
    ],
)
def test_readings(seen_as: str, when: str, action: Action | None) -> None:
    one = again([rule(action="log")], [rule(when=when)], replace(HIGH, view=seen_as))
    assert one.action is action
    assert ("in which reading" in one.why) == (action is None)


GOLD = {"when": 'account.tier != "gold" && score("a.x") >= 0.5'}


@pytest.mark.parametrize(
    ("old", "new", "fires", "action"),
    [
        ({"action": "log"}, {"action": "log"}, True, Action.LOG),
        ({"action": "log"}, {"action": "log"}, False, Action.PASS),
        ({"action": "log", "on_error": "pass"}, {"action": "block"}, True, Action.BLOCK),
        ({"action": "log", "on_error": "pass"}, {"action": "block"}, False, Action.PASS),
        # Whether it was the rule or its on_error that said so is not recorded.
        ({"action": "log"}, {"action": "block"}, True, None),
        ({"action": "log", "on_error": "pass"}, {"action": "mask"}, True, None),
        ({"action": "mask"}, {"action": "mask"}, True, Action.MASK),
        ({"action": "log", "mode": "shadow"}, {"action": "log"}, True, Action.LOG),
        ({"action": "log", "mode": "canary 50%"}, {"action": "log"}, True, Action.LOG),
        ({"action": "log", "mode": "off"}, {"action": "log"}, True, None),
        ({"action": "log", "roles": ["user"]}, {"action": "log"}, True, None),
        ({"action": "log", "when": 'account.tier == "x" && score("a.x") >= 0.5'}, {"action": "log"}, False, None),
    ],
)
def test_what_an_expression_asked_is_told_by_what_became_of_it(
    old: dict[str, Any], new: dict[str, Any], fires: bool, action: Action | None
) -> None:
    """Facts are in no record; but whether a rule fired is, and the same rule asks the same."""
    then = built(
        make([rule("asks", **(GOLD | old)), rule("other", action="log", when={"finding": "a.y", "at_least": 1})])
    )
    now = built(make([rule("asks", **(GOLD | new)), rule("unscannable", when={"finding": "b.x", "at_least": 1})]))
    texts, rows = [Message(Role.USER, "abcdef", "/t")], Rows()
    facts = Facts(account=Account("someone", tier="silver" if fires else "gold"), lot=b"lot")
    decision = decide(then, Stage.INPUT, texts, Report((HIGH,)), facts)
    notes = Notes(Metrics(), "chat", "POST", "/v1/chat/completions", "someone", then.revision)
    notes.decided(decision, texts)
    body = orjson.loads(orjson.dumps(notes.outcome().body))
    take(rows, notes.id, body["action"], body["rule"] or "", body)
    heard = describe(then)
    heard["stages"] = describe(now)["stages"]  # as if b had been asked, too, and found nothing
    (one,) = Backtest(now, {then.revision: heard}.get).decide(rows)
    assert one.action is action
    (one,) = Backtest(now, {then.revision: {**heard, "rules": {}}}.get).decide(rows)
    assert one.action is None, "an older description tells nothing of rules"


@pytest.mark.parametrize(
    ("to", "words", "action", "unasked"),
    [
        ("m", False, Action.BLOCK, False),
        ("other", False, Action.ROUTE, True),
        ("m", True, Action.REWRITE, False),
        ("other", True, Action.REWRITE, False),
    ],
)
def test_a_route_leads_elsewhere_where_no_words_answer(to: str, words: bool, action: Action, unasked: bool) -> None:
    """One to the model that was asked for asks for nothing: the answer of then is an answer still."""
    rules = [rule("way", action="route", route_to=to)]
    rules += [rule("words", action="rewrite", rewrite_with="w")] if words else []
    answered = rule("out", stages=["output"])
    now, rows = built(make([*rules, answered])), Rows()
    body = {"revision": "then", "model": "m", "output": {"scores": {"a.x": 0.9}, "role": "assistant"}}
    take(rows, "pn_1", "block", "out", body | {"input": {"scores": {"a.x": 0.9}, "role": "user"}})
    (one,) = Backtest(now, lambda _: describe(now)).decide(rows)
    assert (one.action, one.unasked) == (action, unasked)


def test_words_that_a_route_outranked_ended_nothing() -> None:
    """As it was in an older Penstock."""
    rows, seen = Rows(), {"rules": {"way": "route", "words": "rewrite"}}
    body = {"revision": "then", "model": "m", "input": seen, "output": {}}
    take(rows, "pn_1", "route", "way", body | {"routed": {"to": "other"}, "upstream": "u"})
    take(rows, "pn_2", "route", "way", body)
    assert rows.ended == {1}


def test_a_mask_of_what_may_have_no_place_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "EXACT", frozenset())
    one = again([rule(action="log")], [rule(action="mask")], HIGH)
    assert one.action is None
    assert "where a finding stood was not kept" in one.why


def test_a_revision_that_nobody_kept() -> None:
    then, now, rows = built(make([rule()])), built(make([rule(when=LOWER)])), Rows()
    record(rows, then, ([Message(Role.USER, "abcdef", "/t")], Report()), ([], Report()))
    (one,) = Backtest(now, lambda _: None).decide(rows)
    assert one.action is None
    assert then.revision in one.why


def test_scores_without_roles_are_not_guessed_at() -> None:
    rows, ready = Rows(), built(make([rule()]))
    body = {"revision": ready.revision, "input": {"scores": {"a.x": 0.9}}}
    take(rows, "pn_1", "pass", "", body)
    (one,) = Backtest(ready, lambda _: None).decide(rows)
    assert (one.action, one.why) == (None, "it was recorded without roles")


def test_counting() -> None:
    then = built(make([rule("old", tags=["t1"]), rule("log", when={"finding": "a.y", "at_least": 0.5}, action="log")]))
    now = built(
        make(
            [
                rule("new", when={"finding": "a.y", "at_least": 0.5}, reason="because", tags=["t2"]),
                rule("log", action="log"),
            ]
        )
    )
    rows, user = Rows(), [Message(Role.USER, "abcdef", "/t")]
    for labels in ["x", "x", "y", "y", "y", "y", "xy", ""]:
        found = tuple(Finding("a", label, 0.9, 0, (0, 1)) for label in labels)
        record(rows, then, (user, Report(found)), ([], Report()))
    changes = Changes(keep=2)
    changes.add(rows, Backtest(now, {then.revision: describe(then)}.get).decide(rows))
    plain = changes.plain()
    assert (plain["decisions"], plain["changed"], plain["unknown"]) == (8, 6, {})
    assert plain["kinds"] == {"new passes": 2, "new blocks": 4}
    assert plain["requests_now_let_through"] == 2
    assert [(each["rule"], each["change"], each["count"], each["examples"]) for each in plain["rules"]] == [
        ("new", "new blocks", 4, rows.ids[4:6]),
        ("old", "new passes", 2, rows.ids[0:2]),
    ]
    assert plain["reasons"] == {"because: new blocks": 4, "t2: new blocks": 4}


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, {}, [], "user", 0, True, {"a.x": 0.9}, {"user": {"a.x": 0.9}}, {"a.x": "high"}, {"a": None}, {"user": None}]
)
SEEN = ("scores", "role", "by_role", "unplaced", "failures", "present", "rules", "shadow", "views")
STAGES = {
    stage: st.one_of(ODD, st.dictionaries(st.sampled_from(SEEN), ODD, max_size=4)) for stage in ("input", "output")
}
BODIES = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("revision", "routed", "review", "dialect", "model", "account", "stream"), ODD) | STAGES
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(ODD, BODIES), st.sampled_from(["pass", "block", "odd"]))
def test_a_log_that_others_wrote_into_is_no_traceback(body: Any, action: str) -> None:
    """What is in it of ours is decided all the same, as if the rest were not there."""
    ready, rows = built(make([rule()])), Rows()
    ours = {"revision": "then", "input": {"scores": {"a.x": 0.9}, "role": "user"}}
    take(rows, "pn_1", "block", "r", ours)
    take(rows, "pn_2", action, "r", body)
    take(rows, "pn_3", "block", "r", ours)
    first, second, third = Backtest(ready, lambda _: describe(ready)).decide(rows)
    assert first.action is third.action is Action.BLOCK
    if 1 in rows.unreadable:
        assert (second.action, second.why) == (None, "its record is not as Penstock writes it")


def test_what_is_no_json_is_unreadable() -> None:
    rows = Rows()
    take(rows, "pn_1", "block", "r", _parsed(b"{"))
    assert rows.unreadable == {0}
