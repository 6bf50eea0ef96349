"""`python -m classifiers.training.compare --data DIR MODEL MODEL...`: models against the first of them on the same
texts of unseen sources, by paired bootstrap, and how far the others lie apart, which seeds of one recipe should not."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..card import read_card
from ..catalog import OptionError
from ..encoder import Encoder
from . import card, measure
from .__main__ import examples, say
from .corpus import CorpusError, Example
from .judge import Judged, judge
from .labels import ATTACKS, NAMES
from .measure import Floats

FEW = 15
"""Texts of a side below which no figure is told."""
Sides = tuple[Floats, Floats]
"""Logits of the bad and of the honest texts of a figure."""


class Figure(NamedTuple):
    """AUROC and recall at 1 % false alarms of one model; -1 or 1 where a figure lies below or above the first
    model's by more than chance (95 %), else 0."""

    auroc: float
    recall: float
    auroc_side: int = 0
    recall_side: int = 0


def sides(judged: Judged) -> dict[str, Sides]:
    """What is compared: each head on the texts that its card counts, the card's suites, and the bad texts of each
    source against all honest prompts (answers and texts of outside against the honest ones of their source)."""
    found: dict[str, Sides] = {}
    for name in NAMES:
        known = judged.where(lambda e, k=name: card.measured(e, k))  # type: ignore[misc]
        found[name] = known.scores(name, 1.0), known.scores(name, 0.0)
    found |= card.suites(judged)
    honest = judged.where(lambda e: e.suite == "honest")
    for source in sorted({e.source for e in judged.examples}):
        part = judged.where(lambda e, s=source: e.source == s)  # type: ignore[misc]
        for label in (*ATTACKS, "harmful", "harmful_answer"):
            beside = part if label in {"injection_indirect", "harmful_answer"} else honest
            found[f"{source} / {label}"] = part.scores(label, 1.0), beside.scores(label, 0.0)
    return {name: pair for name, pair in found.items() if min(len(side) for side in pair) >= FEW}


def against(models: Sequence[Sides], seed: int = 0, draws: int = 200) -> list[Figure]:
    """A figure of each of `models`, which judged the same texts in the same order. Each draw takes the same texts for
    all of them."""
    rng = np.random.default_rng(seed)
    bad, honest = (len(side) for side in models[0])
    drawn = [(rng.integers(0, bad, bad), rng.integers(0, honest, honest)) for _ in range(draws)]
    values = np.array([[_figures((b[i], h[k])) for i, k in drawn] for b, h in models])
    low, high = np.quantile(values - values[0], (0.025, 0.975), axis=1)
    signs = (low > 0).astype(int) - (high < 0).astype(int)
    return [Figure(*_figures(pair), *map(int, side)) for pair, side in zip(models, signs, strict=True)]


def _figures(pair: Sides) -> tuple[float, float]:
    return measure.auroc(*pair), measure.recall_at(*pair, 0.01)


MARKS = {-1: "-", 0: " ", 1: "+"}


def line(name: str, pair: Sides, figures: Sequence[Figure]) -> str:
    """A row of the table: of each model AUROC and recall with a mark where they differ from the first one's; of three
    or more others their standard deviation."""
    cells = [f"{f.auroc:.4f}{MARKS[f.auroc_side]} {f.recall:.3f}{MARKS[f.recall_side]}" for f in figures]
    if len(others := figures[1:]) > 2:
        spread = np.std([f[:2] for f in others], axis=0, ddof=1)
        cells.append(f"{spread[0]:.4f}  {spread[1]:.3f} ")
    return f"{name:48}{len(pair[0]):6}{len(pair[1]):8}  " + "  ".join(cells)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m classifiers.training.compare", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.gz and dev/*.jsonl.gz")
    parser.add_argument("--dev-cap", type=int, default=600, help="most rows of any dev source (600)")
    parser.add_argument("--every", type=int, default=1, help="judge every Nth text only: 4 takes a quarter of the time")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="model directories with their cards")
    return parser


def main() -> int:
    options = arguments().parse_args()
    options.cap = None
    try:
        for model in options.models:
            read_card(model)
        compare(examples(options)[2][min(1, options.every - 1) :: options.every], options.models)
    except (CorpusError, OptionError, OSError) as error:
        print(f"nothing compared: {error}", file=sys.stderr)
        return 1
    return 0


def compare(texts: Sequence[Example], models: Sequence[Path]) -> None:
    """Judges `texts` with each of `models` and prints the table."""
    judged = []
    for model in models:
        say(f"{model}: {len(texts)} texts")
        judged.append(sides(judge(Encoder.open(model), texts, say)))
    heads = [f"{model.name[:14]:14}" for model in models] + ["spread"] * (len(models) > 3)
    print(f"{'AUROC, recall at 1 % false alarms':48}{'bad':>6}{'honest':>8}  " + "  ".join(heads))
    for name, pair in judged[0].items():
        figures = against([each[name] for each in judged])
        if not any(math.isnan(figure.auroc) for figure in figures):
            print(line(name, pair, figures))


if __name__ == "__main__":
    sys.exit(main())
