"""Thresholds of policies that extend others, and of rules whose condition is an expression: what is told, and what is
written, is what the engine then does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.base import Message, Report, Role
from classifiers.statistics import upper_bound
from policies.calibrate import Budget, Outcome, calibrate, moves, together
from policies.document import read
from policies.edited import edited
from policies.engine import Action, PolicySet, Stage, decide
from policies.facts import Facts, Settings
from policies.judged import CalibrateError, Judged, judge
from policies.mends import parse
from policies.model import Policy
from policies.standing import Standing, standing
from policies.variants import Family

from .test_calibrate import Told, texts

HEAD = "id: {id}\nversion: 1\nowner: o\ndescription: d\n"
BASE = """\
classifiers:
  c: {kind: patterns}
rules:
  - {id: one, description: d, stages: [input], action: block, when: {finding: c.a, at_least: 0.5}}
  - id: two
    description: d
    stages: [input]
    action: review
    when: {any: [{finding: c.a, at_least: 0.6}, {finding: c.b, at_least: 0.4}]}
  - {id: three, description: d, stages: [input], action: block, when: 'score("c.a") >= 0.5 && !(score("c.b") >= 0.5)'}
  - {id: four, description: d, stages: [input], action: block, when: 'account.history["x"] >= 3'}
"""
OVERRIDES = (
    "",
    "override: {rules: {one: {when: {finding: c.b, at_least: 0.7}}}}\n",
    "override: {rules: {one: {when: {all: [{finding: c.a, at_least: 0.3}, {finding: c.b, at_least: 0.2}]}}}}\n",
    "override: {rules: {one: {action: log}, two: {when: {finding: c.a, at_least: 0.4}}}}\n",
    "override: {rules: {one: {roles: [tool_result]}, two: {mode: shadow, when: 'score(\"c.a\") > 0.3'}}}\n",
    "override: {rules: {two: {mode: off}, three: {when: {finding: c.a, at_least: 0.9}}}}\n",
)
OWN = "rules:\n  - {id: own, description: d, stages: [input], action: block, when: {finding: c.b, at_least: 0.5}}\n"


def files(*variants: str) -> dict[str, bytes]:
    """A base, and policies that extend each the one before."""
    made = {"base": (HEAD.format(id="base") + BASE).encode()}
    for at, said in enumerate(variants):
        base = f"v{at - 1}" if at else "base"
        made[f"v{at}"] = (
            HEAD.format(id=f"v{at}") + f"extends: {base}\napplies_to: {{models: [m{at}]}}\n{said}"
        ).encode()
    return made


def built(raw: Mapping[str, bytes]) -> PolicySet:
    documents = {name: read(content, name) for name, content in raw.items()}
    written = {name: (document, parse(document)) for name, document in documents.items()}
    known = {name: (document, policy) for name, (document, policy) in written.items() if policy is not None}
    family = Family(known, lambda _: None, ())
    policies = [family.whole(name) for name in raw]
    assert not [problem for document in documents.values() for problem in document.problems]
    return PolicySet.build(policies, {"c": Told()})


def rewritten(raw: Mapping[str, bytes], outcomes: Sequence[Outcome]) -> dict[str, bytes]:
    changes = {name: moves(read(content, name).value, outcomes) for name, content in raw.items()}
    return {name: edited(content, changes[name]) if changes[name] else content for name, content in raw.items()}


def fired(policies: PolicySet, judged: Judged, policy: str, rule: str) -> int:
    """In how many texts the engine lets a rule of a policy do what it says."""
    count = 0
    for decision in judged.decided(policies):
        every = decision.fired + decision.shadow
        count += any((each.policy, each.rule, each.not_evaluated) == (policy, rule, False) for each in every)
    return count


scores = st.integers(0, 20).map(lambda value: value / 20)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(scores, scores, st.sampled_from([Role.USER, Role.TOOL_RESULT])), min_size=30, max_size=90),
    st.lists(st.sampled_from(OVERRIDES), max_size=2),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0.3, 0.9]),
)
def test_what_is_written_is_what_was_told_and_keeps_each_budget(
    said: list[tuple[float, float, Role]], variants: list[str], own: bool, lower: bool, catch: float | None
) -> None:
    raw = files(*variants[:-1], *(each + OWN * own for each in variants[-1:]))
    policies = built(raw)
    honest = [text for a, b, role in said for text in texts(f"a={a} b={b}", role=role)]
    judged = judge(policies, honest)
    bad = judge(policies, texts(*(f"a={at / 10} b={at / 20}" for at in range(11))))
    outcomes = calibrate(policies, judged, bad, Budget(block=0.1, log=0.2, catch=catch, lower=lower))
    assert together(policies, judged).hits == stopped(policies, judged)
    after = built(rewritten(raw, outcomes))
    assert together(policies, judged, outcomes) == together(after, judged)
    for each in outcomes:
        assert each.honest_now.hits == fired(policies, judged, each.policy, each.rule.id)
        assert each.honest_then.hits == fired(after, judged, each.policy, each.rule.id)
        assert each.bad_then is not None
        assert each.bad_then.hits == fired(after, bad, each.policy, each.rule.id)
        if each.budget is not None and each.well and each.honest_now.count and "nothing to set" not in each.note:
            assert each.honest_then.bound <= each.budget
            if catch is not None:
                assert each.bad_then.share >= catch
        if not each.well:
            assert each.note
    ids = [(each.policy, each.rule.id) for each in outcomes]
    assert len(set(ids)) == len(ids)


def stopped(policies: PolicySet, judged: Judged) -> int:
    return sum(
        decide(
            policies, Stage.INPUT, [Message(text.role, text.text, "")], Report(found), Facts()
        ).action.protects
        for text, found in zip(judged.texts, judged.findings, strict=True)
    )  # fmt: skip


def told(raw: Mapping[str, bytes], honest: Sequence[str], budget: Budget) -> dict[tuple[str, str], Outcome]:
    policies = built(raw)
    outcomes = calibrate(policies, judge(policies, texts(*honest)), None, budget)
    return {(each.policy, each.rule.id): each for each in outcomes}


def test_a_threshold_stands_in_the_file_that_wrote_it() -> None:
    override = "override: {rules: {one: {when: {finding: c.b, at_least: 0.7}}, two: {action: log}}}\n"
    raw = files(override + OWN, "")
    by_id = {policy.id: policy for policy in built(raw).policies}
    stands = {
        (name, rule.id): standing(by_id, policy, rule.id) for name, policy in by_id.items() for rule in policy.rules
    }
    one, own = Standing("v0", ("override", "rules", "one", "when")), Standing("v0", ("rules", 0, "when"))
    assert stands["base", "one"] == Standing("base", ("rules", 0, "when"))
    assert stands["v0", "one"] == stands["v1", "one"] == one
    assert stands["v0", "two"] == stands["v1", "two"] == stands["base", "two"] == Standing("base", ("rules", 1, "when"))
    assert stands["v0", "own"] == stands["v1", "own"] == own


def test_a_threshold_that_is_inherited_is_the_highest_that_any_needs() -> None:
    """The variant reads texts of another role, too, and some of these score higher."""
    raw = files("override: {rules: {one: {roles: [user, tool_result]}}}\n")
    raw["base"] = raw["base"].replace(b"id: one, ", b"id: one, roles: [user], ")
    policies = built(raw)
    honest = [*texts(*["a=0.6"] * 9, *["a=0.1"] * 91), *texts(*["a=0.8"] * 9, *["a=0.1"] * 91, role=Role.TOOL_RESULT)]
    outcomes = calibrate(policies, judge(policies, honest), None, Budget(block=0.05))
    base, variant = (each for each in outcomes if each.rule.id == "one")
    assert (base.policy, base.written, variant.policy, variant.written) == ("base", "base", "v0", "base")
    assert base.parts == variant.parts
    assert base.parts[0].then == 0.800001
    assert (variant.honest_now.hits, base.honest_now.hits) == (18, 9)
    assert (variant.honest_then.hits, base.honest_then.hits) == (0, 0)


def test_a_shared_threshold_stays_where_one_policy_would_catch_too_little() -> None:
    raw = files("override: {rules: {one: {roles: [user, tool_result]}}}\n")
    raw["base"] = raw["base"].replace(b"id: one, ", b"id: one, roles: [tool_result], ")
    policies = built(raw)
    honest = judge(policies, texts(*["a=0.6"] * 9, *["a=0.1"] * 91, role=Role.TOOL_RESULT))
    bad = [*texts(*["a=0.55"] * 9), *texts("a=0.9", role=Role.TOOL_RESULT)]
    outcomes = calibrate(policies, honest, judge(policies, bad), Budget(block=0.05, catch=0.5))
    base, variant = (each for each in outcomes if each.rule.id == "one")
    assert "catches too little (10.0%)" in variant.note
    assert "its threshold is also that of 'v0'" in base.note
    assert not base.changes
    assert not variant.changes
    assert not base.well


def test_what_a_pack_says_is_told_and_not_moved() -> None:
    """A base that is none of the set's files is a shipped pack."""
    both = built(files(""))
    alone = PolicySet.build([policy for policy in both.policies if policy.id == "v0"], both.classifiers)
    judged = judge(alone, texts(*["a=0.55"] * 30, *["a=0.1"] * 370))
    outcomes = {each.rule.id: each for each in calibrate(alone, judged, None, Budget(block=0.01))}
    assert (outcomes["one"].written, outcomes["one"].changes, outcomes["one"].well) == ("base", (), False)
    said = "shipped pack 'base': write by hand override: {rules: {one: {when: {"
    assert said in outcomes["one"].note
    patch = outcomes["one"].note.partition("by hand ")[2]
    after = built(files(patch + "\n"))
    assert fired(after, judged, "v0", "one") == 0
    assert outcomes["two"].well


def test_a_number_that_was_changed_meanwhile_is_not_replaced() -> None:
    raw = files()
    outcomes = list(told(raw, ["a=0.55"] * 9 + ["a=0.1"] * 91, Budget(block=0.05)).values())
    assert rewritten(raw, outcomes) != raw
    now = raw["base"].replace(b"at_least: 0.5}", b"at_least: 0.51}")
    with pytest.raises(CalibrateError, match="changed meanwhile"):
        rewritten({"base": now}, outcomes)
    shorter = raw["base"].replace(b"when: {finding: c.a, at_least: 0.5}", b"when: 'score(\"c.a\") > 0.2'")
    with pytest.raises(CalibrateError, match="changed meanwhile"):
        rewritten({"base": shorter}, outcomes)


# Expressions --------------------------------------------------------------------------------------------------------


def expression(when: str, action: str = "block") -> dict[str, bytes]:
    rule = f"rules:\n  - {{id: r, description: d, stages: [input], action: {action}, when: '{when}'}}\n"
    return {"p": (HEAD.format(id="p") + "classifiers:\n  c: {kind: patterns}\n" + rule).encode()}


LOUD = ["a=0.7 b=0.1"] * 30 + ["a=0.1"] * 670
BUDGET = Budget(block=0.005, log=0.005)


@pytest.mark.parametrize(
    ("when", "hits", "well", "note"),
    [
        ('score("c.a") >= 0.5', 30, False, "write 0.700001 into it by hand"),
        ('score("c.a") >= 0.5 && !(score("c.b") >= 0.1)', 0, True, ""),
        ('score("c.a") >= 0.5 && !(score("c.b") >= 0.5)', 30, False, "write 0.700001 into it by hand"),
        ('score("c.a") >= 0.5 && request.model == "never"', 0, False, "by hand; its rate is that of a plain request"),
        ('score("c.a") >= 0.9 && request.model == "never"', 0, True, ""),
        ('score("c.a") >= 0.5 && count("c.a", 0.5) >= 2', 0, True, ""),
        ('score("c.a") >= 0.5 || request.model == "never"', 30, False, "its scores alone do not decide it"),
        ('score("c.a") >= 0.9 || request.model == "never"', 0, False, "in another it may fire on 700 of these texts"),
        ('score("c.a") < 0.5 || score("c.b") >= 0.9', 670, False, "its scores alone do not decide it"),
    ],
)  # fmt: skip
def test_an_expression_is_asked_as_a_whole(when: str, hits: int, well: bool, note: str) -> None:
    raw = expression(when)
    (outcome,) = told(raw, LOUD, BUDGET).values()
    assert (outcome.honest_now.hits, outcome.well, outcome.changes) == (hits, well, ())
    assert (note in outcome.note) if note else not outcome.note
    policies = built(raw)
    assert together(policies, judge(policies, texts(*LOUD))).hits == hits


def test_a_number_that_is_to_be_written_by_hand_does() -> None:
    when = 'score("c.a") >= {} && (request.model == "m" || score("c.b") >= 0.05)'
    (outcome,) = told(expression(when.format(0.5)), LOUD, BUDGET).values()
    number = outcome.note.partition("write ")[2].partition(" into")[0]
    (after,) = told(expression(when.format(number)), LOUD, BUDGET).values()
    assert (after.well, after.honest_now.hits) == (True, 0)
    lower = when.format(float(number) - 2e-6)
    assert not next(iter(told(expression(lower), LOUD, BUDGET).values())).well


def test_few_texts_prove_nothing_of_an_expression_either() -> None:
    (outcome,) = told(expression('score("c.a") >= 0.5'), ["a=0.1"] * 100, BUDGET).values()
    assert not outcome.well
    assert "100 honest texts prove nothing: 598 or more" in outcome.note


def test_an_expression_has_the_budget_of_its_action_and_roles() -> None:
    raw = expression('score("c.a") >= 0.5 && request.settings.n > 1', "log")
    (free,) = told(raw, LOUD, Budget(block=0.005)).values()
    assert (free.budget, free.well) == (None, True)
    assert "it may fire on 30 of these texts" in free.note
    policies = built(raw)
    (none,) = calibrate(policies, judge(policies, texts("a=0.9", role=Role.ASSISTANT)), None, BUDGET)
    assert none.well
    assert "not measured" in none.note


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=40), st.sampled_from([0, 3]), st.booleans())
def test_no_request_fires_a_rule_that_no_text_was_said_to(said: list[tuple[float, float]], n: int, big: bool) -> None:
    """The bound that must hold is that of any request."""
    when = 'score("c.a") >= 0.5 && (request.settings.n > 2 || request.model == "big" && score("c.b") < 0.3)'
    policies = built(expression(when))
    judged = judge(policies, texts(*(f"a={a} b={b}" for a, b in said)))
    share = 0.4
    (outcome,) = calibrate(policies, judged, None, Budget(block=share))
    facts = Facts(model="big" if big else "", settings=Settings(n=n))
    hits = sum(decision.action is Action.BLOCK for decision in judged.decided(policies, facts))
    if outcome.well:
        assert upper_bound(hits, len(said)) <= share


def test_rules_without_a_score_are_no_false_alarm() -> None:
    policies = built(expression('account.history["x"] >= 3'))
    judged = judge(policies, texts(*LOUD))
    assert calibrate(policies, judged, None, BUDGET) == []
    assert together(policies, judged).hits == 0
    always = built(expression('!account.grants.exists(g, g == "x")'))
    assert together(always, judged).hits == 700


def test_other_conditions_leave_everything_else_as_it_is() -> None:
    policies = built(files(OVERRIDES[1] + OWN))
    rule = policies.policies[0].rules[0]
    (when,) = rule.conditions[0]
    moved = policies.with_conditions({("base", "one"): when.model_copy(update={"at_least": 0.9})})
    assert moved.digest == policies.digest
    same = moved.with_conditions({("base", "one"): when})
    dumped: list[list[Policy]] = [list(each.policies) for each in (policies, same)]
    assert dumped[0] == dumped[1]
    assert moved.policies[0].rules[0].conditions[0][0].at_least == 0.9
    assert policies.policies[0].rules[0].conditions[0][0].at_least == 0.5
    assert [policy.inherited for policy in moved.policies] == [policy.inherited for policy in policies.policies]
