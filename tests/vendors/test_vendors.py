"""A part of the vendors' suites, which shows each kind of traffic; `python -m tests.vendors` runs all of it."""

from __future__ import annotations

import pytest

from tests.vendors.compare import both_ways, compare
from tests.vendors.suites import SUITES, without_examples


@pytest.mark.parametrize("name", SUITES)
def test_a_part_of_the_suite_says_the_same(name: str) -> None:
    suite = SUITES[name]
    found = both_ways(suite, [f"tests/api_resources/{file}" for file in suite.quick])
    assert found.different == []
    assert found.direct["passed"] > 100


def test_examples_are_left_out() -> None:
    text = "a:\n  example:\n    b: 1\n\n    c: 2\n  type: x\n  examples:\n  - d\n  - e\nexample: f\ng: {example: h}\n"
    assert without_examples(text) == "a:\n  type: x\ng: {example: h}\n"


def test_every_difference_counts() -> None:
    direct = {"a": "passed", "b": "skipped", "c": "Error code: 404", "d": "passed", "e": "passed"}
    found = compare(direct, {"a": "passed", "b": "skipped", "c": "Error code: 502", "d": "Error code: 400"})
    assert dict(found.direct) == {"passed": 3, "skipped": 1, "failed": 1}
    assert [name for name, _, _ in found.different] == ["c", "d", "e"]
