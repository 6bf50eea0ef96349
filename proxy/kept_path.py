"""What is written down of a path: what shows how it was mistyped, and no secret that somebody put there.

The rule, all of it. Of every path nothing is kept behind a Penstock key's prefix, in whatever case and however often it
is escaped; a piece (what stands between two slashes) that begins like another vendor's key ends behind that beginning.
Of a path that is not served a piece is kept only where it reads like a name: words, versions, dates. Of any other its
first words are, at most FIRST letters. MARK stands where something is missing, and only there.

Decision: by the look of a piece, not by a list. Why: an operator has to see `/v1/chat/completion` or `/api/v1/models`,
of which there is no list, and a stranger may put anything there. Cost: ids of a path that leads nowhere are cut, and a
secret that is words (`correct-horse`) stays.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from .accounts.secret import PREFIX

MARK = "…"
LONGEST = 200
"""Letters that are kept of a path."""
READ = 512
"""Bytes of a path that are looked at."""
FIRST = 12
"""Letters that are kept of a piece that is no name."""
ROUNDS = 4
"""How often what is escaped may be escaped again."""

_VENDORS = re.compile(
    r"(?:[spr]k[-_]|gh[a-z]_|github_pat_|glpat-|gsk_|hf_|r8_|pplx-|xai-|xox[a-z]-|AIza|AKIA|eyJ)", re.IGNORECASE
)
"""How keys and tokens of others begin that are at least _LONG letters long."""
_LONG = 20
_RUN = re.compile(r"[A-Za-z0-9]+")
_WORD = re.compile(
    r"[A-Z]?[a-z]{1,20}(?:[A-Z][a-z]{2,20}){0,3}|[A-Z]{1,12}|[A-Za-z0-9]{1,4}|\d{1,2}x\d{1,3}[A-Za-z]|"
    r"(?=.{5,8}\Z)[A-Za-z]*\d+[A-Za-z]*"
)
"""A word, also `inCamelCase` or in capitals; or a few letters and digits, like `8x22B`, `v1beta` or `20241022`."""
_DIGITS, _MIXED = 12, 3
"""Most digits in a name, and most of its runs that have letters and digits: less than in a card's number or a UUID."""
_WORDS = re.compile(r"(?:[A-Za-z]+[-_.:=])+")


def kept(path: bytes, *, served: bool = False) -> str:
    """`path` for the records; `served`: it is on the surface, and what stands in it are names of models and ids."""
    pieces = path[:READ].decode("latin-1").split("/")
    if len(path) > READ:
        pieces[-1] = MARK
    told, length = list[str](), 0
    for piece in pieces:
        read = _undone(piece)
        if PREFIX in read.lower():
            told.append(PREFIX + MARK)
            break
        vendor = _VENDORS.match(read) if len(read) >= _LONG else None
        if vendor is not None:
            told.append(vendor[0] + MARK)
        elif piece == MARK or (served and read.isascii() and read.isprintable()) or _is_name(read):
            told.append(piece)
        else:
            told.append(_first(read) + MARK)
        length += len(told[-1]) + 1
        if length > LONGEST + 1:
            break  # what follows is cut off
    text = "/".join(told)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + MARK


def kept_name(name: str) -> str:
    """A model's name for the records: what stands in its place may be a key, by mistake."""
    at = name.find(PREFIX)
    return name[:LONGEST] if at < 0 else (name[:at] + PREFIX)[:LONGEST] + MARK


def _undone(piece: str) -> str:
    """`piece` without escapes; with some where there are too many for anybody's mistake."""
    for _ in range(ROUNDS):
        before = piece
        if "%" not in piece or (piece := unquote_to_bytes(piece).decode("latin-1")) == before:
            break
    return piece


def _is_name(piece: str) -> bool:
    """Whether it reads like a name that somebody gave."""
    if len(piece) > 64 or not piece.isascii() or not piece.isprintable() or "=" in piece or "@" in piece[1:]:
        return False
    if "%" in piece:
        return False
    runs = _RUN.findall(piece)
    mixed = [run for run in runs if not run.isalpha() and not run.isdigit()]
    digits = sum(map(len, re.findall(r"\d+", piece)))
    named = all(len(run) <= 24 and _WORD.fullmatch(run) for run in runs)
    return named and digits <= _DIGITS and len(mixed) <= _MIXED


def _first(piece: str) -> str:
    """Its first words, each with the sign behind it: `thread_` of a thread's id."""
    found = None if "@" in piece else _WORDS.match(piece[:FIRST])
    return found[0] if found is not None else ""
