"""A long text in overlapping windows, so that a model of bounded reach still reads all of it.

INVARIANT: every token lies in a window, and every run of at most `overlap` tokens lies whole in one window. All
windows of one text have the same length, which lets equal lengths run together without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SIZE = 192
"""Tokens that a model reads at once, its two special tokens included."""
OVERLAP = 48
SPECIAL = 2


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [start, end) of a text."""

    start: int
    end: int


def split(count: int, size: int = SIZE, overlap: int = OVERLAP, special: int = SPECIAL) -> tuple[Window, ...]:
    """The windows over `count` tokens: as few as there can be of `size - special` of them at most, where neighbours
    share at least `overlap`; and no longer than that takes, for a token that is read twice costs twice. No tokens, no
    windows.

    Raises ValueError where a window would not move on (overlap >= size - special) or a number is negative.
    """
    room = size - special
    if count < 0 or overlap < 0 or special < 0:
        raise ValueError("count, overlap and special must not be negative")
    if room <= overlap:
        raise ValueError(f"a window of {size} tokens with {special} special ones has no room beyond overlap {overlap}")
    if count == 0:
        return ()
    if count <= room:
        return (Window(0, count),)
    number = 1 - (room - count) // (room - overlap)
    length = -(-(count + (number - 1) * overlap) // number)
    starts = (place * (count - length) // (number - 1) for place in range(number))
    return tuple(Window(start, start + length) for start in starts)


def span(window: Window, offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """[start, end) in code points of the text that `window` covers. `offsets` holds each token's own
    [start, end). Spaces at the rim belong to no token and are left out."""
    return offsets[window.start][0], offsets[window.end - 1][1]
