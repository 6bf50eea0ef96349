"""Which labels mean a bad text, which an honest one. What is neither must be said: nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

BAD = frozenset(
    {"harmful", "unsafe", "bad", "positive", "malicious", "attack", "injection", "jailbreak", "toxic", "hateful"}
    | {"offensive", "sensitive", "pii", "secret", "true", "yes", "1"}
)
HONEST = frozenset(
    {"benign", "honest", "safe", "good", "negative", "harmless", "allowed", "clean", "legitimate"}
    | {"false", "no", "none", "0"}
)


class LabelError(ValueError):
    """The sides that were named contradict each other."""


class UnknownLabel(ValueError):
    """A label of which nobody said on which side it stands; the message says so."""


class NoLabel(UnknownLabel):
    """What can be no label, whatever is said of it."""


_HALF = re.compile("[\ud800-\udfff]")


def whole(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair: JSON may hold one alone, and no file or terminal takes
    it."""
    return _HALF.sub("\ufffd", text)


def spelled(value: Any) -> str:
    """A label as it is compared: case and outer spaces do not matter; 1, 1.0 and "1" are one label. Raises
    NoLabel."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        try:
            return f"{value:g}"
        except OverflowError:
            raise NoLabel("the label is a number of more than 300 digits") from None
    if isinstance(value, str) and value.strip():
        return whole(value.strip().casefold())
    raise NoLabel("the label must be a word, a number or true/false")


@dataclass(frozen=True, slots=True)
class Labels:
    """The sides. A label in `left_out` is counted and not judged; `named` are those that the caller said himself."""

    bad: frozenset[str] = BAD
    honest: frozenset[str] = HONEST
    left_out: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()

    @classmethod
    def of(cls, positive: Iterable[str] = (), negative: Iterable[str] = (), ignore: Iterable[str] = ()) -> Self:
        """What a caller said, over the defaults. Naming the bad ones takes the usual bad ones out of the run, so that
        `--positive injection` measures injection alone; likewise for the honest ones. Raises LabelError for a label
        on two sides."""
        bad, honest, left_out = (frozenset(spelled(name) for name in names) for names in (positive, negative, ignore))
        for twice in sorted(bad & honest | bad & left_out | honest & left_out):
            raise LabelError(f"label '{twice}' is named on two sides")
        named = bad | honest | left_out
        usual_bad, usual_honest = BAD - named, HONEST - named
        if bad:
            left_out |= usual_bad
        if honest:
            left_out |= usual_honest
        return cls(bad or usual_bad, honest or usual_honest, left_out, named)

    def side(self, label: str) -> bool | None:
        """True: bad, False: honest, None: left out. Raises UnknownLabel."""
        if label in self.bad:
            return True
        if label in self.honest:
            return False
        if label in self.left_out:
            return None
        raise UnknownLabel(f"label '{label[:80]}' is neither bad nor honest")
