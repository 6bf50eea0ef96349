"""Letters that look like Latin ones: how a person, or a model, reads a text that was written to dodge a pattern.

NFKC already folds fullwidth, mathematical, circled and superscript letters; this table holds what it leaves alone.
Case is kept. Honest Russian or Greek must not turn into Latin words: letters are replaced only in words that mix
scripts, or everywhere where nearly all of the text reads as ASCII once they are replaced.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from .edits import Edit, applied
from .matcher import compile_expression, find_all

_LOOK_ALIKES = {
    # Cyrillic, Greek, Armenian, Cherokee, Coptic, IPA and small capitals, by the Latin letter that they resemble
    "a": "аɑαᴀᥲⲁ", "b": "ЬьᏏʙɓ", "c": "сϲᴄⅽⲥᏟ", "d": "ԁɗᴅⅾժᏧ", "e": "еҽєεᴇɛ℮ⲉәǝ", "f": "ꜰƒϝᵮ", "g": "ɡԍցɢᶃ",
    "h": "һհʜᏂԋ", "i": "іιɩıɪΐᎥⲓ", "j": "јϳᴊʝ", "k": "кκᴋⲕқ", "l": "ӏⅼʟɭᏞ", "m": "мᴍⅿɱ", "n": "пոηɴռⲛ",
    "o": "оοօᴏσ๐ⲟөɵ", "p": "рρᴘϱⲣ", "q": "ԛզɋ", "r": "гʀɾⲅɼ", "s": "ѕꜱʂჽ", "t": "тτᴛτƭ", "u": "υսᴜʋцᥙ", "v": "ѵνᴠⅴ",
    "w": "ѡԝաᴡɯω", "x": "хχⅹⲭ", "y": "уүγʏƴⲩ", "z": "ᴢʐȥⲍ",
    "A": "АΑᎪⲀ", "B": "ВΒᏴⲂ", "C": "СϹⅭⲤ", "D": "ᎠⅮ", "E": "ЕΕᎬⲈ", "F": "Ϝ", "G": "ԌᏀ", "H": "НΗᎻⲎ", "I": "ІΙӀⲒ",
    "J": "ЈᎫͿ", "K": "КΚᏦⲔ", "L": "ⅬᏞⳐ", "M": "МΜᎷⲘ", "N": "ΝⲚ", "O": "ОΟՕⲞ", "P": "РΡᏢⲢ", "Q": "Ԛ", "R": "ᎡᏒ",
    "S": "ЅՏᏚ", "T": "ТΤᎢⲦ", "U": "ՍᏌ", "V": "ѴᏙⅤ", "W": "ԜᎳ", "X": "ХΧⅩⲬ", "Y": "УΥҮⲨ", "Z": "ΖᏃⲌ",
    "-": "‐‑‒–—―−﹘", "'": "‘’‛ʼʹ′＇`´", '"': "“”„‟″", ".": "․", "/": "⁄∕", ":": "ː։", "|": "ǀ∣",
}  # fmt: skip
_STROKED = dict(zip("øØłŁđĐħĦŧŦſƀɨʉɍɏȼɇ", "oOlLdDhHtTsbiuryce", strict=True))

_TABLE: dict[int, str] = {ord(odd): latin for latin, odds in _LOOK_ALIKES.items() for odd in odds if odd != latin}
_TABLE |= {ord(odd): latin for odd, latin in _STROKED.items()}
# Regional indicators, negative circled, negative squared letters: NFKC has no mapping for them.
_FAR = (0x1F1E6, 0x1F150, 0x1F170)
for _start in _FAR:
    _TABLE |= {_start + i: chr(ord("A") + i) for i in range(26)}

_MOSTLY_ASCII = 0.8
_CLASS = "".join(rf"\x{{{point:x}}}" for point in _TABLE)
_LETTERS: dict[str, str] = {chr(point): latin for point, latin in _TABLE.items()}
# Ranges for what is beyond the basic plane: Python tries those letters one after the other.
_ODD = re.compile(
    "["
    + "".join(re.escape(letter) for letter in _LETTERS if letter < "\U00010000")
    + "".join(f"{chr(start)}-{chr(start + 25)}" for start in _FAR)
    + "]"
)
_MIXED = compile_expression(rf"[\pL\pM\pN_]*(?:[A-Za-z][{_CLASS}]|[{_CLASS}][A-Za-z])[\pL\pM\pN_]*")
_ACCENT_CLASS = "\u00c0-\u024f\u1e00-\u1eff"
_ACCENTS = re.compile(f"[{_ACCENT_CLASS}]")
_ACCENTED = re.compile(
    f"[{_ACCENT_CLASS}][A-Za-z]*+[{_ACCENT_CLASS}][A-Za-z{_ACCENT_CLASS}]*+"
)  # from the first one on
_FLAG_LETTERS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
_FLAGS = re.compile("[\U0001f1e6-\U0001f1ff]+")
_ASCII = bytes(range(128))


def latin(text: str) -> str:
    """An NFKC `text` with Latin letters for those that look like them."""
    others, odd, mostly = _odd(text)
    if not odd.isdisjoint(_FLAG_LETTERS):
        return applied(text, look_alikes(text))
    edits: list[Edit] = []
    if len(_ACCENTS.findall(others)) > 1:
        edits = [edit for edit in _accents(text) if text[edit[0]] not in odd]
    if odd and mostly:
        for letter in odd:
            text = text.replace(letter, _LETTERS[letter])
    elif odd:
        edits += _mixed(text)
    return applied(text, sorted(edits)) if edits else text


def look_alikes(text: str) -> list[Edit]:
    """The replacements (start, end, text), in order, that make `latin(text)`."""
    others, odd, mostly = _odd(text)
    found: list[Edit] = []
    if odd and mostly:
        found = [(at, at + 1, _LETTERS[letter]) for at, letter in enumerate(text) if letter in odd]
        if not odd.isdisjoint(_FLAG_LETTERS):
            # Two alone are a flag, more are letters.
            flags = {flag.start() + at for flag in _FLAGS.finditer(text) if len(flag[0]) == 2 for at in (0, 1)}
            found = [edit for edit in found if edit[0] not in flags]
    elif odd:
        found = _mixed(text)
    if len(_ACCENTS.findall(others)) > 1:
        known = {edit[0] for edit in found}
        found = sorted(found + [edit for edit in _accents(text) if edit[0] not in known])
    return found


def _odd(text: str) -> tuple[str, set[str], bool]:
    """All letters that are not ASCII, the look-alikes among them, and whether nearly all of the text reads as ASCII
    once those are replaced."""
    others = text.encode().translate(None, _ASCII).decode()
    found = _ODD.findall(others)
    odd = set(found)
    count = len(found)
    if accents := text.count("`"):  # the one look-alike in ASCII
        odd.add("`")
        count += accents
    return others, odd, len(text) - len(others) + count >= _MOSTLY_ASCII * len(text)


def _mixed(text: str) -> list[Edit]:
    """The look-alikes in words of more than one script that read as ASCII once they are replaced."""
    found = []
    for start, end in find_all(_MIXED, text):
        if (word := text[start:end]).translate(_TABLE).isascii():
            found += [(at, at + 1, _LETTERS[old]) for at, old in enumerate(word, start) if not old.isascii()]
    return found


def _accents(text: str) -> list[Edit]:
    """Accented letters without their accents, in words that have at least two of them."""
    found = []
    table = _unaccented()
    for match in _ACCENTED.finditer(text):
        word = match[0]
        bare = word.translate(table)
        changed = [
            (at, at + 1, new) for at, (old, new) in enumerate(zip(word, bare, strict=True), match.start()) if old != new
        ]
        if len(changed) >= 2:
            found += changed
    return found


@cache
def _unaccented() -> dict[int, str]:
    """What remains of each accented letter."""
    table = {}
    for point in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        bare = "".join(mark for mark in unicodedata.normalize("NFD", chr(point)) if not "\u0300" <= mark <= "\u036f")
        if len(bare) == 1:
            table[point] = bare
    return table
