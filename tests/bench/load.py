"""One sample: one scenario against one candidate, as a mapping from figure to value."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.bench import usage
from tests.bench.candidates import HERE, BenchError, Candidate, tool
from tests.bench.scenarios import Requests, Scenario, Streams

Sample = dict[str, float]

NICE = ["nice", "-n", "5"]
"""The load steps back for the proxy: it is the proxy that is measured."""


def measure(candidate: Candidate, scenario: Scenario, seed: int) -> Sample:
    """Run it once. `seed` makes texts differ from those of every other sample."""
    match scenario:
        case Requests():
            return _requests(candidate, scenario, seed)
        case Streams():
            return _streams(candidate, scenario, seed)


def _requests(candidate: Candidate, scenario: Requests, seed: int) -> Sample:
    """p50_ms and p99_ms of the whole exchange; per_core: requests for each CPU second of the candidate; cpu_us: the
    same as microseconds for each request; rate: requests a second; answer_bytes: the mean size of an answer;
    'failed: ...': requests without a good answer, by reason."""
    url = f"http://127.0.0.1:{candidate.port}/"
    connections, seconds = str(scenario.connections), max(1, round(scenario.seconds))
    command = [tool("wrk"), "-t1", "-c", connections, f"-d{seconds}s", "--timeout", "10s", "--latency"]
    before = usage.cpu_seconds(candidate.pid) if candidate.pid else 0.0
    output = _run([*command, "-s", str(HERE / "requests.lua"), url, "--", str(scenario.prompt), str(seed)], seconds)
    cpu = usage.cpu_seconds(candidate.pid) - before if candidate.pid else 0.0
    told = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if told is None:
        raise BenchError("wrk gave no result: " + output[-500:])
    result: dict[str, Any] = json.loads(told.removeprefix("RESULT "))
    count = max(1, result["requests"])
    sample = {
        "p50_ms": result["p50_us"] / 1e3,
        "p99_ms": result["p99_us"] / 1e3,
        "rate": result["requests"] / result["microseconds"] * 1e6,
        **{f"failed: {why}": float(number) for why, number in result["failed"].items() if number},
        "answer_bytes": result["bytes"] / count,
    }
    if cpu:
        sample |= {"per_core": result["requests"] / cpu, "cpu_us": cpu / count * 1e6}
    return sample


def _streams(candidate: Candidate, scenario: Streams, seed: int) -> Sample:
    """first_event_ms and first_text_ms: medians from when the request is written; cpu_us: for each event that arrived;
    resident_mib: memory at the end; events: arrived in a second; paced: the same as a share
    of what the pace of the streams allows; 'failed: ...': streams refused, blocked, cut or broken, by reason."""
    options = {
        "port": candidate.port,
        "connections": scenario.connections,
        "gap": scenario.gap,
        "ramp": scenario.ramp,
        "seconds": scenario.seconds,
        "watch": candidate.pid,
        "seed": seed,
    }
    command = [sys.executable, "-m", "tests.bench.streams"]
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    result: dict[str, Any] = json.loads(_run([*command, *arguments], scenario.ramp + scenario.seconds))
    events = max(1, result["events"])
    sample = {
        "events": result["events"] / scenario.seconds,
        "paced": result["events"] / scenario.seconds * scenario.gap / scenario.connections,
        **{f"failed: {why}": float(number) for why, number in result["failed"].items()},
    }
    for figure in ("first_event", "first_text"):
        if result[figure]:
            sample[f"{figure}_ms"] = statistics.median(result[figure]) * 1e3
    if candidate.pid:
        sample |= {"cpu_us": result["cpu_seconds"] / events * 1e6, "resident_mib": result["resident_mib"]}
    return sample


def _run(command: Sequence[str], seconds: float) -> str:
    """Its standard output. Well over the time it should need it is killed."""
    try:
        done = subprocess.run(
            [*NICE, *command], check=False, capture_output=True, text=True, timeout=seconds + 30, cwd=HERE.parent.parent
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the load did not end in time: {' '.join(command[:4])} ...") from error
    if done.returncode:
        raise BenchError(f"the load failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
