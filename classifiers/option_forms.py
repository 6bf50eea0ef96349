"""What the options of a kind may be: declared once, read by `Options` when a policy is loaded, and by the schema for
editors.

Each form is JSON Schema, with its meaning as the description and, where there is one, the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LABEL = r"^\S{1,128}$"
"""As policies can name it, behind "classifier."."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its form, and whether it must be there."""

    form: Mapping[str, Any]
    needed: bool = False

    @property
    def default(self) -> Any:
        return self.form.get("default")


Declared = Mapping[str, Option]
"""All options of a kind, by name."""


def _option(meaning: str, form: dict[str, Any], default: Any = None, needed: bool = False) -> Option:
    told = {} if default is None else {"default": default}
    return Option({**form, **told, "description": meaning}, needed)


def text(meaning: str, default: str | None = None, *, needed: bool = False) -> Option:
    """A text that is not blank."""
    return shaped(meaning, r"\S", "something", default, needed=needed)


def shaped(meaning: str, pattern: str, said: str, default: str | None = None, *, needed: bool = False) -> Option:
    """A text of some shape; `said` is what an editor asks for in place of another."""
    form = {"type": "string", "pattern": pattern, "patternErrorMessage": f"Write {said}."}
    return _option(meaning, form, default, needed)


def choice(meaning: str, words: Mapping[str, str], default: str) -> Option:
    """One of some words, each with what it means."""
    return _option(meaning, {"enum": list(words), "enumDescriptions": list(words.values())}, default)


def whole(meaning: str, default: int | None, low: int, high: int) -> Option:
    """A whole number from `low` to `high`; without a default it depends on other things."""
    return _option(meaning, {"type": "integer", "minimum": low, "maximum": high}, default)


def share(meaning: str, default: float) -> Option:
    """A number from 0 to below 1."""
    return _option(meaning, {"type": "number", "minimum": 0, "exclusiveMaximum": 1}, default)


def flag(meaning: str, default: bool | None) -> Option:
    """True or false."""
    return _option(meaning, {"type": "boolean"}, default)


def listed(meaning: str, known: Iterable[str], *, others: bool = False, least: int = 1) -> Option:
    """A list of words that are known; with `others` it may hold more, and these are what an editor offers."""
    words = {"enum": sorted(known)}
    items = {"anyOf": [words, {"type": "string", "pattern": LABEL}]} if others else words
    return _option(meaning, {"type": "array", "items": items, "minItems": least})


def mapping(meaning: str, values: Mapping[str, Any] | None = None, *, needed: bool = False) -> Option:
    """A mapping that is not empty."""
    told = {"additionalProperties": dict(values)} if values is not None else {}
    return _option(meaning, {"type": "object", "minProperties": 1, **told}, needed=needed)


def labels(meaning: str) -> Option:
    """A mapping from what a model says to the label that policies name."""
    return mapping(meaning, {"type": "string", "pattern": LABEL})
