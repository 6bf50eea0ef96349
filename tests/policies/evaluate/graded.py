"""A classifier for tests: a text says what is to be found in it ("harmful=0.83 injection=0.2"), or that it fails."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from classifiers.base import Finding, Message

KIND = "tests.policies.evaluate.graded:Graded"
_SAID = re.compile(r"([a-z_]+)=([0-9.]+)")


class Graded:
    """Option `bias` is added to every score. "!crash" in a text makes it raise, "!wait" answer late."""

    inline = False

    def __init__(self, name: str, bias: float = 0.0) -> None:
        self.name, self.bias = name, bias
        self.labels = frozenset({"harmful", "injection", "injection_indirect", "jailbreak"})
        self.digest = hashlib.sha256(f"{name} {bias}".encode()).hexdigest()

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Graded:
        return cls(name, **options)

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        found = []
        for at, message in enumerate(messages):
            if "!crash" in message.text:
                raise RuntimeError("as told")
            if "!wait" in message.text:
                time.sleep(1.2)
            found += [
                Finding(self.name, label, min(1.0, max(0.0, float(score) + self.bias)), at)
                for label, score in _SAID.findall(message.text)
            ]
        return found
