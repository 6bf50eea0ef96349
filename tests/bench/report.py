"""From samples to a table: medians over rounds, and each as a ratio to nginx of the same run."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.candidates import tool
from tests.bench.load import Sample
from tests.bench.scenarios import CROWD, FAST, LONG, MANY, ONE, SIXTEEN

Results = Mapping[tuple[str, str], Sequence[Sample]]
"""(candidate, scenario) -> one sample for each round."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `added` subtracts what the same took directly, round by round."""

    title: str
    scenario: str
    figure: str
    unit: str
    digits: int = 0
    added: bool = False


ROWS = (
    Row("requests/s per core, 64 connections", MANY, "per_core", "1/s"),
    Row("requests/s per core, 32 kB prompts", LONG, "per_core", "1/s"),
    Row("CPU per request, 1 connection", ONE, "cpu_us", "us"),
    Row("latency added, 1 connection, p50", ONE, "p50_ms", "ms", 2, added=True),
    Row("latency added, 1 connection, p99", ONE, "p99_ms", "ms", 2, added=True),
    Row("latency added, 16 connections, p50", SIXTEEN, "p50_ms", "ms", 2, added=True),
    Row("latency added, 16 connections, p99", SIXTEEN, "p99_ms", "ms", 2, added=True),
    Row("first event added, 16 streams", FAST, "first_event_ms", "ms", 2, added=True),
    Row("first text added, 16 streams", FAST, "first_text_ms", "ms", 2, added=True),
    Row("stream: CPU per chunk, 16 streams", FAST, "cpu_us", "us", 1),
    Row("stream: CPU per chunk, 500 streams", CROWD, "cpu_us", "us", 1),
    Row("memory at 500 streams", CROWD, "resident_mib", "MiB", 1),
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a variant should reach: a bound on a ratio to nginx, or on the value itself."""

    row: int
    variant: str
    bound: float
    at_least: bool
    ratio: bool


GOALS = (
    Goal(0, "patterns", 0.12, at_least=True, ratio=True),
    Goal(9, "patterns", 2.0, at_least=False, ratio=True),
    Goal(10, "patterns", 2.0, at_least=False, ratio=True),
    Goal(11, "patterns", 80.0, at_least=False, ratio=False),
    Goal(7, "patterns", 2.0, at_least=False, ratio=False),
)


def by_round(results: Results, candidate: str, row: Row) -> list[float]:
    """The figure of each round; NaN where there is none."""
    found = [sample.get(row.figure, math.nan) for sample in results.get((candidate, row.scenario), ())]
    if not row.added:
        return found
    base = [sample.get(row.figure, math.nan) for sample in results.get(("direct", row.scenario), ())]
    return [one - other for one, other in zip(found, base, strict=False)]


def value(results: Results, candidate: str, row: Row) -> float:
    """The median over rounds; NaN where there is no figure."""
    return _median(by_round(results, candidate, row))


def ratio(results: Results, candidate: str, row: Row) -> float:
    """The median over rounds of the ratio to nginx in the same round, which had the same neighbours on the machine;
    NaN where nginx has no figure above zero."""
    pairs = zip(by_round(results, candidate, row), by_round(results, "nginx", row), strict=False)
    return _median([one / other for one, other in pairs if other > 0])


def _median(numbers: Sequence[float]) -> float:
    known = [number for number in numbers if not math.isnan(number)]
    return statistics.median(known) if known else math.nan


def figures(results: Results, names: Sequence[str]) -> list[dict[str, object]]:
    """The whole table as plain data."""

    def plain(number: float) -> float | None:
        return None if math.isnan(number) else number

    return [
        {
            "figure": row.title,
            "unit": row.unit,
            "values": {name: plain(value(results, name, row)) for name in names},
            "ratio_to_nginx": {name: plain(ratio(results, name, row)) for name in names},
        }
        for row in ROWS
    ]


def troubles(results: Results) -> list[str]:
    """What makes a figure untrustworthy: failed requests, answers that came short, streams that fell behind."""
    said = []
    for (name, scenario), samples in results.items():
        for reason in sorted({key for sample in samples for key in sample if key.startswith("failed: ")}):
            number = sum(sample.get(reason, 0) for sample in samples)
            said.append(f"{name}: {number:.0f} {reason} in '{scenario}'")
        direct = results[("direct", scenario)]
        short = _share(samples, direct, "answer_bytes")
        if short < 0.9:
            said.append(f"{name}: answers in '{scenario}' are shorter than direct ones")
        behind = _share(samples, direct, "paced")
        if behind < 0.9:
            said.append(f"{name}: only {behind:.0%} of the chunks in '{scenario}' came in time: the machine was full")
    return said


def _share(samples: Sequence[Sample], direct: Sequence[Sample], figure: str) -> float:
    """How much of what came directly came through the candidate too."""
    pairs = zip(samples, direct, strict=True)
    return _median([one[figure] / other[figure] for one, other in pairs if figure in one and other[figure] > 0])


def machine(rounds: int, scale: float) -> dict[str, str]:
    """Where, when and with what."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in processors if line.startswith("model name")]
    nginx = _told(tool("nginx"), "-v").rpartition("/")[2]
    wrk = _told(tool("wrk"), "-v").split()
    try:
        penstock = metadata.version("penstock")
    except metadata.PackageNotFoundError:
        penstock = "not installed"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{(models or ['processor unknown'])[0]}, {os.cpu_count()} cores, {platform.platform(terse=True)}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "rounds": f"{rounds}, samples x {scale:g}",
        "penstock": f"{penstock} ({_told('git', 'describe', '--always', '--dirty') or 'no git'})",
        "settings": " ".join(f"{key}={text}" for key, text in sorted(os.environ.items()) if key.startswith("PENSTOCK_"))
        or "defaults",
        "python": platform.python_version(),
        "nginx": nginx,
        "wrk": wrk[1] if len(wrk) > 1 else "?",
    }


def _told(*command: str) -> str:
    """What a command says of itself, on either output; "" when there is no such command."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()


def goals(results: Results) -> list[tuple[str, bool]]:
    """Each goal in words with its figure, and whether it was met. Goals without a figure are left out."""
    said = []
    for goal in GOALS:
        row = ROWS[goal.row]
        reached = (ratio if goal.ratio else value)(results, goal.variant, row)
        if math.isnan(reached):
            continue
        met = reached >= goal.bound if goal.at_least else reached <= goal.bound
        sign, of = (">=" if goal.at_least else "<="), (" x nginx" if goal.ratio else f" {row.unit}")
        said.append((f"{goal.variant}: {row.title} {sign} {goal.bound:g}{of}: {reached:.2f}", met))
    return said


def show(results: Results, names: Sequence[str], about: Mapping[str, str]) -> None:
    """Print everything."""
    console = Console(width=max(120, Console().width) if not sys.stdout.isatty() else None)
    for key, text in about.items():
        console.print(f"{key:>12}: {text}", highlight=False, markup=False)
    table = Table()
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for row in ROWS:
        table.add_row(f"{row.title} ({row.unit})", *(_cell(results, name, row) for name in names))
    console.print(table)
    for text, met in goals(results):
        console.print(("met     " if met else "MISSED  ") + text, highlight=False, markup=False)
    for text in troubles(results):
        console.print("WARNING  " + text, highlight=False, markup=False)


def _cell(results: Results, name: str, row: Row) -> str:
    number, times = value(results, name, row), ratio(results, name, row)
    if math.isnan(number):
        return "-"
    text = f"{number:,.{row.digits}f}"
    return text if name == "nginx" or math.isnan(times) else f"{text}  x {times:.2f}"
