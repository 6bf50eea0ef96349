"""A classifier for tests: it finds words. What it is told to do wrong, it does wrong for real."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from classifiers.base import Finding, Message
from classifiers.catalog import OptionError, UnknownOption
from classifiers.option_forms import Declared, Option

KIND = "tests.policies.words:Words"
OPTIONS: Declared = {name: Option({}) for name in ("crash", "inline", "readings", "score", "words")}


@dataclass
class Words:
    """Options: `words` (label -> word), `inline`, `crash`, `score`, `readings` that it claims to know."""

    name: str
    words: dict[str, str] = field(default_factory=lambda: {"mark": "MARK", "other": "OTHER"})
    inline: bool = True
    crash: bool = False
    score: float = 1.0
    readings: list[str] = field(default_factory=list)

    @staticmethod
    def options() -> Declared:
        return OPTIONS

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Words:
        for option in options:
            if option not in OPTIONS:
                raise UnknownOption(option, OPTIONS)
        for label, word in options.get("words", {}).items():
            if not isinstance(word, str):
                raise OptionError(f"words.{label}", "is no word", "write one in quotes")
        if options.get("score") == "broken":
            raise RuntimeError("no weights here")
        return cls(name, **options)

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(self.words)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.words, self.score], sort_keys=True).encode()).hexdigest()

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        if self.crash:
            raise RuntimeError("as told")
        found = []
        for at, message in enumerate(messages):
            for label, word in self.words.items():
                start = message.text.find(word)
                if start >= 0:
                    found.append(Finding(self.name, label, self.score, at, (start, start + len(word))))
        return found
