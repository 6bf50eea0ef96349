"""Who is asked after whom: a dear classifier reads only what a cheap one is in doubt about.

INVARIANT: a message is spared only where the gate has read it and was sure. No answer from the gate is doubt about
everything, and so is a score that may lie in the band and was too low to be told.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from .base import Finding


@dataclass(frozen=True, slots=True)
class After:
    """Doubt of the classifier called `classifier`: its highest score in a message for one of `labels` lies in
    [low, high]. `floor` is the lowest score that it tells: a label that was not found has a score below it, or 0."""

    classifier: str
    labels: frozenset[str]
    low: float
    high: float
    floor: float = 0.0


def doubtful(
    after: After, places: Sequence[int], read: Container[int], findings: Iterable[Finding], failed: bool
) -> list[int]:
    """Those of `places` that are to be read after the gate, which has read `read`, found `findings`, and `failed` to
    tell all or not."""
    if failed:
        return list(places)
    highest: dict[tuple[int, str], float] = {}
    for finding in findings:
        if finding.label in after.labels:
            for place in finding.places:
                key = place, finding.label
                highest[key] = max(finding.score, highest.get(key, 0.0))
    silent = after.low == 0 or after.low < after.floor
    return [
        place
        for place in places
        if place not in read
        or any(
            silent if (score := highest.get((place, label))) is None else after.low <= score <= after.high
            for label in after.labels
        )
    ]
