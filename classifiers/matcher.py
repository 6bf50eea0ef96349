"""Many expressions, one pass: RE2 behind a small wall, so that time stays linear whatever the text.

Two traps of RE2 sets are closed here. A set whose automaton runs out of memory answers "no match" without a
word: every set therefore carries a sentinel that matches any text, and an answer without it raises Exhausted.
And a set of patterns with wide counted gaps (`bomb.{0,60}recipe`) explodes into states: such patterns go
through a filter on the literals that they need, and run one by one where those literals occur.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import re2

SET_MEMORY = 64 << 20
"""Bytes that the automaton of one set may grow to. It is a limit, not a reservation."""

HEAVY_PROGRAM = 256
"""Instructions from which on a pattern is kept out of the common automaton."""

_SENTINEL = rb"\z"
_FILTER_SENTINEL = b"\x00\x01penstock-sentinel\x02"
_SURROGATES = re.compile("[\ud800-\udfff]")

_MENDS = (
    ("invalid perl operator: (?=", "RE2 has no look-ahead: match the longer text, or use two rules"),
    ("invalid perl operator: (?!", "RE2 has no look-ahead: write what may follow as a character class"),
    ("invalid perl operator: (?<", "RE2 has no look-behind: match the longer text"),
    ("invalid perl operator: (?>", "RE2 never backtracks: write a plain group (?:...)"),
    ("bad repetition operator", "RE2 never backtracks, so it has no possessive ++, *+, ?+: drop the second sign"),
    ("invalid escape sequence: \\Z", "the end of the text is \\z in RE2"),
    ("invalid escape sequence: \\u", "write \\x{20AC} in RE2, or the character itself"),
    ("invalid repetition size", "RE2 repeats at most 1000 times, nested repeats multiplied: use * or +"),
    ("pattern too large", "split it into several patterns"),
)


class ExpressionError(ValueError):
    """An expression that RE2 cannot run. `problem` is RE2's reason, `mend` says what to write."""

    def __init__(self, problem: str, mend: str = "") -> None:
        super().__init__(problem)
        self.problem, self.mend = problem, mend


class Exhausted(RuntimeError):
    """The automaton ran out of memory: nothing is known about the text."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One RE2 expression. `group` is the capturing group whose span is reported; 0 is the whole match."""

    source: str
    ignore_case: bool = False
    group: int = 0


def encode(text: str) -> bytes:
    """UTF-8. A lone surrogate reads as U+FFFD, one code point for one, so that offsets hold."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return replace_surrogates(text).encode()


def replace_surrogates(text: str) -> str:
    """`text` with every lone surrogate replaced by U+FFFD; the same length."""
    return _SURROGATES.sub("\ufffd", text)


def code_points(data: bytes, offsets: Iterable[int]) -> dict[int, int]:
    """Byte offsets in UTF-8 `data` to code point offsets, in one walk."""
    if data.isascii():
        return {offset: offset for offset in offsets}
    found: dict[int, int] = {}
    at, points = 0, 0
    for offset in sorted(set(offsets)):
        points += len(data[at:offset].decode())
        found[offset] = points
        at = offset
    return found


@functools.lru_cache(maxsize=4096)
def compile_expression(source: str, ignore_case: bool = False) -> Any:
    """A compiled RE2 expression. Raises ExpressionError with RE2's reason and a mend."""
    options = _options(ignore_case)
    try:
        return re2.compile(source.encode(), options)
    except UnicodeEncodeError:
        raise ExpressionError("a lone surrogate is no character", "write \\x{FFFD}") from None
    except re2.error as error:
        reason = error.args[0]
        problem = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        if problem.startswith("invalid escape sequence: \\") and problem[-1:].isdigit():
            raise ExpressionError(problem, "RE2 has no back-references: write the text twice") from None
        mend = next((mend for start, mend in _MENDS if problem.startswith(start)), "see the syntax page of RE2")
        raise ExpressionError(problem, mend) from None


class Matcher:
    """Which of many expressions may match a text, and where each of them does. Thread-safe.

    Raises ExpressionError where an expression is wrong or too large. Own expressions may raise `heavy_program`, where
    they are known to be tame, so that `candidates` is exact; or put it to 0, where each needs some rare literal, so
    that the filter does most of the work.

    INVARIANT: an expression that matches is always among `candidates`, or Exhausted is raised.
    """

    def __init__(
        self, expressions: Sequence[Expression], set_memory: int = SET_MEMORY, heavy_program: int = HEAVY_PROGRAM
    ) -> None:
        self._expressions = tuple(expressions)
        self._sets: list[tuple[Any, tuple[int, ...], int]] = []
        self._filters: list[tuple[Any, tuple[int, ...], int]] = []
        programs = [compile_expression(item.source, item.ignore_case).programsize for item in self._expressions]
        heavy = [index for index, program in enumerate(programs) if program > heavy_program]
        if heavy:
            # What needs no literal would be run one by one on every text: better in a set, unless it is too large.
            free = set(self._build_filter(heavy).Match(_FILTER_SENTINEL, potential=True)[:-1])
            stay = [i for at, i in enumerate(heavy) if at not in free or programs[i] > HEAVY_PROGRAM]
            if stay:
                self._filters.append((self._build_filter(stay), tuple(stay), len(stay)))
            heavy = stay
        self._doubtful = frozenset(heavy)
        self._build_sets([i for i in range(len(self._expressions)) if i not in self._doubtful], set_memory)

    def candidates(self, data: bytes) -> list[int]:
        """Indices of all expressions that match `data`, and perhaps a few that do not. Raises Exhausted."""
        found: list[int] = []
        for regex_set, members, sentinel in self._sets:
            hits = regex_set.Match(data)
            if hits is None or sentinel not in hits:
                raise Exhausted("the automaton of the patterns ran out of memory")
            if len(hits) > 1:
                found.extend(members[hit] for hit in hits if hit != sentinel)
        for regex_filter, members, sentinel in self._filters:
            hits = regex_filter.Match(data + _FILTER_SENTINEL, potential=True)
            if hits is None or sentinel not in hits:
                raise Exhausted("the filter of the patterns ran out of memory")
            if len(hits) > 1:
                found.extend(members[hit] for hit in hits if hit != sentinel)
        return found

    def hits(self, data: bytes) -> list[int]:
        """Indices of exactly the expressions that match `data`. Raises Exhausted."""
        found = self.candidates(data)
        if found and self._doubtful:  # the filter knows literals only, and lets pass what has none
            found = [i for i in found if i not in self._doubtful or self.search(i, data) is not None]
        return found

    def matches(self, index: int, data: bytes) -> Iterator[Any]:
        """The match objects of one expression, in order, not overlapping; spans are byte offsets."""
        expression = self._expressions[index]
        matches: Iterator[Any] = compile_expression(expression.source, expression.ignore_case).finditer(data)
        return matches

    def search(self, index: int, data: bytes, start: int = 0) -> tuple[int, int] | None:
        """Byte span of the first match of one expression from `start` on, or None."""
        expression = self._expressions[index]
        match = compile_expression(expression.source, expression.ignore_case).search(data, start)
        return None if match is None else match.span(expression.group)

    def _build_sets(self, indices: list[int], memory: int) -> None:
        if not indices:
            return
        regex_set = re2.Set.SearchSet(_options(False, memory))
        for index in indices:
            # The options hold for all of a set, so letter case is said in the source: one set is one pass.
            expression = self._expressions[index]
            regex_set.Add((b"(?i)" if expression.ignore_case else b"") + expression.source.encode())
        sentinel = regex_set.Add(_SENTINEL)
        try:
            regex_set.Compile()
        except re2.error:
            if len(indices) == 1:
                raise ExpressionError("pattern too large", "split it into several patterns") from None
            half = len(indices) // 2
            self._build_sets(indices[:half], memory)
            self._build_sets(indices[half:], memory)
            return
        self._sets.append((regex_set, tuple(indices), sentinel))

    def _build_filter(self, indices: list[int]) -> Any:
        """A filter over the literals that the expressions need; the sentinel comes last."""
        regex_filter = re2.Filter()
        for index in indices:
            expression = self._expressions[index]
            regex_filter.Add(expression.source.encode(), _options(expression.ignore_case))
        regex_filter.Add(_FILTER_SENTINEL, _options(False))
        regex_filter.Compile()
        return regex_filter


def _options(ignore_case: bool, memory: int | None = None) -> Any:
    options = re2.Options()
    options.case_sensitive = not ignore_case
    options.log_errors = False
    if memory is not None:
        options.max_mem = memory
        options.never_capture = True
    return options


def find_all(expression: Any, text: str) -> list[tuple[int, int]]:
    """Spans, in code points, of all matches of a compiled expression in `text`, which has no lone surrogates."""
    data = text.encode()
    spans = [match.span() for match in expression.finditer(data)]
    if not spans or len(data) == len(text):
        return spans
    points = code_points(data, (offset for span in spans for offset in span))
    return [(points[start], points[end]) for start, end in spans]
