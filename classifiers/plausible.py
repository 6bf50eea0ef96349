"""What could be a text in another code, told by its first letters: nearly all that looks coded in honest traffic is an
id or a number, and to look here costs a tenth of decoding it.

A text in UTF-8 is told by the highest bits of its bytes: a single byte, or a leading one and one to three others. Of
random bytes one run in twelve begins so. UTF-16 of Latin letters is told by its zeros. Both are also looked for behind
rot13. INVARIANT: what could be decoded to a text is never denied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TURNED = "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm0123456789+/"
STANDARD = bytes.maketrans(b"-_", b"+/")
"""From the URL-safe alphabet to the usual one."""

Kinds = Mapping[str, str]
"""An expression for each kind of byte: single, leading, other."""


def promising(run: bytes) -> bool:
    """Whether a run of letters, digits and +/-_ could be base64 or hexadecimal of a text, or its rot13 reading could;
    as a whole, or a part of it between signs."""
    if b"\n" in run or b"0x" in run or b"0k" in run:
        return True
    if _HEX.match(run) or _BEGINNINGS.search(run.translate(STANDARD)):
        return True
    if run.count(b"00") * 5 >= len(run) - run.count(b"-"):  # two bytes of five, or more, are zero in UTF-16
        return True
    if b"A" in run and _ZEROS.search(run):
        return True
    return b"N" in run and _ZEROS_TURNED.search(run) is not None


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


def _class(letters: str, step: int, first: int, last: int) -> str:
    """The letters whose place in the alphabet is from `first` to below `last`, modulo `step`."""
    return "[" + "".join(letter for place, letter in enumerate(letters) if first <= place % step < last) + "]"


def _base64(letters: str) -> str:
    """Eight letters whose six bytes could begin a text. The first holds the highest bits of a first byte in all of its
    six bits, the second those of a second byte in its lowest four, the third in its lowest two, the fourth none."""
    kinds = []
    for step, behind in ((64, ""), (16, ""), (4, "[A-Za-z0-9+/]")):
        kind = {"single": (0, step // 2), "other": (step // 2, step * 3 // 4), "leading": (step * 3 // 4, step)}
        kinds.append({name: _class(letters, step, *span) + behind for name, span in kind.items()})
    return _text(kinds * 2)


def _zeros(letters: str) -> bytes:
    """Of every six bytes of UTF-16 three are zero where its letters are Latin; nearly all have to be, so two of three
    are somewhere: the second one of six and the fourth or sixth, or these two."""
    a, fourth, sixth = letters[0], _class(letters, 64, 0, 16), _class(letters, 4, 0, 1)
    second = _class(letters, 16, 0, 1) + _class(letters, 64, 0, 4)
    sign = "[A-Za-z0-9+/_-]"
    return f"{a}{fourth}{sixth}{a}|{second}{sign}(?:{a}{fourth}|{sign}{{2}}{sixth}{a})".encode()


def _hex(high: str, low: str) -> str:
    """Digits whose four bytes could begin a text, or any with a dash among the first."""
    kind = {"single": "[0-7]", "other": f"[89{high[:4]}]", "leading": f"[{high[4:]}]"}
    kinds = [{name: f"{each}[0-9{low}]" for name, each in kind.items()}] * 4
    return f"[0-9{low}]{{0,7}}-|{_text(kinds)}"


_BEGINNING = re.compile(_base64(_LETTERS).encode())
_BEGINNINGS = re.compile(f"(?<![A-Za-z0-9])(?:{_base64(_LETTERS)}|{_base64(_TURNED)})".encode())
_ZEROS, _ZEROS_TURNED = re.compile(_zeros(_LETTERS)), re.compile(_zeros(_TURNED))
_HEX = re.compile(f"{_hex('ABabCDEFcdef', 'A-Fa-f')}|{_hex('NOnoPQRSpqrs', 'N-Sn-s')}".encode())
PIECE = re.compile(b"[A-Za-z0-9]{8,}={0,2}")
"""A part of a run between its signs that could be base64 of its own."""
TEXT_PIECE = re.compile(rb"(?<![A-Za-z0-9])(?=%b)[A-Za-z0-9]{8,}={0,2}" % _BEGINNING.pattern)
"""One that could begin a text in UTF-8."""
