"""The arithmetic of the bench, on made-up samples; nothing is measured here."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import time

import pytest

from tests.bench import report, usage
from tests.bench.load import Sample
from tests.bench.scenarios import FAST, MANY, ONE
from tests.bench.streams import Count, Stream
from tests.upstream import replies, shapes

PER_CORE, LATENCY = report.ROWS[0], report.ROWS[3]


def results(**per_core: list[float]) -> dict[tuple[str, str], list[Sample]]:
    return {(name, MANY): [{"per_core": each} for each in taken] for name, taken in per_core.items()}


def test_ratios_compare_within_a_round() -> None:
    # The machine was three times slower in the second round, for both.
    taken = results(nginx=[90.0, 30.0, 60.0], patterns=[18.0, 6.0, 12.0])
    assert report.value(taken, "patterns", PER_CORE) == 12.0
    assert report.ratio(taken, "patterns", PER_CORE) == pytest.approx(0.2)


def test_added_latency_is_over_direct_of_the_same_round() -> None:
    taken: dict[tuple[str, str], list[Sample]] = {
        ("direct", ONE): [{"p50_ms": 0.1}, {"p50_ms": 0.4}, {"p50_ms": 0.2}],
        ("nginx", ONE): [{"p50_ms": 0.2}, {"p50_ms": 0.5}, {"p50_ms": 0.3}],
    }
    assert report.value(taken, "nginx", LATENCY) == pytest.approx(0.1)
    assert math.isnan(report.value(taken, "patterns", LATENCY))


@pytest.mark.parametrize(("reached", "met"), [(11.0, False), (12.0, True)])
def test_goals(reached: float, met: bool) -> None:
    assert [each for _, each in report.goals(results(nginx=[100.0], patterns=[reached]))] == [met]


def test_untrustworthy_figures_are_named() -> None:
    good: Sample = {"answer_bytes": 1000.0}
    slow: Sample = {"failed: status 503": 2.0, "paced": 0.5}
    taken: dict[tuple[str, str], list[Sample]] = {
        ("direct", MANY): [good],
        ("off", MANY): [good | {"answer_bytes": 300.0}],
        ("direct", FAST): [{"paced": 1.0}],
        ("off", FAST): [slow],
    }
    said = report.troubles(taken)
    assert [text.partition(" in '")[0] for text in said] == [
        "off: answers",
        "off: 2 failed: status 503",
        "off: only 50% of the chunks",
    ]


def test_usage_sees_this_process_work() -> None:
    before, until = usage.cpu_seconds(os.getpid()), time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert usage.cpu_seconds(os.getpid()) - before >= 0.08
    assert os.getpid() in usage.tree(os.getppid())
    assert usage.resident_mib(os.getpid()) > 5


def test_usage_counts_what_a_process_started() -> None:
    """As the proxy starts the writer of its audit."""
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        one = usage._memory(process.pid)[0] / 1024
        assert len(usage.tree(process.pid)) == 2
        assert usage.cpu_seconds(process.pid) >= 0.18
        both = [usage._memory(each) for each in usage.tree(process.pid)]
        parts = [anonymous + sum(size for _, size in files) for anonymous, files in both]
        # Two interpreters have one text in memory, and each its own objects.
        assert one + 1 < usage.resident_mib(process.pid) < sum(parts) / 1024 - 1
        process.stdin.write(b"\n")


class _Wire(asyncio.Transport):
    """A transport that only takes note."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
async def test_events_are_counted_whatever_the_cuts(size: int) -> None:
    events = shapes.stream("some words of no weight", obfuscation=True)
    data = b"".join(step for step in replies.sse(events) if isinstance(step, bytes))
    count, wire = Count(), _Wire()
    stream = Stream(lambda ahead: b"request %d" % ahead, 5, count, set())
    stream.connection_made(wire)
    for start in range(0, len(data), size):
        stream.data_received(data[start : start + size])
    assert (count.events, count.streams, count.failed) == (len(events) - 1, 1, {})
    assert len(count.first_event) == len(count.first_text) == 1
    await asyncio.sleep(0)
    assert wire.written == [b"request 5", b"request 0"]
