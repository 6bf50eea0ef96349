"""What bytes in a body say where they are a text: a file of words is sent as base64, too.

A part that holds bytes is one that nobody can read, whatever they are; what can be read of it is judged besides.
"""

from __future__ import annotations

import base64
import codecs
from urllib.parse import unquote_to_bytes

_PROBE = 256
"""Letters of base64 by which an image or a sound is told from a text."""
_BLANKS = str.maketrans("-_", "+/", "\r\n")
_PRINTED = frozenset("\t\n\v\f\r")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_in(encoded: str) -> str:
    """The text that base64 or a data URL holds, or is where it is neither; empty for all other bytes."""
    if encoded.startswith("data:"):
        kind, comma, encoded = encoded.partition(",")
        if not comma:
            return ""
        if not kind.rstrip().lower().endswith(";base64"):
            return _decoded(unquote_to_bytes(encoded))
    head = encoded[:_PROBE].translate(_BLANKS)
    try:
        if len(encoded) > _PROBE and not _printed(_bytes(head[: len(head) // 4 * 4])):
            return ""
        return _decoded(_bytes(encoded.translate(_BLANKS)))
    except ValueError:
        return encoded


def _bytes(encoded: str) -> bytes:
    """What base64 decodes to, its padding there or not. Raises ValueError."""
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _printed(start: bytes) -> bool:
    """Whether bytes can be the beginning of a text."""
    try:
        text = codecs.getincrementaldecoder(_coding(start))().decode(start)
    except UnicodeDecodeError:
        return False
    return all(letter >= " " or letter in _PRINTED for letter in text)


def _decoded(raw: bytes) -> str:
    if not _printed(raw[:_PROBE]):
        return ""
    try:
        return raw.decode(_coding(raw))
    except UnicodeDecodeError:
        return ""


def _coding(raw: bytes) -> str:
    return next((coding for mark, coding in _MARKS.items() if raw.startswith(mark)), "utf-8")
