"""Text that was written in another code, read back: one layer at a time, in place, in linear time.

Percent signs, HTML entities, backslash escapes, base64 (also wrapped, URL-safe, UTF-16), hexadecimal, binary, and
letters hidden in Unicode tags or variation selectors. What decodes to something that is no text (random keys,
images, hashes) is left as it is.
"""

from __future__ import annotations

import binascii
import html
import re
from collections.abc import Callable
from urllib.parse import unquote

from .matcher import compile_expression, find_all

_RUN = r"[A-Za-z0-9+/_-]"
_TURNS = r"(?:[a-z0-9][A-Z]|[A-Za-z][0-9]|[0-9][A-Za-z])"
_HEX = r"(?:0x)?[0-9A-Fa-f]{2}"
_KINDS = (
    r"(?:%[0-9A-Fa-f]{2})+",
    r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});",
    r"(?:\\(?:u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{2}|U[0-9A-Fa-f]{8}))+",
    r"[\x{e0020}-\x{e007e}][\x{e0001}-\x{e007f}]*",
    r"[\x{fe00}-\x{fe0f}\x{e0100}-\x{e01ef}]{4,}",
    r"[01]{8}(?:\s?[01]{8}){2,}",
    rf"{_HEX}(?:[ ,:;-] ?{_HEX}){{3,}}",
    # Ordinary words are left out here, for they are many: eight random letters have a turn of case or a digit.
    rf"(?:{_RUN}{{40,}}\r?\n)+{_RUN}+={{0,2}}|{_RUN}*{_TURNS}{_RUN}*={{0,2}}|[0-9]{{8,}}",
)
_CODED = compile_expression("|".join(_KINDS))
_TURN_IN_EIGHT = "|".join(f"{_RUN}{{{before}}}{_TURNS}{_RUN}{{{6 - before}}}" for before in range(7))
GATE = ("|".join(_KINDS[:5]), "|".join(_KINDS[5:7]), rf"{_RUN}{{40}}\r?\n|[0-9]{{8}}|{_TURN_IN_EIGHT}")
"""RE2 expressions of which one matches wherever `decode` could find something."""

_TURN = re.compile(r"[a-z0-9][A-Z]|[A-Za-z][0-9]|[0-9][A-Za-z]")
_PIECE = re.compile(r"[A-Za-z0-9]{8,}={0,2}")
_BITS = re.compile(r"[01]{8}(?:\s?[01]{8}){2,}")
_GAPS = re.compile(r"0x|[ ,:;-]")
_HEX_BYTES = re.compile("[0-9A-Fa-fx ,:;-]+")
_ESCAPE = re.compile(r"\\[uxU]\{?([0-9A-Fa-f]+)\}?")
_FLAG_TAGS = re.compile("[\U000e0061-\U000e007a\U000e0030-\U000e0039]{2,6}\U000e007f")
_SHORTEST = 8
_FEWEST_BYTES = 4
_SURELY_TEXT = 12  # random bytes are all printable ASCII once in 150,000 times


def decode(text: str) -> list[tuple[int, int, str]]:
    """Replacements (start, end, text), in order, that undo one layer of coding; empty where nothing is coded.
    `text` has no lone surrogates."""
    edits: list[tuple[int, int, str]] = []
    for start, end in find_all(_CODED, text):
        coded = text[start:end]
        if end - start < _SHORTEST and coded[0].isalnum():
            continue
        reader = _READERS.get(coded[0])
        if reader is not None:
            plain = reader(coded)
        elif coded[0] > "\x7f":
            plain = _hidden(coded, text[start - 1 : start])
        else:
            plain, parts = _read(coded)
            edits.extend((start + first, start + last, new) for first, last, new in parts)
        if plain is not None and plain != coded:
            edits.append((start, end, plain))
    return edits


def _read(coded: str) -> tuple[str | None, tuple[tuple[int, int, str], ...]]:
    """A run of digits and letters: what all of it says as numbers, or else its parts that are base64."""
    plain = _numbers(coded)
    return plain, () if plain is not None else tuple(_base64(coded))


def _percent(coded: str) -> str | None:
    return unquote(coded, errors="replace")


def _escape(coded: str) -> str | None:
    points = [int(digits, 16) for digits in _ESCAPE.findall(coded)]
    if any(point > 0x10FFFF for point in points):
        return None
    text = "".join(map(chr, points))  # \ud83d\ude00 is one character written as two
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_READERS: dict[str, Callable[[str], str | None]] = {"%": _percent, "&": html.unescape, "\\": _escape}


def _hidden(coded: str, before: str) -> str | None:
    """Letters in Unicode tags, or bytes in variation selectors."""
    if coded[0] >= "\U000e0020" and coded[0] <= "\U000e007e":
        if before == "\U0001f3f4" and _FLAG_TAGS.fullmatch(coded):
            return None  # the flag of a region: a black flag, its code in tags, and the end tag
        letters = "".join(chr(ord(tag) - 0xE0000) for tag in coded if 0xE0020 <= ord(tag) <= 0xE007E)
        return f"\n{letters}\n"
    plain = _text(bytes(ord(c) - 0xFE00 if ord(c) < 0xFF00 else ord(c) - 0xE0100 + 16 for c in coded))
    return None if plain is None else f"\n{plain}\n"


def _numbers(coded: str) -> str | None:
    """Binary or hexadecimal, in one run or as a list of bytes."""
    if _BITS.fullmatch(coded):
        bits = "".join(coded.split())
        return _text(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits) - 7, 8)))
    if not _HEX_BYTES.fullmatch(coded):
        return None
    digits = _GAPS.sub("", coded)
    if "x" in digits or len(digits) % 2 or len(digits) < 2 * _FEWEST_BYTES:
        return None
    return _text(bytes.fromhex(digits))


def _base64(coded: str) -> list[tuple[int, int, str]]:
    """The whole run, or else its lines and the parts between its slashes, dashes and underscores."""
    plain = _base64_text(coded)
    if plain is not None:
        return [(0, len(coded), plain)]
    pieces = (piece.span() for piece in _PIECE.finditer(coded))
    texts = ((*span, _base64_text(coded[slice(*span)])) for span in pieces if span != (0, len(coded)))
    return [(start, end, text) for start, end, text in texts if text is not None]


def _base64_text(run: str) -> str | None:
    letters = "".join(run.split()).rstrip("=")
    if len(letters) < _SHORTEST or not _TURN.search(letters):
        return None  # an ordinary word
    letters = letters.replace("-", "+").replace("_", "/")
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    try:
        raw = binascii.a2b_base64(letters + "=" * (-len(letters) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        return None
    return _text(raw)


def _text(raw: bytes) -> str | None:
    """`raw` read as UTF-8 or UTF-16, or None where it does not look like something written by a person."""
    if len(raw) >= 6 and len(raw) % 2 == 0 and raw[1::2].count(0) * 5 >= len(raw) * 2:
        text = raw.decode("utf-16-le", "replace")
    else:
        if raw[:1] == b"\x00":
            return None
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            if error.start < len(raw) - 3 or error.start < 6:
                return None
            text = raw[: error.start].decode()  # the last character is cut
    odd = len(text) - sum(map(str.isprintable, text)) - sum(map(text.count, "\n\t\r"))
    if odd * 20 > len(text):
        return None
    if len(raw) >= _SURELY_TEXT and odd == 0 and text.isascii():
        return text  # signs and digits too: one more layer of coding may be below
    letters = sum(map(str.isalpha, text))
    latin = sum(map(str.isalpha, text.encode("ascii", "ignore").decode()))
    mixed = (
        0 < letters - latin < latin
    )  # a letter or two of another script among Latin ones: chance, in so short a text
    if letters < 3 or mixed or (letters + text.count(" ")) * 10 < len(text) * 6:
        return None
    return text
