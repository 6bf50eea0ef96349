"""A dear classifier reads what a cheap one is in doubt about: no less, whatever goes wrong, and no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.asked import Asked
from classifiers.base import Finding, Message, NoAnswer, Report, Role, Silence
from classifiers.cascade import After, doubtful
from classifiers.panel import Panel

ALL = frozenset(Role)
X = frozenset({"x"})


def finding(message: int, score: float, label: str = "x") -> Finding:
    return Finding("gate", label, score, message)


AFTER = After("gate", X, 0.3, 0.7)
# what the gate found -> which of four messages it leaves in doubt
FOUND: dict[str, tuple[After, list[Finding], list[int]]] = {
    "in the band": (AFTER, [finding(1, 0.5)], [1]),
    "at its ends": (AFTER, [finding(0, 0.3), finding(3, 0.7)], [0, 3]),
    "below and above": (AFTER, [finding(0, 0.29), finding(1, 0.71)], []),
    "the highest counts": (AFTER, [finding(0, 0.5), finding(0, 0.9)], []),
    "other labels do not": (AFTER, [finding(0, 0.5, "y")], []),
    "any of the labels": (After("gate", frozenset("xy"), 0.3, 0.7), [finding(0, 0.9), finding(0, 0.5, "y")], [0]),
    "from nothing on": (After("gate", X, 0.0, 0.7), [finding(0, 0.9), finding(1, 0.1)], [1, 2, 3]),
    "too low to be told": (After("gate", X, 0.3, 0.7, floor=0.5), [finding(0, 0.9), finding(1, 0.6)], [1, 2, 3]),
    "of copies, too": (AFTER, [Finding("gate", "x", 0.5, 0, twins=(2, 3))], [0, 2, 3]),
    "told down to the band": (After("gate", X, 0.3, 0.7, floor=0.3), [finding(0, 0.9)], []),
}


@pytest.mark.parametrize(("after", "found", "left"), FOUND.values(), ids=FOUND)
def test_what_is_left(after: After, found: list[Finding], left: list[int]) -> None:
    assert doubtful(after, range(4), range(4), found, False) == left
    assert doubtful(after, range(4), range(4), found, True) == [0, 1, 2, 3]
    assert doubtful(after, range(4), {0, 1, 3}, found, False) == sorted({2, *left})  # 2 was not read


@dataclass
class Told:
    """Finds x with the score that a text says; remembers what it read."""

    name: str
    inline: bool = False
    fault: Callable[[], Any] = lambda: None
    labels: frozenset[str] = X
    read: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return self.name

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        self.read += [message.text for message in messages]
        self.fault()
        return [Finding(self.name, "x", float(each.text), at) for at, each in enumerate(messages) if each.text != "0"]


async def ask(messages: Sequence[Message], *asked: Asked) -> tuple[Report, Panel]:
    panel = Panel(2)
    try:
        return await panel.report(messages, asked), panel
    finally:
        panel.close()


def said(*scores: float, role: Role = Role.USER) -> list[Message]:
    return [Message(role, f"{score:g}", "") for score in scores]


scores = st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0])
roles = st.sampled_from([Role.USER, Role.SYSTEM, Role.TOOL_RESULT])
some_roles = st.frozensets(roles, min_size=1)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(roles, scores), max_size=6),
    some_roles,
    some_roles,
    st.tuples(scores, scores).map(sorted),
    st.tuples(st.booleans(), st.booleans()),
    st.booleans(),
)
async def test_nothing_is_spared_but_what_the_gate_was_sure_of(
    texts: list[tuple[Role, float]],
    gate_roles: frozenset[Role],
    own_roles: frozenset[Role],
    band: list[float],
    inline: tuple[bool, bool],
    first: bool,
) -> None:
    messages = [Message(role, f"{score:g}", "") for role, score in texts]
    gate, dear = Told("gate", inline[0]), Told("dear", inline[1])
    asked = [Asked(gate, gate_roles, 5.0), Asked(dear, own_roles, 5.0, After("gate", X, band[0], band[1]))]
    report, panel = await ask(messages, *(asked if first else asked[::-1]))
    sure = [role in gate_roles and not band[0] <= score <= band[1] for role, score in texts]
    left = [at for at, (role, _) in enumerate(texts) if role in own_roles and not sure[at]]
    assert dear.read == [messages[at].text for at in left]
    assert {each.message for each in report.findings if each.classifier == "dear"} == {
        at for at in left if texts[at][1] > 0
    }
    assert not report.failures
    assert panel.counts.spared == sum(role in own_roles and sure[at] for at, (role, _) in enumerate(texts))


def crash() -> None:
    raise RuntimeError


def partly() -> None:
    raise NoAnswer(Silence.UNAVAILABLE, "", [Finding("gate", "x", 0.0, 0)])


STOP = threading.Event()
FAULTS: dict[str, Callable[[], Any]] = {"crash": crash, "some of it": partly, "hang": lambda: STOP.wait(30)}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_no_answer_is_doubt_about_everything(fault: Callable[[], Any]) -> None:
    STOP.clear()
    gate, dear = Told("gate", fault=fault), Told("dear")
    try:
        asked = [Asked(gate, ALL, 0.2), Asked(dear, ALL, 5.0, AFTER)]
        report, _ = await ask(said(0.1, 0.5, 0.9), *asked)
    finally:
        STOP.set()
    assert dear.read == ["0.1", "0.5", "0.9"]
    assert [failure.classifier for failure in report.failures] == ["gate"]


async def test_a_gate_that_is_not_asked_spares_nothing() -> None:
    dear = Told("dear")
    await ask(said(0.1), Asked(dear, ALL, 5.0, AFTER))
    assert dear.read == ["0.1"]


async def test_three_in_a_row_each_with_a_deadline_of_its_own() -> None:
    first, second = Told("gate", inline=True), Told("second", fault=lambda: threading.Event().wait(0.15))
    third = Told("third", fault=lambda: threading.Event().wait(0.15))
    report, _ = await ask(
        said(0.1, 0.5, 0.9),
        Asked(third, ALL, 0.25, After("second", X, 0.4, 0.6)),
        Asked(second, ALL, 0.25, AFTER),
        Asked(first, ALL, 0.25),
    )
    assert (second.read, third.read) == (["0.5"], ["0.5"])
    assert not report.failures
    assert [each.classifier for each in report.findings] == ["third", "second", "gate", "gate", "gate"]


async def test_those_that_wait_for_each_other_fail_and_do_not_hang() -> None:
    one, other = Told("one"), Told("other")
    async with asyncio.timeout(30):
        report, _ = await ask(
            said(0.5),
            Asked(one, ALL, 1.0, After("other", X, 0.3, 0.7)),
            Asked(other, ALL, 1.0, After("one", X, 0.3, 0.7)),
        )
    assert (report.failures[0].classifier, report.failures[0].reason) == ("one", Silence.UNAVAILABLE)
    assert other.read == ["0.5"]


async def test_an_inline_classifier_behind_a_gate_is_not_asked_at_once() -> None:
    panel, gate, dear = Panel(1), Told("gate", inline=True), Told("dear", inline=True)
    try:
        assert panel.report_now(said(0.1), [Asked(gate, ALL, 1.0), Asked(dear, ALL, 1.0, AFTER)]) is None
    finally:
        panel.close()


async def test_what_is_remembered_is_a_gate_too() -> None:
    panel, gate, dear = Panel(1), Told("gate"), Told("dear")
    asked = [Asked(gate, ALL, 5.0), Asked(dear, ALL, 5.0, AFTER)]
    try:
        first = await panel.report(said(0.1, 0.5), asked, "me")
        again = await panel.report(said(0.1, 0.5), asked, "me")
        assert again.findings == first.findings
        assert (gate.read, dear.read) == (["0.1", "0.5"], ["0.5"])
        assert (await panel.report(said(0.5, 0.6), asked, "me")).findings[-1] == Finding("dear", "x", 0.6, 1)
    finally:
        panel.close()
