"""Options of a classifier, read one by one: each mistake is an OptionError that names the option and what to write."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from .catalog import OptionError, UnknownOption, UnknownWord
from .option_forms import LABEL, Declared

_LABEL = re.compile(LABEL)


class Options:
    """The options as an author wrote them, read as they are declared. Every reader raises OptionError."""

    def __init__(self, options: Mapping[str, Any], known: Declared) -> None:
        for option in options:
            if option not in known:
                raise UnknownOption(str(option), known)
        self._options, self._known = options, known

    def __contains__(self, name: str) -> bool:
        return name in self._options

    def _value(self, name: str) -> Any:
        return self._options.get(name, self._known[name].default)

    def text(self, name: str, mend: str = "") -> str:
        """A text that is not blank; required where there is no default."""
        value = self._value(name)
        if value is None:
            raise OptionError(name, "is missing", mend)
        if not isinstance(value, str) or not value.strip():
            raise OptionError(name, "must be a text", mend)
        return value

    def maybe_text(self, name: str, mend: str = "") -> str | None:
        """A text that is not blank, or None where it is left out."""
        return self.text(name, mend=mend) if name in self._options else None

    def choice(self, name: str) -> str:
        """One of some words."""
        value, choices = self._value(name), self._known[name].form["enum"]
        if value not in choices:
            raise UnknownWord(name, f"{value!r} is unknown", str(value), choices)
        return str(value)

    def whole(self, name: str, default: int | None = None, low: int | None = None, high: int | None = None) -> int:
        """A whole number; a default and bounds that are given here are narrower than the declared ones."""
        form = self._known[name].form
        low, high = form["minimum"] if low is None else low, form["maximum"] if high is None else high
        default = form["default"] if default is None else default
        value = self._options.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise OptionError(name, f"must be a whole number from {low} to {high}", f"for example {default}")
        return value

    def share(self, name: str) -> float:
        """A number from 0 to below 1."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise OptionError(name, "must be a number from 0 to below 1", f"for example {self._known[name].default}")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._options.get(name, self._known[name].default if default is None else default)
        if not isinstance(value, bool):
            raise OptionError(name, "must be true or false")
        return value

    def mapping(self, name: str, default: Mapping[str, Any] | None = None, mend: str = "") -> dict[str, Any]:
        """A mapping with text for keys; not empty unless `default` is."""
        value = self._options.get(name, default)
        if value is None:
            raise OptionError(name, "is missing", mend)
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise OptionError(name, "must be a mapping with text for keys", mend or "quote what YAML reads otherwise")
        if not value and name in self._options:
            raise OptionError(name, "is empty", mend)
        return dict(value)

    def sequence(self, name: str, mend: str = "") -> list[Any]:
        """A list that is not empty."""
        value = self._options.get(name)
        if not isinstance(value, list | tuple) or not value:
            raise OptionError(name, "is missing" if value is None else "must be a list that is not empty", mend)
        return list(value)

    def labels(self, name: str, default: Mapping[str, str] | None = None, mend: str = "") -> dict[str, str]:
        """A mapping from what a model says to the label that policies name."""
        table = self.mapping(name, default, mend)
        for said, label in table.items():
            check_label(name, label, f"what {said!r} is called in policies")
        return table

    def file(self, name: str) -> tuple[Path, bytes]:
        """The path and the content of a file."""
        path = Path(self.text(name, mend="the path of a file"))
        try:
            return path, path.read_bytes()
        except OSError as error:
            raise OptionError(name, f"cannot read {path}: {error.strerror}", "name a file that can be read") from None


def check_label(option: str, label: object, mend: str = "a text without blanks") -> str:
    """`label` where policies can name it. Raises OptionError."""
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise OptionError(option, f"{label!r} is no label: a text of 1 to 128 characters without blanks", mend)
    return label


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number, and no truth value."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False
