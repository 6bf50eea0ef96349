"""What a text says once disguises are taken off: bounded, linear-time readings, judged beside the raw text.

`plain` has no format characters and is in NFKC; `skeleton` has Latin letters for look-alikes; `letters` joins
s p a c e d letters; `leet` reads 1337; `words` takes identifiers apart; `unmarked` has neither Markdown's marks nor
tags; `rot13` turns the alphabet; `decoded` undoes one layer of base64 and the like, and is read again, up to three
layers deep. Names of nested views are joined by dots. Any span can be traced back to the raw text, so that what was
found can be masked.

INVARIANT: all views together are at most GROWTH times as long as the text, plus GROWTH_BASE. What would be longer is
left out or left as it is, and `truncated` says so.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import identifiers, markup
from .confusables import latin, look_alikes
from .decoding import GATE, LIST, RUN, SIGN, TURNED, coded_runs, decode, decode_runs, left_turned
from .edits import Edit, applied, traced
from .folding import fold, fold_edits, plain
from .matcher import Expression, Matcher, replace_surrogates

__all__ = ["APART", "GROWTH", "GROWTH_BASE", "SIGNED", "Readings", "View", "gates_of", "plain", "rotated", "views"]

GROWTH, GROWTH_BASE = 32, 4096
_TAME = 1 << 16  # instructions: none of our own gates has a counted gap, whatever its size
MAX_DEPTH = 3


class View(NamedTuple):
    """One reading. `edits`, a function so that nothing is computed for what does not match, says how `text` was
    made of `parent`; no parent means the raw text itself."""

    name: str
    text: str
    parent: View | None
    edits: Callable[[], Sequence[Edit]]

    def trace(self, start: int, end: int) -> tuple[int, int]:
        """The smallest known span of the raw text that [start, end) of this view was read from."""
        return self.trace_all([(start, end)])[0]

    def trace_all(self, spans: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """`trace` of many spans, for the price of one walk."""
        if self.parent is None or not spans:
            return spans
        return self.parent.trace_all(traced(self.edits(), spans))


class Readings(tuple[View, ...]):
    """The views of one text. `truncated`: some reading was longer than the bound and is missing or incomplete.
    `deeper`: something coded was left after MAX_DEPTH layers. `bare`: in UTF-8, see `markup.bare`."""

    truncated: bool = False
    deeper: bool = False
    bare: Sequence[bytes] = ()


def views(text: str, gates: Sequence[int] | None = None, *, turned: bool = True, bare: bool = False) -> Readings:
    """The readings of `text` that differ from it and from each other. Linear time, no exceptions for any str.
    `gates`: what `gates_of` says of it, where that is known. Without `turned` the text's own rot13 reading may be left
    out, where nothing is hidden in it. `bare`: instead of `words` and `unmarked`, what they come to without signs."""
    clean = text if text.isascii() else replace_surrogates(text)
    if len(clean) < 3 and clean.isascii():
        return _NONE
    known = gates_of(clean.encode()) if gates is None or clean is not text else gates
    return _Growth(clean, bare).readings(known, turned)


def gates_of(data: bytes) -> Sequence[int]:
    """Which disguises a text in UTF-8 may wear. None at all, and plain ASCII: its one reading is `rotated`. Texts
    joined by APART have together the gates that any of them has."""
    return _GATES.candidates(data)


def rotated(data: bytes) -> bytes:
    """Rot13 of the ASCII letters."""
    return data.translate(_ROT13)


class _Node(NamedTuple):
    """A reading that may have readings of its own. `turned`: it is the rot13 reading of one with these gates and coded
    runs, where all that is coded in it is coded runs."""

    view: View
    depth: int
    gates: Sequence[int]
    turned: bool = False
    runs: Sequence[tuple[int, int]] | None = None


class _Growth:
    """The views of one text while they are found."""

    def __init__(self, text: str, bare: bool) -> None:
        self._views: list[View] = []
        self._bare: list[bytes] | None = [] if bare else None
        self._seen = {text}
        self._room = GROWTH * len(text) + GROWTH_BASE
        self._truncated = self._deeper = False
        self._root = View("raw", text, None, _nothing)

    def readings(self, gates: Sequence[int], turned: bool) -> Readings:
        # Breadth first: a text is met first where the fewest layers lie above it, and so read deepest.
        queue = deque([_Node(self._root, 0, gates)])
        while queue:
            node = queue.popleft()
            base, gates = (
                (node.view, node.gates) if node.turned else self._surface(node.view, node.gates, node.depth > 0)
            )
            codes = _CODES.intersection(gates)
            edits, runs = _decoded(base.text, codes, node) if codes else (_NO_EDITS, None)
            if node.depth == MAX_DEPTH:
                self._deeper |= bool(edits)
                continue
            if edits:
                coded = _edited(base, "decoded", edits)
                if self._add(coded):
                    queue.append(_Node(coded, node.depth + 1, gates_of(coded.text.encode())))
            # Where no code is left, the rot13 reading has no readings of its own.
            hidden = bool(codes) and runs != []
            if not node.turned and (hidden or turned or base is not self._root):
                turn = View(_name(base, "rot13"), _rot13(base.text), base, _nothing)
                if self._add(turn) and hidden:
                    queue.append(_Node(turn, node.depth + 1, gates, True, runs))
        readings = Readings(self._views)
        readings.truncated, readings.deeper, readings.bare = self._truncated, self._deeper, self._bare or ()
        return readings

    def _surface(self, node: View, gates: Sequence[int], deep: bool) -> tuple[View, Sequence[int]]:
        """Adds what `node`, which has these gates, looks like to a reader, in fewer ways where it is `deep` below the
        raw text; returns the reading to decode, and its gates."""
        base = best = node
        own, hidden = gates, False
        if CONTROL in gates or not node.text.isascii():
            text = node.text
            folded = fold(text)
            hidden = folded.hidden
            self._truncated |= not folded.complete
            if folded.text != text:
                base = best = View(_name(node, "plain"), folded.text, node, lambda: fold_edits(text))
                self._add(base)
                gates = gates_of(folded.text.encode())
        if not base.text.isascii() and (latin_text := latin(base.text)) != base.text:
            best = View(_name(base, "skeleton"), latin_text, base, lambda: look_alikes(base.text))
            self._add(best)
        looks = gates if best is base else gates_of(best.text.encode())
        if SPACED in looks and (edits := _spaced(best.text)):
            best = _edited(best, "letters", edits)
            self._add(best)
        self._written(best, looks, once=deep)
        if best is not base:
            self._written(base, gates, once=True)
        if LEET in looks or best.name.endswith("letters"):
            for name, edits in _leet(best.text):
                view = _edited(best, name, edits)
                self._add(view)
                if not deep and " " in view.text:  # an id alone has more readings than it is worth
                    self._written(view, looks, once=True)
        # Hidden letters are format characters: what strips them must not be the text that is searched for them.
        return (node, own) if hidden else (base, gates)

    def _written(self, view: View, looks: Sequence[int], once: bool = False) -> None:
        """Adds the words of `view`'s identifiers, and what both are without their marks; `once`: only the last of
        these."""
        if SIGNED.isdisjoint(looks):
            return
        if self._bare is not None:
            self._bare += markup.bare(view.text.encode())
            return
        bare = [view] if MARKED in looks else []
        if JOINED in looks:
            words = identifiers.snakes_apart(view.text)
            edits = identifiers.turns(words)  # those of the view, too: so far the two are equally long
            apart = View(_name(view, "words"), applied(words, edits), view, lambda: edits)
            marked = MARKED in looks and markup.is_marked(words)
            if not (once and marked):
                self._add(apart)
            bare = [*bare[: not once], apart] if marked else bare[: not once]
        for each in bare:
            self._unmark(each)

    def _unmark(self, view: View) -> None:
        """Adds `view` without its marks."""
        name = _name(view, "unmarked")
        if edits := markup.tags(view.text):
            view = View(name, applied(view.text, edits), view, lambda: edits)
        text = view.text
        self._add(View(name, markup.without_marks(text), view, lambda: markup.marks(text)))

    def _add(self, view: View) -> bool:
        """Keeps `view`; False where its text is known or no room is left."""
        if view.text in self._seen:
            return False
        if len(view.text) > self._room:
            self._truncated = True
            return False
        self._room -= len(view.text)
        self._seen.add(view.text)
        self._views.append(view)
        return True


def _decoded(text: str, codes: frozenset[int], node: _Node) -> tuple[Sequence[Edit], Sequence[tuple[int, int]] | None]:
    """One layer of coding undone, and the coded runs where there is no other code before or after rot13."""
    if node.turned:
        return decode(text) if node.runs is None else decode_runs(text, node.runs), None
    if SIGN in codes or LIST in codes:
        return decode(text), None
    runs = coded_runs(text) if RUN in codes else []
    edits = decode_runs(text, runs)
    if TURNED in codes:
        return edits, None
    return edits, runs if edits else left_turned(text, runs)


def _nothing() -> Sequence[Edit]:
    return ()


def _name(node: View, name: str) -> str:
    return name if node.parent is None else f"{node.name}.{name}"


def _edited(base: View, name: str, edits: Sequence[Edit]) -> View:
    return View(_name(base, name), applied(base.text, edits), base, lambda: edits)


# -- letters and leet --------------------------------------------------------------------------------------------------

_SEPARATOR = r"[ \t\r\n.,\-_*~|/+·•]"
_RUN = re.compile(
    rf"(?<![^\W_])(?:[^\W_]|[@$!]){_SEPARATOR}{{1,3}}(?:(?:[^\W_]|[@$!]){_SEPARATOR}{{1,3}}){{2,}}[^\W_](?![^\W_])"
)
_GAP = re.compile(rf"{_SEPARATOR}+")
_LEET_LONGEST = 64  # longer ones are keys and hashes
_DIGITS = "[01345678@$!|]"
_LEET_SIGNS = b"01345678@$!|"
_LEET = {
    "leet": bytes.maketrans(_LEET_SIGNS, b"oieasgtbasii"),
    "leet_l": bytes.maketrans(_LEET_SIGNS, b"oleasgtbasil"),
}
_LEET_KINDS = bytes(
    ord("1") if point in _LEET_SIGNS else ord("a") if chr(point).isalpha() else ord("0") if chr(point).isdigit() else 32
    for point in range(128)
) + bytes(128)
"""For each ASCII letter: a sign that is read as a letter, a letter, another digit, or no part of a word."""
_ROT13 = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", b"NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm"
)
_GATES = Matcher(
    [
        *(Expression(source) for source in GATE),
        # Any sign that is no ASCII punctuation stands for a letter here: a class of letters would be a large automaton.
        Expression(
            r"(?:^|[^0-9A-Za-z])(?:[0-9A-Za-z@$!\x{80}-\x{10ffff}][ \t\r\n.,\-_*~|/+·•]{1,3}){3}"
            r"[0-9A-Za-z\x{80}-\x{10ffff}](?:[^0-9A-Za-z]|$)"
        ),
        Expression(rf"[A-Za-z]{_DIGITS}+[A-Za-z]|(?:^|[^A-Za-z0-9]){_DIGITS}+[A-Za-z]{{2}}"),
        Expression(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
        Expression(identifiers.GATE),
        Expression(markup.GATE),
    ],
    heavy_program=_TAME,
)
_CODES = frozenset(range(len(GATE)))
SPACED, LEET, CONTROL, JOINED, MARKED = range(len(GATE), len(GATE) + 5)
SIGNED = frozenset({JOINED, MARKED})
"""The gates of texts that are also read as identifiers or without marks."""
APART = "\n\n\n\n"
"""Between texts that are looked at together: no code, no spaced word and no gate reaches across."""
_NONE = Readings()
_NO_EDITS: Sequence[Edit] = ()


def _rot13(text: str) -> str:
    return rotated(text.encode()).decode()  # far quicker than str.translate where there is more than ASCII


def _spaced(text: str) -> list[Edit]:
    """Drops the commonest gap of each run of single letters; other gaps in the run part words."""
    edits: list[Edit] = []
    for run in _RUN.finditer(text):
        gaps = list(_GAP.finditer(run[0]))
        joint = Counter(gap[0] for gap in gaps).most_common(1)[0][0]
        edits.extend(
            (run.start() + gap.start(), run.start() + gap.end(), "" if gap[0] == joint else " ") for gap in gaps
        )
    return edits


def _leet(text: str) -> Iterator[tuple[str, list[Edit]]]:
    """Letters for digits and signs in words where one stands beside a letter, for each way to read them that changes
    something."""
    data = text.encode("ascii", "replace")
    words = list(_leet_words(data))
    for name, table in _LEET.items():
        read = data.translate(table).decode()
        edits = [(start, end, new) for start, end in words if (new := read[start:end]) != text[start:end]]
        if edits and (name == "leet" or b"1" in data or b"|" in data):
            yield name, edits


def _leet_words(data: bytes) -> Iterator[tuple[int, int]]:
    kinds = data.translate(_LEET_KINDS)
    before, behind = kinds.find(b"1a"), kinds.find(b"a1")
    end = 0
    while before >= 0 or behind >= 0:
        turn = behind if before < 0 or 0 <= behind < before else before
        start, end = kinds.rfind(b" ", end, turn) + 1 or end, kinds.find(b" ", turn)
        end = end if end >= 0 else len(data)
        until = start + len(data[start:end].rstrip(b"!|"))
        if until - start <= _LEET_LONGEST:
            yield start, until
        before = kinds.find(b"1a", end) if 0 <= before < end else before
        behind = kinds.find(b"a1", end) if 0 <= behind < end else behind
