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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ..gate import Part, Piece, Run
from ..strict import Malformed, parse

FEWEST = 4
"""Events in one of several parts."""
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
_END = b"}\n\n"
_PADDED = b" " + _END
_SIGN = b"\0"
Path = tuple[str | int, ...]


class Form:
    """What events have in common: `fixed` are the bytes before, between and behind their slots, `numbers` the slots
    that hold a whole number, not a string; `padded`: the last slot holds the blanks before the last brace. Many events
    `packed` are what stands in their slots, a tenth of their size; a letter that JSON does not have parts them."""

    __slots__ = ("_bare", "_seams", "fixed", "numbers", "padded", "texts", "width")

    def __init__(self, fixed: tuple[bytes, ...], numbers: tuple[int, ...], *, padded: bool = False) -> None:
        self.fixed, self.numbers, self.padded = fixed, numbers, padded
        self.width = len(fixed) - 1
        self.texts = tuple(range(self.width - padded))  # the slots that hold any
        self._bare = sum(map(len, fixed))
        self._seams = [*fixed[1:-1], fixed[-1] + fixed[0]]  # what follows each slot, where another event follows

    def cells(self, raw: bytes) -> list[bytes] | None:
        """What stands in the slots, event by event; None where `raw` is not whole events of this form."""
        first, last = self.fixed[0], self.fixed[-1]
        if len(raw) < len(first) + len(last) or not raw.startswith(first) or not raw.endswith(last) or _SIGN in raw:
            return None
        *inner, joint = self._seams
        rows = raw[len(first) : len(raw) - len(last)].split(joint)
        if not inner:
            return rows
        cells: list[bytes] = []
        for row in rows:
            rest = row
            for between in inner:
                cell, found, rest = rest.partition(between)
                if not found:
                    return None
                cells.append(cell)
            cells.append(rest)
        return cells

    def columns(self, cells: list[bytes]) -> list[list[str]] | None:
        """For each slot its text in each event; None where one is not one JSON string, or one whole number."""
        width = self.width
        if self.padded and b"".join(cells[width - 1 :: width]).strip(b" "):
            return None
        try:
            if not self.numbers and not self.padded:
                texts = _texts(cells, number=False)
                return [texts[slot::width] for slot in self.texts]
            return [_texts(cells[slot::width], slot in self.numbers) for slot in self.texts]
        except orjson.JSONDecodeError:
            return None

    def whole(self, packed: bytes) -> bytes:
        cells = packed.split(_SIGN)
        woven = [self.fixed[0]] * (2 * len(cells) + 1)
        woven[1::2] = cells
        woven[2::2] = self._seams * (len(cells) // self.width)
        woven[-1] = self.fixed[-1]
        return b"".join(woven)

    def extent(self, packed: bytes) -> tuple[int, int]:
        signs = packed.count(_SIGN)
        events = (signs + 1) // self.width
        return events, len(packed) - signs + events * self._bare

    def apart(self, packed: bytes) -> list[tuple[bytes, tuple[str, ...]]]:
        cells, width = packed.split(_SIGN), self.width
        columns = self.columns(cells)
        assert columns is not None
        events = [self.whole(_SIGN.join(cells[at : at + width])) for at in range(0, len(cells), width)]
        return list(zip(events, zip(*columns, strict=True), strict=True))


@dataclass(slots=True)
class Shape:
    """`notes` is what the learner wants back."""

    form: Form
    notes: Any

    def match(self, raw: bytes) -> list[str] | None:
        """The text in each slot, or None where `raw` is not of this shape."""
        fixed, numbers = self.form.fixed, self.form.numbers
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
                texts.append(_text(raw[at:stop], len(texts) in numbers))
                at = stop + len(between)
            if at > end:
                return None
            texts.append(_text(raw[at:end], len(texts) in numbers))
        except orjson.JSONDecodeError:
            return None
        return texts

    def lump(self, raw: bytes) -> Lump | None:
        """As `match` for whole events that stand behind each other."""
        form = self.form
        if _PADDED in raw:
            last = form.fixed[-1]
            if len(last) == len(_END):
                return None
            form = Form((*form.fixed[:-1], last[: -len(_END)], _END), form.numbers, padded=True)
        cells = form.cells(raw)
        columns = form.columns(cells) if cells is not None else None
        if cells is None or columns is None:
            return None
        return Lump(cells, columns, self.notes, Run(form, form.texts), form.width)

    def extent(self, raw: bytes) -> int:
        """How many bytes of `raw` are left without the events at its end, cut ones or a few whole ones, that do not end
        as this shape does."""
        last = self.form.fixed[-1]
        end = raw.rfind(b"\n\n") + 2
        for _ in range(TAIL):
            if raw.endswith((last, _PADDED), 0, end):
                return end
            end = raw.rfind(b"\n\n", 0, end - 2) + 2 if end > 2 else 0
        return 0


class Lump(NamedTuple):
    """Events of one shape: what stands in their slots (`width` an event), the texts of each slot, the learner's notes,
    what unpacks them."""

    cells: list[bytes]
    columns: list[list[str]]
    notes: Any
    run: Run
    width: int

    def cut(self, start: int, end: int) -> Lump:
        """Events [start, end)."""
        columns = [column[start:end] for column in self.columns]
        return Lump(self.cells[start * self.width : end * self.width], columns, self.notes, self.run, self.width)

    def part(
        self, pieces: Sequence[Piece], slots: Sequence[int], closes: tuple[int, ...] = (), tree: Any = None
    ) -> Part:
        """They are this part. `slots` are those of the pieces."""
        run = self.run if len(slots) == len(self.columns) else self.run._replace(slots=tuple(slots))
        return Part(_SIGN.join(self.cells), tuple(pieces), closes, tree, (), run)


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

    def lumps(self, raw: bytes, most: int) -> list[Lump]:
        """Whole events of the likeliest shape with which `raw` begins, in at most `most` parts; nothing where it does
        not begin with one, or another event stands between two of them."""
        shape = self._shapes[0] if self._shapes else None
        if shape is None or not raw.startswith(shape.form.fixed[0]):
            return []
        if not raw.endswith((shape.form.fixed[-1], _PADDED)):
            raw = raw[: shape.extent(raw)]
        lump = shape.lump(raw)
        if lump is None:
            return []
        count = len(lump.columns[0])
        parts = min(most, count // FEWEST)
        if parts < 2:
            return [lump]
        size = -(-count // parts)
        return [lump.cut(at, at + size) for at in range(0, count, size)]

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
            numbers = tuple([n for n, path in enumerate(paths) if type(_at(tree, path)) is int])
            self._shapes.insert(0, Shape(Form(fixed, numbers), notes))
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
