"""Who is asked after whom: a dear classifier reads only what a cheap one is in doubt about.

INVARIANT: a message is spared only where the gate has read it and was sure. No answer from the gate is doubt about
everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .base import Finding


@dataclass(frozen=True, slots=True)
class After:
    """Doubt of the classifier called `classifier`: its highest score in a message for one of `labels` lies in
    [low, high]. A label that was not found has the score 0."""

    classifier: str
    labels: frozenset[str]
    low: float
    high: float


def doubtful(after: After, places: Sequence[int], findings: Iterable[Finding]) -> list[int]:
    """Those of `places` (of messages that the gate has read) where `findings` of the gate leave doubt, in order."""
    highest: dict[tuple[int, str], float] = {}
    for finding in findings:
        if finding.label in after.labels:
            key = finding.message, finding.label
            highest[key] = max(finding.score, highest.get(key, 0.0))
    return [
        place
        for place in places
        if any(after.low <= highest.get((place, label), 0.0) <= after.high for label in after.labels)
    ]
