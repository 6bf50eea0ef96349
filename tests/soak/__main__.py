"""`python -m tests.soak`: each run of `tests.proxy.endure` at full length. Ends with 1 where a promise was not kept."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path

from tests.deploy.killed import killed, running
from tests.proxy import endure
from tests.proxy.endure import Figures

Run = Callable[[Path], Awaitable[Figures]]


def runs(times: float) -> dict[str, Run]:
    """What is run, `times` as long as usual."""
    kills, reloads = max(1, round(1000 * times)), max(1, round(1000 * times))
    readers, parts = max(10, round(2000 * times)), max(1, round(5 * times))
    questions, streams = max(20, round(2000 * times)), max(20, round(500 * times))
    return {
        f"{kills} workers killed under streams": lambda folder: endure.kills(folder, kills),
        f"{reloads} loads of a policy, 4 workers, under load": lambda folder: endure.reloads(folder, reloads),
        "SIGTERM with 200 streams": lambda folder: endure.drained(folder, 200),
        "SIGTERM with 200 streams, 2 workers": lambda folder: endure.drained(folder, 200, 2),
        f"{questions} requests to a classifier that hangs": lambda folder: endure.hanging(folder, questions),
        f"{streams} streams that drip for ever": lambda folder: endure.late(folder, streams),
        f"{readers} readers that do not read": lambda folder: endure.slow_readers(folder, readers),
        f"{readers} readers that do not read, 2 workers": lambda folder: endure.slow_readers(
            folder, readers, workers=2
        ),
        f"2 Penstocks, Redis, PostgreSQL, Ray: each killed {parts} times": lambda folder: _killed(folder, parts),
    }


async def _killed(folder: Path, rounds: int) -> Figures:
    with running() as parts:
        return await killed(folder, parts, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Kill it, fill it, end it; count.")
    parser.add_argument("--times", type=float, default=1.0, help="How long, as a share of the usual (minutes).")
    parser.add_argument("--only", default="", help="Runs whose name holds these words.")
    given = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells each time that a killed worker does not read
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{date.today()}, {len(os.sched_getaffinity(0))} cores, {platform.processor() or platform.machine()}")
    bad = 0
    for name, run in runs(given.times).items():
        if given.only not in name:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = asyncio.run(_run(run, Path(folder)))
        kept = not (found.lost or found.broken or found.open)
        bad += not kept
        print(f"{name}: {'kept' if kept else 'NOT KEPT'}, {time.monotonic() - began:.0f} s")
        print(f"    decisions that a client saw {found.seen}, lost {found.lost}, open {found.open}", end="")
        print(f", chain {'broken: ' + found.broken if found.broken else 'whole'}")
        for what, figure in found.more.items():
            print(f"    {what}: {figure}")
        sys.stdout.flush()
    return 1 if bad else 0


async def _run(run: Run, folder: Path) -> Figures:
    return await run(folder)


if __name__ == "__main__":
    sys.exit(main())
