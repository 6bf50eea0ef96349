"""`python -m tests.bench.teach --data DIR`: how good is a head taught with fifty texts of a source on the rest of it?

Each source of DIR/dev (or another --part) that has bad and honest texts is asked alone, several times with other
examples. Near copies of an example do not count among the rest. Nothing here is tuned; `classifiers.teach` is used as
`penstock teach` uses it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifiers import alike
from classifiers.encoder import DEFAULT_MODEL, Encoder
from classifiers.statistics import auroc, bootstrap, recall_at_fpr
from classifiers.taught import open_encoder
from classifiers.teach import Rows, hold_out, learn, read

Sides = dict[bool, dict[str, str]]
"""By side (bad or honest): each text under its fingerprint."""
SPARE = 25
"""Texts of each side that must be left to measure with."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The texts of one source (n,), read. `groups` joins near copies."""

    name: str
    texts: list[str]
    bad: NDArray[np.bool_]
    rows: Rows
    groups: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Result:
    """Means over repetitions. `own` is what cross-validation on the examples alone had promised."""

    name: str
    bad: int
    honest: int
    auroc: float
    recall: float
    low: float
    high: float
    own: float
    length: float


def sources(
    folder: Path, cap: int, examples: int, languages: bool = False
) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """(name, texts with sides) of every source, or of every language of every source, with enough of both sides; at
    most `cap` of a side, chosen by hash."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        name, groups = path.name.removesuffix(".jsonl.gz"), defaultdict[str, Sides](lambda: {True: {}, False: {}})
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["text"].strip():
                    group = f"{name} {row.get('lang') or ''}" if languages else name
                    groups[group][row["label"] != "benign"][alike.fingerprint(row["text"])] = row["text"]
        for group, sides in sorted(groups.items()):
            torn = sides[True].keys() & sides[False].keys()
            found = []
            for side, texts in sides.items():
                kept = sorted((mark, text) for mark, text in texts.items() if mark not in torn)
                found += [(text[:20_000], side) for _, text in kept[:cap]]
            least = min(sum(side is one for _, one in found) for side in (True, False))
            if least >= examples // 2 + SPARE:
                yield group, found


def load(encoder: Encoder, name: str, found: list[tuple[str, bool]]) -> Source:
    texts = [text for text, _ in found]
    groups = alike.groups(len(texts), alike.pairs(texts))
    return Source(name, texts, np.asarray([side for _, side in found]), read(encoder, texts), groups)


def measure(source: Source, examples: int, repeats: int) -> Result:
    """Teach with `examples` texts, half of each side, and judge what is left."""
    figures = []
    for repeat in range(repeats):
        rng = np.random.default_rng(zlib.crc32(f"{source.name} {repeat}".encode()))
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(source.bad == side))[: examples // 2] for side in (True, False)]
        )
        rest = np.flatnonzero(~np.isin(source.groups, source.groups[chosen]))
        seen, bad = source.rows.take(chosen), source.bad[chosen]
        if min(source.bad[rest].sum(), (~source.bad[rest]).sum()) < SPARE // 2:
            continue
        held = hold_out(seen, bad, source.groups[chosen])
        scores = source.rows.take(rest).score(learn(seen, bad, held.strength))
        truth = source.bad[rest]
        figures.append(
            (
                auroc(scores, truth),
                recall_at_fpr(scores, truth, 0.01)[0],
                auroc(held.scores, bad),
                *bootstrap(scores, truth, draws=200),
            )
        )
    area, recall, own, low, high = np.mean(figures, axis=0).tolist() if figures else [float("nan")] * 5
    length = auroc([float(len(text)) for text in source.texts], source.bad)
    count = int(source.bad.sum())
    return Result(source.name, count, len(source.texts) - count, area, recall, low, high, own, max(length, 1 - length))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.teach", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with dev/*.jsonl.gz")
    parser.add_argument("--part", default="dev", help="dev, or train to tune with")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--examples", type=int, nargs="+", default=[50])
    parser.add_argument("--languages", action="store_true", help="each language of a source by itself")
    parser.add_argument("--sources", nargs="+", help="only these")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cap", type=int, default=400, help="most texts of a side that are read")
    parser.add_argument("--json", type=Path, help="a file to write the results to as well")
    options = parser.parse_args()
    encoder = open_encoder(options.model)
    results: dict[int, list[Result]] = {count: [] for count in options.examples}
    print(f"encoder {encoder.card.name} {encoder.card.encoder[:12]}, layers {', '.join(encoder.layers)}")
    for name, found in sources(options.data / options.part, options.cap, min(options.examples), options.languages):
        if options.sources and name.split(" ")[0] not in options.sources:
            continue
        source = load(encoder, name, found)
        for count, rows in results.items():
            if min(source.bad.sum(), (~source.bad).sum()) >= count // 2 + SPARE:
                rows.append(measure(source, count, options.repeats))
        print(f"read {name}", file=sys.stderr, flush=True)
    for count, rows in results.items():
        print(f"\n{count} examples, mean of {options.repeats} draws")
        print(
            f"{'source':28s} {'bad':>5s} {'honest':>6s}  AUROC (95 %)           recall at 1 %  promised  length alone"
        )
        for row in rows:
            interval = f"({row.low:.3f} to {row.high:.3f})"
            print(
                f"{row.name:28s} {row.bad:5d} {row.honest:6d}  {row.auroc:.3f} {interval:18s} {row.recall:10.3f}"
                f" {row.own:11.3f} {row.length:10.3f}"
            )
        area, recall = (float(np.nanmean([getattr(row, name) for row in rows])) for name in ("auroc", "recall"))
        print(f"{'mean of ' + str(len(rows)) + ' sources':42s} {area:.3f} {recall:29.3f}")
    if options.json:
        told = {
            count: [{"source": row.name, "auroc": row.auroc, "recall": row.recall} for row in rows]
            for count, rows in results.items()
        }
        options.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
