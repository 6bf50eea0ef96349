"""What a tool call's arguments say once JSON's escapes are undone, and where each letter of that is written.

Decision: a reading is the arguments after edits, as a disguise's is (`classifiers.edits`). Why: what is found in it can
be masked where it is written, between escapes and within one string, so that what is left is JSON. Cost: its lines
stand in the order of the text, keys between values; what is found across two strings has no place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

from classifiers.edits import Edit, applied, traced

from ..strict import Malformed, parse

Span = tuple[int, int]

_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_HALVES = r"u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
_ESCAPE = re.compile(rf"\\(?:{_HALVES}|u([0-9a-fA-F]{{4}})|(.))", re.DOTALL)
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Unescaped(NamedTuple):
    """Arguments without escapes. `text` holds a string or a key a line. `strings` are where they stand in the
    arguments; where these are not strictly JSON, that is all of it."""

    text: str
    strict: bool
    edits: list[Edit]
    strings: list[Span]
    escapes: list[Span]

    def written(self, span: Span) -> Span | None:
        """Where the arguments say what `text` does at `span`; None where that is in no one string."""
        ((start, end),) = traced(self.edits, [span])
        index = bisect_right(self.strings, (start + 1, -1)) - 1
        return (start, end) if index >= 0 and end <= self.strings[index][1] else None

    def widened(self, span: Span) -> Span:
        """A span of the arguments, with all of an escape that it holds a part of."""
        start, end = span
        if (first := self._at(start)) is not None:
            start = first[0]
        if (last := self._at(end)) is not None:
            end = last[1]
        return start, end

    def _at(self, at: int) -> Span | None:
        """The escape that begins before `at` and ends behind it."""
        index = bisect_right(self.escapes, (at, 0)) - 1
        return self.escapes[index] if index >= 0 and at < self.escapes[index][1] else None


def unescaped(arguments: str) -> Unescaped:
    """The strings and keys in a JSON text, escapes undone.

    Where it is not strictly JSON, the whole text with its escapes undone: a client's parser may be more lenient
    (about duplicate keys, NaN, what stands around it), and it is the client who acts on what it reads."""
    try:
        parse(arguments)
    except Malformed:
        strings, strict = [(0, len(arguments))], False
    else:
        strings, strict = [found.span(1) for found in _STRING.finditer(arguments)], True
    edits: list[Edit] = []
    escapes: list[Span] = []
    at = 0
    for start, end in strings:
        if start > at:
            edits.append((at, start, "\n" if at else ""))
        for found in _ESCAPE.finditer(arguments, start, end):
            escapes.append(found.span())
            edits.append((*found.span(), _letter(found)))
        at = end
    if at < len(arguments):
        edits.append((at, len(arguments), ""))
    return Unescaped(applied(arguments, edits), strict, edits, strings, escapes)


def _letter(found: re.Match[str]) -> str:
    high, low, point, short = found.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    return chr(int(point, 16)) if point else _SHORT.get(short, short)


def decoded(arguments: str) -> str:
    """What `arguments` say without escapes."""
    return unescaped(arguments).text


__all__ = ["Span", "Unescaped", "decoded", "unescaped"]
