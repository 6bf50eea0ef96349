"""The gate, by a machine: parts, ends of choices, judgements of now or of a while ago, in any order."""

from __future__ import annotations

from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy import gate as module
from proxy.gate import Gate, Question
from tests.proxy.test_gate import STOP, Drive, holds, masks, part, pieces


class Gated(RuleBasedStateMachine):
    """A gate whose verdicts may come late: parts go on arriving while a question is out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = [mock.patch.object(module, "STRIDE", 1), mock.patch.object(module, "CONTEXT", 70)]
        for patch in self.patches:
            patch.start()
        self.number = 0
        self.asked: Question | None = None

    @initialize(hold=holds)
    def start(self, hold: int | None) -> None:
        self.hold = hold
        self.drive = Drive(Gate(hold))

    @property
    def open(self) -> bool:
        return not self.drive.over and not self.drive.blocked

    @precondition(lambda self: self.open)
    @rule(found=st.lists(pieces, max_size=3), closes=st.lists(st.sampled_from([0, 1]), max_size=1))
    def arrive(self, found: list[module.Piece], closes: list[int]) -> None:
        self.number += 1
        self.drive.push(part(self.number, *found, closes=tuple(closes)))

    @precondition(lambda self: self.open and self.asked is None and self.drive.gate.due())
    @rule()
    def ask(self) -> None:
        self.asked = self.drive.gate.question()
        for message, channel, start, end in zip(
            self.asked.messages, self.asked.channels, self.asked.starts, self.asked.ends, strict=True
        ):
            assert message.text == self.drive.said[channel][start:end]

    @precondition(lambda self: self.open and self.asked is not None)
    @rule()
    def verdict(self) -> None:
        asked, self.asked = self.asked, None
        assert asked is not None
        if any(STOP in message.text for message in asked.messages):
            self.drive.blocked = True
            return
        for channel, end in zip(asked.channels, asked.ends, strict=True):
            self.drive.judged[channel] = max(self.drive.judged[channel], end)
        self.drive.gate.answer(asked, masks(asked))

    @rule()
    def release(self) -> None:
        if self.drive.blocked:
            return
        self.drive.take(self.drive.gate.release())

    @precondition(lambda self: self.open and self.asked is None)
    @rule(clean=st.booleans())
    def end(self, clean: bool) -> None:
        self.drive.end(clean=clean)

    @invariant()
    def nothing_leaves_before_its_verdict(self) -> None:
        if not hasattr(self, "drive"):
            return
        out, parts = self.drive.out, self.drive.parts
        assert [id(item) for item in out] == [id(item) for item in parts[: len(out)]]
        for channel, text in self.drive.left.items():
            assert STOP not in text
            assert self.drive.said[channel].startswith(text)
            assert self.drive.judged[channel] >= len(text)

    def teardown(self) -> None:
        for patch in self.patches:
            patch.stop()


TestGated = Gated.TestCase
TestGated.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
