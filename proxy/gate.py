"""Holds a stream until it is judged. No I/O: push parts in, ask what to judge, tell the verdict, take what may leave.

Decision: hold back, never carry over. A window that only remembers the last letters finds a split phrase after its
first half has left; here text leaves only when `hold_back` more characters behind it were judged too.
Cost: the reader sees text that many characters late (or the whole answer at once).

INVARIANT 1: parts leave in the order they came, and a part that no mask touches leaves unchanged.
INVARIANT 2: when a part leaves, all text up to its end has been judged, and of flowing text `hold_back` characters
more (or all there is). So nothing up to `hold_back` characters long begins to leave before all of it was judged.
INVARIANT 3: the parts of a tool call leave after the whole call was judged, or never.
INVARIANT 4: what a mask covers and has not left when it is found never leaves. What was judged may still wait for what
stands beside it in its part or before it in the stream, so a mask is cut at what has left, not at what may leave; and
what waits in a text that goes on behind its end waits for the rest of it, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from classifiers.base import Message, Role

STRIDE = 32
"""Fewest characters of flowing text that are collected before they are judged. Where more are held back it is half of
that: each look reads CONTEXT again, and readers who are that far behind do not see the difference."""
COMPACT = 16
"""Pieces of one text that are kept apart before they are joined: many small strings cost more than they hold."""
CONTEXT = 1000
"""Characters before the release frontier that are judged again with what follows them."""


class Kind(Enum):
    """How a channel's text may leave."""

    FLOW = "flow"
    """Prose that grows: held back."""
    CALL = "call"
    """Part of a tool call: clients execute what they received, so it leaves whole or not at all."""
    ATOM = "atom"
    """Complete where it stands (an id, a name): leaves once judged, together with what came before it."""


class Piece(NamedTuple):
    """Text that one part adds to one channel.

    `channel` is a JSON pointer that stays the same for all pieces of one text. `group` is the choice (or output item)
    that closes it. `path` leads to the text in the part's tree, for rewriting.
    """

    channel: str
    role: Role
    text: str
    kind: Kind
    group: int
    path: tuple[str | int, ...] = ()

    def saying(self, text: str) -> Piece:
        """The same with another text; what `_replace` does takes three times as long."""
        return Piece(self.channel, self.role, text, self.kind, self.group, self.path)


class Part(NamedTuple):
    """One event of a stream: its bytes, the text it adds, the groups (choices) it ends, and what in it is no text
    (origin, kind).

    Or a run of events, whose texts are one piece a channel: `raw` is packed then, and `run` unpacks it, and tells the
    events apart where one must be rewritten."""

    raw: bytes
    pieces: tuple[Piece, ...] = ()
    closes: tuple[int, ...] = ()
    tree: Any = None
    unscannable: tuple[tuple[str, str], ...] = ()
    run: Run | None = None

    @property
    def whole(self) -> bytes:
        """Its bytes as they came."""
        return self.raw if self.run is None else self.run.form.whole(self.raw)

    @property
    def extent(self) -> tuple[int, int]:
        """How many events it is, and of how many bytes as they came."""
        return (1, len(self.raw)) if self.run is None else self.run.form.extent(self.raw)


class Packed(Protocol):
    """How the events of a run are packed."""

    def whole(self, packed: bytes) -> bytes:
        """Their bytes."""
        ...

    def extent(self, packed: bytes) -> tuple[int, int]:
        """How many they are, and of how many bytes."""
        ...

    def apart(self, packed: bytes) -> list[tuple[bytes, tuple[str, ...]]]:
        """The bytes of each event and the texts in its slots."""
        ...


class Run(NamedTuple):
    """`slots` are those of the part's pieces."""

    form: Packed
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mask:
    """Characters [start, end) of a channel's text, and what stands there instead."""

    start: int
    end: int
    replacement: str


class Release(NamedTuple):
    """A part that may leave. `edits` holds the new text of each piece that a mask touched."""

    part: Part
    edits: tuple[tuple[Piece, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What to judge now: message i holds the text of `channels[i]` from character `starts[i]` on (before 0 that of the
    text before it), whose judgement will cover the channel up to `ends[i]`."""

    messages: tuple[Message, ...]
    channels: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(slots=True)
class _Channel:
    role: Role
    kind: Kind
    group: int
    before: str = ""  # the end of the text that a reader has read before this one
    pieces: list[str] = field(default_factory=list)
    fresh: int = 0  # pieces that were not joined yet
    tail: str = ""  # the text from `base` on
    base: int = 0
    total: int = 0
    judged: int = 0
    approved: int = 0  # what may leave, once all else in its part may
    firm: int = 0  # what was ever approved: a mask that begins before it stays
    released: int = 0
    closed: bool = False
    masks: tuple[Mask, ...] = ()  # in order, none over another


_Held = tuple[Part, tuple[tuple[Piece, _Channel, int], ...]]
"""A part that waits, and where in its channel each of its pieces ends."""


class Gate:
    """`hold_back` in characters; None holds the whole answer. With `enforcing` False (no rule could stop or change
    anything) parts leave at once, and all text is judged at the end, for the record. With `sequel` flowing texts of one
    role are read one behind the other: the beginning of each is judged together with the end of the one before it."""

    def __init__(self, hold_back: int | None, *, enforcing: bool = True, sequel: bool = False) -> None:
        self._hold = hold_back
        self._enforcing = enforcing
        self._last: dict[Role, _Channel] | None = {} if sequel else None
        self._channels: dict[str, _Channel] = {}
        self._queue: list[_Held] = []
        self._unjudged = 0  # characters of flowing text
        self.flowed = 0  # characters of flowing text so far
        self._size = 0
        self._settled = False  # something was closed since the last question
        self._keep = None if hold_back is None else max(CONTEXT, hold_back)
        self._stride = max(STRIDE, (hold_back or 0) // 2)

    @property
    def held(self) -> int:
        """Parts that wait."""
        return len(self._queue)

    @property
    def size(self) -> int:
        """What is kept: the bytes of parts that wait, and the characters of all text."""
        return self._size

    def push(self, part: Part) -> None:
        """Take the next part of the stream."""
        self._size += len(part.raw)
        ends: list[tuple[Piece, _Channel, int]] = []
        for piece in part.pieces:
            channel = self._channels.get(piece.channel)
            if channel is None:
                channel = self._channels[piece.channel] = self._opened(piece)
            size = len(piece.text)
            kept = channel.pieces
            kept.append(piece.text)
            channel.fresh += 1
            if channel.fresh == COMPACT:  # the newest only: to join all each time would cost quadratic time
                kept[-COMPACT:] = ["".join(kept[-COMPACT:])]
                channel.fresh = 0
            self._size += size
            if channel.closed:
                self._reopen(channel)
            channel.total = total = channel.total + size
            if self._keep is not None and piece.kind is not Kind.CALL:  # a call is always judged whole
                channel.tail += piece.text
                atom = piece.kind is Kind.ATOM
                spare = (channel.judged if atom else channel.approved - self._keep) - channel.base
                if spare > (0 if atom else CONTEXT):  # forget what no window will need
                    channel.tail = channel.tail[spare:]
                    channel.base += spare
            if piece.kind is Kind.FLOW:
                self._unjudged += size
                self.flowed += size
            ends.append((piece, channel, total))
        for group in part.closes:
            self._close(group)
        self._queue.append((part, tuple(ends)))

    def finish(self, *, clean: bool) -> None:
        """The stream has ended. Where it ended badly (`clean` False), an unfinished tool call can never leave: it and
        all parts behind it are dropped."""
        if not clean and self._enforcing:
            kept: list[_Held] = []
            for part, ends in self._queue:
                if any(channel.kind is Kind.CALL and not channel.closed for _, channel, _ in ends):
                    break
                kept.append((part, ends))
            self._queue = kept
        for channel in self._channels.values():
            channel.closed = channel.closed or clean or channel.kind is not Kind.CALL
        self._settled = True

    def ready(self) -> bool:
        """Whether there is anything to do: to judge, or to release."""
        if not self._queue:
            return False
        if not self._enforcing:
            return True
        for _, channel, end in self._queue[0][1]:
            if end > channel.approved:
                return self.due()
        return True

    def wanted(self) -> int:
        """Characters of text that must come before anything can leave; 0 where that is not known."""
        if not self._enforcing or not self._queue:
            return 0
        if self._settled:
            return 0
        for _, channel, end in self._queue[0][1]:
            if end > channel.approved:
                if channel.kind is not Kind.FLOW or channel.closed:
                    return 0
                if self._hold is None:
                    return 1 << 30
                return max(self._stride - self._unjudged, end + self._hold - channel.total, 0)
        return 0

    def due(self) -> bool:
        """Whether it is time to judge: something would leave after it, or the stream has ended."""
        if not self._enforcing:
            return False
        if not self._queue:
            return False
        waiting = flowing = False
        for _, channel, end in self._queue[0][1]:
            if end > channel.approved:
                if not self._could_leave(channel, end):
                    return False
                waiting = True
                flowing = flowing or channel.kind is Kind.FLOW
        if not waiting:
            return False
        return not flowing or self._settled or self._unjudged >= self._stride

    def question(self, *, everything: bool = False) -> Question:
        """What to judge now. With `everything`, all text of every channel (the last look, for the record)."""
        messages: list[Message] = []
        names: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        for name, channel in self._channels.items():
            settled = channel.judged == channel.total and not (channel.closed and channel.approved < channel.total)
            if settled and not everything:
                continue
            if channel.kind is Kind.CALL and not channel.closed and not everything:
                continue
            start, text = self._window(channel, everything)
            messages.append(Message(channel.role, text, name))
            names.append(name)
            starts.append(start)
            ends.append(channel.total)
        return Question(tuple(messages), tuple(names), tuple(starts), tuple(ends))

    def said(self, channel: str) -> tuple[str, Kind, bool]:
        """All text of a channel so far, its kind, and whether nothing more will come."""
        found = self._channels[channel]
        return "".join(found.pieces), found.kind, found.closed

    def answer(self, question: Question, masks: Iterable[tuple[int, Mask]] = ()) -> None:
        """The question was judged and nothing in it blocks. `masks` are (index of the message, mask in that message's
        characters)."""
        found: dict[str, list[Mask]] = {}
        for index, mask in masks:
            offset = question.starts[index]
            found.setdefault(question.channels[index], []).append(
                Mask(mask.start + offset, mask.end + offset, mask.replacement)
            )
        for name, end in zip(question.channels, question.ends, strict=True):
            self._judge(self._channels[name], end, found.get(name, ()))
        self._unjudged = 0
        self._settled = False

    def release(self) -> list[Release]:
        """The parts that may leave now, in order."""
        out: list[Release] = []
        queue = self._queue
        while len(out) < len(queue):
            part, ends = queue[len(out)]
            edits: tuple[tuple[Piece, str], ...] = ()
            for piece, channel, end in ends:
                if self._enforcing and end > channel.approved:
                    del queue[: len(out)]
                    return out
                if channel.masks and (edited := _edited(piece.text, end, channel.masks)) != piece.text:
                    edits += ((piece, edited),)
            if edits and part.run is not None:
                queue[len(out) : len(out) + 1] = _apart(part, part.run, ends)
                continue
            self._size -= len(part.raw)
            for _, channel, end in ends:
                channel.released = end
            out.append(Release(part, edits))
        queue.clear()
        return out

    def _opened(self, piece: Piece) -> _Channel:
        channel = _Channel(piece.role, piece.kind, piece.group)
        if self._last is not None and piece.kind is Kind.FLOW:
            last = self._last.get(piece.role)
            if last is not None:
                channel.before = (last.before + "".join(last.pieces))[-CONTEXT:]
            self._last[piece.role] = channel
        return channel

    def _close(self, group: int) -> None:
        for channel in self._channels.values():
            if channel.group == group:
                channel.closed = True
        self._settled = True

    def _reopen(self, channel: _Channel) -> None:
        """A text goes on that was taken for whole: what of it has not left is held back again."""
        channel.closed = False
        if channel.kind is Kind.ATOM:
            return
        whole = channel.kind is Kind.CALL or self._hold is None
        free = 0 if whole else channel.total - (self._hold or 0)
        channel.approved = max(channel.released, min(channel.approved, free))

    def _window(self, channel: _Channel, everything: bool) -> tuple[int, str]:
        if everything or self._keep is None or channel.closed or channel.kind is Kind.CALL:
            return -len(channel.before), channel.before + "".join(channel.pieces)
        # What is complete where it stands needs nothing of what was complete before it, and none of it was judged.
        atom = channel.kind is Kind.ATOM
        start = channel.judged if atom else max(0, channel.approved - self._keep)
        if start > channel.base and not atom:
            # Begin at a blank where there is one: half a word at the start could look like another word.
            blank = channel.tail.find(" ", start - channel.base, start - channel.base + 64)
            start = start if blank < 0 else channel.base + blank
        start = max(start, channel.base)
        if start == 0:
            return -len(channel.before), channel.before + channel.tail
        return start, channel.tail[start - channel.base :]

    def _could_leave(self, channel: _Channel, end: int) -> bool:
        if channel.closed or channel.kind is Kind.ATOM:
            return True
        if channel.kind is Kind.CALL or self._hold is None:
            return False
        return end <= channel.total - self._hold

    def _judge(self, channel: _Channel, end: int, found: Sequence[Mask]) -> None:
        """Text up to `end` was judged, with `found` in it."""
        channel.judged = end
        frontier = end
        if not (channel.closed and end == channel.total) and channel.kind is Kind.FLOW:
            frontier = end - self._hold if self._hold is not None else 0
            # A match that touches the end may grow with the next letters: wait for them.
            frontier = min([frontier, *(mask.start for mask in found if mask.end >= end)])
        if found or channel.masks:
            # Masks that a verdict made firm stay, where the new look did not reach as well; all others are found anew.
            left = channel.released
            firm = [mask for mask in channel.masks if mask.start < channel.firm and mask.end > left]
            channel.masks = _joined(
                firm, [Mask(max(m.start, left), m.end, m.replacement) for m in found if m.end > left]
            )
        channel.approved = max(channel.approved, frontier)
        channel.firm = max(channel.firm, channel.approved)


def _joined(old: Sequence[Mask], new: Sequence[Mask]) -> tuple[Mask, ...]:
    """All that they cover, in order: where two overlap the one that begins first is whole, or the longer one."""
    out: list[Mask] = []
    position = 0
    for mask in sorted((*old, *new), key=lambda mask: (mask.start, -mask.end)):
        if mask.end > position:
            out.append(mask if mask.start >= position else Mask(position, mask.end, mask.replacement))
            position = mask.end
    return tuple(out)


def _apart(part: Part, run: Run, ends: Sequence[tuple[Piece, _Channel, int]]) -> list[_Held]:
    """The events of a run, each by itself."""
    places = [end - len(piece.text) for piece, _, end in ends]
    held: list[_Held] = []
    for raw, texts in run.form.apart(part.raw):
        single: list[tuple[Piece, _Channel, int]] = []
        for number, (piece, channel, end) in enumerate(ends):
            text = texts[run.slots[number]]
            if piece.kind is Kind.ATOM:  # it is never rewritten, so it need not be told apart
                single.append((piece, channel, end))
            elif text:
                places[number] += len(text)
                single.append((piece._replace(text=text), channel, places[number]))
        held.append((Part(raw, tuple([piece for piece, _, _ in single])), tuple(single)))
    return held


def _edited(text: str, end: int, masks: Sequence[Mask]) -> str:
    """`text`, whose last character is number `end - 1` of its channel, after `masks` (sorted, not overlapping).

    A mask's replacement stands in the piece where the masked characters begin."""
    start = end - len(text)
    out: list[str] = []
    position = start
    for at in range(bisect_right(masks, start, key=_END), len(masks)):
        mask = masks[at]
        if mask.start >= end:
            break
        if mask.start >= start:
            out.append(text[position - start : mask.start - start])
            out.append(mask.replacement)
        position = min(mask.end, end)
    out.append(text[position - start :])
    return "".join(out)


_END = attrgetter("end")
