"""Replacements in a text: how a reading was made of the one before, to be applied or to be traced back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

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


def traced(edits: Iterable[Edit], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans after `edits` to the smallest known spans before them, in one walk."""
    begins: list[int] = []
    pieces: list[tuple[int, int, int]] = []  # start and end before, end after
    shift = 0
    for at, until, text in edits:
        begins.append(at + shift)
        pieces.append((at, until, at + shift + len(text)))
        shift += len(text) - (until - at)
    before = []
    for start, end in spans:
        first = _trace_one(begins, pieces, start)
        before.append((first[0], _trace_one(begins, pieces, end - 1)[1] if end > start else first[0]))
    return before


def _trace_one(begins: Sequence[int], pieces: Sequence[tuple[int, int, int]], at: int) -> tuple[int, int]:
    """Where the one code point at `at` was."""
    index = bisect_right(begins, at) - 1
    if index < 0:
        return at, at + 1
    start, end, until = pieces[index]
    return (start, end) if at < until else (end + at - until, end + at - until + 1)
