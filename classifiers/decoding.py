"""Text that was written in another code, read back: one layer at a time, in place, in linear time.

Percent signs, HTML entities, backslash escapes, base64 (also broken into lines, URL-safe, UTF-16), base32, hexadecimal,
binary and decimal lists, and letters hidden in Unicode tags or variation selectors. What decodes to something that is
no text (random keys, images, hashes) is left as it is: nearly all that looks coded in honest traffic is a name, a
number or an id, so what matters here is how soon that is known.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence

from .edits import Edit
from .matcher import compile_expression, find_all
from .plausible import PIECE, STANDARD, TEXT_PIECE, begins_text, has_zeros, signs

_RUN = r"[A-Za-z0-9+/_-]"
_TURNS = r"(?:[a-z0-9][A-Z]|[A-Za-z][0-9]|[0-9][A-Za-z])"
_GAP = r"(?:[ ,:;.|\t\r-]+\n?|\n)[ ,:;.|\t\r-]*"  # nothing reaches over an empty line
_GAP_OF_WORDS = _GAP.replace("-", "")  # dashes are letters of runs
_BYTE = r"(?:(?:0x)?[0-9A-Fa-f]{2}|1[0-2][0-9])"
_BY_SIGN = (
    r"(?:%[0-9A-Fa-f]{2})+",
    r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});",
    r"(?:\\(?:u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{2}|U[0-9A-Fa-f]{8}))+",
    r"[\x{e0020}-\x{e007e}][\x{e0001}-\x{e007f}]*",
    r"[\x{fe00}-\x{fe0f}\x{e0100}-\x{e01ef}]{4,}",
)
_BY_LIST = (
    r"[01]{8}(?:\s?[01]{8}){2,}",
    rf"\b{_BYTE}(?:{_GAP}{_BYTE}){{3,}}\b",
    rf"\b[0-9A-Fa-f]{{4}}(?:{_GAP_OF_WORDS}[0-9A-Fa-f]{{4}}){{2,}}\b",
    rf"\b[0-9A-Fa-f]{{8}}(?:{_GAP_OF_WORDS}[0-9A-Fa-f]{{8}})+\b",
)
# Ordinary words are left out here, for they are many: eight random letters have a turn of case or a digit.
_BY_RUN = rf"(?:{_RUN}{{40,}}\r?\n)+{_RUN}+={{0,2}}|{_RUN}*{_TURNS}{_RUN}*={{0,2}}|[0-9]{{8,}}"
_CODED = compile_expression("|".join((*_BY_SIGN, *_BY_LIST, _BY_RUN)))
_WRAPPED = re.compile(rf"(?:{_RUN}{{40,}}+\r?\n)+{_RUN}+={{0,2}}".encode())
_IN_RUN = bytes(ord("a") if re.match(_RUN, chr(point)) else ord(" ") for point in range(128)) + bytes(128)
_DIGITS = re.compile(b"[0-9]{8,}")
# Of long numbers few can be read: as hexadecimal where all bytes are printable (hardly any is not, in very long ones),
# as base64 where each four digits make a leading byte and one that may follow it.
_NUMBER = r"(?:^|[^0-9])(?:(?:[2-7][0-9]|09){4}|(?:[0-9][4-7][0-24-689][0-9]){2})|[2-7][0-9]00[2-7][0-9]00|[0-9]{40}"
_BYTE_TURNED = r"(?:(?:0k)?[0-9N-Sn-s]{2}|1[0-2][0-9])"
GATE = (
    "|".join(_BY_SIGN),
    "|".join(_BY_LIST),
    # Eight letters with a turn have three at one side of it. To count all eight would need thousands of states, beside
    # those of the other gates millions, and wrapped base64 would meet a new one with each letter.
    rf"{_RUN}{{3}}{_TURNS}|{_TURNS}{_RUN}{{3}}|{_NUMBER}",
    # What the first two would find once the alphabet is turned by thirteen; the third finds the same before and after.
    rf"%[0-9N-Sn-s]{{2}}|&#[kK][0-9N-Sn-s]|\\(?:[hkH][0-9N-Sn-s]{{2}}|h\{{)|"
    rf"{_BYTE_TURNED}(?:{_GAP}{_BYTE_TURNED}){{3}}|[0-9N-Sn-s]{{4}}(?:{_GAP_OF_WORDS}[0-9N-Sn-s]{{4}}){{2}}|"
    rf"[0-9N-Sn-s]{{8}}{_GAP_OF_WORDS}[0-9N-Sn-s]{{8}}",
)
"""RE2 expressions of which one matches wherever `decode` could find something in a text, or in its rot13 reading."""
SIGN, LIST, RUN, TURNED = range(len(GATE))

_TURN = re.compile(_TURNS.encode())
_BITS = re.compile(r"[01]{8}(?:\s?[01]{8}){2,}")
_GAPS = re.compile(r"(?:0x|[ ,:;.|\t\r\n/_-])+")
_NUMBERS = re.compile(r"[0-9A-Fa-f][0-9A-Fa-fx ,:;.|\t\r\n/_-]+")
_ESCAPE = re.compile(r"\\[uxU]\{?([0-9A-Fa-f]+)\}?")
_FLAG_TAGS = re.compile("[\U000e0061-\U000e007a\U000e0030-\U000e0039]{2,6}\U000e007f")
_SHORTEST = 8
_FEWEST_BYTES = 4
_SURELY_WRITTEN = 20  # and all UTF-8 that can be seen as rarely
_SURELY_TEXT = 12  # random bytes are all printable ASCII once in 150,000 times


def decode(text: str) -> list[Edit]:
    """Replacements (start, end, text), in order, that undo one layer of coding; empty where nothing is coded.
    `text` has no lone surrogates."""
    return _edits(text, find_all(_CODED, text))


def coded_runs(text: str) -> list[tuple[int, int]]:
    """Where letters and digits stand that could be base64 or numbers, as they are or in the rot13 reading: those
    matches of _BY_RUN that `decode` could read."""
    data = text.encode("ascii", "replace")
    runs: list[tuple[int, int]] = []
    kinds = b""
    end = 0
    for place in signs(data):
        if place < end:
            continue
        kinds = kinds or data.translate(_IN_RUN)
        start, end = kinds.rfind(b" ", end, place) + 1 or end, kinds.find(b" ", place)
        end = end if end >= 0 else len(data)
        if end - start >= 40 and (wrapped := _WRAPPED.match(data, start)):
            end = wrapped.end()
            runs.append((start, end))
        elif _TURN.search(run := data[start:end]):
            end += len(data[end : end + 2]) - len(data[end : end + 2].lstrip(b"="))
            runs.append((start, end))
        else:
            runs += [(start + digits.start(), start + digits.end()) for digits in _DIGITS.finditer(run)]
    return runs


def decode_runs(text: str, runs: Sequence[tuple[int, int]]) -> list[Edit]:
    """`decode` for a text of which no gate but RUN matched; `runs`: its coded runs."""
    return _edits(text, runs)


def left_turned(text: str, runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of `runs`, of which none can be read, that rot13 may make another text of: a number stays what it is."""
    return [(a, b) for a, b in runs if not text[a:b].isdigit() or text[b : b + 1] in _MAY_GO_ON]


def _edits(text: str, places: Sequence[tuple[int, int]]) -> list[Edit]:
    edits: list[Edit] = []
    done = 0
    for start, end in places:
        if start < done:
            continue
        coded = text[start:end]
        if coded[0] in _RUN_LETTERS:
            if end - start < _SHORTEST:
                continue
            if broken := _broken(text, start, end):
                done = start + broken[0]
                edits.append((start, done, broken[1]))
                continue
            plain, parts = _read(coded)
            if parts:
                edits.extend((start + first, start + last, new) for first, last, new in parts)
        elif coded[0] > "\x7f":
            plain = _hidden(coded, text[start - 1 : start])
        else:
            plain = _READERS[coded[0]](coded)
        if plain is not None and plain != coded:
            edits.append((start, end, plain))
    return edits


# -- base64 in pieces: lines that end anywhere, or strings -------------------------------------------------------------

_TOGETHER = (64, 512, 4096)  # letters and seams that are put together: more only where all of these can be read
_SIXTEEN = 64  # letters and seams that hold 16 letters, in pieces of four
_BETWEEN = r"""(?:(?:[ \t\r]{1,8}\n?|\n)[ \t]{0,8}|["'] ?[+.,\\]?[ \t\r]{0,8}\n?[ \t]{0,8}["'])"""
_PIECES = re.compile(
    rf"{_RUN}{{8,}}+(?:{_BETWEEN}(?={_RUN}*?{_TURNS}){_RUN}++)*+(?:{_BETWEEN}{_RUN}{{1,7}}+(?==))?={{0,2}}"
)
_SEAM = re.compile(_BETWEEN)
_READABLE = re.compile(
    rb"(?:[\x20-\x7e\n\t\r]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})*+"
)
_MAY_GO_ON = frozenset(" \t\r\n\"'")


def _broken(text: str, start: int, end: int) -> tuple[int, str] | None:
    """How long the pieces from `start` on are that say something together, and what; None where they say no more than
    the first one, which ends at `end`."""
    if text[end : end + 1] not in _MAY_GO_ON or not begins_text(text[start : start + 8].encode().translate(STANDARD)):
        return None
    first = _letters(text[start : start + _SIXTEEN])[:16]
    if len(first) < 16 or len(_readable(first)) < 10:
        return None
    whole, said = "", b""
    for most in _TOGETHER:
        pieces = _PIECES.match(text, start, start + most)
        whole = pieces[0] if pieces is not None else ""
        said = _readable(letters := _letters(whole))
        if len(whole) < most or len(said) < len(letters) * 3 // 4 - 3:
            break
    if start + len(whole) <= end:
        return None
    # Words behind them may look coded, too: the pieces end where what is readable does.
    count, begin, last = 0, 0, None
    for place, behind in [*[seam.span() for seam in _SEAM.finditer(whole)], (len(whole), 0)]:
        count += place - begin - whole.count("=", begin, place)
        if count * 3 // 4 > len(said):
            break
        last, begin = (place, count * 3 // 4), behind
    if last is None or start + last[0] <= end or (plain := _text(said[: last[1]])) is None:
        return None
    return last[0], plain


def _letters(coded: str) -> bytes:
    return _SEAM.sub("", coded).replace("=", "").encode("ascii", "replace").translate(STANDARD)


def _readable(letters: bytes) -> bytes:
    """What base64 says, as far as that is a text in UTF-8."""
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    try:
        raw = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4), strict_mode=True)
    except binascii.Error:
        return b""
    found = _READABLE.match(raw)
    return found[0] if found else b""


_RUN_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-")


def _read(coded: str) -> tuple[str | None, Sequence[Edit]]:
    """A run of digits and letters: what all of it says as numbers or base32, or else its parts that are base64."""
    plain = _numbers(coded)
    if plain is None:
        plain = _base32(coded)
    return plain, () if plain is not None else _base64(coded)


def _percent(coded: str) -> str:
    return bytes.fromhex(coded.replace("%", "")).decode("utf-8", "replace")


def _entity(coded: str) -> str:
    import html

    return html.unescape(coded)


def _escape(coded: str) -> str | None:
    points = [int(digits, 16) for digits in _ESCAPE.findall(coded)]
    if any(point > 0x10FFFF for point in points):
        return None
    text = "".join(map(chr, points))  # \ud83d\ude00 is one character written as two
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_READERS: dict[str, Callable[[str], str | None]] = {"%": _percent, "&": _entity, "\\": _escape}


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
    if not _NUMBERS.fullmatch(coded):
        return None
    if coded.isalnum() and "x" not in coded:
        return _hex_text(coded)
    numbers = [number for number in _GAPS.split(coded) if number]
    if all(len(number) % 2 == 0 for number in numbers) and (text := _hex_text("".join(numbers))) is not None:
        return text
    if all(number.isdigit() and len(number) < 4 for number in numbers):
        return _text(bytes([int(number) for number in numbers if int(number) < 256]))
    return None


def _hex_text(digits: str) -> str | None:
    if "x" in digits or len(digits) % 2 or len(digits) < 2 * _FEWEST_BYTES:
        return None
    raw = bytes.fromhex(digits)
    text = _text(raw)
    # Short words of these letters may stand around a list, "be" or "ad".
    return _text(raw.strip(_UNSEEN)) if text is None and len(raw) > _SURELY_TEXT else text


_BASE32 = re.compile("(?:[A-Z2-7]{16,}|[a-z2-7]{16,})={0,6}")


def _base32(coded: str) -> str | None:
    if not _BASE32.fullmatch(coded):
        return None
    letters = coded.rstrip("=").upper()
    whole = len(letters) - len(letters) % 8
    for size in (len(letters), whole):  # what is left of a cut text is no byte
        try:
            return _text(base64.b32decode(letters[:size] + "=" * (-size % 8)))
        except binascii.Error:
            continue
    return None


def _base64(coded: str) -> Sequence[Edit]:
    """The whole run, or else its lines and the parts between its slashes, dashes and underscores."""
    data = coded.encode("ascii")
    letters = data.translate(STANDARD, _BLANKS)
    zeros = has_zeros(letters)
    if (zeros or begins_text(letters)) and (plain := _base64_text(letters)) is not None:
        return [(0, len(coded), plain)]
    if coded.isalnum():
        return ()
    pieces = [
        piece.span()
        for piece in (PIECE if zeros else TEXT_PIECE).finditer(data)
        if len(piece[0]) < len(data) and (not zeros or begins_text(piece[0]) or has_zeros(piece[0]))
    ]
    texts = [(*span, _base64_text(data[slice(*span)].rstrip(b"="))) for span in pieces]
    return [(start, end, text) for start, end, text in texts if text is not None]


_BLANKS = b" \t\r\n\f="


def _base64_text(letters: bytes) -> str | None:
    """What letters of the standard alphabet say; what lies over is cut."""
    if len(letters) < _SHORTEST or not _TURN.search(letters):
        return None  # an ordinary word
    rest = len(letters) % 4
    if rest == 1:
        letters = letters[:-1]
    elif rest:
        letters += b"==" if rest == 2 else b"="
    try:
        return _text(binascii.a2b_base64(letters, strict_mode=True))
    except binascii.Error:  # a list of bytes
        return None


_UNSEEN = bytes([point for point in range(256) if not 0x20 <= point < 0x7F])
_SIGHT = bytes(range(0x20, 0x7F)) + b"\n\t\r"
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _text(raw: bytes) -> str | None:
    """`raw` read as UTF-8 or UTF-16, or None where it does not look like something written by a person."""
    zeros = b"\0" in raw
    if zeros or not raw.isascii():
        # More than a last character that is cut: no UTF-8. Most of what is random ends here.
        if not (zeros and _is_utf16(raw)) and len(raw.decode(errors="ignore").encode()) < len(raw) - 3:
            return None
        return _wide_text(raw)
    odd = len(raw.translate(None, _SIGHT))
    if odd * 20 > len(raw):
        return None
    if odd == 0 and len(raw) >= _SURELY_TEXT:
        return raw.decode()  # signs and digits too: one more layer of coding may be below
    letters = len(raw) - len(raw.translate(None, _LETTERS))
    return None if letters < 3 or (letters + raw.count(b" ")) * 10 < len(raw) * 6 else raw.decode()


def _is_utf16(raw: bytes) -> bool:
    """Whether nearly every second byte is zero, as it is where the letters are Latin."""
    return len(raw) >= 6 and len(raw) % 2 == 0 and raw[1::2].count(0) * 5 >= len(raw) * 2


def _wide_text(raw: bytes) -> str | None:
    """`_text` for any bytes."""
    if _is_utf16(raw):
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
        return text
    letters = sum(map(str.isalpha, text))
    latin = sum(map(str.isalpha, text.encode("ascii", "ignore").decode()))
    # A letter or two of another script among Latin ones: chance, in a short text.
    mixed = 0 < letters - latin < latin and len(raw) < _SURELY_WRITTEN
    if letters < 3 or mixed or (letters + text.count(" ")) * 10 < len(text) * 6:
        return None
    return text
