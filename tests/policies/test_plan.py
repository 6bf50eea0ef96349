"""What must be read, and what must wait."""

from __future__ import annotations

from typing import Any

import pytest

from classifiers.base import Role
from policies.model import Stage
from policies.plan import Hold, Reading, StreamMode, plan, stream_mode

from .test_engine import built, make, rule

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
    assert plan(ready, Stage.INPUT) == (Reading("a", frozenset({Role.USER, Role.TOOL_RESULT}), 0.05),)
    assert plan(ready, Stage.OUTPUT) == (
        Reading("a", frozenset({Role.TOOL_RESULT}), 0.05),
        Reading("b", frozenset(Role), 2.0),
    )


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
