"""A classifier that finds one word and fails on command: what a real one does once a year, a test needs now."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from classifiers.base import Finding, Message

RELEASE = threading.Event()
"""Set it to let every hanging classifier go, so that no thread outlives the tests."""


class Canary:
    """Finds `word` wherever it stands. `fault`: none, crash, hang, stuck (hangs on texts with that word),
    nan. `delay` in seconds."""

    labels = frozenset({"mark"})

    def __init__(self, name: str, word: str, fault: str, delay: float, inline: bool) -> None:
        self.name, self._word, self._fault, self._delay, self.inline = name, word, fault, delay, inline
        self.digest = hashlib.sha256(f"{word}{fault}".encode()).hexdigest()
        self.read: list[Message] = []

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Canary:
        return cls(
            name,
            options.get("word", "MARK"),
            options.get("fault", "none"),
            options.get("delay", 0.0),
            options.get("inline", False),
        )

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        if messages[0].text == "penstock readiness canary":
            return []
        self.read.extend(messages)
        if self._delay:
            time.sleep(self._delay)
        if self._fault == "crash":
            raise RuntimeError(f"cannot read {messages[0].text}")
        if self._fault == "hang" or (self._fault == "stuck" and any("stuck" in message.text for message in messages)):
            RELEASE.wait(30)
        found = []
        for index, message in enumerate(messages):
            start = message.text.find(self._word)
            while start >= 0:
                score = float("nan") if self._fault == "nan" else 1.0
                found.append(Finding(self.name, "mark", score, index, (start, start + len(self._word))))
                start = message.text.find(self._word, start + 1)
        return found
