"""Texts that are JSON: where a mask falls in them, what stands in its place, and what a value in them says.

A program reads such a text, and a broken one is worth nothing to it. So a mask takes parts of strings there, whole
escapes and whole numbers (or words like `true`); what stands for a number is a string, and what stands in a string is
escaped. Brackets, commas and quotes that a mask covers beside a value stay; where it covers nothing else, it is applied
as it is, for a mask that does nothing is a leak.

A text is JSON where all of it can be read so and it begins as an object or a list. Of a tool call it is enough that
nothing in it says otherwise: a call that was cut short will be read as JSON or not at all, and what a tool is called
with that takes no JSON (a command, a patch) hardly ever looks like it.

Decision: a call that begins as JSON does and is none (`True`, a comment, a tag behind it) is nearly JSON: what is put
into its strings is escaped, and nothing else in it is touched. Why: many frameworks mend such calls and act on them.
Cost: what stands there may be no JSON to whoever reads it; then he sees the escapes.

Decision: a masked number becomes a string. Why: every other number would be a lie, and `null` says nothing. Cost: who
demands a number of that field is told by his own check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from classifiers.base import Message, Role

from .decision import Mask
from .engine import merge_masks

_BEGINNING = re.compile(r"[ \t\n\r]*[\[{]")
_NEARLY = re.compile(
    r"[ \t\n\r]*+[\[{][ \t\n\r\[{]*+(?:[\"'0-9]|-[0-9]|//|/\*|[A-Za-z_$][A-Za-z0-9_$]*+[ \t\n\r]*+[:,\]])"
)
"""Brackets before a command are followed by words and a blank."""
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+'
"""Without its last quote."""
_STRINGS = re.compile(rf'(?>(?:[^"]*+{_STRING}"){{1,500}})', re.DOTALL)
"""As many strings as there are, up to 500: without a bound it would remember each, and `)*+` of Python before 3.11.5
does not go back behind one that is cut short."""
_WITHIN = re.compile(r'(?>(?:[^"\\]++|\\.){1,500})', re.DOTALL)
"""As much of the inside of a string, whole escapes, in portions for the same reason."""
_LEXES = re.compile(
    rf'(?:[ \t\n\r{{}}\[\],:]++|{_STRING}"|-?[0-9][-+.0-9eE]*+|true|false|null|NaN|-?Infinity)*+'
    rf"(?:{_STRING}\\?|(-?[A-Za-z]*+))\Z",
    re.DOTALL,
)
"""What JSON consists of, in any order; the last of it may be cut short."""
_TOKEN = re.compile(rf'{_STRING}\\?("?)|[-+.0-9A-Za-z]++', re.DOTALL)
_BARE = "-+.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_PAIR = r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rf"\\(?:{_PAIR}|u[0-9a-fA-F]{{4}}|.|\Z)", re.DOTALL)
_LONGEST = 12
"""Letters of the longest escape: that of a letter beyond the first 65,536."""
_BLANK = "bfnrt"
"""Letters of escapes that are blanks: a value that seems to begin with the letter begins behind it."""


class _Token(NamedTuple):
    """[begin, after) of a string or of a bare number or word; of a string [start, end) is what its quotes hold."""

    begin: int
    start: int
    end: int
    after: int
    bare: bool


class Growing:
    """A text that is said to be JSON, and grows. What was read and is not asked for any more is not read again."""

    def __init__(self) -> None:
        self._at = 0  # no string is open there
        self._open: tuple[int, int] | None = None  # the quote of one behind that, and up to where that one was read

    def json(self, text: str, shift: int) -> Json | None:
        """All of it that is known, for a message that begins `shift` letters behind its beginning; None where it is no
        JSON."""
        start = max(shift, 0)
        if self._open is not None and self._open[1] > start:
            self._open = None
        if self._at > start:
            self._at = 0
        opened = self._opened(text)
        if not _lexes(text, self._at if opened is None else opened.after):
            return None
        if opened is not None and opened.end < opened.after <= start:
            self._at, self._open = opened.after, None
        if self._open is None:
            self._at = _strings(text, self._at, start)
            quote = text.find('"', self._at, start)
            if quote < 0:
                self._at = _run(text, self._at, start, _BARE)
            else:
                self._open = quote, quote + 1
        if self._open is not None:
            self._open = self._open[0], _within(text, self._open[1], start)
        return Json(text, shift, self._at, self._opened(text))

    def _opened(self, text: str) -> _Token | None:
        """The string that was open where reading stopped."""
        if self._open is None:
            return None
        begin, inside = self._open
        end = _within(text, inside, len(text))
        if text[end : end + 1] == '"':
            return _Token(begin, begin + 1, end, end + 1, bare=False)
        return _Token(begin, begin + 1, len(text), len(text), bare=False)


class Json:
    """A message that is JSON, or a part of one: its letter i is letter i + `shift` of `text`. At `known` no string is
    open, or `opened` behind it is, and nothing before the message is asked for. Places are those in the message."""

    def __init__(self, text: str, shift: int = 0, known: int = 0, opened: _Token | None = None) -> None:
        self._nearly = False
        self._text, self._shift, self._opened = text, shift, opened
        self._from = self._known = known if opened is None else opened.after
        self._last: _Token | None = None
        self._slashed = -1, -1  # where they were counted, and where they began

    @classmethod
    def nearly(cls, text: str, shift: int = 0) -> Json:
        """A text that is no JSON, but meant as such: it has strings, and nothing else of it is known."""
        made = cls(text, shift)
        made._nearly = True
        return made

    def parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What a mask of [start, end) takes of each string and number that it touches; nothing where it is to take all
        that it was asked for."""
        if self._nearly:
            return
        start, end = start + self._shift, end + self._shift
        for token in self._touched(start, end):
            low, high = token.start, token.end
            if not token.bare:
                low, high = self._aligned(token, max(start, low), min(end, high))
            yield low - self._shift, high - self._shift

    def value(self, start: int, end: int) -> str:
        """What [start, end) says, its escapes undone."""
        raw = self._text[max(start + self._shift, 0) : end + self._shift]
        return _unescaped(raw) if "\\" in raw and self._around(start, end) is not None else raw

    def written(self, start: int, end: int, value: str) -> str:
        """`value` as it is to stand in place of [start, end)."""
        token = self._around(start, end)
        if token is None:
            return value
        quoted = json.dumps(value, ensure_ascii=False)
        return quoted if token.bare else quoted[1:-1]

    def _touched(self, start: int, end: int) -> Iterator[_Token]:
        """The tokens of which [start, end) of the text holds a letter."""
        token = self._first(max(start, 0))
        while token is not None and token.start < end:
            if max(start, token.start) < min(end, token.end):
                yield token
            # The last one that is touched is remembered, not one behind it: the next mask may be in it, too.
            token = self._next(token.after) if token.after < end else None

    def _first(self, place: int) -> _Token | None:
        """The token at `place`, or the next one. Masks come in their order: what is before one is read once."""
        last = self._last
        if last is not None and last.begin <= place < last.after:
            return last
        if self._opened is not None and place < self._opened.after:
            self._last = self._opened
            return self._opened
        self._known = _strings(self._text, self._known if self._known <= place else self._from, place)
        quote = self._text.find('"', self._known, place)
        if quote < 0:
            quote = self._known = _run(self._text, self._known, place, _BARE)
        return self._next(quote)

    def _next(self, place: int) -> _Token | None:
        """The first token that begins at `place` or behind it."""
        found = _TOKEN.search(self._text, place)
        if found is None:
            return None
        begin, after = found.span()
        bare = found[1] is None
        self._last = _Token(begin, begin + (not bare), after - len(found[1] or ""), after, bare)
        return self._last

    def _around(self, start: int, end: int) -> _Token | None:
        """The token that [start, end) lies in; of one that is bare it must be the whole, and the text JSON."""
        start, end = start + self._shift, end + self._shift
        token = next(self._touched(start, end), None)
        if token is None or start < token.start or token.end < end:
            return None
        return None if token.bare and (self._nearly or (start, end) != (token.start, token.end)) else token

    def _aligned(self, token: _Token, low: int, high: int) -> tuple[int, int]:
        """[low, high) of a string without halves of escapes."""
        first, last = self._cut(token, low), self._cut(token, high)
        start = low if first is None else first[1] if self._blank(first) else first[0]
        end = high if last is None else last[0] if self._blank(last) else last[1]
        if start >= end:  # nothing but a part of one
            return first or last or (low, high)
        return start, end

    def _cut(self, token: _Token, place: int) -> tuple[int, int] | None:
        """The escape of a string that `place` would cut in two."""
        text, begin = self._text, max(token.start, place - _LONGEST + 1)
        run = self._slashes(token, begin)  # of two backslashes the second begins nothing
        while begin < place:
            if text[begin] != "\\":
                begin = run = begin + 1
                continue
            found = _ESCAPE.match(text, begin, token.end) if (begin - run) % 2 == 0 else None
            if found is not None and found.end() > place:
                return found.span()
            begin += 1
        return None

    def _slashes(self, token: _Token, place: int) -> int:
        """Where the backslashes that end before `place` begin."""
        before, known = self._slashed
        least = before if token.start <= before <= place else token.start
        run = _run(self._text, least, place, "\\")
        run = known if run == before == least else run
        self._slashed = place, run
        return run

    def _blank(self, escape: tuple[int, int]) -> bool:
        return self._text[escape[0] + 1 : escape[0] + 2] in _BLANK


class Texts:
    """Messages, each as JSON where it is: looked at when it is asked for."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self._known: dict[int, Json | None] = {}

    def json(self, index: int) -> Json | None:
        """A message as JSON; None where it is none."""
        if index not in self._known:
            self._known[index] = self._read(index)
        return self._known[index]

    def value(self, mask: Mask) -> str:
        """What a mask covers, as whoever reads the text understands it."""
        found = self.json(mask.message)
        text = self.messages[mask.message].text[mask.start : mask.end]
        return text if found is None else found.value(mask.start, mask.end)

    def _read(self, index: int) -> Json | None:
        return as_json(self.messages[index])


def as_json(message: Message, text: str | None = None, shift: int = 0) -> Json | None:
    """A whole text as JSON, or nearly so; None where it is none. `text` where the message is not the text: see Json."""
    text = message.text if text is None else text
    call = message.role is Role.TOOL_CALL
    if _lexes(text) if call else _parses(text):
        return Json(text, shift)
    return Json.nearly(text, shift) if call and _NEARLY.match(text) else None


def placed(texts: Texts, masks: Sequence[Mask]) -> tuple[Mask, ...]:
    """`masks` (sorted, not overlapping) in their places: where a text is JSON, parts of its strings and whole numbers.
    Those that are `spelled` already stay."""
    made: list[Mask] = []
    for mask in masks:
        found = None if mask.spelled else texts.json(mask.message)
        parts = list(found.parts(mask.start, mask.end)) if found is not None else []
        made.extend([replace(mask, start=start, end=end) for start, end in parts] or [mask])
    return tuple(masks) if made == list(masks) else merge_masks([(mask, 0) for mask in made])


def spelled(texts: Texts, masks: Sequence[Mask]) -> tuple[Mask, ...]:
    """`masks`, which are `placed`, each with what is to stand there as the text spells it."""
    made: list[Mask] = []
    for mask in masks:
        found = None if mask.spelled else texts.json(mask.message)
        if found is None:
            made.append(mask)
        else:
            written = found.written(mask.start, mask.end, mask.replacement)
            made.append(replace(mask, replacement=written, spelled=True))
    return tuple(made)


def _parses(text: str) -> bool:
    if not _BEGINNING.match(text):
        return False
    try:
        json.loads(text, parse_int=len, parse_float=len)  # of a number it is enough that it is one
    except (ValueError, RecursionError):
        return False
    return True


def _lexes(text: str, at: int = 0) -> bool:
    """Whether nothing behind `at`, where no string is open, says that it is no JSON."""
    found = _LEXES.match(text, at) if _BEGINNING.match(text) else None
    if found is None:
        return False
    return not found[1] or any(word.startswith(found[1]) for word in _WORDS)


def _strings(text: str, at: int, place: int) -> int:
    """The last place up to `place` at which a string has ended, or `at`, where none is open."""
    while (found := _STRINGS.match(text, at, place)) is not None:
        at = found.end()
    return at


def _within(text: str, at: int, place: int) -> int:
    """From `at` in a string: its last quote, or the last place up to `place` that is in no escape."""
    while (found := _WITHIN.match(text, at, place)) is not None:
        at = found.end()
    return at


def _run(text: str, least: int, place: int, letters: str) -> int:
    """Where the run of `letters` that ends before `place` begins, at `least` at the earliest."""
    size = 64
    while True:
        start = max(least, place - size)
        rest = len(text[start:place].rstrip(letters))
        if rest or start == least:
            return start + rest
        size *= 4


def _unescaped(value: str) -> str:
    """A part of a string of JSON, escapes undone; as it is where it is no such part."""
    try:
        return str(json.loads(f'"{value}"', strict=False))
    except ValueError:
        return value
