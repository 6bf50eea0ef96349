"""`python -m tests.bench.encoder`: what a pass of the shipped encoder costs, by length, rows that share it, and engine.

One thread. Every figure is milliseconds of CPU of this process for one row: the median of many passes taken in turns,
so that other work on the machine falls on all alike, and the quickest. Rows that share a pass are equally long; how
often that would happen to requests that wait at the same time is simulated from the lengths in `--lengths`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers.encoder import DEFAULT_MODEL, MODELS, Encoder, read_card
from classifiers.runtime import Session

Pass = Callable[[NDArray[np.int64]], Any]
LENGTHS, ROWS = (8, 16, 32, 64, 128, 192, 256), (1, 2, 4, 8)
BUDGET = 512
"""Tokens that one pass may hold."""
GOALS = {128: 7.0, 256: 15.0}


def openvino(model: bytes) -> Pass:
    """The same file read by OpenVINO (`pip install openvino`), one thread, in fp32 where it is not int8."""
    # Its import sends an event to its makers where this package is there.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    core = importlib.import_module("openvino").Core()
    options = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    return lambda rows: request.infer({"input_ids": rows}, share_inputs=True)["logits"]


def rows_of(length: int, count: int, seed: int) -> NDArray[np.int64]:
    """`count` rows of random words between the special tokens."""
    made = np.random.default_rng(seed).integers(1000, 20000, (count, length))
    made[:, 0], made[:, -1] = 101, 102
    return made


def measured(passes: Mapping[str, Pass], length: int, count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """(median, least) CPU milliseconds of a row, for each engine."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    for seed in range(rounds):
        rows = rows_of(length, count, seed % 4)
        for name, run in passes.items():
            began = time.process_time()
            run(rows)
            times[name].append(1000 * (time.process_time() - began) / count)
    return {name: (statistics.median(taken[2:]), min(taken)) for name, taken in times.items()}


def shared(lengths: Sequence[int], costs: Mapping[tuple[int, int], float], waiting: int, seed: int = 0) -> float:
    """The share of the work that is left when of `waiting` windows those of equal length run together."""

    def cost(length: int, count: int) -> float:
        known = [each for each in LENGTHS if (each, count) in costs]
        return float(np.interp(length, known, [costs[each, count] for each in known]))

    chance, alone, together = random.Random(seed), 0.0, 0.0
    for _ in range(300):
        drawn = Counter(chance.choices(lengths, k=waiting))
        for length, all_of_it in drawn.items():
            left = all_of_it
            alone += left * cost(length, 1)
            most = max(count for count in ROWS if count == 1 or count * length <= BUDGET)
            while left:
                count = max(each for each in ROWS if each <= min(most, left))
                together += count * cost(length, count)
                left -= count
    return together / alone


def windows_of(texts: Path, encoder: Encoder) -> list[int]:
    """The lengths of all windows of a file of JSON lines with a `text` each."""
    found = []
    for line in texts.read_text("utf-8").splitlines():
        ids, _ = encoder.tokens(json.loads(line)["text"])
        found += [window.end - window.start + 2 for window in encoder.windows(ids)]
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.encoder", description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or directory of a model (default: %(default)s)")
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="FILE", help="another ONNX file")
    parser.add_argument("--openvino", action="store_true", help="measure OpenVINO on the same file too")
    parser.add_argument("--lengths", type=Path, metavar="JSONL", help="texts whose lengths the simulation draws from")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    """0, or 1 where a goal is missed."""
    options = parse()
    shipped = MODELS / options.model
    folder = shipped if shipped.is_dir() else Path(options.model)
    encoder, model = Encoder.open(folder), (folder / "model.onnx").read_bytes()
    passes: dict[str, Pass] = {"onnxruntime": Session(model).run}
    passes |= {path.stem: Session(path.read_bytes()).run for path in options.also}
    if options.openvino:
        passes["openvino"] = openvino(model)
    version = importlib.metadata.version("onnxruntime")
    print(f"{read_card(folder).name}, onnxruntime {version}, CPU ms a row, median (least)")
    costs: dict[tuple[int, int], float] = {}
    told = []
    for length in LENGTHS:
        for count in ROWS:
            if count > 1 and count * length > BUDGET:
                continue
            found = measured(
                passes if count == 1 else {"onnxruntime": passes["onnxruntime"]}, length, count, options.rounds
            )
            costs[length, count] = found["onnxruntime"][0]
            row = "   ".join(f"{name} {median:6.2f} ({least:.2f})" for name, (median, least) in found.items())
            print(f"{length:4} tokens x {count}   {row}", flush=True)
            told.append({"tokens": length, "rows": count, "ms": found})
    if options.lengths is not None:
        lengths = windows_of(options.lengths, encoder)
        for waiting in (1, 4, 16, 64):
            print(f"{waiting:4} windows wait: work left {shared(lengths, costs, waiting):.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    missed = [length for length, goal in GOALS.items() if costs[length, 1] > goal]
    print("goals (7 ms for 128 tokens, 15 for 256): " + ("reached" if not missed else f"missed at {missed}"))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
