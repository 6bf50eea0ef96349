"""Conditions in CEL: what the engine makes of one is what the library makes of it once each score is a number, silence
and errors never make a decision milder, and what the loader calls constant is."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from classifiers.base import Failure, Finding, Message, Report, Role, Silence
from policies.calibrate import Budget, calibrate
from policies.cases import Outcome, run_cases
from policies.cel.condition import NoCondition, compiled
from policies.cel.constant import constants
from policies.cel.known import Known
from policies.cel.parts import Part, below
from policies.cel.variables import VARIABLES
from policies.document import read
from policies.engine import Action, PolicySet, Stage, decide
from policies.evaluate.dataset import Row
from policies.evaluate.subject import PolicySubject
from policies.facts import Account, Call, Facts, Settings, Turn
from policies.judged import Judged
from policies.model import Policy
from policies.texts import Text

from .reference import evaluate
from .test_engine import USER, built, check_shape, failures, findings, make, messages, rule
from .words import Words

EVERY = frozenset(Role)
CONSTANTS = YAML(typ="safe").load((Path(__file__).parent / "constants.yaml").read_text("utf-8"))
NUMBERS = ["0.2", "0.5", "0.8", "0.81"]
LABELS = ["a.x", "a.y", "b.x", "b.z", "surface.unscannable"]
"""Each stands once in an expression: of one that stands twice, what silence leaves open is told less exactly."""
FACTS = [
    "request.settings.n > 2",
    "2 >= request.settings.n",
    "request.settings.stream",
    'request.model == "big"',
    'account.grants.exists(g, g == "cyber")',
    'account.history["strikes"] > 2',
    '"strikes" in account.history',
    "has(account.history.strikes)",
    "1 == 1",
    'follows("tool_call:pay", "tool_result")',
    'follows("user", "tool_result:read")',
]


@st.composite
def expressions(draw: st.DrawFn, mask: bool = False) -> str:
    labels = draw(st.permutations(LABELS))

    def leaf() -> str:
        kind = draw(st.integers(0, 9)) if not mask else 0
        if kind < 6 and labels:
            sign = draw(st.sampled_from([">=", ">=", ">", "<", "<=", "==", "!="])) if not mask else ">="
            where = draw(st.sampled_from(["", "", ', "user"', ', "disguised"', ', "user", "leet"'])) if not mask else ""
            return f'score("{labels.pop()}"{where}) {sign} {draw(st.sampled_from(NUMBERS))}'
        if kind == 6 and labels:
            sign = draw(st.sampled_from([">=", ">", "<", "<=", "==", "!="]))
            return f'count("{labels.pop()}", {draw(st.sampled_from(NUMBERS))}) {sign} {draw(st.integers(0, 3))}'
        return draw(st.sampled_from(FACTS))

    def tree(depth: int) -> str:
        joint = draw(st.integers(0, 5)) if depth else 5
        if joint in {0, 1, 2}:
            return f"({tree(depth - 1)} {'&&' if joint else '||'} {tree(depth - 1)})"
        if joint == 3 and not mask:
            return f"!({tree(depth - 1)})"
        if joint == 4 and not mask:
            # Where silence leaves open which way a choice goes, it is not looked whether both ways are one.
            return f"({draw(st.sampled_from(FACTS))} ? {tree(depth - 1)} : {tree(depth - 1)})"
        return leaf()

    return tree(2)


AGAIN = [
    *FACTS,
    "request.settings.n == 1",
    "request.settings.n in [1, 2]",
    'request.model.startsWith("b")',
    'request.model.startsWith("big")',
    'request.model.endsWith("ig")',
    'request.model in ["big", "small"]',
    'request.model != "small"',
    'request.model < "c"',
    "size(request.model) == 3",
    '"cyber" in account.grants',
    "size(account.grants) > 0",
    "size(account.grants) == 0",
    "size(account.grants) != 1",
    '"bio" in account.grants',
    "account.grants.size() == 1",
    "account.history.strikes < 2",
    "!has(account.history.other)",
    'account.history["other"] == 0',
    'request.dialect in ["chat", "messages"]',
    'request.dialect != "chat"',
    'score("a.x") >= 0.5',
    'score("a.x", "user") > 0.5',
    'score("a.x", "disguised") >= 0.2',
    'score("a.x", "decoded") > 0.2',
    'score("a.*") < 0.8',
    'score("a.y") >= 0.8',
    'count("a.x", 0.5) >= 2',
    'count("a.x", 0.5) == 1',
]
"""Several of these say something of one thing."""


@st.composite
def repeated(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.sampled_from(AGAIN), min_size=2, max_size=4))
    return " ".join(
        f"{draw(st.sampled_from(['&&', '||'])) if at else ''} {draw(st.sampled_from(['', '!']))}({part})"
        for at, part in enumerate(parts)
    )


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    action = draw(st.sampled_from(["log", "mask", "block"]))
    return {
        "stages": ["input"],
        "roles": draw(st.sampled_from([["user"], ["user", "tool_result"], list(Role)])),
        "when": draw(expressions(mask=action == "mask")),
        "action": action,
        "mode": draw(st.sampled_from(["shadow", "canary 50%", "enforce", "enforce"])),
        "on_error": draw(st.sampled_from([None, "block", "log", "pass"])),
    }


facts = st.builds(
    Facts,
    dialect=st.sampled_from(["chat", "messages", "responses"]),
    model=st.sampled_from(["big", "small"]),
    settings=st.builds(Settings, n=st.integers(1, 4), stream=st.booleans()),
    account=st.builds(
        Account,
        st.just("acme"),
        grants=st.sampled_from([frozenset(), frozenset({"cyber"}), frozenset({"cyber", "bio"})]),
        history=st.sampled_from([{}, {"strikes": 1}, {"strikes": 5}]),
    ),
    turns=st.lists(
        st.sampled_from(
            [
                Turn(Role.USER),
                Turn(Role.TOOL_RESULT, "read"),
                Turn(Role.TOOL_RESULT, "other"),
                Turn(Role.TOOL_CALL, "pay"),
                Turn(Role.TOOL_CALL, "read"),
            ]
        ),
        max_size=4,
    ).map(tuple),
    lot=st.sampled_from([b"", b"one", b"two"]),
)
viewed = st.builds(
    lambda finding, view: replace(finding, view=view), findings, st.sampled_from(["", "raw", "decoded", "plain.leet_l"])
)
reports = st.builds(
    Report, st.lists(viewed, max_size=5).map(tuple), st.one_of(st.just(()), st.lists(failures, max_size=2).map(tuple))
)
policies = st.lists(rules(), min_size=1, max_size=3).map(
    lambda made: make([given | {"id": f"r{at}", "description": "d"} for at, given in enumerate(made)])
)


@settings(max_examples=150, deadline=None)
@given(policies, messages, reports, st.one_of(st.none(), facts))
def test_reference(policy: Policy, texts: list[Message], report: Report, known: Facts | None) -> None:
    decision = decide(built(policy), Stage.INPUT, texts, report, known)
    expected = evaluate([policy], Stage.INPUT, texts, report, known)
    assert [(each.rule, each.action.value, each.not_evaluated) for each in decision.fired] == expected.fired
    assert [(each.rule, each.action.value, each.not_evaluated) for each in decision.shadow] == expected.shadow
    assert decision.action.value == expected.action
    assert {(mask.message, at) for mask in decision.masks for at in range(mask.start, mask.end)} == expected.masked
    check_shape(decision, texts, report, Stage.INPUT)


@settings(max_examples=100, deadline=None)
@given(policies, messages, reports, failures, st.one_of(st.none(), facts))
def test_a_failure_more_never_makes_it_milder(
    policy: Policy, texts: list[Message], report: Report, failure: Failure, known: Facts | None
) -> None:
    ready = built(policy)
    worse = Report(report.findings, (*report.failures, failure))
    before = decide(ready, Stage.INPUT, texts, report, known).action.severity
    assert decide(ready, Stage.INPUT, texts, worse, known).action.severity >= before


@settings(max_examples=150, deadline=None)
@given(st.one_of(expressions(), repeated()), messages, st.lists(viewed, max_size=5).map(tuple), facts)
def test_what_is_called_constant_is(text: str, texts: list[Message], found: tuple[Finding, ...], known: Facts) -> None:
    condition = compiled(text, Stage.INPUT, EVERY)
    told = {flaw.at: flaw.what == "this is always true" for flaw in constants(condition)}
    view = Known(condition.atoms, 0, 0, Stage.INPUT, texts, found, known)
    bits = sum(1 << at for at, atom in enumerate(condition.atoms) if any(view.meets(atom, each) for each in found))
    view = replace(view, bits=bits)
    parts: list[Part] = [condition.root]
    for part in parts:
        parts += below(part)
        if part.at in told:
            assert part.truth(view) is told[part.at], text


@pytest.mark.parametrize(("said", "text"), [(said, text) for said, texts in CONSTANTS.items() for text in texts])
def test_what_is_called_constant(said: str, text: str) -> None:
    found = [flaw.what for flaw in constants(compiled(text, Stage.INPUT, EVERY))]
    wanted = {"never": ["this can never be true"], "always": ["this is always true"]}
    assert found == wanted.get(said, [])


def test_a_field_that_is_there_may_be_false() -> None:
    text = "calls.exists(c, has(c.arguments.sure)) && !calls.exists(c, c.arguments.sure)"
    assert list(constants(compiled(text, Stage.OUTPUT, EVERY))) == []


@pytest.mark.parametrize("score", [0.79, 0.8, 0.81, math.nan])
@pytest.mark.parametrize(
    ("sign", "fires"),
    [(">=", (0, 1, 1, 1)), (">", (0, 0, 1, 1)), ("<", (1, 0, 0, 0)), ("==", (0, 1, 0, 0)), ("!=", (1, 0, 1, 1))],
)
def test_signs(score: float, sign: str, fires: tuple[int, ...]) -> None:
    ready = built(make([rule(when=f'score("a.x") {sign} 0.8')]))
    blocked = decide(ready, Stage.INPUT, USER, Report((Finding("a", "x", score, 0),))).action is Action.BLOCK
    wanted = fires[3 if math.isnan(score) else [0.79, 0.8, 0.81].index(score)]
    assert blocked == bool(wanted)


def test_a_granted_account_passes_and_nobody_else() -> None:
    when = 'score("a.x") >= 0.8 && !account.grants.exists(g, g == "cyber")'
    ready = built(make([rule(when=when)]))
    seen = Report((Finding("a", "x", 0.9, 0),))
    granted = Facts(account=Account("a", grants=frozenset({"cyber"})))
    assert decide(ready, Stage.INPUT, USER, seen, granted).action is Action.PASS
    assert decide(ready, Stage.INPUT, USER, seen, Facts()).action is Action.BLOCK
    unknown = decide(ready, Stage.INPUT, USER, seen, None)
    assert (unknown.action, unknown.fired[0].not_evaluated) == (Action.BLOCK, True)


PAY = 'calls.exists(c, c.name == "pay" && c.arguments.amount > 100)'
CALLS: list[tuple[Call, Action, bool]] = [
    (Call("pay", {"amount": 500}), Action.BLOCK, False),
    (Call("pay", {"amount": 100.5}), Action.BLOCK, False),
    (Call("pay", {"amount": 5}), Action.PASS, False),
    (Call("read", {"path": "x"}), Action.PASS, False),
    (Call("pay", {"sum": 500}), Action.BLOCK, True),
    (Call("pay", "500"), Action.BLOCK, True),
    (Call("pay", None), Action.BLOCK, True),
    (Call("pay", {"amount": "many"}), Action.BLOCK, True),
    (Call("pay", {"amount": 10**30}), Action.BLOCK, True),
    (Call("pay", {"amount": "\ud800"}), Action.BLOCK, True),
]


@pytest.mark.parametrize(("call", "action", "unsure"), CALLS, ids=repr)
def test_arguments_of_a_call(call: Call, action: Action, unsure: bool) -> None:
    ready = built(make([rule(when=PAY, stages=["output"], roles=["tool_call"])]))
    said = [Message(Role.TOOL_CALL, "pay", "/t")]
    decision = decide(ready, Stage.OUTPUT, said, Report(), Facts().answered((call,)))
    assert decision.action is action
    assert [fired.not_evaluated for fired in decision.fired] == ([unsure] if action is Action.BLOCK else [])


def test_a_tool_of_unknown_name_may_be_the_one_that_is_asked_for() -> None:
    ready = built(make([rule(when='follows("tool_result:web", "user")')]))

    def decided(*turns: Turn) -> list[bool]:
        decision = decide(ready, Stage.INPUT, USER, Report(), Facts(turns=turns))
        return [fired.not_evaluated for fired in decision.fired]

    assert decided(Turn(Role.USER), Turn(Role.TOOL_RESULT, "web")) == [False]
    assert decided(Turn(Role.USER), Turn(Role.TOOL_RESULT, "")) == [True]
    assert decided(Turn(Role.TOOL_RESULT, "web"), Turn(Role.USER)) == []


def test_what_cannot_be_true_without_a_finding_is_not_looked_at() -> None:
    ready = built(make([rule(when='score("a.x") >= 0.8 && tools[0] == "pay"')]))
    assert decide(ready, Stage.INPUT, USER, Report(), Facts()) is ready.tables[Stage.INPUT].clear
    low = Report((Finding("a", "x", 0.5, 0),))
    assert decide(ready, Stage.INPUT, USER, low, Facts()).fired == ()


def test_silence_counts_only_where_it_could_have_changed_something() -> None:
    ready = built(make([rule(when='score("a.x") >= 0.8 && request.model == "big"')]))
    silent = Report((), (Failure("a", Silence.TIMEOUT),))
    assert decide(ready, Stage.INPUT, USER, silent, Facts(model="small")).action is Action.PASS
    assert decide(ready, Stage.INPUT, USER, silent, Facts(model="big")).action is Action.BLOCK


def test_only_what_speaks_for_a_rule_is_masked() -> None:
    when = 'score("a.x") >= 0.5 && score("b.y") < 0.5'
    ready = built(make([rule(when=when, action="mask")]))
    seen = (Finding("a", "x", 0.9, 0, (0, 2)), Finding("b", "y", 0.2, 0, (4, 6)), Finding("a", "x", 0.1, 0, (7, 8)))
    decision = decide(ready, Stage.INPUT, USER, Report(seen))
    assert [(mask.start, mask.end) for mask in decision.masks] == [(0, 2)]


def test_conditions_are_told_to_those_who_ask_for_thresholds() -> None:
    (made,) = make([rule(when='score("a.x") >= 0.8 && (count("b.y", 0.4) > 1 || request.settings.n > 3)')]).rules
    parts, every = made.conditions
    assert [(part.finding, part.at_least) for part in parts] == [(["a.x"], 0.8), (["b.y"], 0.4)]
    assert not every


def test_each_variable_is_read() -> None:
    """Every variable has a value of its type at each stage that has it."""
    plain = {"string": '== "messages"', "int": "== 77", "bool": "", "double": "== 77.0"}
    for each in VARIABLES:
        for stage in each.stages:
            text = f"!({each.name} {plain[each.kind]})" if each.kind in plain else f"size({each.name}) < 77"
            made = built(make([rule(when=f'score("a.x") > 0.5 && ({text})', stages=[stage.value], on_error="log")]))
            seen = Report((Finding("a", "x", 0.9, 0),))
            assert decide(made, stage, USER, seen, Facts()).action is Action.BLOCK, (each.name, stage)


def test_a_long_condition_is_checked_in_no_time() -> None:
    text = " || ".join(
        f'(score("a.x") >= 0.{at + 10} && request.settings.n > {at + 1} && request.model == "m{at}")'
        for at in range(40)
    )
    began = time.process_time()
    assert constants(compiled(text, Stage.INPUT, EVERY)) == []
    assert time.process_time() - began < 5


def test_measuring_and_calibrating_leave_out_what_has_no_score() -> None:
    policy = make(
        [
            rule("facts", when="request.settings.n > 3"),
            rule("both", when='score("a.x") >= 0.8 && request.settings.n > 3'),
            rule("plain", action="log"),
        ]
    )
    ready = built(policy)
    row = Row("1", "s", "benign", False, Stage.INPUT, tuple(USER))
    outcome = PolicySubject(ready).judged(row, Report((Finding("a", "x", 0.9, 0),)))
    assert (outcome.action, outcome.fired) == ("log", ("plain",))
    texts = tuple(Text("t", False, Role.USER, "f", at) for at in range(3000))
    judged = Judged(texts, tuple((Finding("a", "x", at / 3000, 0),) for at in range(3000)))
    both, plain = calibrate(ready, judged, None, Budget(block=0.01, log=0.01))
    assert (both.rule.id, both.changes) == ("both", ())
    assert "by hand" in both.note
    assert plain.rule.id == "plain"
    assert len(plain.changes) == 1


def test_a_case_is_skipped_where_a_slow_classifier_could_still_make_it_milder() -> None:
    case = {"name": "low", "text": "w", "expect": {"action": "pass"}}
    policy = make([rule(when='score("a.x") < 0.5')], cases=[case])
    slow = PolicySet.build([policy], {name: Words(name, {"x": "w"}, inline=name != "a") for name in ("a", "b")})
    assert [result.outcome for result in run_cases(slow)] == [Outcome.SKIPPED]
    assert [result.outcome for result in run_cases(slow, live=True)] == [Outcome.PASSED]


STYLES = [
    "when: {}",
    "when: '{}'",
    'when: "{}"',
    "when: |\n  {}",
    "when: >-\n\n  {}",
    "when: {}\n  &&\n  true",
]


@pytest.mark.parametrize("style", STYLES)
def test_places_are_those_in_the_file(style: str) -> None:
    text = """score("a.b") > 0.5 && request.model == 'é' || n == '' || score("a.b") < 0.5"""
    spelled = text.replace("'", "''") if "'{" in style else text.replace('"', '\\"') if '"{' in style else text
    lines = style.format(spelled).split("\n")
    document = read("\n".join(lines).encode(), "p.yaml")
    assert not document.problems
    for at, letter in enumerate(document.value["when"]):
        line, column = document.within(("when",), at)
        if not letter.isspace():
            assert lines[line - 1][column - 1] == letter, (at, letter)


def test_the_stage_is_checked() -> None:
    with pytest.raises(NoCondition, match="there at the stage output only"):
        compiled(PAY, Stage.INPUT, EVERY)
    with pytest.raises(NoCondition):
        PolicySet.build([make([rule(when=PAY)])], {})
