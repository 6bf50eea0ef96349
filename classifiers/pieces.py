"""Texts cut into pieces for services that read so many characters at once, and their scores put together again.

INVARIANT: every character of a text lies in a piece, and every run of at most `overlap` characters lies whole in
one. Equal pieces are judged once. The highest score counts, label by label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .base import Finding, Message, Role
from .windows import split


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to judge at once. `places` says where it stands: the index of a message, and [start, end) in code points
    of its text where that is longer than the piece, else None."""

    role: Role
    text: str
    context: str
    places: tuple[tuple[int, tuple[int, int] | None], ...]


def cut(messages: Sequence[Message], size: int, overlap: int) -> list[Piece]:
    """The pieces of all messages, each at most `size` characters. Blank texts have none."""
    found: dict[tuple[Role, str, str], list[tuple[int, tuple[int, int] | None]]] = {}
    for index, message in enumerate(messages):
        text = message.text
        if not text or text.isspace():
            continue
        windows = split(len(text), size, overlap, special=0)
        for window in windows:
            part = text[window.start : window.end]
            if part.isspace():
                continue
            place = (index, None if len(windows) == 1 else (window.start, window.end))
            found.setdefault((message.role, part, message.context), []).append(place)
    return [Piece(role, text, context, tuple(places)) for (role, text, context), places in found.items()]


def pooled(name: str, judged: Iterable[tuple[Piece, Mapping[str, float]]], min_score: float) -> list[Finding]:
    """Findings of the classifier `name`, by message and label: the best piece of a text speaks for it."""
    best: dict[tuple[int, str], tuple[float, tuple[int, int] | None]] = {}
    for piece, scores in judged:
        for index, span in piece.places:
            for label, score in scores.items():
                if score >= min_score and score > best.get((index, label), (-1.0, None))[0]:
                    best[index, label] = (score, span)
    return [Finding(name, label, score, index, span) for (index, label), (score, span) in sorted(best.items())]
