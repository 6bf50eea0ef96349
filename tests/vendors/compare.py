"""Two runs of a vendor's tests, test by test."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vendors.suites import Outcomes, Suite, mock, penstock, run


@dataclass(frozen=True, slots=True)
class Compared:
    """`direct` counts what became of the tests without Penstock; `different` names those that ended otherwise with
    it, each with what it said directly and through."""

    direct: Counter[str]
    different: list[tuple[str, str, str]]


def compare(direct: Outcomes, through: Outcomes) -> Compared:
    """A test that only one of the runs has is a difference."""
    counted = Counter(words if words in {"passed", "skipped"} else "failed" for words in direct.values())
    pairs = [(name, direct.get(name, "missing"), through.get(name, "missing")) for name in sorted({*direct, *through})]
    return Compared(counted, [pair for pair in pairs if pair[1] != pair[2]])


def both_ways(suite: Suite, more: Sequence[str] = ()) -> Compared:
    """Run a suite directly and through Penstock. `more`: arguments of pytest."""
    with tempfile.TemporaryDirectory() as folder, mock(suite) as upstream:
        place = Path(folder)
        direct = run(suite, upstream, place / "direct.xml", more)
        with penstock(upstream, place / "data") as url:
            through = run(suite, url, place / "through.xml", more)
    return compare(direct, through)
