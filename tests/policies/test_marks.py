"""What rules leave on accounts, and what conditions read of it."""

from __future__ import annotations

from typing import Any

import pytest

from classifiers.base import Report
from policies.engine import Action, Stage, decide
from policies.facts import Account, Facts
from policies.marks import DAY, Flag, Strike, memory_of, spoken

from .test_engine import USER, built, make, rule

STRIKES = rule(id="a", strike="loud", flag={"name": "banned", "lasts": "30d"})


def test_what_is_left_and_read() -> None:
    reader = rule(id="b", when='account.history["loud"] > 2 || "banned" in account.flags')
    hour, month = {"name": "loud", "within": "1h"}, {"name": "banned", "lasts": "30d"}
    memory = memory_of([make([STRIKES | {"strike": hour}, reader])])
    (marks,) = memory.left.values()
    assert (marks.strike, marks.flag) == (Strike.model_validate(hour), Flag.model_validate(month))
    assert memory.flags
    assert memory.counted == {"loud": 3600}


READ: dict[str, tuple[str, dict[str, int], bool]] = {
    "nothing": ("request.settings.n > 2", {}, False),
    "flags alone": ("size(account.flags) > 1", {}, True),
    "another's count": ('account.history["other"] > 1', {"loud": DAY, "other": DAY}, False),
    "as a field": ("account.history.other > 1", {"loud": DAY, "other": DAY}, False),
    "whether one is there": ("has(account.history.other)", {"loud": DAY, "other": DAY}, False),
    "whether it is in it": ('"other" in account.history', {"loud": DAY, "other": DAY}, False),
    "all of them": ("account.history.exists(name, account.history[name] > 5)", {"loud": DAY}, False),
    "in a choice": ('request.settings.stream ? account.history["x"] > 1 : false', {"loud": DAY, "x": DAY}, False),
}


@pytest.mark.parametrize(("when", "counted", "flags"), READ.values(), ids=READ.keys())
def test_what_a_condition_reads(when: str, counted: dict[str, int], flags: bool) -> None:
    memory = memory_of([make([STRIKES, rule(id="b", when=when)])])
    assert (memory.counted, memory.flags) == (counted, flags)


def test_a_rule_that_is_off_leaves_and_reads_nothing() -> None:
    off: list[dict[str, Any]] = [STRIKES | {"mode": "off"}, rule(id="b", when="size(account.flags) > 1", mode="off")]
    memory = memory_of([make([*off, rule(id="c")])])
    assert (memory.left, memory.flags, memory.counted) == ({}, False, {})


READER = rule(id="b", when='account.history["loud"] >= 3')
OWN = STRIKES | {"strike": {"name": "loud", "within": "1h"}}
TIMES: dict[str, tuple[list[Any], bool, str, int]] = {
    "shorter elsewhere": ([READER], True, "1s", DAY),
    "longer elsewhere": ([READER], True, "7d", 7 * DAY),
    "its own": ([READER, OWN], True, "1h", 3600),
    "its own, that is off": ([READER, OWN | {"mode": "off"}], True, "1h", DAY),
    "no floor": ([READER], False, "1s", 1),
}


@pytest.mark.parametrize(("rules", "floor", "within", "counted"), TIMES.values(), ids=TIMES.keys())
def test_nobody_shortens_what_a_floor_counts_over(rules: list[Any], floor: bool, within: str, counted: int) -> None:
    other = make([STRIKES | {"strike": {"name": "loud", "within": within}}], id="q", applies_to={"accounts": ["t"]})
    for order in (1, -1):
        assert memory_of([make(rules, floor=floor), other][::order]).counted == {"loud": counted}


@pytest.mark.parametrize(
    ("history", "when", "fires"),
    [
        ({}, 'account.history["loud"] > 2', False),
        ({}, 'account.history["loud"] == 0', True),
        ({"loud": 3}, 'account.history["loud"] > 2', True),
        ({"loud": 3}, "account.history.loud > 2", True),
        ({"loud": 3}, 'account.history["loud"] > account.history["other"]', True),
        ({}, '"loud" in account.history', False),
        ({}, "has(account.history.loud)", False),
        ({"loud": 1}, "has(account.history.loud)", True),
        ({"other": 1}, "!has(account.history.loud)", True),
        ({}, "has(account.history.loud) == true", False),
        ({}, "request.settings.stream == has(account.history.loud)", True),
        ({}, "has(account.history.loud) && account.history.loud > 2", False),
        ({"loud": 3}, "has(account.history.loud) ? account.history.loud > 2 : false", True),
    ],
)
def test_what_nobody_counted_is_nought(history: dict[str, int], when: str, fires: bool) -> None:
    ready = built(make([rule(when=when)]))
    facts = Facts(account=Account("a", history=history))
    for _ in range(2):
        decision = decide(ready, Stage.INPUT, USER, Report(), facts)
        assert [each.not_evaluated for each in decision.fired] == ([False] if fires else [])
    # Without facts nothing is known of the account, and the rule does what its on_error says.
    assert decide(ready, Stage.INPUT, USER, Report()).action is Action.BLOCK


@pytest.mark.parametrize(("seconds", "said"), [(90, "90s"), (3600, "1h"), (DAY, "1d"), (30 * DAY, "30d"), (300, "5m")])
def test_times_are_told_as_they_are_written(seconds: int, said: str) -> None:
    assert spoken(seconds) == said
    assert Strike.model_validate({"name": "x", "within": said}).within == seconds
