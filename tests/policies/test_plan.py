"""What must be read, and what must wait."""

from __future__ import annotations

from typing import Any

import pytest

from classifiers.base import Role
from classifiers.cascade import After
from policies.model import Stage
from policies.plan import Hold, Reading, StreamMode, plan, stream_mode
from policies.ready import PolicySet

from .test_engine import built, make, rule
from .words import Words

WHOLE, NONE = StreamMode(Hold.WHOLE), StreamMode(Hold.NONE)


def test_plan_joins_roles_and_leaves_out_rules_that_are_off() -> None:
    b = {"finding": ["b.y", "surface.unscannable"], "at_least": 0.5}
    ready = built(
        make(
            [
                rule("one", roles=["user"]),
                rule("two", roles=["tool_result"], mode="shadow", stages=["input", "output"]),
                rule("three", when=b, mode="off"),
                rule("four", when=b, stages=["output"]),
            ],
            classifiers={"a": {"kind": "words", "deadline_ms": 50}, "b": {"kind": "words"}},
        )
    )
    result = frozenset({Role.TOOL_RESULT})
    assert plan(ready, Stage.INPUT) == (Reading("a", result | {Role.USER}, 0.05, last=result),)
    assert plan(ready, Stage.OUTPUT) == (Reading("a", result, 0.05, last=result), Reading("b", frozenset(Role), 2.0))


LOG, MASK = {"action": "log"}, {"action": "mask"}
LAST: dict[str, tuple[list[dict[str, Any]], set[Role]]] = {
    "stops": ([rule("r", roles=["user"])], set()),
    "notes": ([rule("r", roles=["user"], **LOG)], {Role.USER}),
    "notes, and stops in silence": ([rule("r", roles=["user"], on_error="block", **LOG)], set()),
    "masks": ([rule("r", roles=["user"], **MASK)], set()),
    "a shadow": ([rule("r", roles=["user"], mode="shadow")], {Role.USER}),
    "a canary": ([rule("r", roles=["user"], mode="canary 5%")], set()),
    "both": ([rule("r", roles=["user"]), rule("s", roles=["user", "system"], **LOG)], {Role.SYSTEM}),
}


@pytest.mark.parametrize(("rules", "last"), LAST.values(), ids=LAST.keys())
def test_what_only_notes_is_read_last(rules: list[dict[str, Any]], last: set[Role]) -> None:
    (reading,) = plan(built(make(rules)), Stage.INPUT)
    assert reading.last == last


def test_a_gate_reads_what_those_read_that_wait_for_it() -> None:
    def after(name: str, **more: Any) -> dict[str, Any]:
        return {"kind": "words", "after": {"classifier": name, "labels": ["x"], "band": [0.2, 0.8]}} | more

    specs = {"a": after("b"), "b": after("c"), "c": {"kind": "words", "min_score": 0.3}, "d": after("c")}
    rules = [
        rule("one", roles=["user"]),
        rule("two", roles=["system"], when={"finding": "b.x", "at_least": 0.5}),
        rule("three", stages=["output"], roles=["tool_call"], when={"finding": "c.x", "at_least": 0.5}),
    ]
    policy = make(rules, classifiers=specs)
    ready = PolicySet.build([policy], {name: Words(name) for name in specs})
    user, system, call = (frozenset({role}) for role in (Role.USER, Role.SYSTEM, Role.TOOL_CALL))
    x = frozenset({"x"})
    assert plan(ready, Stage.INPUT) == (
        Reading("a", user, 2.0, After("b", x, 0.2, 0.8, 0.01)),
        Reading("b", user | system, 2.0, After("c", x, 0.2, 0.8, 0.3)),
        Reading("c", user | system, 2.0),
    )
    assert plan(ready, Stage.OUTPUT) == (Reading("c", call, 2.0),)


HOLDS: list[tuple[list[dict[str, Any]], StreamMode]] = [
    ([{}], WHOLE),
    ([{"action": "mask"}], WHOLE),
    ([{"action": "log"}], NONE),
    ([{"mode": "shadow"}], NONE),
    ([{"mode": "off"}], NONE),
    ([{"stages": ["input"]}], NONE),
    ([{"action": "log", "on_error": "block"}], WHOLE),
    ([{"stream": {"hold_back": 9}}], StreamMode(Hold.HOLD_BACK, 9)),
    ([{"stream": {"hold_back": 9}}, {"stream": {"hold_back": 5}}], StreamMode(Hold.HOLD_BACK, 9)),
    ([{"stream": {"hold_back": 9}}, {"action": "mask"}], WHOLE),
    ([{"stream": {"hold_back": 9}}, {"action": "mask", "mode": "shadow"}], StreamMode(Hold.HOLD_BACK, 9)),
]


@pytest.mark.parametrize(("rules", "mode"), HOLDS)
def test_the_strictest_rule_says_how_much_of_a_stream_waits(rules: list[dict[str, Any]], mode: StreamMode) -> None:
    made = [rule(f"r{at}", **({"stages": ["output"]} | more)) for at, more in enumerate(rules)]
    assert stream_mode(built(make(made))) == mode
