"""Text without its marks: HTML's tags, Markdown's links and emphasis, and hyphens, as in `pro**ject` and `pro-ject`.

Who sees it rendered, or reads it as a model does, does not mind them. Linear time; nothing reaches over a blank line.
"""

from __future__ import annotations

import re

from .edits import Edit
from .identifiers import LETTER
from .matcher import code_points

GATE = (
    rf"[*`~]{LETTER}|{LETTER}(?:[*`~]|[|^\\]{{1,2}}{LETTER})|<[/!?]?[A-Za-z\-]|\]\(|"
    # Not where a digit is beside it, as in ids.
    rf"{LETTER}_{LETTER}|(?:^|[^0-9A-Za-z])_{LETTER}|{LETTER}_(?:[^0-9A-Za-z]|$)|"
    # Letters of one case: ids by chance have hyphens, too.
    r"[a-z]{2}-{1,2}[a-z]{2}|[A-Z]{2}-{1,2}[A-Z]{2}|[\x{80}-\x{10ffff}]-{1,2}[\x{80}-\x{10ffff}]"
)
"""An RE2 expression for what can be taken off."""

_BLOCKS = (
    "address|article|blockquote|br|dd|div|dl|dt|footer|h[1-6]|header|hr|li|main|nav|ol|p|pre|section|table|td|th|tr|ul"
)
_BLOCK = re.compile(rf"</?(?:{_BLOCKS})\b", re.IGNORECASE)
_INSIDE = r"[^<>\n]*+(?:\n(?!\n)[^<>\n]*+)*+"
_TAG = rf"<(?:!--{_INSIDE}(?<=--)|[/!?]?[A-Za-z]{_INSIDE})>"
_LINK = r"!?\[(?=[^\[\]\n]*+\]\()|\]\([^()\n]*+\)"
# Python finds what begins with one sign several times quicker than one of many.
_TAGS, _TAGS_AND_LINKS = re.compile(_TAG), re.compile(f"{_TAG}|{_LINK}")
_TAGS_IN_BYTES, _TAGS_AND_LINKS_IN_BYTES = re.compile(_TAG.encode()), re.compile(f"{_TAG}|{_LINK}".encode())
SIGNS = "*_`~|^\\-"
_MARKS = SIGNS.encode()
_RUN = re.compile(b"[%b]+" % re.escape(_MARKS))
_KEPT = {
    b"*": ((b"\n* ", b"\n\1 "), (b" * ", b" \1 ")),
    b"-": ((b"- ", b"\2 "),),
    b"|": ((b" | ", b" \3 "),),
}
"""Bullets, dashes and bars of tables stay; no text that comes here holds control characters."""
_IN_NUMBERS = tuple(
    (re.compile(b"%b(?<=[0-9].)(?=[0-9])" % sign), kept) for sign, kept in ((b"-", b"\2"), (b"_", b"\4"))
)
"""So do signs between digits: without them, two numbers would be another one."""
_BACK = bytes.maketrans(b"\1\2\3\4", b"*-|_")


def tags(text: str) -> list[Edit]:
    """Replacements that take off tags and comments, and of links all but their words. What begins a block or a line
    stands for a blank."""
    linked = "]" in text and "](" in text  # one sign alone is looked for ten times quicker
    if not linked and "<" not in text:
        return []
    found = (_TAGS_AND_LINKS if linked else _TAGS).finditer(text)
    return [(match.start(), match.end(), " " if _BLOCK.match(match[0]) else "") for match in found]


def bare(data: bytes) -> list[bytes]:
    """What is left of a text in UTF-8 without marks, be it read as identifiers or not; and so without its tags."""
    faces = [data.translate(None, _MARKS)]
    linked = b"]" in data and b"](" in data
    if linked or b"<" in data:
        untagged = (_TAGS_AND_LINKS_IN_BYTES if linked else _TAGS_IN_BYTES).sub(b"", data)
        if len(untagged) < len(data):
            faces.append(untagged.translate(None, _MARKS))
    return faces


def without_marks(text: str) -> str:
    """`text` without the signs of emphasis and those that stand in words."""
    return _kept(text).translate(_BACK, _MARKS).decode()


def marks(text: str) -> list[Edit]:
    """How `without_marks` came about."""
    data = _kept(text)
    spans = [match.span() for match in _RUN.finditer(data)]
    if data.isascii():
        return [(start, end, "") for start, end in spans]
    points = code_points(data, (place for span in spans for place in span))
    return [(points[start], points[end], "") for start, end in spans]


def is_marked(words: str) -> bool:
    """Whether more than what identifiers have is left to take off, once they are taken apart."""
    return any(sign in words for sign in "*`~^|\\<") or "](" in words


def _kept(text: str) -> bytes:
    """`text` with control characters for the signs that stay."""
    data = b"\n%b" % text.encode()  # a text begins like a line
    for sign, places in _KEPT.items():
        if sign in data:
            for place, kept in places:
                data = data.replace(place, kept)
    for sign_of_number, kept in _IN_NUMBERS:
        data = sign_of_number.sub(kept, data)
    return data[1:]
