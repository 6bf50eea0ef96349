"""What could be a text in another code, told by its first letters: nearly all that looks coded in honest traffic is an
id or a number, and to look here costs a tenth of decoding it.

A text in UTF-8 is told by the highest bits of its bytes: a single byte, or a leading one and one to three others. Of
random bytes one run in twelve begins so. UTF-16 of Latin letters is told by its zeros. Both are also looked for behind
rot13. INVARIANT: what could be decoded to a text is never denied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from .matcher import compile_expression

# Letter by value, both alphabets at once; without the last two, those of a part between signs.
_LETTERS = ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "+-", "/_")
_TURNED = ("NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm0123456789", "+-", "/_")
STANDARD = bytes.maketrans(b"-_", b"+/")
"""From the URL-safe alphabet to the usual one."""

Kinds = Mapping[str, str]
"""An expression for each kind of byte: single, leading, other."""


def signs(data: bytes) -> list[int]:
    """Places inside every run of letters, digits and +/-_ that could be base64, base32 or hexadecimal of a text, or
    whose rot13 reading could; as a whole, or a part of it between signs. In order; some runs have several, some for
    nothing."""
    if len(data) > _SHORT_TEXT:
        places = [sign.start() + 1 for sign in _SIGN.finditer(data)]
    else:
        places = [sign.start() for sign in _FIRST.finditer(data)]
        for letter, rare in ((b"A", _ZEROS), (b"N", _ZEROS_TURNED), (b"0", _HEX_ZEROS)):
            if letter in data:
                places += [sign.start() for sign in rare.finditer(data)]
    kinds = data.translate(_KINDS)
    if _LINE in kinds:
        places += _places(kinds, _LINE)
    if _LONG in kinds:
        for alphabet in _BASE32:
            if _LONG in (kinds := data.translate(alphabet)):
                places += _places(kinds, _LONG)
    places.sort()
    return places


def _places(kinds: bytes, kind: bytes) -> Iterator[int]:
    at = kinds.find(kind)
    while at >= 0:
        yield at
        at = kinds.find(kind, at + len(kind))


def begins_text(letters: bytes) -> bool:
    """Whether base64 of the usual alphabet could begin a text in UTF-8."""
    return _BEGINNING.match(letters) is not None


def has_zeros(letters: bytes) -> bool:
    """Whether base64 of the usual alphabet could be UTF-16 of Latin letters."""
    return b"A" in letters and _ZEROS.search(letters) is not None


def _text(kinds: Sequence[Kinds]) -> str:
    """An expression for bytes of these kinds that could begin a text in UTF-8."""

    def rest(at: int, others: int, needed: bool) -> str:
        """From byte `at` on, where at most `others` bytes of a sequence may follow, or one has to (`needed`)."""
        if at == len(kinds):
            return ""
        kind = kinds[at]
        ways = [kind["other"] + rest(at + 1, others - 1, False)] if others else []
        if not needed:
            ways += [kind["single"] + rest(at + 1, 0, False), kind["leading"] + rest(at + 1, 3, True)]
        return ways[0] if len(ways) == 1 else "(?:" + "|".join(ways) + ")"

    return rest(0, 0, False)


def _class(alphabet: Sequence[str], step: int, first: int, last: int) -> str:
    """The letters whose value is from `first` to below `last`, modulo `step`."""
    letters = [*alphabet[0], *alphabet[1:]]
    chosen = sorted("".join(each for value, each in enumerate(letters) if first <= value % step < last))
    runs: list[str] = []
    for letter in chosen:
        if runs and ord(runs[-1][-1]) == ord(letter) - 1:
            runs[-1] += letter
        else:
            runs.append(letter)
    return "[" + "".join(re.escape(run) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + "]"


def _base64(alphabet: Sequence[str]) -> str:
    """Eight letters whose six bytes could begin a text. The first holds the highest bits of a first byte in all of its
    six bits, the second those of a second byte in its lowest four, the third in its lowest two, the fourth none."""
    kinds = []
    for step, behind in ((64, ""), (16, ""), (4, _class(alphabet, 1, 0, 1))):
        kind = {"single": (0, step // 2), "other": (step // 2, step * 3 // 4), "leading": (step * 3 // 4, step)}
        kinds.append({name: _class(alphabet, step, *span) + behind for name, span in kind.items()})
    return _text(kinds * 2)


def _base64_zeros(alphabet: Sequence[str]) -> str:
    """Of every six bytes of UTF-16 three are zero where its letters are Latin; nearly all have to be, so two of three
    are somewhere: the second one of six and the fourth or sixth, or these two."""
    a, fourth, sixth = alphabet[0][0], _class(alphabet, 64, 0, 16), _class(alphabet, 4, 0, 1)
    second, sign = _class(alphabet, 16, 0, 1) + _class(alphabet, 64, 0, 4), _class(alphabet, 1, 0, 1)
    return f"{a}{fourth}{sixth}{a}|{second}{sign}(?:{a}{fourth}|{sign}{{2}}{sixth}{a})"


def _hex(letters: str) -> str:
    """Digits whose four bytes could begin a text, wherever signs part them. `letters`: ABCDEF, as they are written."""
    low = f"[0-9{letters}][-_/]*"
    kind = {
        "single": "[0-7][-_/]*",
        "other": f"[89{letters[:2]}{letters[6:8]}][-_/]*",
        "leading": f"[{letters[2:6]}{letters[8:]}][-_/]*",
    }
    return _text([{name: each + low for name, each in kind.items()}] * 4)


def _hex_zeros(letters: str) -> str:
    """Two zero bytes with one between them: UTF-16 of Latin letters."""
    gap = "[-_/]*"
    return f"0{gap}0{gap}[0-9{letters}]{gap}[0-9{letters}]{gap}0{gap}0"


_BEGINNING = re.compile(_base64(_LETTERS).encode())
_HEX, _HEX_TURNED = "ABCDEFabcdef", "NOPQRSnopqrs"
# Where whole runs may begin, and their parts between signs.
_WHOLE = "|".join((_base64(_LETTERS), _base64(_TURNED), _hex(_HEX), _hex(_HEX_TURNED)))
_PART = "|".join((_base64(_LETTERS[:1]), _base64(_TURNED[:1]), "(?:[0-7][0-9]){4}"))
_FIRST = re.compile(
    f"(?<![A-Za-z0-9])(?=[A-Za-z0-9+/_-]{{8}})(?:(?<![+/_-])(?:{_WHOLE})|(?<=[+/_-])(?:{_PART}))".encode()
)
_ZEROS, _ZEROS_TURNED = (re.compile(_base64_zeros(alphabet).encode()) for alphabet in (_LETTERS, _TURNED))
_HEX_ZEROS = re.compile(f"0[xk][0-9A-Za-z]{{2}}|{_hex_zeros(_HEX)}|{_hex_zeros(_HEX_TURNED)}".encode())
_SIGN = compile_expression(
    rf"(?:^|[^A-Za-z0-9+/_-])(?:{_WHOLE})|[+/_-](?:{_PART})|"
    + b"|".join((_ZEROS.pattern, _ZEROS_TURNED.pattern, _HEX_ZEROS.pattern)).decode()
)
_KINDS = bytes(
    ord("a") if letter.isalnum() or letter in "+/-_" else ord("\n") if letter in "\r\n" else ord(" ")
    for letter in map(chr, range(128))
) + bytes(128)
_LINE = b"a" * 40 + b"\n"
_BASE32 = tuple(
    bytes(ord("a") if chr(point) in letters + "234567" else ord(" ") for point in range(256))
    for letters in ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
)
_LONG = b"a" * 16
_SHORT_TEXT = 400
PIECE = re.compile(b"[A-Za-z0-9]{8,}={0,2}")
"""A part of a run between its signs that could be base64 of its own."""
TEXT_PIECE = re.compile(rb"(?<![A-Za-z0-9])(?=%b)[A-Za-z0-9]{8,}={0,2}" % _BEGINNING.pattern)
"""One that could begin a text in UTF-8."""
