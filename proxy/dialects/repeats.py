"""Recognises an event of a stream that differs from an earlier one only inside known strings.

Most events of a stream are the last one with a few other letters in it. Such an event need not be parsed whole: what
stands between known bytes is a JSON string, and all else is as it was.

INVARIANT: where `match` answers, a strict parse of the event gives the learned event's tree with the answered texts
in the learned places, and nothing else. `learn` proves the places with a parse of its own; a slot's bytes must be one
JSON string by themselves, so they cannot end it and begin something else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ..strict import Malformed, parse

MOST = 4
"""Shapes kept: parallel choices or items take turns."""
TRIES = 12
"""Events that may fail to be learned; then a stream is taken for one without repetition."""
_PROBE = "penstock probe %d"

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Shape:
    """`fixed` are the bytes before, between and behind the slots; `notes` is what the learner wants back."""

    fixed: tuple[bytes, ...]
    notes: Any

    def match(self, raw: bytes) -> list[str] | None:
        """The text in each slot, or None where `raw` is not of this shape."""
        fixed = self.fixed
        last = fixed[-1]
        if not raw.startswith(fixed[0]) or not raw.endswith(last):
            return None
        texts: list[str] = []
        at, end = len(fixed[0]), len(raw) - len(last)
        try:
            for between in fixed[1:-1]:
                stop = raw.find(between, at, end)
                if stop < 0:
                    return None
                texts.append(orjson.loads(b'"%b"' % raw[at:stop]))
                at = stop + len(between)
            if at > end:
                return None
            texts.append(orjson.loads(b'"%b"' % raw[at:end]))
        except orjson.JSONDecodeError:
            return None
        return texts


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

    def learn(self, raw: bytes, tree: Any, paths: Sequence[Path], notes: Any) -> None:
        """`raw` (``data: JSON`` and a blank line) was parsed to `tree`; the strings at `paths`, in any order, may
        change. `notes` are handed back with the texts, which come in the order of `paths`."""
        if not self._tries or not paths:
            return
        self._tries -= 1
        if not (raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.find(b"\n") == len(raw) - 2):
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
        if _proven(fixed, tree, paths):
            self._shapes.insert(0, Shape(fixed, notes))
            del self._shapes[MOST:]
            self._tries = TRIES


def _slot(raw: bytes, tree: Any, path: Path) -> tuple[int, int] | None:
    """Where the text of the string at `path` lies in `raw`, where its spelling and place are beyond doubt."""
    value = tree
    for step in path:
        value = value[step]
    key = path[-1]
    if type(value) is not str or type(key) is not str:
        return None
    literal = orjson.dumps(key) + b":" + orjson.dumps(value)
    at = raw.find(literal)
    if at < 0 or raw.find(literal, at + 1) >= 0:
        return None
    end = at + len(literal) - 1
    return end - (len(orjson.dumps(value)) - 2), end


def _proven(fixed: Sequence[bytes], tree: Any, paths: Sequence[Path]) -> bool:
    """Whether the slots are the strings at `paths`: other texts in the slots must appear there, and only there."""
    raw = fixed[0]
    for number, behind in enumerate(fixed[1:]):
        raw += (_PROBE % number).encode() + behind
    try:
        probe = parse(raw[6:-2])
    except Malformed:
        return False
    for number, path in enumerate(paths):
        theirs, ours = probe, tree
        for step in path[:-1]:
            theirs, ours = theirs[step], ours[step]
        if theirs.get(path[-1]) != _PROBE % number:
            return False
        theirs[path[-1]] = ours[path[-1]]
    return bool(probe == tree)
