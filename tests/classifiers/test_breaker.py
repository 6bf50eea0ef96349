"""A breaker opens and closes by our own text alone, and what hangs piles nothing up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers import breaker as module
from classifiers.asked import Asked
from classifiers.base import Finding, Message, Report, Role, Silence
from classifiers.breaker import FAULTS, LONGEST, PAUSE, PROBE, Breaker
from classifiers.panel import Panel

HELLO = [Message(Role.USER, "hello", "/a")]


def failing(times: int = FAULTS) -> Breaker:
    made = Breaker()
    for _ in range(times):
        made.heard(False)
    return made


def test_a_few_failures_or_failures_between_answers_are_nothing() -> None:
    few = failing(FAULTS - 1)
    assert not few.try_now(0)
    few.heard(True)
    few.heard(False)
    assert not few.try_now(0)


def test_failures_in_a_row_lead_to_one_try_and_never_open_by_themselves() -> None:
    made = failing(10 * FAULTS)
    assert not made.open
    assert made.try_now(0)
    assert not made.try_now(1)
    made.tried(True, 1)
    assert (made.open, made.idle) == (False, True)


def test_a_failed_try_opens_for_longer_each_time_and_an_answer_closes() -> None:
    made, now, pauses = failing(), 100.0, []
    assert made.try_now(now)
    for _ in range(7):
        made.tried(False, now)
        assert made.open
        pause = next(second for second in range(1, 200) if made.try_now(now + second))
        pauses.append(pause)
        now += pause
    assert pauses[:2] == [PAUSE, 2 * PAUSE]
    assert pauses[-1] == LONGEST
    made.tried(True, now)
    assert made.idle


def test_a_try_that_hangs_is_the_only_one() -> None:
    made = failing()
    assert made.try_now(0)
    made.late(2)
    assert made.open
    assert not made.try_now(1000)
    made.tried(False, 1000)  # it let go at last
    assert made.open
    assert made.try_now(1000 + LONGEST)


@given(st.lists(st.sampled_from(["well", "ill", "try", "fine", "fails", "late"]), max_size=60))
def test_only_our_own_text_opens_or_closes(events: list[str]) -> None:
    made, now, trying = Breaker(), 0.0, False
    for event in events:
        now += 1.0
        was = made.open
        if event in ("well", "ill"):
            made.heard(event == "well")
            assert made.open == was
        elif event == "try":
            started = made.try_now(now)
            assert not (started and trying)
            trying = trying or started
            assert made.open == was
        elif trying:
            if event == "late":
                made.late(now)
                assert made.open
            else:
                trying = False
                made.tried(event == "fine", now)
                assert made.open == (event == "fails")


class Patient:
    """Well or not, as it is told: `answer` is called for each question."""

    name, labels, digest, inline = "patient", frozenset({"x"}), "0", False

    def __init__(self, answer: Callable[[Sequence[Message]], Any]) -> None:
        self.answer = answer
        self.read: list[str] = []

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        self.read += [message.text for message in messages]
        return self.answer(messages)  # type: ignore[no-any-return]

    @property
    def probes(self) -> int:
        return self.read.count(PROBE.text)


def broken(_: object) -> Any:
    raise RuntimeError


async def ask(panel: Panel, patient: Patient, deadline: float = 5.0) -> Report:
    return await panel.report(HELLO, [Asked(patient, frozenset(Role), deadline)])


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_classifier_that_crashes_is_left_alone_and_found_well_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.05)
    panel, patient = Panel(1), Patient(broken)
    try:
        for _ in range(FAULTS):
            assert (await ask(panel, patient)).failures[0].reason is Silence.CRASH
        await ask(panel, patient)  # starts the try
        await until(lambda: panel.breakers.opened)
        read = len(patient.read)
        report = await ask(panel, patient)
        assert [(f.reason, f.detail) for f in report.failures] == [(Silence.UNAVAILABLE, "breaker open")]
        assert patient.read[read:] in ([], [PROBE.text])  # no caller's text
        assert panel.counts.refused == 1
        patient.answer = lambda messages: [Finding("patient", "x", 1.0, 0)]

        async def well() -> bool:
            return not (await ask(panel, patient)).failures

        async with asyncio.timeout(30):
            while not await well():
                await asyncio.sleep(0.02)
        assert panel.breakers.opened == 1
        assert not panel.breakers._known
    finally:
        panel.close()


async def test_a_text_that_crashes_it_silences_nobody_else() -> None:
    """Somebody who sends what no classifier survives is refused; the others are judged all the while."""
    panel = Panel(1)
    patient = Patient(lambda messages: broken(0) if messages[0].text == "poison" else [])
    poison = [Message(Role.USER, "poison", "")]
    try:
        for _ in range(6 * FAULTS):
            assert (await panel.report(poison, [Asked(patient, frozenset(Role), 5.0)])).failures
            await asyncio.sleep(0.005)
        assert patient.probes
        assert not panel.breakers.opened
        assert not (await ask(panel, patient)).failures
    finally:
        panel.close()


async def test_a_classifier_that_hangs_piles_nothing_up() -> None:
    """P10: once its breaker is open, an answer is quick, and no thread is added but the one that tried."""
    stop = threading.Event()
    panel, patient = Panel(2), Patient(lambda messages: stop.wait(60) and [])
    before = threading.active_count()
    try:
        await asyncio.gather(*(ask(panel, patient, 0.1) for _ in range(FAULTS)))
        await ask(panel, patient, 0.1)
        await until(lambda: panel.breakers.opened)
        began = asyncio.get_running_loop().time()
        reports = await asyncio.gather(*(ask(panel, patient, 30.0) for _ in range(300)))
        assert asyncio.get_running_loop().time() - began < 10
        assert {report.failures[0].detail for report in reports} == {"breaker open"}
        assert threading.active_count() <= before + 3
        assert patient.probes == 1
    finally:
        stop.set()
        panel.close()


async def test_a_full_queue_says_nothing_about_a_classifier() -> None:
    stop = threading.Event()
    panel = Panel(1, queue_limit=1)
    patient = Patient(lambda messages: stop.wait(60) and [])
    try:
        waiting = [asyncio.ensure_future(ask(panel, patient)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for _ in range(3 * FAULTS):
            assert (await ask(panel, patient)).failures[0].reason is Silence.QUEUE_FULL
        assert not panel.breakers._known
        stop.set()
        await asyncio.gather(*waiting)
    finally:
        stop.set()
        panel.close()
