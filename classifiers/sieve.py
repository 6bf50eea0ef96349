"""Whether there is anything to find in texts at all: told of all of them in one pass, for a tenth of what it costs to
look through each.

A match without anchors depends on nothing beyond its own letters, and a newline is as good a word boundary as the end
of a text: what matches in one text matches in the joined one. And what a text in plain ASCII reads as in joined texts,
it reads as alone.

**Where words have signs, the text is searched without any, for expressions in which they are optional (`loose.py`);
what is found so, if anything, is looked for again as it is written.** Why: to build the readings of identifiers and
marks costs five times as much as the search, and nearly no honest text holds what is asked for even so. Cost: a second
automaton; and a list of short words, which stand in longer ones (`ass` in `class`), gains nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from . import markup
from .loose import loosened
from .matcher import Expression, ExpressionError, Matcher, encode
from .views import APART, SIGNED, gates_of, rotated, views

_APART = APART.encode()
_SHORT = 200
_KEY = os.urandom(16).hex()
MOST_KNOWN = 4096

_Asked = tuple[str, Sequence[int]]
"""Texts that are looked at together, and the gates that they have."""


class Sieve:
    """Thread-safe. `matcher` is that of `expressions`, of which none is anchored. With `readings` those of views.py
    count, too."""

    def __init__(self, expressions: Sequence[Expression], matcher: Matcher, readings: bool) -> None:
        self._matcher, self._readings = matcher, readings
        self._loose = _loosened(expressions) if readings else None
        # Short texts return with every request (models, names, keys). What is kept of them is a keyed hash: no text
        # that could be a secret. Such a text is still judged itself each time; its other readings are not.
        self.known: set[int] = set()

    def is_clear(self, texts: Sequence[str], joints: Sequence[str] = ()) -> bool:
        """Whether no text or joint and no reading of one can match. Raises Exhausted."""
        short, long = _grouped(texts, joints)
        data = encode(APART.join([*short, *long]))
        if not self._readings:
            return not self._matcher.hits(data)
        if self._matcher.hits(b"%b%b%b" % (data, _APART, rotated(data))):
            return False
        asked = [(text, gates) for text in long if (gates := gates_of(encode(text))) or not text.isascii()]
        fresh: dict[int, str] = {}
        if short and (gates := gates_of(APART.join(short).encode())):
            marks = {hash(_KEY + text): text for text in short}
            fresh = {mark: text for mark, text in marks.items() if mark not in self.known}
            if fresh:
                asked.append((APART.join(fresh.values()), gates))
        if asked and self._may_read(asked):
            return False
        if fresh:
            self._remember(fresh)
        return True

    def _may_read(self, asked: Sequence[_Asked]) -> bool:
        """Whether something may be found in readings of texts that are known to hold nothing as they are."""
        if self._loose and any(not SIGNED.isdisjoint(gates) for _, gates in asked):
            return _reads(self._loose, asked, bare=True) and _reads(self._matcher, asked)
        return _reads(self._matcher, asked)

    def _remember(self, marks: Iterable[int]) -> None:
        """Nothing is to be read between the lines of these short texts."""
        if len(self.known) >= MOST_KNOWN:
            self.known.clear()
        self.known.update(marks)


def _reads(matcher: Matcher, asked: Sequence[_Asked], bare: bool = False) -> bool:
    """Whether `matcher` finds something in readings of texts, or one of them is missing. `bare`: in texts without signs
    in place of readings that differ by them."""
    parts: list[bytes] = []
    for text, gates in asked:
        if bare and text.isascii() and SIGNED.issuperset(gates):
            parts += markup.bare(text.encode())  # it has no other reading
            continue
        readings = views(text, gates, turned=False, bare=bare)
        if readings.truncated:
            return True
        parts += readings.bare
        parts += [view.text.encode() for view in readings if view.name != "rot13"]
    return bool(parts) and bool(matcher.hits(_APART.join(parts)))


def _loosened(expressions: Sequence[Expression]) -> Matcher | None:
    """What finds in a text without its signs whatever `expressions` find in it or in readings that differ from it by
    signs; None where that would be everything."""
    loose = [loosened(expression.source, markup.SIGNS) for expression in expressions]
    found = [Expression(each, e.ignore_case) for each, e in zip(loose, expressions, strict=True) if each is not None]
    try:
        return Matcher(found) if len(found) == len(loose) else None
    except ExpressionError:
        return None


def _grouped(texts: Sequence[str], joints: Sequence[str]) -> tuple[list[str], list[str]]:
    """The short texts in ASCII, which are mostly ids and names, and what else is to be looked at together: all long
    texts in ASCII as one, and joints, which do not return. Any other text stands alone: what it reads as depends on
    the share of its letters."""
    short: list[str] = []
    long: list[str] = []
    groups: list[str] = []
    for text in texts:
        (groups if not text.isascii() else short if len(text) <= _SHORT else long).append(text)
    for text in joints:
        (long if text.isascii() else groups).append(text)
    if long:
        groups.append(APART.join(long))
    return short, groups
