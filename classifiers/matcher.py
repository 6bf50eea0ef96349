"""Many expressions, one pass: RE2 behind a small wall, so that time stays linear whatever the text.

Two traps of RE2 sets are closed here. A set whose automaton runs out of memory answers "no match" without a
word: every set therefore carries a sentinel that matches any text, and an answer without it raises Exhausted.
And a set of patterns with wide counted gaps (`bomb.{0,60}recipe`) explodes into states: of such a pattern the set holds
the beginning alone, where that says enough (`key-[a-z]{40}`); else the pattern goes through a filter on the literals
that it needs. It runs by itself where its beginning or its literals occur.
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

SMALL_SET_MEMORY = 16 << 20
"""The same for few expressions: where hostile texts make an automaton grow, it begins anew at this size."""

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


@functools.lru_cache(maxsize=1024)
def compile_expression(source: str, ignore_case: bool = False) -> Any:
    """A compiled RE2 expression, kept for the next time. Raises ExpressionError with RE2's reason and a mend."""
    return compile_once(source, ignore_case)


def compile_once(source: str, ignore_case: bool = False) -> Any:
    """A compiled RE2 expression that is only to be asked about: thousands that are kept would need most of the memory.
    Raises ExpressionError."""
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
        mend = next(
            (mend for start, mend in _MENDS if problem.startswith(start)),
            "put \\ before a sign that is meant as itself",
        )
        raise ExpressionError(problem, mend) from None


LETTER = r"\\(?:[pP](?:\{[^}]*\}|.)|x(?:\{[^}]*\}|..)|[0-7]{1,3}|.)|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|."
"""What stands for one letter in RE2's expressions, or is any other single sign of theirs; over newlines, too."""
_TOKEN = re.compile(rf"\{{(?P<low>\d+)(?:,(?P<high>\d*))?\}}|{LETTER}", re.DOTALL)
_SHORT_RUN = 8
_LITERAL = re.compile(r"[\w ]{3}")


def beginning(source: str) -> str | None:
    """A small expression that matches wherever `source` does: cut at its first long counted repeat. None where there is
    no such repeat outside of groups, or where the literals behind it would say more than the beginning does."""
    if r"\Q" in source:
        return None
    atom = depth = 0
    short: str | None = None
    rest: list[str] = []
    for token in _TOKEN.finditer(source):
        sign = token[0]
        if depth:
            depth += (sign == "(") - (sign == ")")
        elif sign == "|":
            return None
        elif short is None and token["low"] is not None:
            low, high = int(token["low"]), int(token["high"] or 0)
            if max(low, high) > _SHORT_RUN:
                short = f"{source[: token.start()]}{{{min(low, _SHORT_RUN)}}}" if low else source[:atom]
        elif sign not in {"*", "+", "?"}:
            atom = token.start()
            depth += sign == "("
        if short is not None:
            rest.append(sign if len(sign) == 1 else "|")
    return None if not short or _LITERAL.search("".join(rest)) else short


def is_anchored(source: str) -> bool:
    """Whether it may ask for the beginning or the end of a text or line: then it depends on what stands around."""
    return any(token[0] in {"^", "$", r"\A", r"\z", r"\Q"} for token in _TOKEN.finditer(source))


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
        self._sets: list[tuple[Any, tuple[int, ...], list[int]]] = []
        self._filters: list[tuple[Any, tuple[int, ...], list[int]]] = []
        programs = [compile_once(item.source, item.ignore_case).programsize for item in self._expressions]
        heavy = [index for index, program in enumerate(programs) if program > heavy_program]
        inside = {index: item for index, item in enumerate(self._expressions) if programs[index] <= heavy_program}
        if heavy_program:
            inside |= {index: short for index in heavy if (short := _tame(self._expressions[index], heavy_program))}
            heavy = [index for index in heavy if index not in inside]
        if heavy:
            # What needs no literal would be run one by one on every text: better in a set, unless it is too large.
            free = {heavy[at] for at in self._build_filter(heavy).Match(_FILTER_SENTINEL, potential=True)[:-1]}
            large = [i for i in free if programs[i] > HEAVY_PROGRAM]
            inside |= {i: short for i in large if (short := _tame(self._expressions[i], HEAVY_PROGRAM))}
            stay = [i for i in heavy if i not in inside and (i not in free or programs[i] > HEAVY_PROGRAM)]
            if stay:
                self._filters.append((self._build_filter(stay), tuple(stay), [len(stay)]))
            inside |= {i: self._expressions[i] for i in free if i not in inside and i not in stay}
        self._doubtful = frozenset(
            index for index, expression in enumerate(self._expressions) if inside.get(index) is not expression
        )
        # What an automaton needs to be quick grows with its expressions: thousands of states, for each a few kB.
        memory = max(SMALL_SET_MEMORY, 2048 * sum(programs[index] for index in inside))
        self._build_sets(sorted(inside.items()), min(set_memory, memory))

    def candidates(self, data: bytes) -> list[int]:
        """Indices of all expressions that match `data`, and perhaps a few that do not. Raises Exhausted."""
        found: list[int] = []
        for regex_set, members, clear in self._sets:
            hits = regex_set.Match(data)
            if hits != clear:
                found += _known(hits, members, clear[0])
        for regex_filter, members, clear in self._filters:
            hits = regex_filter.Match(data + _FILTER_SENTINEL, potential=True)
            if hits != clear:
                found += _known(hits, members, clear[0])
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

    def _build_sets(self, items: Sequence[tuple[int, Expression]], memory: int) -> None:
        if not items:
            return
        regex_set = re2.Set.SearchSet(_options(False, memory))
        for _, expression in items:
            # The options hold for all of a set, so letter case is said in the source: one set is one pass.
            regex_set.Add((b"(?i)" if expression.ignore_case else b"") + expression.source.encode())
        sentinel = regex_set.Add(_SENTINEL)
        try:
            regex_set.Compile()
        except re2.error:
            if len(items) == 1:
                raise ExpressionError("pattern too large", "split it into several patterns") from None
            half = len(items) // 2
            self._build_sets(items[:half], memory)
            self._build_sets(items[half:], memory)
            return
        self._sets.append((regex_set, tuple([index for index, _ in items]), [sentinel]))

    def _build_filter(self, indices: list[int]) -> Any:
        """A filter over the literals that the expressions need; the sentinel comes last."""
        regex_filter = re2.Filter()
        for index in indices:
            expression = self._expressions[index]
            regex_filter.Add(expression.source.encode(), _options(expression.ignore_case))
        regex_filter.Add(_FILTER_SENTINEL, _options(False))
        regex_filter.Compile()
        return regex_filter


def _known(hits: Sequence[int] | None, members: Sequence[int], sentinel: int) -> list[int]:
    """What an answer of a set or filter names, but for its sentinel. Raises Exhausted where that is missing."""
    if hits is None or sentinel not in hits:
        raise Exhausted("the automaton of the patterns ran out of memory")
    return [members[hit] for hit in hits if hit != sentinel]


def _tame(expression: Expression, largest: int) -> Expression | None:
    """The beginning of a large expression, where that is small enough and not found in every text."""
    short = beginning(expression.source)
    if short is None:
        return None
    try:
        compiled = compile_once(short, expression.ignore_case)
    except ExpressionError:
        return None
    fits = compiled.programsize <= largest and compiled.search(b"") is None
    return Expression(short, expression.ignore_case) if fits else None


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
