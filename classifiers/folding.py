"""Text without what nobody sees: format characters, fillers and stacked marks taken off, the rest in NFKC.

Honest text is folded letter by letter, where no letter acts on another. What composes or is sorted by Unicode's rules
takes the slow way, whose tables are made when they are first needed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from .edits import Edit, applied
from .matcher import Expression, Matcher, compile_expression, find_all, replace_surrogates

GROWTH, GROWTH_BASE = 6, 4096
"""What any character but two may grow to in NFKC; those two Arabic phrases become 18 and 8 letters."""

_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f"
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f"
_LONG = ("\ufdfa", "\ufdfb")
_STACKED = re.compile(f"[{_MARKS}]")
_UNSEEN = re.compile(f"[{_FILLERS}{_CONTROLS}\U000e0000-\U000e0fff]")


class Folded(NamedTuple):
    """`plain` of a text. Not `complete`: a flood of long ligatures was left as it is. `hidden`: letters may be hidden
    in Unicode tags or variation selectors of the text."""

    text: str
    complete: bool = True
    hidden: bool = False


def plain(text: str) -> str:
    """`text` without format characters, stacked marks and fillers, in NFKC. Idempotent."""
    text = replace_surrogates(text)
    for _ in range(4):
        text, before = _fold(text), text
        if text == before:
            break
    return text


def fold(text: str) -> Folded:
    """`plain(text)` for a text without lone surrogates, within GROWTH times its length plus GROWTH_BASE."""
    folded = _by_letter(text)
    if folded is not None:
        return Folded(folded)
    dirt = _classes().dirt.candidates(text.encode())
    if not dirt and unicodedata.is_normalized("NFKC", text):
        return Folded(text)
    if len(text) + 17 * text.count(_LONG[0]) + 7 * text.count(_LONG[1]) <= GROWTH * len(text) + GROWTH_BASE:
        return Folded(plain(text), True, _HIDDEN in dirt)
    pieces = re.split("([\ufdfa\ufdfb])", text)
    folded = "".join(piece if not piece or piece in _LONG else plain(piece) for piece in pieces)
    return Folded(folded, False, _HIDDEN in dirt)


def fold_edits(text: str) -> list[Edit]:
    """How `fold` came about, in segments that never interact: nothing composes across the left side of ASCII."""
    edits: list[Edit] = []
    for match in re.finditer(r"[\x00-\x7f]?[^\x00-\x7f]+|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        edits.extend(_segment_edits(match[0], match.start()))
    return edits


def _segment_edits(segment: str, start: int) -> list[Edit]:
    """Letter by letter where that gives the same, else one edit for the whole segment."""
    single = [plain(letter) for letter in segment]
    whole = plain(segment)
    if "".join(single) == whole:
        return [(at, at + 1, new) for at, new in enumerate(single, start) if new != segment[at - start]]
    return [(start, start + len(segment), whole)]


# -- letter by letter -------------------------------------------------------------------------------------------------

_PLAIN: dict[str, str | None] = {}
_PLAIN_MOST = 8192
_NO_CONTROLS = bytes(point for point in range(0x80) if not _UNSEEN.match(chr(point)))
# All but letters that are plain and act on no other: those that whole texts are written in.
_UNSETTLED = re.compile(
    "[^\u00c0-\u00ff\u03b1-\u03c9\u0401\u0410-\u044f\u0451\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u0904-\u0939"
    "\u0e01-\u0e30\u2013\u2014\u2018-\u201d\u2022\u3001\u3002\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uac00-\ud7a3]"
)
_SELECTORS = re.compile("[\ufe00-\ufe0f]{4}")
_JAMO = re.compile("[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]")


def _by_letter(text: str) -> str | None:
    """`plain(text)` where no letter acts on another: honest text, nearly always. None where one could."""
    others = text.encode().translate(None, _NO_CONTROLS).decode()
    for letter in set(_UNSETTLED.findall(others)):
        new = _PLAIN[letter] if letter in _PLAIN else _learn(letter)
        if new is None or ("\ufe00" <= letter <= "\ufe0f" and _SELECTORS.search(others)):
            return None
        if new != letter:
            text = text.replace(letter, new)
    return text


def _learn(letter: str) -> str | None:
    """`plain(letter)`; None for a letter that composes with what stands before it, or hides others."""
    if len(_PLAIN) >= _PLAIN_MOST:
        _PLAIN.clear()
    new: str | None = ""
    if letter >= "\U000e0000":
        new = None
    elif not _is_unseen(letter):
        first = unicodedata.normalize("NFKC", letter)[0]
        acts = unicodedata.category(first)[0] == "M" or unicodedata.combining(first) or _JAMO.match(first)
        new = None if acts or letter in _LONG else plain(letter)
    _PLAIN[letter] = new
    return new


# -- the slow way -----------------------------------------------------------------------------------------------------


def _fold(text: str) -> str:
    bare = _strip(text)
    # CPython sorts a run of marks in quadratic time: no writing system stacks more than thirty (UAX 15, stream-safe).
    if len(bare) > 30 and (runs := find_all(_classes().mark_run, bare)):
        bare = applied(bare, [(start + 30, end, "") for start, end in runs])
    return _STACKED.sub("", _strip(unicodedata.normalize("NFKC", bare)))


def _strip(text: str) -> str:
    if len(text) <= 30:
        return "".join([letter for letter in text if not _is_unseen(letter)])
    classes = _classes()
    if classes.unseen.search(text.encode()) is None:  # several times quicker than to look by the classes
        return text
    return classes.far.sub("", classes.near.sub("", text))


def _is_unseen(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf" or _UNSEEN.match(letter) is not None


_HIDDEN = 0
_HIDING = r"[\x{e0020}-\x{e007e}]|[\x{fe00}-\x{fe0f}\x{e0100}-\x{e01ef}]{4}"


class _Classes(NamedTuple):
    """What whole texts are searched for. `near` and `far`: two classes, since Python looks up one of the basic plane in
    one step and any other range by range."""

    near: re.Pattern[str]
    far: re.Pattern[str]
    unseen: Any
    mark_run: Any
    dirt: Matcher


@cache
def _classes() -> _Classes:
    formats = [letter for letter in _letters() if unicodedata.category(letter) == "Cf"]
    # What NFKC sorts behind a base letter.
    marks = _class_of(letter for letter in _letters() if _is_sorted(letter))
    near = _class_of(letter for letter in formats if letter < "\U00010000")
    far = _class_of(letter for letter in formats if letter >= "\U00010000")
    unseen = rf"[{near}{far}{_FILLERS}{_CONTROLS}\x{{e0000}}-\x{{e0fff}}]"
    dirt = (_HIDING, unseen, f"[{_MARKS}]", f"[{marks}]{{2}}")
    return _Classes(
        re.compile(f"[{near}{_FILLERS}{_CONTROLS}]"),
        re.compile(f"[{far}\U000e0000-\U000e0fff]"),
        compile_expression(unseen),
        compile_expression(f"[{marks}]{{31,}}"),
        Matcher([Expression(source) for source in dirt], heavy_program=1 << 16),
    )


def _letters() -> Iterator[str]:
    return map(chr, chain(range(0x80, 0xD800), range(0xE000, 0x1F000)))


def _is_sorted(letter: str) -> bool:
    if unicodedata.combining(letter):
        return True
    return bool(unicodedata.decomposition(letter) and unicodedata.combining(unicodedata.normalize("NFKD", letter)[0]))


def _class_of(letters: Iterable[str]) -> str:
    spans: list[list[str]] = []
    for letter in letters:
        if spans and ord(spans[-1][1]) == ord(letter) - 1:
            spans[-1][1] = letter
        else:
            spans.append([letter, letter])
    return "".join(f"{first}-{last}" for first, last in spans)
