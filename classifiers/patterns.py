"""Authors' own patterns and word lists: thousands of them in one linear pass over the text and over its disguises.

    patterns:
      codename: [project-bluebird, {words: [bluebird one, bluebird two], score: 0.8}]
      ticket:   {regex: 'OPS-\\d{4,6}', ignore_case: false}

Letter case is ignored unless `ignore_case: false`. A word matches as a whole word, in any script that parts words, and
its blanks match any blanks, or one sign that joins names (`project-falcon`); `word_boundary: false` finds it inside
longer words too. With `views` (the default) the readings of views.py are judged as well; what is found in one of them
has the span of the raw text that it stands for. So are the joints of a conversation (joints.py); what crosses one is
found in the text where it ends.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import re2

from . import option_forms as form
from .base import Finding, Message
from .catalog import OptionError, UnknownOption
from .joints import Chain, chains
from .matcher import (
    Expression,
    ExpressionError,
    Matcher,
    code_points,
    compile_expression,
    compile_once,
    encode,
    is_anchored,
)
from .options import Options
from .readings import JOINT, RAW, READINGS
from .sieve import Sieve
from .views import Readings, views

RULES = "patterns-3"
MOST_SPANS = 256
"""Spans reported of one pattern in one text; the last one reaches to the end of the text, so that none is lost."""

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
PATTERN: Mapping[str, Mapping[str, Any]] = {
    "regex": {**_TEXTS, "description": "Expressions of RE2: no look-around, no back-references."},
    "words": {**_TEXTS, "description": "Words or phrases, found as they stand and in disguise."},
    "score": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 1,
        "default": 1,
        "description": "The score of what is found.",
    },
    "ignore_case": {"type": "boolean", "default": True, "description": "Whether capital letters do not count."},
    "word_boundary": {"type": "boolean", "description": "Whether only whole words count; true for words."},
}
"""The keys of one pattern."""
_MAPPED = {
    "type": "object",
    "properties": PATTERN,
    "additionalProperties": False,
    "oneOf": [{"required": ["regex"]}, {"required": ["words"]}],
}
_ONE = {"if": {"type": "object"}, "then": _MAPPED, "else": {"type": "string", "minLength": 1}}
_MANY = {"if": {"type": "array"}, "then": {"items": _ONE, "minItems": 1}, "else": _ONE}
OPTIONS: form.Declared = {
    "patterns": form.mapping(
        "Labels of your own: each with an expression, with {words: ...}, or with a list of these.", _MANY, needed=True
    ),
    "views": form.flag("Whether what is left of a text when disguises are undone is read, too.", True),
}
_JOINS = "-_./+:|\\=#~&@"
_BLANKS = rf"(?:[\s\x{{0B}}\x{{1C}}-\x{{1F}}\x{{85}}\pZ]+|[{re.escape(_JOINS)}])"
# Scripts that do not part words by blanks, or hang endings on them: there is no boundary to ask for.
_WORD_START = (
    r"(?:^|[^\pL\pM\pN]|[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}])"
)
_EDGE = r"(?:\b|_)"
_UNPARTED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO", "YI ")


class ViewsTruncated(RuntimeError):
    """The readings of a text were longer than the bound: part of what it may hide was not judged."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One expression of an author. `whole` asks for a word boundary on both sides of a match. `word` is for literal
    words: an expression that finds only those that begin a word, in group 1, so that a flood of letters is cheap."""

    label: str
    expression: Expression
    score: float
    whole: bool = False
    word: str = ""


class _Hit(NamedTuple):
    """Pattern number `pattern` at [start, end) of a text, seen in the reading `view`."""

    pattern: int
    start: int
    end: int
    view: str


class Patterns:
    """The classifier `patterns`. Thread-safe. Raises Exhausted or ViewsTruncated rather than miss anything."""

    inline = True

    def __init__(self, name: str, patterns: Sequence[Pattern], use_views: bool = True) -> None:
        self.name = name
        self.labels = frozenset(pattern.label for pattern in patterns)
        self._patterns = tuple(patterns)
        self._use_views = use_views
        self.readings = frozenset(READINGS if use_views else {JOINT})
        expressions = [pattern.expression for pattern in patterns]
        self._matcher = Matcher(expressions)
        self._sieve = Sieve(expressions, self._matcher, use_views)
        self._anchored = {i for i, pattern in enumerate(patterns) if is_anchored(pattern.expression.source)}
        facts = [[p.label, p.expression.source, p.expression.ignore_case, p.score, p.whole] for p in patterns]
        self.digest = hashlib.sha256(json.dumps([RULES, use_views, facts]).encode()).hexdigest()

    @staticmethod
    def options() -> form.Declared:
        """What an author may write."""
        return OPTIONS

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Self:
        """See `options`. Raises OptionError."""
        Options(options, cls.options())
        use_views = options.get("views", True)
        if not isinstance(use_views, bool):
            raise OptionError("views", f"{use_views!r} is neither true nor false")
        table = options.get("patterns")
        if not isinstance(table, Mapping) or not table:
            what = "is missing" if table is None else "is empty" if table == {} else "must be a mapping"
            raise OptionError("patterns", what, "a label and what it finds, e.g. {codename: {words: [bluebird]}}")
        patterns = [pattern for label, value in table.items() for pattern in _read(label, value)]
        try:
            return cls(name, patterns, use_views)
        except ExpressionError as error:
            raise OptionError("patterns", error.problem, error.mend) from None

    def classify(self, messages: Sequence[Message]) -> list[Finding]:
        """Findings in message order; spans in code points of the raw text."""
        joints = chains(messages) if len(messages) > 1 else []
        texts, ends = [message.text for message in messages], [chain.text for chain in joints]
        if not self._anchored and self._sieve.is_clear(texts, ends):
            return []
        findings: list[Finding] = []
        seen: dict[str, list[_Hit]] = {}  # a text may come again and again
        for index, message in enumerate(messages):
            if message.text not in seen:
                seen[message.text] = self._seen(message.text)
            for hit, start, end, view in seen[message.text]:
                pattern = self._patterns[hit]
                findings.append(Finding(self.name, pattern.label, pattern.score, index, (start, end), view))
        if joints:
            findings += self._crossing(joints, findings)
            findings.sort(key=lambda finding: finding.message)
        return findings

    def _seen(self, text: str) -> list[_Hit]:
        """All that a text holds, on its face or disguised."""
        data = encode(text)
        hits = sorted(self._matcher.hits(data))
        seen = [_Hit(hit, start, end, RAW) for hit in hits for start, end in self._spans(hit, data)]
        return seen + self._disguised(text, _whole(text), seen) if self._use_views else seen

    def _crossing(self, joints: Sequence[Chain], known: Sequence[Finding]) -> list[Finding]:
        """What no text holds alone, in the text where it ends. An anchor means the end of a text, which a joint is
        not."""
        places: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for finding in known:
            if finding.span is not None:
                places.setdefault((finding.message, finding.label), []).append(finding.span)
        found: list[Finding] = []
        for chain in joints:
            for hit, start, end, view in self._seen(chain.text):
                parts, pattern = chain.parts(start, end), self._patterns[hit]
                if len(parts) < 2 or hit in self._anchored or self._only_meets(chain, start, end, hit, view):
                    continue
                spans = [(span, places.get((index, pattern.label), ())) for index, span in parts]
                if any(a < d and c < b for (a, b), others in spans for c, d in others):
                    continue
                index, span = parts[-1]
                places.setdefault((index, pattern.label), []).append(span)
                via = JOINT if view == RAW else f"{JOINT}.{view}"
                found.append(Finding(self.name, pattern.label, pattern.score, index, span, via))
        return found

    def _only_meets(self, chain: Chain, start: int, end: int, hit: int, view: str) -> bool:
        """Whether [start, end) is one only where the end of a sentence or a small letter meets what begins the next
        text: a sign or a turn of case joins words within a text, not over two."""
        literal = self._patterns[hit].expression.source.replace(_BLANKS, "").replace(_EDGE, "")
        for place in chain.starts:
            if start < place < end:
                before, after = chain.text[place - 1], chain.text[place]
                if _BLANKS in self._patterns[hit].expression.source and any(
                    sign in _JOINS and sign not in literal for sign in (before, after)
                ):
                    return True
                if before.islower() and after.isupper() and "words" in view.split("."):
                    return True
        return False

    def _disguised(self, text: str, readings: Readings, seen: Sequence[_Hit]) -> list[_Hit]:
        """What only the readings show: the same label may not already be known at an overlapping place."""
        found: list[_Hit] = []
        known: dict[str, bytearray] = {}  # by label: 1 at every code point that some finding covers
        for view in readings:
            data = view.text.encode()
            hits = sorted(self._matcher.hits(data))
            if hits and not known:
                for hit, start, end, _ in seen:
                    _cover(known, self._patterns[hit].label, text)[start:end] = b"\1" * (end - start)
            # All at once: to follow them back is a walk through all that was edited.
            there = [(hit, span) for hit in hits for span in self._spans(hit, data)]
            spans = view.trace_all([span for _, span in there])
            for (hit, _), (start, end) in zip(there, spans, strict=True):
                covered = _cover(known, self._patterns[hit].label, text)
                if covered.find(1, start, end) < 0:
                    covered[start:end] = b"\1" * (end - start)
                    found.append(_Hit(hit, start, end, view.name))
        return found

    def _spans(self, hit: int, data: bytes) -> list[tuple[int, int]]:
        """Spans of one pattern, in code points."""
        spans: list[tuple[int, int]] = []
        for span in self._whole_words(hit, data) if self._patterns[hit].whole else self._all(hit, data):
            spans.append(span)
            if len(spans) == MOST_SPANS:
                spans[-1] = (span[0], len(data))
                break
        if len(data) == 0 or data.isascii():
            return spans
        points = code_points(data, (offset for span in spans for offset in span))
        return [(points[start], points[end]) for start, end in spans]

    def _all(self, hit: int, data: bytes) -> Iterator[tuple[int, int]]:
        for match in self._matcher.matches(hit, data):
            yield match.span()

    def _whole_words(self, hit: int, data: bytes) -> Iterator[tuple[int, int]]:
        pattern = self._patterns[hit]
        search = compile_expression(pattern.word or pattern.expression.source, pattern.expression.ignore_case).search
        start = 0
        while (match := search(data, start)) is not None:
            span: tuple[int, int] = match.span(1 if pattern.word else 0)
            whole = _is_boundary(data, span[0]) and _is_boundary(data, span[1])
            if whole:
                yield span
            # A word may begin inside one that did not end; any other expression could then cost quadratic time.
            start = _next_point(data, span[0]) if pattern.word and not whole else max(span[1], start + 1)


def _whole(text: str) -> Readings:
    """The readings of a text. Raises ViewsTruncated where some are missing."""
    readings = views(text)
    if readings.truncated:
        raise ViewsTruncated("the readings of a text were longer than their bound")
    return readings


def _cover(known: dict[str, bytearray], label: str, text: str) -> bytearray:
    if label not in known:
        known[label] = bytearray(len(text))
    return known[label]


def _is_boundary(data: bytes, offset: int) -> bool:
    """Whether a word may begin or end between the code points at both sides of a byte offset."""
    before = data[max(0, offset - 4) : offset].decode(errors="ignore")[-1:]
    after = data[offset : offset + 4].decode(errors="ignore")[:1]
    return not (_is_letter(before) and _is_letter(after))


def _is_letter(letter: str) -> bool:
    """Whether it is part of a word in a script that parts words."""
    if not letter:
        return False
    if letter.isascii():
        return letter.isalnum()
    if unicodedata.category(letter)[0] not in "LMN":
        return False
    return not unicodedata.name(letter, "").startswith(_UNPARTED)


def _next_point(data: bytes, offset: int) -> int:
    offset += 1
    while offset < len(data) and data[offset] & 0xC0 == 0x80:
        offset += 1
    return offset


def _read(label: object, value: object) -> list[Pattern]:
    """The patterns under one label."""
    if not isinstance(label, str) or not label:
        raise OptionError("patterns", f"{label!r} is no label", "quote it if YAML reads it as something else")
    option = f"patterns.{label}"
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise OptionError(option, "no pattern in the list")
    patterns: list[Pattern] = []
    for position, item in enumerate(items):
        place = option if len(items) == 1 else f"{option}[{position}]"
        if isinstance(item, str):
            patterns.extend(_read_one(label, place, {"regex": item}))
        elif isinstance(item, Mapping):
            patterns.extend(_read_one(label, place, item))
        else:
            what = "is empty" if item is None else f"{item!r} is no pattern"
            raise OptionError(place, what, "an expression, or {regex: ...} or {words: [...]}")
    return patterns


def _read_one(label: str, place: str, item: Mapping[str, Any]) -> Iterator[Pattern]:
    unknown = sorted(str(key) for key in item if key not in PATTERN)
    if unknown:
        raise UnknownOption(f"{place}.{unknown[0]}", PATTERN)
    if ("regex" in item) == ("words" in item):
        raise OptionError(place, "needs either regex or words", "write one of the two")
    ignore_case, boundary = _flag(place, item, "ignore_case"), _flag(place, item, "word_boundary")
    score = item.get("score", 1.0)
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 < score <= 1:
        raise OptionError(f"{place}.score", f"{score!r} is no score", "a number above 0 and up to 1")
    kind = "regex" if "regex" in item else "words"
    values = item[kind] if isinstance(item[kind], list | tuple) else [item[kind]]
    if not values:
        raise OptionError(f"{place}.{kind}", "the list is empty")
    for at, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            where = f"{place}.{kind}" + (f".{at}" if isinstance(item[kind], list | tuple) else "")
            raise OptionError(where, "is empty" if value is None else f"{value!r} is no text", "write it in quotes")
        if kind == "words":
            source, word = _word(place, value)
            if not boundary:
                source = source.removeprefix(_EDGE).removesuffix(_EDGE)
            yield Pattern(label, Expression(source, ignore_case), float(score), boundary, word if boundary else "")
        else:
            asked = boundary and "word_boundary" in item
            yield Pattern(label, Expression(_regex(place, value, ignore_case), ignore_case), float(score), asked)


def _flag(place: str, item: Mapping[str, Any], key: str) -> bool:
    value = item.get(key, True)
    if not isinstance(value, bool):
        raise OptionError(f"{place}.{key}", f"{value!r} is neither true nor false")
    return value


def _word(place: str, word: str) -> tuple[str, str]:
    """Two expressions for one word or phrase: one for the set, one with the word in group 1 where a word can begin.
    Runs of blanks in it match runs of any blanks."""
    try:
        source = _BLANKS.join(re2.escape(part) for part in word.split())
    except UnicodeEncodeError:
        raise OptionError(f"{place}.words", "a lone surrogate is no character", "write \\ufffd") from None
    first, last = word.strip()[0], word.strip()[-1]
    left = _EDGE if first.isascii() and _is_letter(first) else ""
    right = _EDGE if last.isascii() and _is_letter(last) else ""
    start = left or (_WORD_START if _is_letter(first) else "")
    return f"{left}{source}{right}", f"{start}({source}){right}"


def _regex(place: str, source: str, ignore_case: bool) -> str:
    option = f"{place}.regex"
    try:
        compiled = compile_once(source, ignore_case)
    except ExpressionError as error:
        raise OptionError(option, f"RE2 cannot run this expression: {error.problem}", error.mend) from None
    if compiled.search(b"") is not None:
        raise OptionError(option, "it matches the empty text, so it would flag everything", "ask for one character")
    at = source.find(r"\b")
    while at >= 0:
        if source[at - 1 : at] > "\x7f" or source[at + 2 : at + 3] > "\x7f":
            raise OptionError(
                option,
                r"\b knows only ASCII letters in RE2, so beside any other letter it never matches",
                "use words: [...], which knows the boundaries of all scripts",
            )
        at = source.find(r"\b", at + 2)
    return source
