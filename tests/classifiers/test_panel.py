"""The panel never raises and never waits longer than it was told: every fault is a value in its report."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.asked import FEW, INLINE_LIMIT, Asked, unread
from classifiers.asking import LOT
from classifiers.base import Finding, Message, NoAnswer, Report, Role, Silence
from classifiers.panel import Panel
from classifiers.workers import look_up

ALL = frozenset(Role)
HELLO = [Message(Role.USER, "hello", "/a")]


class Fake:
    """Answers with what it was given to answer with, and remembers what it read and where."""

    labels = frozenset({"x"})
    digest = "0"

    def __init__(self, answer: Any = (), *, name: str = "fake", inline: bool = False) -> None:
        self.name, self.inline, self._answer = name, inline, answer
        self.read: list[list[str]] = []
        self.threads: set[int] = set()

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        self.read.append([message.text for message in messages])
        self.threads.add(threading.get_ident())
        answer = self._answer(messages) if callable(self._answer) else self._answer
        return answer  # type: ignore[no-any-return]


def found(message: Any = 0, score: Any = 1.0, span: Any = None) -> Finding:
    return Finding("fake", "x", score, message, span)


def every(messages: Sequence[Message]) -> list[Finding]:
    return [found(index) for index in range(len(messages))]


def after(wait: Callable[[], object]) -> Callable[[Any], list[Finding]]:
    """Finds nothing, once it has waited."""

    def answer(messages: Sequence[Message]) -> list[Finding]:
        wait()
        return []

    return answer


def crash(error: BaseException) -> Callable[[Any], Any]:
    def answer(messages: Sequence[Message]) -> Any:
        raise error

    return answer


@pytest.fixture
def panel() -> Iterator[Panel]:
    made = Panel(2)
    yield made
    made.close()


async def ask(panel: Panel, fake: Fake, messages: Sequence[Message] = HELLO, deadline: float = 5.0) -> Report:
    return await panel.report(messages, [Asked(fake, ALL, deadline)])


# (what the classifier does, why it has no answer)
FAULTS: dict[str, tuple[Any, Silence]] = {
    "raises": (crash(RuntimeError("hello")), Silence.CRASH),
    "raises what quotes": (crash(ValueError("cannot read 'hello'")), Silence.CRASH),
    "no memory": (crash(MemoryError()), Silence.CRASH),
    "too deep": (crash(RecursionError()), Silence.CRASH),
    "says why": (crash(NoAnswer(Silence.UNAVAILABLE, "no connection")), Silence.UNAVAILABLE),
    "nan": ([found(score=float("nan"))], Silence.BAD_ANSWER),
    "infinite": ([found(score=float("inf"))], Silence.BAD_ANSWER),
    "below nought": ([found(score=-0.01)], Silence.BAD_ANSWER),
    "above one": ([found(score=1.01)], Silence.BAD_ANSWER),
    "index too high": ([found(1)], Silence.BAD_ANSWER),
    "index below nought": ([found(-1)], Silence.BAD_ANSWER),
    "one bad among good": ([found(), found(7)], Silence.BAD_ANSWER),
    "score no number": ([found(score="high")], Silence.BAD_ANSWER),
    "score none": ([found(score=None)], Silence.BAD_ANSWER),
    "index no number": ([found("0")], Silence.BAD_ANSWER),
    "index a fraction": ([found(0.5)], Silence.BAD_ANSWER),
    "no findings": (["hello"], Silence.BAD_ANSWER),
    "in another's name": ([Finding("other", "x", 1.0, 0)], Silence.BAD_ANSWER),
    "no list": (7, Silence.BAD_ANSWER),
    "fails while it is read": (lambda _: (1 / 0 for _ in "x"), Silence.BAD_ANSWER),
}


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(("answer", "reason"), FAULTS.values(), ids=FAULTS.keys())
async def test_faults_are_values(panel: Panel, answer: Any, reason: Silence, inline: bool) -> None:
    report = await ask(panel, Fake(answer, inline=inline))
    assert [(failure.classifier, failure.reason) for failure in report.failures] == [("fake", reason)]
    assert report.findings == ()
    assert "hello" not in report.failures[0].detail


async def test_what_was_seen_before_an_answer_failed_is_reported(panel: Panel) -> None:
    report = await ask(panel, Fake(crash(NoAnswer(Silence.BAD_ANSWER, "prose", [found()]))))
    assert report.findings == (found(),)
    assert [(failure.reason, failure.detail) for failure in report.failures] == [(Silence.BAD_ANSWER, "prose")]


GOOD: dict[str, Any] = {
    "nothing": [],
    "none": None,
    "a tuple": (found(),),
    "a list": [found(score=0), found(score=1), found(span=(0, 5))],
    "a generator": lambda messages: (found(index) for index in range(len(messages))),
}


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize("roles", [ALL, frozenset({Role.USER})])
async def test_good_answers(panel: Panel, answer: Any, inline: bool, roles: frozenset[Role]) -> None:
    fake = Fake(answer, inline=inline)
    report = await panel.report(HELLO, [Asked(fake, roles, 5.0)])
    expected = answer(HELLO) if callable(answer) else answer
    assert report.findings == tuple(expected or ())
    assert report.failures == ()


roles = st.sampled_from([Role.USER, Role.SYSTEM, Role.TOOL_CALL])
messages_of = st.lists(st.builds(Message, roles, st.text(max_size=3), st.just("/a")), max_size=6)
asked_roles = st.lists(st.frozensets(roles) | st.just(ALL), max_size=3)


@given(messages_of, asked_roles)
def test_roles_and_places(messages: list[Message], wanted: list[frozenset[Role]]) -> None:
    """Each classifier reads the messages of its roles, and its findings point into the whole list."""
    panel = Panel(1)
    fakes = [Fake(every, inline=True) for _ in wanted]
    report = panel.report_now(messages, [Asked(fake, role, 1.0) for fake, role in zip(fakes, wanted, strict=True)])
    panel.close()
    assert report is not None
    for fake, role in zip(fakes, wanted, strict=True):
        mine = [message.text for message in messages if message.role in role]
        assert fake.read == ([mine] if mine else [])
    pointed = [finding.message for finding in report.findings]
    assert sorted(pointed) == sorted(
        index for role in wanted for index, message in enumerate(messages) if message.role in role
    )
    nobody = {index for index, message in enumerate(messages) if not any(message.role in role for role in wanted)}
    assert set(report.unread) == (nobody if messages else set())


def test_unread() -> None:
    messages = [Message(Role.USER, "a", ""), Message(Role.SETTING, "b", "")]
    assert unread(messages, []) == (0, 1)
    assert unread(messages, [Asked(Fake(), frozenset({Role.USER}), 1)]) == (1,)
    assert unread(messages, [Asked(Fake(), ALL, 1)]) == ()


async def test_inline_runs_where_it_is_called(panel: Panel) -> None:
    fake = Fake(inline=True)
    assert panel.report_now(HELLO, [Asked(fake, ALL, 1.0)]) is not None
    assert fake.threads == {threading.get_ident()}


LATER: dict[str, tuple[list[Message], list[bool]]] = {
    "all are slow": (HELLO, [False, False]),
    "a long text": ([Message(Role.USER, "x" * (INLINE_LIMIT + 1), "")], [True]),
    "many texts, long together": ([Message(Role.USER, "x" * (INLINE_LIMIT // 2 + 1), "")] * 2, [True]),
}


@pytest.mark.parametrize(("messages", "inline"), LATER.values(), ids=LATER.keys())
async def test_what_does_not_run_inline(panel: Panel, messages: list[Message], inline: list[bool]) -> None:
    fakes = [Fake(every, inline=fast) for fast in inline]
    asked = [Asked(fake, ALL, 5.0) for fake in fakes]
    assert panel.report_now(messages, asked) is None
    report = await panel.report(messages, asked)
    assert len(report.findings) == len(messages) * len(fakes)
    assert all(threading.get_ident() not in fake.threads for fake in fakes)
    assert [len(text) for text in fakes[0].read[0]] == [len(message.text) for message in messages]  # nothing is cut


async def test_inline_runs_here_while_workers_work(panel: Panel) -> None:
    slow, fast = Fake(every), Fake(every, inline=True)
    report = await panel.report(HELLO, [Asked(fast, ALL, 5.0), Asked(slow, ALL, 5.0)])
    assert len(report.findings) == 2
    assert fast.threads == {threading.get_ident()} != slow.threads


async def test_findings_come_in_the_order_of_those_asked(panel: Panel) -> None:
    def slowly(messages: Sequence[Message]) -> list[Finding]:
        time.sleep(0.05)
        return [Finding("late", "x", 1.0, 0)]

    late = Fake(slowly, name="late")
    report = await panel.report(HELLO, [Asked(late, ALL, 5.0), Asked(Fake(every), ALL, 5.0)])
    assert [finding.classifier for finding in report.findings] == ["late", "fake"]


async def test_what_waits_for_others_does_not_keep_the_workers_from_work() -> None:
    panel, stop = Panel(1), threading.Event()
    try:
        waiting = [Fake(after(lambda: stop.wait(20)), name=f"far{number}") for number in range(8)]
        for fake in waiting:
            fake.waits = True  # type: ignore[attr-defined]
        far = [asyncio.ensure_future(ask(panel, fake)) for fake in waiting]
        async with asyncio.timeout(20):
            while not all(fake.read for fake in waiting):
                await asyncio.sleep(0.01)
        assert (await ask(panel, Fake([found()]))).findings == (found(),)
        stop.set()
        assert all(not report.failures for report in await asyncio.gather(*far))
    finally:
        stop.set()
        panel.close()


async def test_nothing_to_read(panel: Panel) -> None:
    fake = Fake(crash(RuntimeError()), inline=False)
    assert (await panel.report([], [Asked(fake, ALL, 1.0)])).failures == ()
    assert (await panel.report(HELLO, [Asked(fake, frozenset({Role.SYSTEM}), 1.0)])).failures == ()
    assert (await panel.report(HELLO, [])).unread == (0,)
    assert fake.read == []


async def test_deadlines_are_kept_each_for_itself(panel: Panel) -> None:
    stop = threading.Event()
    slow = Fake(after(lambda: stop.wait(20)), name="slow")
    quick = Fake([found()])
    try:
        began = time.perf_counter()
        report = await panel.report(HELLO, [Asked(slow, ALL, 0.2), Asked(quick, ALL, 10.0)])
        assert time.perf_counter() - began < 5
        assert [(failure.classifier, failure.reason) for failure in report.failures] == [("slow", Silence.TIMEOUT)]
        assert report.findings == (found(),)
        assert report.seconds >= 0.2
    finally:
        stop.set()


TOOLS = frozenset({Role.TOOL_DEFINITION})


def tools(*texts: str) -> list[Message]:
    """Definitions of tools, each as long as what is put to a worker at once, and behind them what a user says."""
    made = [Message(Role.TOOL_DEFINITION, text.ljust(LOT, "."), "") for text in texts]
    return [*made, Message(Role.USER, "hello", "/a")]


async def test_what_stops_nothing_is_read_last_and_silences_nothing_else() -> None:
    panel, stop = Panel(1), threading.Event()
    slow = Fake(lambda messages: every(messages) if len(messages[0].text) < LOT else after(lambda: stop.wait(20))([]))
    try:
        asked = Asked(slow, ALL, 0.2, last=TOOLS)
        report = await panel.report(tools("one", "two"), [asked])
        assert report.findings == (found(2),)
        (failure,) = report.failures
        assert (failure.reason, failure.roles) == (Silence.TIMEOUT, TOOLS)
        assert [read[0][:5] for read in slow.read] == ["hello", "one.."]
    finally:
        stop.set()
        panel.close()


async def test_what_was_read_in_time_is_not_read_again() -> None:
    """Long texts that take longer than a deadline are judged after a few requests."""
    panel, stop = Panel(1), threading.Event()
    slow = Fake(lambda messages: stop.wait(20) and [] if messages[0].text.startswith("stuck") else every(messages))
    texts = tools("one", "stuck", "three")
    asked = [Asked(slow, ALL, 0.3)]
    try:
        report = await panel.report(texts, asked, "me")
        assert report.findings == (found(0),)
        assert report.failures[0].roles == TOOLS | {Role.USER}
        stop.set()
        slow.read.clear()
        report = await panel.report(texts, asked, "me")
        assert report.failures == ()
        assert report.findings == (found(0), found(2), found(3))
        assert "one" not in {read[0][:3] for read in slow.read}
    finally:
        stop.set()
        panel.close()


async def test_a_lot_that_cannot_be_read_hides_no_other() -> None:
    panel = Panel(1)
    picky = Fake(lambda messages: crash(ValueError())(0) if messages[0].text.startswith("poison") else every(messages))
    try:
        report = await panel.report(tools("one", "poison", "three"), [Asked(picky, ALL, 5.0)])
        assert report.findings == (found(0), found(2), found(3))
        assert [(failure.reason, failure.roles) for failure in report.failures] == [(Silence.CRASH, TOOLS)]
    finally:
        panel.close()


@pytest.mark.parametrize("role", [Role.USER, Role.SETTING])
async def test_long_texts_have_more_time_where_a_rule_needs_them(panel: Panel, role: Role) -> None:
    needed = role is Role.USER
    slow = Fake(after(lambda: time.sleep(0.4)))
    report = await panel.report(
        [Message(role, "x" * (100 * FEW), "")], [Asked(slow, ALL, 0.1, last=frozenset({Role.SETTING}))]
    )
    assert bool(report.failures) is not needed


async def test_short_texts_do_not_wait_for_long_ones() -> None:
    """A thread that is at a long text looks after those that wait meanwhile."""
    panel, begun, stop = Panel(1), threading.Event(), threading.Event()

    def for_long(messages: Sequence[Message]) -> list[Finding]:
        begun.set()
        while not stop.wait(0.01):
            look_up()
        return []

    try:
        long = asyncio.ensure_future(ask(panel, Fake(for_long), [Message(Role.USER, "x" * 100_000, "")], 60.0))
        assert await asyncio.to_thread(begun.wait, 20)
        for _ in range(3):
            assert (await ask(panel, Fake([found()]), deadline=20.0)).findings == (found(),)
        other = asyncio.ensure_future(ask(panel, Fake(every), [Message(Role.USER, "y" * 100_000, "")], 60.0))
        assert (await ask(panel, Fake(crash(ValueError())))).failures[0].reason is Silence.CRASH
        assert not other.done()
        stop.set()
        assert (await long).failures == ()
        assert (await other).findings == (found(),)
    finally:
        stop.set()
        panel.close()


async def test_a_hanging_classifier_is_a_timeout_each_time_and_nothing_grows(panel: Panel) -> None:
    stop = threading.Event()
    hanging = Fake(after(lambda: stop.wait(20)))
    try:
        reports = await asyncio.gather(*(ask(panel, hanging, deadline=0.2) for _ in range(50)))
        assert {failure.reason for report in reports for failure in report.failures} == {Silence.TIMEOUT}
        assert len(hanging.read) <= 2  # the others never began, and never will
        assert panel._working.pending <= 2
    finally:
        stop.set()
    async with asyncio.timeout(30):
        while panel._working.pending:
            await asyncio.sleep(0.01)
    assert (await ask(panel, Fake([found()]))).findings == (found(),)


async def test_a_full_queue_is_a_failure_at_once() -> None:
    panel, stop = Panel(1, queue_limit=1), threading.Event()
    try:
        waiting = [asyncio.ensure_future(ask(panel, Fake(after(lambda: stop.wait(20))))) for _ in range(2)]
        await asyncio.sleep(0.05)
        report = await ask(panel, Fake([found()]))
        assert [failure.reason for failure in report.failures] == [Silence.QUEUE_FULL]
        stop.set()
        await asyncio.gather(*waiting)
        assert (await ask(panel, Fake([found()]))).failures == ()
    finally:
        stop.set()
        panel.close()


async def test_a_cancelled_question_leaves_no_trace(panel: Panel) -> None:
    stop = threading.Event()
    task = asyncio.ensure_future(ask(panel, Fake(after(lambda: stop.wait(20)))))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stop.set()
    assert (await ask(panel, Fake([found()]))).findings == (found(),)


async def test_a_closed_panel_says_so() -> None:
    panel = Panel(1)
    panel.close()
    report = await ask(panel, Fake([found()]))
    assert [failure.reason for failure in report.failures] == [Silence.UNAVAILABLE]
    assert panel._working.pending == 0


async def test_waiting_is_told_from_work() -> None:
    panel = Panel(1)
    try:
        slow = Fake(after(lambda: time.sleep(0.2)))
        _, second = await asyncio.gather(ask(panel, slow), ask(panel, slow))
        assert 0.1 < second.queued <= second.seconds
    finally:
        panel.close()


async def test_the_loop_goes_on_while_others_work(panel: Panel) -> None:
    turned = threading.Event()
    task = asyncio.ensure_future(ask(panel, Fake(after(lambda: turned.wait(20)))))
    for _ in range(5):
        await asyncio.sleep(0.005)
    assert not task.done()
    turned.set()
    assert not (await task).failures
