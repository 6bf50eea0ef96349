"""Names of the readings of a text (`views`), by which a finding says in which of them it was seen."""

from __future__ import annotations

from functools import lru_cache

from .base import Classifier

RAW = "raw"
"""The text as it stands."""
JOINT = "joint"
"""The ends of texts that follow each other (`joints`)."""
DISGUISED = "disguised"
"""Asks for any reading but the text as it stands."""
READINGS: dict[str, str] = {
    "plain": "without hidden characters, wide and joined letters made plain",
    "skeleton": "Latin letters for look-alikes",
    "letters": "s p a c e d letters joined",
    "leet": "1337 read as letters",
    "words": "identifiers taken apart: snake_case, camelCase, kebab-case",
    "unmarked": "without HTML's tags, Markdown's marks and signs inside words",
    "rot13": "the alphabet turned",
    "decoded": "base64, hexadecimal, percent signs and the like undone",
    JOINT: "split over texts that follow each other",
}


@lru_cache(maxsize=1024)
def seen_in(view: str, wanted: str) -> bool:
    """Whether a finding's `view`, as in "plain.decoded.leet_l", goes through the reading `wanted`."""
    if wanted == DISGUISED:
        return view not in ("", RAW)
    return wanted in view.replace("leet_l", "leet").split(".")


def readings_of(classifier: Classifier | None) -> frozenset[str]:
    """The readings in which it says that it saw something; none where it does not tell."""
    told: frozenset[str] = getattr(classifier, "readings", frozenset())
    return told
