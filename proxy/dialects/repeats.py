"""Recognises an event of a stream that differs from an earlier one only inside known strings and whole numbers.

Most events of a stream are the last one with a few other letters in it. Such an event need not be parsed whole: what
stands between known bytes is a JSON string, and all else is as it was.

INVARIANT: where `match` answers, a strict parse of the event gives the learned event's tree with the answered texts
in the learned places, and nothing else. `learn` proves the places with a parse of its own; a slot's bytes must be one
JSON string by themselves, so they cannot end it and begin something else. `lumps` answers for many events what `match`
would for each.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ..strict import Malformed, parse

RUNS = 4
"""Most parts that a lump of equal events becomes, and fewest events in one of several: a part leaves whole, so each
holds back a little more than it had to, and costs as much memory and time as an event would alone."""
MOST = 4
"""Shapes kept: parallel choices or items take turns."""
TAIL = 4
"""Events behind others of one shape that are cut off to read those together: mostly the end of a stream."""
TRIES = 12
"""Events that may fail to be learned; then a stream is taken for one without repetition."""
_PROBE = "penstock probe %d"
_FIRST = 986_543_210_000
_DIGITS = 15
_NOUGHT = 0x30
_PADDED = b" }\n\n"
_PADDING = re.compile(rb"(?<! ) +\}\n\n")

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Shape:
    """`fixed` are the bytes before, between and behind the slots; `notes` is what the learner wants back. `numbers` are
    the slots that hold a whole number, not a string."""

    fixed: tuple[bytes, ...]
    notes: Any
    numbers: frozenset[int] = frozenset()

    def match(self, raw: bytes) -> list[str] | None:
        """The text in each slot, or None where `raw` is not of this shape."""
        fixed = self.fixed
        last = fixed[-1]
        if raw.endswith(_PADDED):
            raw = _unpadded(raw)
        if not raw.startswith(fixed[0]) or not raw.endswith(last):
            return None
        texts: list[str] = []
        at, end = len(fixed[0]), len(raw) - len(last)
        try:
            for between in fixed[1:-1]:
                stop = raw.find(between, at, end)
                if stop < 0:
                    return None
                texts.append(_text(raw[at:stop], len(texts) in self.numbers))
                at = stop + len(between)
            if at > end:
                return None
            texts.append(_text(raw[at:end], len(texts) in self.numbers))
        except orjson.JSONDecodeError:
            return None
        return texts

    def columns(self, raw: bytes) -> list[list[str]] | None:
        """As `match` for whole events that stand behind each other: for each slot its text in each event."""
        first, last = self.fixed[0], self.fixed[-1]
        if _PADDED in raw:
            raw = _PADDING.sub(b"}\n\n", raw)
        if len(raw) < len(first) + len(last) or not raw.startswith(first) or not raw.endswith(last):
            return None
        rest = raw[len(first) : len(raw) - len(last)].split(last + first)
        slots: list[list[bytes]] = []
        for between in self.fixed[1:-1]:
            cuts = [each.partition(between) for each in rest]
            if b"" in [cut[1] for cut in cuts]:
                return None
            slots.append([cut[0] for cut in cuts])
            rest = [cut[2] for cut in cuts]
        slots.append(rest)
        try:
            return [_texts(column, number in self.numbers) for number, column in enumerate(slots)]
        except orjson.JSONDecodeError:
            return None

    def extent(self, raw: bytes) -> int:
        """How many bytes of `raw` are left without the events at its end, cut ones or a few whole ones, that do not end
        as this shape does."""
        end = raw.rfind(b"\n\n") + 2
        for _ in range(TAIL):
            if raw.endswith((self.fixed[-1], _PADDED), 0, end):
                return end
            end = raw.rfind(b"\n\n", 0, end - 2) + 2 if end > 2 else 0
        return 0

    def apart(self, raw: bytes) -> list[tuple[bytes, tuple[str, ...]]]:
        """The bytes of each event in `raw`, which `columns` has read, and the texts in its slots."""
        columns = self.columns(raw)
        assert columns is not None
        return list(zip(_events(raw), zip(*columns, strict=True), strict=True))


class Lump(NamedTuple):
    """Events of one shape: their bytes, the texts of each slot, the learner's notes."""

    raw: bytes
    columns: list[list[str]]
    shape: Shape


class Repeats:
    """The shapes of one stream."""

    __slots__ = ("_shapes", "_tries")

    def __init__(self) -> None:
        self._shapes: list[Shape] = []
        self._tries = TRIES

    def match(self, raw: bytes) -> tuple[list[str], Any] | None:
        """(the texts in the slots, the learner's notes) of an event's bytes, or None where it must be parsed."""
        for position, shape in enumerate(self._shapes):
            texts = shape.match(raw)
            if texts is not None:
                if position:  # the likeliest first
                    self._shapes.insert(0, self._shapes.pop(position))
                return texts, shape.notes
        return None

    def lumps(self, raw: bytes) -> list[Lump]:
        """Whole events of the likeliest shape with which `raw` begins, in at most RUNS parts; nothing where it does not
        begin with one, or another event stands between two of them."""
        shape = self._shapes[0] if self._shapes else None
        if shape is None or not raw.startswith(shape.fixed[0]):
            return []
        if not raw.endswith((shape.fixed[-1], _PADDED)):
            raw = raw[: shape.extent(raw)]
        columns = shape.columns(raw)
        if columns is None:
            return []
        count = len(columns[0])
        parts = min(RUNS, count // RUNS)
        if parts < 2:
            return [Lump(raw, columns, shape)]
        events, size = _events(raw), -(-count // parts)
        cuts = [slice(at, at + size) for at in range(0, count, size)]
        return [Lump(b"".join(events[cut]), [column[cut] for column in columns], shape) for cut in cuts]

    def learn(self, raw: bytes, tree: Any, paths: Sequence[Path], notes: Any) -> None:
        """`raw` (``data: JSON`` and a blank line, a line ``event: NAME`` before them or not) was parsed to `tree`; the
        strings and whole numbers at `paths` may change. `notes` are handed back with the texts, in the order of `paths`
        (a number's text is its digits)."""
        if not self._tries or not paths:
            return
        self._tries -= 1
        if raw.endswith(_PADDED):
            raw = _unpadded(raw)
        start = _data(raw)
        if start is None:
            return
        slots: list[tuple[int, int]] = []
        for path in paths:
            slot = _slot(raw, tree, path)
            if slot is None:
                return
            slots.append(slot)
        if any(before[1] >= after[0] for before, after in itertools.pairwise(slots)):
            return  # not in the order of the text
        edges = [0, *(edge for slot in slots for edge in slot), len(raw)]
        fixed = tuple(raw[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))
        if _proven(fixed, start, tree, paths):
            numbers = frozenset(n for n, path in enumerate(paths) if type(_at(tree, path)) is int)
            self._shapes.insert(0, Shape(fixed, notes, numbers))
            del self._shapes[MOST:]
            self._tries = TRIES


def _data(raw: bytes) -> int | None:
    """Where the JSON begins in an event of one data line, with or without a name; None for any other event."""
    start = 0
    if raw.startswith(b"event: "):
        start = raw.find(b"\n") + 1
    if b"\r" in raw or not (raw.startswith(b"data: ", start) and raw.find(b"\n", start) == len(raw) - 2):
        return None
    return start + 6 if raw.endswith(b"\n\n") else None


def _unpadded(raw: bytes) -> bytes:
    """`raw` without the blanks before its last brace. They are outside of all strings where the shape's last bytes are
    the end of a string and of JSON objects; some services pad their events with them."""
    return raw[:-3].rstrip(b" ") + b"}\n\n"


def _text(raw: bytes, number: bool) -> str:
    """What a slot holds. Raises JSONDecodeError where it is not one string, or not one whole number."""
    if not number:
        text: str = orjson.loads(b'"%b"' % raw)
        return text
    if not raw.isdigit() or (raw[0] == _NOUGHT and len(raw) > 1) or len(raw) > _DIGITS:
        raise orjson.JSONDecodeError("not a plain whole number", "", 0)
    return raw.decode()


def _events(raw: bytes) -> list[bytes]:
    """The bytes of each of several events; a blank line ends each, and none has another inside."""
    return [event + b"\n\n" for event in raw[:-2].split(b"\n\n")]


def _texts(slots: list[bytes], number: bool) -> list[str]:
    """`_text` of each. Where none holds a quote, all are read in one go: as many strings as slots come out only where
    all quotes are ours, and none of them is escaped."""
    together, count = b'","'.join(slots), len(slots)
    if not number and together.count(b'"') == 2 * (count - 1):
        texts: list[str] = orjson.loads(b'["%b"]' % together)
        if len(texts) == count and set(map(type, texts)) == {str}:
            return texts
    return [_text(slot, number) for slot in slots]


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def _probe(tree: Any, path: Path, number: int) -> str | int:
    """What is put into slot `number` to see where it appears."""
    return _FIRST + number if type(_at(tree, path)) is int else _PROBE % number


def _slot(raw: bytes, tree: Any, path: Path) -> tuple[int, int] | None:
    """Where the string (without its quotes) or whole number at `path` lies in `raw`, where its spelling and place are
    beyond doubt."""
    value, key = _at(tree, path), path[-1]
    if type(value) not in {str, int} or type(key) is not str:
        return None
    literal = orjson.dumps(key) + b":" + orjson.dumps(value)
    at = raw.find(literal)
    if at < 0 or raw.find(literal, at + 1) >= 0:
        return None
    end = at + len(literal)
    if type(value) is int:
        return (end - len(str(value)), end) if value >= 0 and raw[end : end + 1] in {b",", b"}"} else None
    end -= 1
    return end - (len(orjson.dumps(value)) - 2), end


def _proven(fixed: Sequence[bytes], start: int, tree: Any, paths: Sequence[Path]) -> bool:
    """Whether the slots are the strings at `paths`: other texts in the slots must appear there, and only there. The
    JSON begins at `start`."""
    if len(fixed[0]) <= start:
        return False
    raw = fixed[0]
    for number, behind in enumerate(fixed[1:]):
        raw += str(_probe(tree, paths[number], number)).encode() + behind
    try:
        probe = parse(raw[start:-2])
    except Malformed:
        return False
    for number, path in enumerate(paths):
        theirs, ours = probe, tree
        for step in path[:-1]:
            theirs, ours = theirs[step], ours[step]
        if theirs.get(path[-1]) != _probe(tree, path, number):
            return False
        theirs[path[-1]] = ours[path[-1]]
    return bool(probe == tree)
