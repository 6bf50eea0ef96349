"""What a mask covers and has not left never leaves: whatever stands in a part, ends when, and is looked at when.

Every letter is one of its kind, so each that is shown where it must not be is found. A judge masks a SIGN and all that
follows it to the next blank: longer than what is held back, and once it masks a letter it does so in each later look.
"""

from __future__ import annotations

import gc
import itertools
import re
import time
from collections import defaultdict
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from classifiers.base import Role
from proxy import gate as module
from proxy.gate import Gate, Kind, Mask, Part, Piece, Question

KINDS = "#ab"
ENTITY = re.compile(r"#[ab]*")
FIRST = 0x4E00
"""From here on each letter is of the kind that its number says."""
CHANNELS = {
    "/content": (Role.ASSISTANT, Kind.FLOW, 0),
    "/thoughts": (Role.REASONING, Kind.FLOW, -2),
    "/beside": (Role.ASSISTANT, Kind.FLOW, -2),
    "/call": (Role.TOOL_CALL, Kind.CALL, 0),
    "/name": (Role.SETTING, Kind.ATOM, 0),
}


def kinds(text: str) -> str:
    return "".join(letter if letter == " " else KINDS[ord(letter) % 3] for letter in text)


class Watched:
    """A gate, and what is known of each channel's letters: said, judged, masked in time, left."""

    def __init__(self, hold: int | None) -> None:
        self.gate, self.hold = Gate(hold), hold
        self.letters = itertools.count(FIRST // 3)
        self.said: dict[str, str] = defaultdict(str)
        self.left: dict[str, int] = defaultdict(int)
        self.judged: dict[str, int] = defaultdict(int)
        self.whole: dict[str, bool] = defaultdict(bool)  # it ended, and has not gone on since
        self.hidden: set[str] = set()
        self.asked: Question | None = None

    def push(self, texts: list[tuple[str, str]], ends: list[int]) -> None:
        """Texts are written in the letters of KINDS, and come in others of their kind."""
        pieces = []
        for channel, text in texts:
            role, kind, group = CHANNELS[channel]
            said = "".join(" " if k == " " else chr(3 * next(self.letters) + KINDS.index(k)) for k in text)
            pieces.append(Piece(channel, role, said, kind, group, ("x",)))
            self.said[channel] += said
            self.whole[channel] = False
        self.gate.push(Part(b"x", tuple(pieces), tuple(ends)))
        for channel in self.said:
            self.whole[channel] |= CHANNELS[channel][2] in ends

    def ask(self) -> None:
        if self.asked is None and self.gate.due():
            self.asked = self.gate.question()

    def answer(self) -> None:
        asked, self.asked = self.asked, None
        if asked is None:
            return
        masks: list[tuple[int, Mask]] = []
        for number, message in enumerate(asked.messages):
            channel, start = asked.channels[number], asked.starts[number]
            self.judged[channel] = max(self.judged[channel], asked.ends[number])
            for found in ENTITY.finditer(kinds(message.text)):
                masks.append((number, Mask(found.start(), found.end(), "*")))
                late = max(start + found.start(), self.left[channel])
                self.hidden.update(self.said[channel][late : start + found.end()])
        self.gate.answer(asked, masks)

    def release(self) -> None:
        for release in self.gate.release():
            edits = {id(piece): text for piece, text in release.edits}
            for piece in release.part.pieces:
                channel, kind = piece.channel, piece.kind
                self.left[channel] += len(piece.text)
                assert self.judged[channel] >= self.left[channel]
                held = 0 if kind is Kind.ATOM or self.whole[channel] else self.hold
                assert held is not None
                assert kind is not Kind.CALL or self.whole[channel]
                assert self.judged[channel] >= self.left[channel] + held
                shown = edits.get(id(piece), piece.text)
                assert not self.hidden & set(shown)
                assert set(piece.text) - set(shown) <= self.hidden

    def finish(self) -> None:
        self.answer()
        self.gate.finish(clean=True)
        self.whole = defaultdict(lambda: True)
        self.asked = self.gate.question()
        self.answer()
        self.release()
        assert self.gate.held == 0
        assert self.left == {channel: len(text) for channel, text in self.said.items()}


def driven(hold: int | None, steps: list[tuple[list[tuple[str, str]], list[int], str]]) -> None:
    # Windows that begin in the middle of a text, and reach behind the blank that they begin at.
    with mock.patch.object(module, "STRIDE", 1), mock.patch.object(module, "CONTEXT", 70):
        watched = Watched(hold)
        for texts, ends, acts in steps:
            watched.push(texts, ends)
            for act in acts:
                {"?": watched.ask, "!": watched.answer, ">": watched.release}[act]()
        watched.finish()


texts = st.lists(st.sampled_from(["#", "a", "b", " ", "#ab", "abab", " ab ", "a" * 30, "ba " * 20]), min_size=1).map(
    "".join
)
said = st.lists(st.tuples(st.sampled_from(list(CHANNELS)), texts), max_size=3)
steps = st.lists(
    st.tuples(
        said,
        st.sampled_from([[], [], [], [-2], [0], [0, -2]]),
        # mostly as a stream does it; or a verdict comes late, and what it let go later still
        st.sampled_from(["?!>", "?!>", "?!>", "", "?", "!", ">", "!>", "?!"]),
    ),
    max_size=14,
)
holds = st.none() | st.integers(0, 40)
CARD = ["#", "ab", "ab", "ab", "ab", " ", *["ab "] * 20]


@given(holds, steps)
# Each event thinks, says it again beside, and is taken for the thought's end: what was judged waits for its sibling.
@example(12, [([("/thoughts", text), ("/content", text)], [-2], "?!>") for text in ["ab "] * 9 + CARD])
# A thought is judged where it ends, waits behind an answer, and goes on.
@example(6, [([("/content", "a")], [], "?!>"), ([("/thoughts", "#a")], [-2], "?!>"), ([("/thoughts", "b ")], [], "?!>"),
             ([("/content", "a" * 9)], [], "?!>")])  # fmt: skip
def test_what_is_masked_in_time_never_leaves(
    hold: int | None, steps: list[tuple[list[tuple[str, str]], list[int], str]]
) -> None:
    driven(hold, steps)


def test_masks_of_a_text_that_waits_stay_where_later_looks_do_not_reach() -> None:
    """A text waits for one before it, while its windows go on: what they found long ago is masked when it leaves."""
    gate = Gate(20)
    secret = Piece("/b", Role.REASONING, "SECRET", Kind.FLOW, 1, ("x",))
    gate.push(Part(b"x", (Piece("/a", Role.ASSISTANT, "a", Kind.FLOW, 0, ("x",)),)))
    gate.push(Part(b"x", (secret,)))
    starts: list[int] = []
    for _ in range(100):
        gate.push(Part(b"x", (Piece("/b", Role.REASONING, "words and ", Kind.FLOW, 1, ("x",)),)))
        gate.push(Part(b"x", (Piece("/c", Role.SETTING, "c", Kind.ATOM, 2),), (2,)))
    for text in ("a" * 10, "a" * 40):
        gate.push(Part(b"x", (Piece("/a", Role.ASSISTANT, text, Kind.FLOW, 0, ("x",)),)))
        question = gate.question()
        at = [(n, m.text.find("SECRET")) for n, m in enumerate(question.messages) if "SECRET" in m.text]
        starts.append(len(at))
        gate.answer(question, [(n, Mask(found, found + 6, "*")) for n, found in at])
    assert starts == [1, 0]
    assert [text for release in gate.release() for _, text in release.edits] == ["*"]


def test_linear_in_masks() -> None:
    """Four times the masks may not cost sixteen times the work: none is looked at again once it has left, nor for each
    piece that leaves."""

    def cost(count: int, *, waits: bool) -> float:
        gate = Gate(None if waits else 50)
        gc.disable()  # the collector's cost is that of all that the tests hold
        began = time.thread_time()
        for _ in range(count):
            gate.push(Part(b"x", (Piece("/a", Role.ASSISTANT, "word ", Kind.FLOW, 0, ("x",)),)))
            if gate.due():
                question = gate.question()
                words = re.finditer("word", question.messages[0].text)
                gate.answer(question, [(0, Mask(found.start(), found.end(), "*")) for found in words])
            gate.release()
        gate.finish(clean=True)
        question = gate.question()
        words = re.finditer("word", question.messages[0].text)
        gate.answer(question, [(0, Mask(found.start(), found.end(), "*")) for found in words])
        assert gate.release()
        gc.enable()
        return time.thread_time() - began

    for waits in (True, False):
        few = min(cost(3_000, waits=waits) for _ in range(3))
        assert min(cost(12_000, waits=waits) for _ in range(3)) < 10 * few + 0.05
