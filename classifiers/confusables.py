"""Letters that look like Latin ones: how a person, or a model, reads a text that was written to dodge a pattern.

NFKC already folds fullwidth, mathematical, circled and superscript letters; this table holds what it leaves alone.
Case is kept. Honest Russian or Greek must not turn into Latin words: letters are replaced only in words that mix
scripts, or everywhere where nearly all of the text reads as ASCII once they are replaced.
"""

from __future__ import annotations

import re
import unicodedata

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
for _start in (0x1F1E6, 0x1F150, 0x1F170):
    _TABLE |= {_start + i: chr(ord("A") + i) for i in range(26)}

_MOSTLY_ASCII = 0.8
_CLASS = "".join(rf"\x{{{point:x}}}" for point in _TABLE)
# Python's own engine is the quicker one for single letters of the basic plane, of which Russian text has hundreds.
_ODD = re.compile("[" + "".join(map(re.escape, map(chr, filter(lambda point: point < 0x10000, _TABLE)))) + "]")
_ODD_FAR = compile_expression(r"[\x{1f1e6}-\x{1f1ff}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}]")
_MIXED = compile_expression(rf"[\pL\pM\pN_]*(?:[A-Za-z][{_CLASS}]|[{_CLASS}][A-Za-z])[\pL\pM\pN_]*")
_ACCENTED = compile_expression(r"[A-Za-z]*[\x{c0}-\x{24f}\x{1e00}-\x{1eff}][A-Za-z\x{c0}-\x{24f}\x{1e00}-\x{1eff}]+")
_FLAG = compile_expression(r"[\x{1f1e6}-\x{1f1ff}]+")
_ACCENT = re.compile("[\u0300-\u036f]")


def look_alikes(text: str) -> list[tuple[int, int, str]]:
    """The replacements (start, end, text), in order, that turn look-alike letters of an NFKC `text` into Latin ones."""
    found: dict[int, str] = {}
    odd = [match.start() for match in _ODD.finditer(text)] + [start for start, _ in find_all(_ODD_FAR, text)]
    if odd:
        if (len(text.encode("ascii", "ignore")) + len(odd)) >= _MOSTLY_ASCII * len(text):
            found = {at: _TABLE[ord(text[at])] for at in odd}
            for start, end in find_all(_FLAG, text):
                if end - start == 2:  # two alone are a flag, more are letters
                    del found[start], found[start + 1]
        else:
            for start, end in find_all(_MIXED, text):
                if (word := text[start:end]).translate(_TABLE).isascii():
                    found |= {at: _TABLE[ord(old)] for at, old in enumerate(word, start) if not old.isascii()}
    for start, end in find_all(_ACCENTED, text):
        bare = {at: _unaccented(old) for at, old in enumerate(text[start:end], start)}
        changed = {at: new for at, new in bare.items() if new != text[at]}
        if len(changed) >= 2:
            found = changed | found
    return [(at, at + 1, new) for at, new in sorted(found.items())]


def _unaccented(letter: str) -> str:
    return letter if letter.isascii() else _ACCENT.sub("", unicodedata.normalize("NFD", letter))
