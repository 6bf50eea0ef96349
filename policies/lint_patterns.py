"""Expressions as their author wrote them, looked at letter by letter: what is unbounded, and how much one can match.

RE2 has compiled each of them before, so they are well formed; this only tells atoms from quantifiers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .document import Path

ENDLESS = 1000
"""Repetitions from which on a bound is none."""


@dataclass(frozen=True, slots=True)
class Source:
    """One expression or word of a classifier of the kind patterns. `path` leads to it from the classifier."""

    path: Path
    label: str
    text: str
    is_regex: bool
    score: float


@dataclass(frozen=True, slots=True)
class Flaw:
    id: str
    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Token:
    """An atom with its quantifier (least, most; None for no bound), or one of ( ) |."""

    kind: str
    text: str
    least: int = 1
    most: int | None = 1


def expressions(options: Mapping[str, Any]) -> Iterator[Source]:
    """Every expression in the options of a patterns classifier, which are known to be well formed."""
    for label, value in options.get("patterns", {}).items():
        base: Path = ("patterns", label)
        items = [((*base, at), item) for at, item in enumerate(value)] if isinstance(value, list) else [(base, value)]
        for path, item in items:
            if isinstance(item, str):
                yield Source(path, label, item, True, 1.0)
                continue
            key = "regex" if "regex" in item else "words"
            texts, score = item[key], float(item.get("score", 1.0))
            for at, text in enumerate(texts) if isinstance(texts, list) else ((None, texts),):
                place: Path = (*path, key) if at is None else (*path, key, at)
                yield Source(place, label, text, key == "regex", score)


def flaws(source: str) -> Iterator[Flaw]:
    """What in an expression matches more than meant; the same atom is told once."""
    told = set()
    for token in tokens(source):
        endless = token.most is None or token.most >= ENDLESS
        if not endless or token.text in told:
            continue
        told.add(token.text)
        if token.kind == "negated" and "\\n" not in token.text and "\\s" not in token.text:
            inside = token.text[:-1] + "\\n]"
            yield Flaw(
                "negated-class",
                f"'{token.text}' without a bound matches line ends too, so one match can take the whole text",
                f"write '{inside}{{{token.least},100}}'",
            )
        elif token.kind == "any" or token.text in (r"[\s\S]", r"[\S\s]"):
            yield Flaw(
                "unbounded-pattern",
                f"'{token.text}' without a bound joins what stands far apart",
                f"write '{token.text}{{{token.least},100}}'",
            )


_QUOTES = frozenset("\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb")


def literal(source: str, is_regex: bool) -> Flaw | None:
    """What somebody writes who takes a sign for one that does something here."""
    if is_regex and (slashed := re.fullmatch(r"/(.+)/[a-z]{0,6}", source)):
        mend = f"write '{slashed[1]}' alone; whether capital letters count says ignore_case"
        return Flaw("slashes", f"'{source}' finds the slashes, too", mend)
    if not is_regex and source[:1] in _QUOTES and source[-1:] in _QUOTES:
        what = f"the quotes around {source} are no straight ones, and so a part of the word"
        return Flaw("literal-quotes", what, "type straight quotes, or none")
    if not is_regex and (source.endswith("*") or source.startswith("*")) and source.strip("*"):
        what = f"'*' in the word '{source}' is that sign itself"
        return Flaw("literal-star", what, "write word_boundary: false, or a regex")
    return None


def widest(source: str) -> int | None:
    """The most characters that an expression can match, None where there is no bound."""
    # A frame holds (most of the alternatives that are done, sum of the one that is open); infinity is no bound.
    frames = [(0.0, 0.0)]
    for token in tokens(source):
        done, open_ = frames[-1]
        if token.kind == "(":
            frames.append((0.0, 0.0))
        elif token.kind == "|":
            frames[-1] = (max(done, open_), 0.0)
        elif token.kind == ")" and len(frames) > 1:
            frames.pop()
            before, outer = frames[-1]
            frames[-1] = (before, outer + _times(max(done, open_), token.most))
        else:
            width = {"edge": 0, "literal": len(token.text)}.get(token.kind, 1)
            frames[-1] = (done, open_ + _times(width, token.most))
    most = max(frames[0])
    return None if most == float("inf") else int(most)


def _times(width: float, most: int | None) -> float:
    if width == 0:
        return 0.0
    return float("inf") if most is None else width * most


_TOKEN = re.compile(
    r"""
      (?P<literal>\\Q.*?(?:\\E|\Z))
    | (?P<edge>\\[bBAz]|[\^$]|\(\?[a-zA-Z-]+\))
    | (?P<escape>\\(?:p[A-Za-z]|P[A-Za-z]|[pP]\{[^}]*\}|x\{[^}]*\}|x..|.))
    | (?P<class>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\])
    | (?P<open>\((?:\?(?:P?<\w+>|[a-zA-Z-]*:))?)
    | (?P<close>\))
    | (?P<bar>\|)
    | (?P<any>\.)
    | (?P<plain>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_QUANTIFIER = re.compile(r"(?:\*|\+|\?|\{(?P<least>\d+)(?P<comma>,(?P<most>\d*))?\})\??")
_KINDS = {"open": "(", "close": ")", "bar": "|", "any": "any", "edge": "edge"}


def tokens(source: str) -> Iterator[Token]:
    """The expression in pieces."""
    at = 0
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None:  # cannot be, for RE2 has read it
            return
        at = found.end()
        name, text = str(found.lastgroup), found[0]
        kind = _KINDS.get(name, "atom")
        if name == "class":
            kind = "negated" if text.startswith("[^") else "atom"
        if name == "literal":
            text, kind = text[2:].removesuffix("\\E"), "literal"
        quantifier = _QUANTIFIER.match(source, at) if kind not in ("(", "|", "literal") else None
        if quantifier is None:
            yield Token(kind, text)
        else:
            at = quantifier.end()
            yield Token(kind, text, *_bounds(quantifier))


def _bounds(found: re.Match[str]) -> tuple[int, int | None]:
    sign = found[0][0]
    if sign in "*+?":
        return (1 if sign == "+" else 0), (1 if sign == "?" else None)
    least = int(found["least"])
    if found["comma"] is None:
        return least, least
    return least, int(found["most"]) if found["most"] else None
