"""Whose content is kept: the settings as an operator writes them."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from hashlib import blake2b

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which exchanges are kept beside those in which a rule fired that says `keep: content`: those in which any rule
    `fired`, and a `share` of all, from 0 to 1."""

    fired: bool = False
    share: float = 0.0

    @classmethod
    def read(cls, text: str) -> Choice | None:
        """None for off. Raises ValueError."""
        words = {"off": None, "rules": cls(), "fired": cls(fired=True), "all": cls(share=1.0)}
        if text in words:
            return words[text]
        found = _SHARE.fullmatch(text.strip())
        if found is None or not 0 < float(found[1]) <= 100:
            raise ValueError("is off, rules, fired, all, or a share of all exchanges like 5%")
        return cls(share=float(found[1]) / 100)

    def drawn(self, id: str) -> bool:
        """Whether the exchange is among the share: the same answer for an id everywhere."""
        if self.share in {0.0, 1.0}:
            return self.share == 1.0
        return int.from_bytes(blake2b(id.encode(), digest_size=8).digest()) < self.share * 2**64

    def fits(self, rules: Set[str], keeping: Set[str]) -> bool:
        """Whether one of the rules that fired keeps it."""
        return bool(rules and self.fired) or not rules.isdisjoint(keeping)


def seconds(text: str) -> float:
    """How long 90s, 10m, 2h, 7d or 2w is. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if found is None or not int(found[1]):
        raise ValueError("is a time like 90s, 12h, 7d or 4w")
    return float(int(found[1]) * _UNITS[found[2]])
