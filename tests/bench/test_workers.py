"""The row that is printed for a number of workers."""

from __future__ import annotations

from tests.bench.workers import told


def test_the_median_of_rounds_and_every_failure() -> None:
    samples = [{"rate": rate, "cpu_us": 500.0, "failed: 503": 2.0} for rate in (100.0, 4000.0, 2000.0)]
    assert told("2 workers", samples) == ("2 workers: 2,000 requests/s, 500 us of CPU each, 1.00 cores taken, 6 failed")
