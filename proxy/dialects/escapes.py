"""What a tool call's arguments say once JSON's escapes are undone, and where each letter of that is written.

Decision: what is found in a reading is masked where it is written, between escapes and within one string. Why: what is
left is JSON. Cost: the lines of a reading stand in the order of the text, keys between values; what is found across two
strings has no place.

Decision: where letters are written is looked up only for a call in which something was found (`Unescaped`). Why: nearly
none has a finding, and what is kept of each escape is six times what the escape itself takes. Cost: where something is
found, the call is read twice.
"""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from io import StringIO

from ..strict import Malformed, parse

Span = tuple[int, int]

_JSON = json.JSONDecoder()
_HALVES = r"u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
_ESCAPE = re.compile(rf"\\(?:{_HALVES}|u([0-9a-fA-F]{{4}})|(.))", re.DOTALL)
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Unescaped:
    """Where the arguments of a call say what their reading (`decoded`) says. `strict` is whether they are JSON."""

    def __init__(self, arguments: str) -> None:
        self.strict = _strict(arguments)
        self._arguments = arguments
        # Of each escape, and of all between two strings: where the reading goes on behind all before it, and where it
        # stands in the arguments. Numbers in arrays, for there may be millions.
        self._begins, self._starts, self._ends = array("I"), array("I"), array("I")
        self._opens, self._closes = array("I"), array("I")  # where strings stand
        gone = at = 0
        for _, first, last in _strings(arguments) if self.strict else [("", 0, len(arguments))]:
            self._opens.append(first)
            self._closes.append(last)
            if first > at:
                gone += self._edit(gone, at, first)
            for found in _ESCAPE.finditer(arguments, first, last):
                gone += self._edit(gone, *found.span())
            at = last
        if at < len(arguments):
            self._edit(gone, at, len(arguments))

    def written(self, span: Span) -> Span | None:
        """Where the arguments say what the reading does at `span`; None where that is in no one string."""
        start, end = self._traced(span[0])
        end = self._traced(span[1] - 1)[1] if span[1] > span[0] else start
        index = bisect_right(self._opens, start) - 1
        return (start, end) if index >= 0 and end <= self._closes[index] else None

    def widened(self, span: Span) -> Span:
        """A span of the arguments, with all of an escape that it holds a part of."""
        start, end = span
        if (first := self._cut(start)) is not None:
            start = first[0]
        if (last := self._cut(end)) is not None:
            end = last[1]
        return start, end

    def _edit(self, gone: int, start: int, end: int) -> int:
        """Remembers an edit behind others that took `gone` letters; how many this one takes."""
        self._begins.append(start - gone)
        self._starts.append(start)
        self._ends.append(end)
        return end - start - self._letters(len(self._starts) - 1)

    def _letters(self, index: int) -> int:
        """How many letters stand in place of an edit: one letter or line feed, and none around all strings."""
        start = self._starts[index]
        around = start == 0 or self._ends[index] == len(self._arguments)
        return 0 if around and not self._escape(index) else 1

    def _escape(self, index: int) -> bool:
        """Whether an edit is an escape: what stands between two strings begins with a quote, at the earliest."""
        return self._arguments[self._starts[index]] == "\\"

    def _traced(self, at: int) -> Span:
        """Where the one letter at `at` of the reading is written."""
        index = bisect_right(self._begins, at) - 1
        if index < 0:
            return at, at + 1
        behind = at - self._begins[index] - self._letters(index)
        start, end = self._starts[index], self._ends[index]
        return (start, end) if behind < 0 else (end + behind, end + behind + 1)

    def _cut(self, at: int) -> Span | None:
        """The escape that begins before `at` and ends behind it."""
        index = bisect_left(self._starts, at) - 1
        if index < 0 or self._ends[index] <= at or not self._escape(index):
            return None
        return self._starts[index], self._ends[index]


def decoded(arguments: str) -> str:
    """The strings and keys in a JSON text, one a line, escapes undone.

    Where it is not strictly JSON, the whole text with its escapes undone: a client's parser may be more lenient
    (about duplicate keys, NaN, what stands around it), and it is the client who acts on what it reads."""
    out = StringIO()  # not a list: one that held each letter apart would take many times what they do
    if _strict(arguments):
        for number, (value, _, _) in enumerate(_strings(arguments)):
            out.write("\n" + value if number else value)
        return out.getvalue()
    at = 0
    for found in _ESCAPE.finditer(arguments):
        out.write(arguments[at : found.start()])
        out.write(_letter(found))
        at = found.end()
    out.write(arguments[at:])
    return out.getvalue()


def _strict(arguments: str) -> bool:
    try:
        parse(arguments)
    except Malformed:
        return False
    return True


def _strings(arguments: str) -> Iterator[tuple[str, int, int]]:
    """The strings and keys of JSON: what each says, and where it stands between its quotes."""
    at = 0
    while (quote := arguments.find('"', at)) >= 0:
        value, at = _JSON.raw_decode(arguments, quote)
        yield value, quote + 1, at - 1


def _letter(found: re.Match[str]) -> str:
    high, low, point, short = found.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    return chr(int(point, 16)) if point else _SHORT.get(short, short)


__all__ = ["Span", "Unescaped", "decoded"]
