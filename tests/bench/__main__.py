"""`python -m tests.bench`: measure, and print the table."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import report
from tests.bench.candidates import VARIANTS, BenchError, Candidate, ready, tool
from tests.bench.load import Sample, measure
from tests.bench.scenarios import scenarios

FULL = (3, 1.0)
QUICK = (1, 0.5)
"""Rounds, and the scale of each sample."""

Collected = dict[tuple[str, str], list[Sample]]


def run(started: list[Candidate], rounds: int, scale: float) -> Collected:
    """All samples, rounds interleaved; each round begins with another candidate."""
    results: Collected = {}
    seed = int(time.time()) % 100_000
    for turn in range(rounds):
        for scenario in scenarios(scale):
            print(f"round {turn + 1} of {rounds}: {scenario.name}", file=sys.stderr, flush=True)
            first = turn % len(started)
            for candidate in started[first:] + started[:first]:
                seed += 1
                results.setdefault((candidate.name, scenario.name), []).append(measure(candidate, scenario, seed))
    return results


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round instead of three")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and all samples here")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument(
        "--variants",
        default=",".join(VARIANTS),
        help="which of Penstock's to measure, with commas (default: %(default)s; '' for nginx alone)",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="measure another proxy too; {port} and {upstream} in its command are filled in",
    )
    return parser.parse_args()


def main() -> int:
    """0, or 1 when `--check` finds a goal missed, or 2 when the bench cannot run."""
    arguments = parse()
    rounds, scale = QUICK if arguments.quick else FULL
    variants = [name for name in arguments.variants.split(",") if name]
    others = dict(text.partition("=")[::2] for text in arguments.also)
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        print(f"no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}", file=sys.stderr)
        return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = ["nginx", *variants, *others]
    try:
        tool("wrk")
        about = report.machine(rounds, scale)
        with (
            tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
            ready(Path(folder), names, others) as all_,
        ):
            results = run(all_, rounds, scale)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    report.show(results, names, about)
    if arguments.json:
        samples = [
            {"candidate": candidate, "scenario": scenario, "rounds": taken}
            for (candidate, scenario), taken in results.items()
        ]
        told = {"about": about, "figures": report.figures(results, names), "samples": samples}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")
    return int(arguments.check and not all(met for _, met in report.goals(results)))


if __name__ == "__main__":
    sys.exit(main())
