"""`python -m classifiers.training.middle --data DIR --out DIR`: a second opinion for each head, from the middle layer.

The last layer was bent to the training sources until it parted them nearly without error, and what it says of other
sources suffers from that. The middle layer was bent less. So each head gets a line on the mean of the middle layer,
fitted on the same texts, and its logit half as much weight as the head's own. The graph has that mean already (taught
heads look at it); everything else in the file stays what it is, to the bit.

Decision: fitted apart and added, not trained together. Why: together the last layer, which knows the training texts by
heart, would leave the middle nothing to say. Cost: 8,000 numbers, and microseconds a window. OUT gets model.onnx; judge
it with `python -m classifiers.training.compare`, and write its card as `__main__` does.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import linear
from ..encoder import DEFAULT_MODEL, MODELS, WIDTH, Encoder
from . import augment, compose, corpus
from .corpus import Example
from .fit import balance
from .labels import INDEX, NAMES

SHARE = 0.5
"""How much the second opinion counts beside a head's own."""
UNASKED = frozenset({"harmful_answer"})
"""Heads without one: what parts harmful answers of one source does not part those of another (AUROC .717 to .711)."""
NEAR = 3e-3
"""How dear weights are, on features of spread 1, for each text."""
TEXTS, LEAST = 24_000, 900
"""Texts that are heard, and the bad ones of each head at least, where there are as many."""
NEWS, LOUD = 4000, 4.0
"""Sentences in other languages, and what each weighs: a straight line else takes a language for an attack, since German
was one in the training sets."""
PIECE, AROUND = 900, 300
"""Letters of a text that are heard, from its start or around what is planted in it."""
OWN, LINES, SHIFTS = "logits.last", "second.lines", "second.shifts"
"""Names in the graph: the heads' own logits, and weights and biases of the second opinions."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Opinions:
    """What is added to the logits: middle (n, 384) @ lines.T (384, heads) + shifts (heads,)."""

    lines: NDArray[np.float32]
    shifts: NDArray[np.float32]


def texts(training: Sequence[Example], rng: random.Random) -> list[Example]:
    """What the lines hear: texts as an epoch of the training has them, with planted orders and disguises, and pages of
    documentation, each honest and with an order between two of its paragraphs; and sentences in other languages."""
    made = augment.epoch(training, rng)
    shuffled = rng.sample(range(len(made)), len(made))
    rows = [made[place] for place in sorted(corpus.with_bad(made, shuffled, TEXTS, LEAST))]
    pages = corpus.unlearnt()
    ordered = compose.between_paragraphs([page.text for page in pages], rng)
    for page, (text, order) in zip(pages, ordered, strict=True):
        start = text.index(order)
        said = {"injection_indirect": 1.0}
        rows += [page, replace(page, text=text, targets=said, marked=(start, start + len(order)))]
    return rows + [replace(sentence, weight=LOUD) for sentence in compose.news(NEWS, rng)]


def piece(example: Example) -> str:
    """What is heard of a text."""
    if example.marked and example.marked[1] > PIECE:
        return example.text[max(0, example.marked[0] - AROUND) : example.marked[1] + AROUND]
    return example.text[:PIECE]


def seen(encoder: Encoder, rows: Sequence[Example]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The middle layer's mean of each window (windows, 384), and the place of its text in `rows` (windows,)."""
    at = encoder.layers.index("middle") * WIDTH
    found, own = [], []
    for place, row in enumerate(rows):
        middle = encoder.read(piece(row), row.context).embeddings[:, at : at + WIDTH]
        found.append(middle)
        own += [place] * len(middle)
    return np.concatenate(found), np.array(own)


def fitted(features: NDArray[np.float32], own: NDArray[np.intp], rows: Sequence[Example]) -> Opinions:
    """A line for each head on the windows of the texts that speak of it, bad and honest ones weighted as the training
    weights them; all zero where a head has none."""
    lines, shifts = np.zeros((len(NAMES), WIDTH), np.float32), np.zeros(len(NAMES), np.float32)
    weights, trust = balance(rows), np.array([row.weight for row in rows])[own]
    for name in NAMES:
        known = np.array([name in row.targets for row in rows])[own]
        bad = np.array([row.targets.get(name, 0.0) > 0.5 for row in rows])[own][known]
        if name in UNASKED or not bad.any() or bad.all():
            continue
        counts = trust[known] * weights[bad.astype(int), INDEX[name]]
        line, shift = _line(features[known].astype(np.float64), bad, counts)
        lines[INDEX[name]], shifts[INDEX[name]] = SHARE * line, SHARE * shift
    return Opinions(lines, shifts)


def _line(rows: Floats, bad: NDArray[np.bool_], counts: Floats) -> tuple[Floats, float]:
    """Logistic regression on features of spread 1, given back for the features as they are."""
    middle, spread = rows.mean(0), rows.std(0) + 1e-6
    found = linear.fit((rows - middle) / spread, bad.astype(np.float64), counts, 2 * NEAR * float(counts.sum()))
    line = found.weights / spread
    return line, float(found.intercept - line @ middle)


def learnt(encoder: Encoder, rows: Sequence[Example]) -> Opinions:
    """The second opinions of `encoder`'s heads."""
    return fitted(*seen(encoder, rows), rows)


def add(model: Any, opinions: Opinions) -> None:
    """Puts `opinions` into an ONNX model of `training.graph`, in place of those that it has."""
    from onnx import helper, numpy_helper

    remove(model)
    graph = model.graph
    next(node for node in graph.node if "logits" in node.output).output[0] = OWN
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in ((LINES, opinions.lines), (SHIFTS, opinions.shifts))
    )
    graph.node.append(helper.make_node("Gemm", ["middle", LINES, SHIFTS], ["second"], name="second/Gemm", transB=1))
    graph.node.append(helper.make_node("Add", [OWN, "second"], ["logits"], name="logits/Add"))


def remove(model: Any) -> None:
    """Takes the second opinions out of an ONNX model, if it has any."""
    graph = model.graph
    if not any(tensor.name == LINES for tensor in graph.initializer):
        return
    for node in [node for node in graph.node if {"second", "logits"} & set(node.output)]:
        graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in {LINES, SHIFTS}]:
        graph.initializer.remove(tensor)
    next(node for node in graph.node if OWN in node.output).output[0] = "logits"


def write(path: Path, opinions: Opinions) -> None:
    """Adds `opinions` to the model in the file `path`."""
    import onnx

    model = onnx.load(str(path))
    add(model, opinions)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def main(arguments: Iterable[str] | None = None) -> int:
    from .rehead import training

    parser = argparse.ArgumentParser(prog="python -m classifiers.training.middle", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.gz")
    parser.add_argument("--start", type=Path, default=MODELS / DEFAULT_MODEL, help="folder of the model to change")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(None if arguments is None else list(arguments))
    known = corpus.balance_languages([*training(options.data), *compose.composed()])
    rows = texts(known, random.Random(77))
    print(f"{len(rows)} texts", flush=True)
    opinions = learnt(Encoder.open(options.start), rows)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "model.onnx").write_bytes((options.start / "model.onnx").read_bytes())
    write(options.out / "model.onnx", opinions)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
