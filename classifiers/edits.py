"""Replacements in a text: how a reading was made of the one before, to be applied or to be traced back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

Edit = tuple[int, int, str]
"""Start and end in code points, and what stands there instead."""


def applied(text: str, edits: Iterable[Edit]) -> str:
    """`text` after `edits`, which are in order and do not overlap."""
    pieces: list[str] = []
    at = 0
    for start, end, new in edits:
        pieces += (text[at:start], new)
        at = end
    pieces.append(text[at:])
    return "".join(pieces)


def traced(edits: Sequence[Edit], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans after `edits` to the smallest known spans before them, in one walk."""
    shifts = accumulate([len(new) - (until - at) for at, until, new in edits], initial=0)
    begins = [at + shift for (at, _, _), shift in zip(edits, shifts, strict=False)]
    before = []
    for start, end in spans:
        first = _trace_one(begins, edits, start)
        before.append((first[0], _trace_one(begins, edits, end - 1)[1] if end > start else first[0]))
    return before


def _trace_one(begins: Sequence[int], edits: Sequence[Edit], at: int) -> tuple[int, int]:
    """Where the one code point at `at` was."""
    index = bisect_right(begins, at) - 1
    if index < 0:
        return at, at + 1
    start, end, new = edits[index]
    behind = at - begins[index] - len(new)
    return (start, end) if behind < 0 else (end + behind, end + behind + 1)
