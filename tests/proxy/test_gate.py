"""The gate's invariants, attacked: any text, any cuts, any moment of judging, masks, choices, tool calls, any end."""

from __future__ import annotations

import gc
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from unittest import mock

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from classifiers.base import Role
from proxy import gate as module
from proxy.gate import Gate, Kind, Mask, Part, Piece, Question, Release

STOP = "MARK"
ENTITY = re.compile(r"(?<!\d)\d{3,6}(?!\d)|key=\w\w")
"""What is masked: at most six characters long, and what looks like one at the end may turn out to be none."""
LONGEST = 6


@dataclass
class Drive:
    """A gate, what was put in, what came out, and a judge that blocks STOP and masks ENTITY."""

    gate: Gate
    said: dict[str, str] = field(default_factory=lambda: defaultdict(str))
    left: dict[str, str] = field(default_factory=lambda: defaultdict(str))
    shown: dict[str, str] = field(default_factory=lambda: defaultdict(str))
    judged: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    parts: list[Part] = field(default_factory=list)
    out: list[Part] = field(default_factory=list)
    blocked: bool = False
    over: bool = False

    def push(self, part: Part) -> None:
        for piece in part.pieces:
            self.said[piece.channel] += piece.text
        self.parts.append(part)
        self.gate.push(part)

    def pump(self) -> None:
        """Judge if it is time to, and release what may leave."""
        if self.blocked:
            return
        if self.gate.due():
            self.judge(self.gate.question())
        if not self.blocked:
            self.take(self.gate.release())

    def judge(self, question: Question) -> None:
        for message, channel, start, end in zip(
            question.messages, question.channels, question.starts, question.ends, strict=True
        ):
            assert message.text == self.said[channel][start:end]  # judged is what was said, at its place
            self.blocked = self.blocked or STOP in message.text
            self.judged[channel] = max(self.judged[channel], end)
        if not self.blocked:
            self.gate.answer(question, masks(question))

    def take(self, releases: Iterable[Release]) -> None:
        for release in releases:
            edits = {id(piece): text for piece, text in release.edits}
            for piece in release.part.pieces:
                self.left[piece.channel] += piece.text
                self.shown[piece.channel] += edits.get(id(piece), piece.text)
            self.out.append(release.part)

    def end(self, *, clean: bool = True) -> None:
        if self.blocked:
            return
        self.over = True
        self.gate.finish(clean=clean)
        question = self.gate.question()
        if question.messages:
            self.judge(question)
        if not self.blocked:
            self.take(self.gate.release())


def masks(question: Question) -> list[tuple[int, Mask]]:
    return [
        (index, Mask(found.start(), found.end(), "*"))
        for index, message in enumerate(question.messages)
        for found in ENTITY.finditer(message.text)
    ]


def veiled(text: str) -> str:
    return ENTITY.sub("*", text)


CHANNELS = {
    "/0/content": (Role.ASSISTANT, Kind.FLOW, 0),
    "/0/reasoning": (Role.REASONING, Kind.FLOW, 0),
    "/0/call": (Role.TOOL_CALL, Kind.CALL, 0),
    "/1/content": (Role.ASSISTANT, Kind.FLOW, 1),
    "/1/call": (Role.TOOL_CALL, Kind.CALL, 1),
    "/model": (Role.SETTING, Kind.ATOM, -1),
}


def piece(channel: str, text: str) -> Piece:
    role, kind, group = CHANNELS[channel]
    return Piece(channel, role, text, kind, group)


def part(number: int, *pieces: Piece, closes: tuple[int, ...] = ()) -> Part:
    return Part(b"%d" % number, pieces, closes)


bits = st.sampled_from(
    ["MARK", "MA", "RK", "M", "a", "b ", " ", "12", "3", "4567", "123456789", "key=", "x1", "\u2028", "\U0001f600"]
)
texts = st.lists(bits, min_size=1, max_size=6).map("".join)
pieces = st.builds(piece, st.sampled_from(list(CHANNELS)), texts)
steps = st.lists(st.tuples(st.lists(pieces, max_size=3), st.booleans()), max_size=14)
holds = st.none() | st.integers(LONGEST, 40)


def run(steps: list[tuple[list[Piece], bool]], hold: int | None, *, clean: bool, stride: int = 1) -> Drive:
    with mock.patch.object(module, "STRIDE", stride), mock.patch.object(module, "CONTEXT", 70):
        drive = Drive(Gate(hold))
        for number, (found, judge) in enumerate(steps):
            drive.push(part(number, *found))
            if judge:
                drive.pump()
            check(drive, hold)
        drive.end(clean=clean)
    check(drive, hold)
    return drive


def check(drive: Drive, hold: int | None) -> None:
    """The three invariants, at any moment."""
    assert drive.out == [item for item in drive.parts if item in drive.out]  # in order ...
    for channel, text in drive.left.items():
        said, kind = drive.said[channel], CHANNELS[channel][1]
        assert said.startswith(text)
        assert STOP not in text
        if kind is Kind.ATOM:
            assert drive.judged[channel] >= len(text)
            continue
        if not drive.over:
            assert kind is Kind.FLOW, "a call leaves when the whole call was judged"
            assert hold is not None, "the whole answer is held"
            assert drive.judged[channel] >= len(text) + hold
        # not even the beginning of what is forbidden has left
        assert len(text) <= said.find(STOP) or STOP not in said


@given(steps, holds, st.booleans(), st.integers(1, 64))
@example([([piece("/0/content", "M")], True), ([piece("/0/content", "ARK")], True)], 6, True, 1)
def test_nothing_leaves_before_its_verdict(
    steps: list[tuple[list[Piece], bool]], hold: int | None, clean: bool, stride: int
) -> None:
    drive = run(steps, hold, clean=clean, stride=stride)
    if clean:
        assert drive.blocked == any(STOP in text for text in drive.said.values())


@given(steps, holds, st.integers(1, 64))
def test_an_honest_stream_leaves_whole(steps: list[tuple[list[Piece], bool]], hold: int | None, stride: int) -> None:
    assume(
        not any(STOP in "".join(p.text for found, _ in steps for p in found if p.channel == name) for name in CHANNELS)
    )
    drive = run(steps, hold, clean=True, stride=stride)
    assert drive.out == drive.parts
    assert drive.left == drive.said
    assert drive.gate.held == 0


@given(steps, holds, st.integers(1, 64))
def test_masks_are_those_of_the_whole_text(
    steps: list[tuple[list[Piece], bool]], hold: int | None, stride: int
) -> None:
    drive = run(steps, hold, clean=True, stride=stride)
    assume(not drive.blocked)
    flowing = [channel for channel in drive.said if CHANNELS[channel][1] is not Kind.ATOM]
    assert {name: drive.shown[name] for name in flowing} == {name: veiled(drive.said[name]) for name in flowing}


def test_what_is_complete_is_judged_from_its_first_letter() -> None:
    drive = run([([piece("/model", "one")], True), ([piece("/model", "MARK two")], True)], 6, clean=True)
    assert drive.blocked
    assert drive.left == {"/model": "one"}


@given(
    st.lists(bits, min_size=30, max_size=150).map("".join), st.lists(st.integers(1, 9), min_size=1), st.integers(6, 20)
)
def test_masks_in_long_text(text: str, sizes: list[int], hold: int) -> None:
    """Long enough that windows begin in the middle of the text and old text is forgotten."""
    text = text.replace("MARK", "M ARK").replace("MARK", "M-ARK")
    assume(STOP not in text)
    found: list[tuple[list[Piece], bool]] = []
    at = 0
    while at < len(text):
        size = sizes[len(found) % len(sizes)]
        found.append(([piece("/0/content", text[at : at + size])], True))
        at += size
    drive = run(found, hold, clean=True)
    assert drive.shown["/0/content"] == veiled(text)
    assert drive.left["/0/content"] == text


@given(steps, holds)
def test_parts_that_no_mask_touches_are_unchanged(steps: list[tuple[list[Piece], bool]], hold: int | None) -> None:
    drive = Drive(Gate(hold))
    for number, (found, _) in enumerate(steps):
        drive.push(part(number, *found))
    drive.gate.finish(clean=True)
    question = drive.gate.question()
    drive.gate.answer(question, masks(question))
    for release in drive.gate.release():
        assert all(old.text != new for old, new in release.edits)
    assert drive.gate.held == 0


@given(steps, holds)
def test_an_unclean_end_drops_calls(steps: list[tuple[list[Piece], bool]], hold: int | None) -> None:
    drive = run(steps, hold, clean=False)
    for channel, text in drive.left.items():
        assert CHANNELS[channel][1] is not Kind.CALL, f"a piece of an unfinished call has left: {text!r}"


@given(steps, st.integers(0, 1), st.integers(0, 13), holds)
def test_a_closed_choice_may_leave_before_the_others(
    steps: list[tuple[list[Piece], bool]], group: int, at: int, hold: int | None
) -> None:
    """A call leaves after its choice was closed, whole, and judged whole."""
    own = [channel for channel, (_, kind, number) in CHANNELS.items() if number == group and kind is Kind.CALL]
    assume(not any(p.channel in own for found, _ in steps[at:] for p in found))
    drive = Drive(Gate(hold))
    for number, (found, judge) in enumerate(steps):
        drive.push(part(number, *found, closes=(group,) if number == at - 1 else ()))
        if judge:
            drive.pump()
        for channel, text in drive.left.items():
            if CHANNELS[channel][1] is Kind.CALL:
                assert channel in own
                assert number >= at - 1
                assert drive.judged[channel] == len(drive.said[channel])
                assert drive.said[channel].startswith(text)
        assert not any(STOP in text for text in drive.left.values())


@given(steps, holds)
def test_watching_delays_nothing_and_judges_all(steps: list[tuple[list[Piece], bool]], hold: int | None) -> None:
    drive = Drive(Gate(hold, enforcing=False))
    for number, (found, _) in enumerate(steps):
        drive.push(part(number, *found))
        assert not drive.gate.due()
        drive.take(drive.gate.release())
        assert drive.out == drive.parts
    drive.gate.finish(clean=False)
    question = drive.gate.question(everything=True)
    assert dict(zip(question.channels, (m.text for m in question.messages), strict=True)) == drive.said


@pytest.mark.parametrize("hold", [1, 4, 6, 200])
@pytest.mark.parametrize("size", range(1, 9))
def test_a_word_at_every_split(hold: int, size: int) -> None:
    """MARK anywhere in the text, in pieces of every size: not one letter of it leaves while hold_back covers it."""
    for before in range(40):
        text = "." * before + STOP + "." * 30
        drive = Drive(Gate(hold))
        for number, start in enumerate(range(0, len(text), size)):
            drive.push(part(number, piece("/0/content", text[start : start + size])))
            drive.pump()
        drive.end()
        assert drive.blocked
        if hold >= len(STOP):
            assert len(drive.left["/0/content"]) <= before


def test_nothing_is_asked_when_nothing_could_leave() -> None:
    gate = Gate(100)
    gate.push(part(0, piece("/0/content", "x" * 99)))
    assert not gate.due()
    gate.push(part(1, piece("/0/content", "x")))
    assert not gate.due()
    gate.push(part(2, piece("/0/content", "x" * 99)))
    assert gate.due()


@pytest.mark.parametrize(("hold", "channel"), [(50, "/0/content"), (None, "/0/content"), (50, "/0/call")])
def test_linear_in_small_pieces(hold: int | None, channel: str) -> None:
    """Four times the pieces may not cost sixteen times the work. Both are more than a cache holds."""

    def cost(count: int) -> float:
        drive = Gate(hold)
        gc.disable()  # the collector's cost is that of all that the tests hold
        began = time.thread_time()
        for number in range(count):
            drive.push(part(number, piece(channel, "word ")))
            if drive.due():
                drive.answer(drive.question())
            drive.release()
        drive.finish(clean=True)
        drive.answer(drive.question())
        assert drive.release() or not drive.held
        gc.enable()
        return time.thread_time() - began

    assert min(cost(40_000) for _ in range(3)) < 10 * min(cost(10_000) for _ in range(3)) + 0.05


@pytest.mark.parametrize("hold_back", [0, 4, 2000, None])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_text_is_judged_with_the_end_of_the_one_before_it(hold_back: int | None, cut: int) -> None:
    """Where they are read one behind the other: what is whole only at the joint is found before it is whole there."""
    first, second = "An honest text. " * 80 + STOP[:cut], STOP[cut:] + " and more."
    for sequel in (True, False):
        gate = Gate(hold_back, sequel=sequel)
        texts: list[tuple[str, int, str]] = []
        edits: list[tuple[Piece, str]] = []
        for group, text in enumerate((first, second)):
            for at in range(0, len(text), 3):
                said = Piece(f"/{group}", Role.ASSISTANT, text[at : at + 3], Kind.FLOW, group, ("text",))
                gate.push(Part(b"x", (said,)))
            gate.push(Part(b"x", (), (group,)))
            while gate.due():
                question = gate.question()
                texts += zip(question.channels, question.starts, [m.text for m in question.messages], strict=True)
                # A mask over the joint changes what is behind it only: what is before it has left.
                gate.answer(
                    question, [(n, Mask(-at - 2, -at + 1, "#")) for n, at in enumerate(question.starts) if at < 0]
                )
                edits += [edit for release in gate.release() for edit in release.edits]
            edits += [edit for release in gate.release() for edit in release.edits]
        assert any(STOP in text for _, _, text in texts) is sequel
        assert all(start >= 0 or name == "/1" for name, start, _ in texts)
        assert [(piece.channel, text) for piece, text in edits] == ([("/1", "#" + second[1:3])] if sequel else [])
        assert gate.held == 0
