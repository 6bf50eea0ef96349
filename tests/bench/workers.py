"""How many requests a second more workers take: `python -m tests.bench.workers [--workers 1,2] [--rounds 3]`.

Each number of workers serves in turn behind the same policy and in front of the same simulator, and rounds take turns,
for a machine is never as idle twice. The load and the simulator need cores of their own: with two cores the figures say
less than with eight, and `cores taken` says how many Penstock had.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import report
from tests.bench.candidates import HERE, VARIANTS, Candidate, Ground, free_port, prove, tool
from tests.bench.load import Sample, measure
from tests.bench.scenarios import Requests

SCENARIO = Requests("requests, 64 connections", 64, 1_000, 3.0)


def start(ground: Ground, counts: Sequence[int], variant: str) -> list[Candidate]:
    """One Penstock for each number of workers, in front of one simulator."""
    root = {"PYTHONPATH": str(HERE.parent.parent)}
    upstream = free_port()
    ground.wait(ground.start("simulator", upstream, _module("tests.upstream", "--port", str(upstream)), root))
    made = []
    for count in counts:
        port, name = free_port(), f"{count} workers"
        command = _module(
            "proxy", "serve", "--upstream", f"http://127.0.0.1:{upstream}/v1", "--policy", VARIANTS[variant],
            "--port", str(port), "--admin-port", str(free_port()), "--workers", str(count),
        )  # fmt: skip
        made.append(
            ground.start(name, port, command, root | {"PENSTOCK_DATA_DIR": str(ground.folder / f"data{count}")})
        )
        ground.wait(made[-1])
        prove(made[-1])
    return made


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def told(name: str, samples: Sequence[Sample]) -> str:
    """One row."""
    rate, cpu = (statistics.median(each[figure] for each in samples) for figure in ("rate", "cpu_us"))
    failed = sum(value for each in samples for figure, value in each.items() if figure.startswith("failed"))
    cores = rate * cpu / 1e6
    return f"{name}: {rate:,.0f} requests/s, {cpu:.0f} us of CPU each, {cores:.2f} cores taken, {failed:.0f} failed"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.workers")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", default="patterns", choices=list(VARIANTS))
    given = parser.parse_args()
    counts = [int(count) for count in given.workers.split(",")]
    tool("wrk")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, Ground(Path(folder)) as ground:
        started = start(ground, counts, given.variant)
        taken: dict[str, list[Sample]] = {each.name: [] for each in started}
        for turn in range(given.rounds):
            for each in started[turn % len(started) :] + started[: turn % len(started)]:
                taken[each.name].append(measure(each, SCENARIO, 1000 * turn + each.port % 1000))
    about = report.machine(given.rounds, 1.0)
    print(f"{about['date']}, {about['machine']}, load before {about['load before']}")
    for name, samples in taken.items():
        print(told(name, samples))


if __name__ == "__main__":
    main()
