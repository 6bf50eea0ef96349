"""`python -m classifiers.training.stage0 --data DIR`: could something far cheaper clear texts that the encoder need not
read? An experiment that ends in figures, and nothing that ships: see classifiers/README.md.

Two students learn the encoder's margins (logit minus the logit of the log threshold, head by head) from texts of the
training sources: hashed n-grams under a line, and the encoder's own word vectors (mean and maximum) under a small
network. A text is cleared where the highest margin of all heads that the student expects is below a threshold. The
threshold is set on the very texts that it is measured on, so a real one would do worse.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..encoder import DEFAULT_MODEL, MODELS, Encoder
from . import corpus
from .corpus import Example
from .measure import auroc, upper_bound

BUCKETS, WIDTH, TOKENS, LONGEST = 1 << 18, 256, 126, 3000
KEPT, FEWEST, SHARES = 0.99, 30, (0.1, 0.25, 0.5)
"""Share of what the encoder catches that must be kept; caught texts below which a head says nothing; shares of honest
texts to clear."""
APART = {"harmful_answer"}
"""Heads that are not asked about prompts."""

Floats = NDArray[np.float32]


def loaded(data: Path, split: str, cap: int) -> list[Example]:
    """Texts that users and tools bring, not answers."""
    examples, _ = corpus.load(data, split, cap=cap)
    return [example for example in examples if example.text.strip() and example.role != "response"]


def margins(encoder: Encoder, examples: Sequence[Example]) -> tuple[Floats, list[list[int]]]:
    """(n, heads) how far each logit of the first window lies above its log threshold, and the tokens (at most
    TOKENS)."""
    heads = encoder.card.heads
    grid = np.linspace(-12, 12, 4801)
    odds = np.array([np.interp(np.log(head.log / (1 - head.log)), head.odds(grid), grid) for head in heads])
    rows, tokens = [], []
    for example in examples:
        ids = encoder.tokens(example.text[:LONGEST])[0][:TOKENS]
        tokens.append(ids.tolist() or [0])
        rows.append(encoder.run(np.asarray(tokens[-1], np.int64))[0] - odds)
    return np.asarray(rows, np.float32), tokens


def grams(text: str) -> list[int]:
    """Buckets of the words, the pairs of words and the runs of 3 to 5 letters."""
    words = re.findall(r"\w+", text[:LONGEST].casefold())
    found = [*words, *(" ".join(pair) for pair in pairwise(words))]
    for word in (f"<{word}>" for word in words):
        found += [word[at : at + size] for size in (3, 4, 5) for at in range(len(word) - size + 1)]
    return [crc32(each.encode("utf-8", "replace")) % BUCKETS for each in found] or [0]


def vectors(table: Floats, tokens: Sequence[Sequence[int]]) -> Floats:
    """(n, 2 * width): mean and maximum of the words' vectors."""
    return np.stack([np.concatenate((table[ids].mean(0), table[ids].max(0))) for ids in map(list, tokens)])


def student(kind: str, heads: int) -> Any:
    """A torch module of bags of buckets, or of rows of vectors, to margins."""
    from torch import nn

    if kind == "n-grams":
        return nn.EmbeddingBag(BUCKETS, heads, mode="sum")
    inner = (nn.Linear(2 * 384, WIDTH), nn.GELU(), nn.Dropout(0.2), nn.Linear(WIDTH, heads))
    return nn.Sequential(nn.BatchNorm1d(2 * 384), *inner)


def learn(kind: str, inputs: Sequence[Any], wanted: Floats, weights: Floats, epochs: int, seed: int) -> Any:
    """The student after `epochs`. To expect too little costs twice as much as to expect too much."""
    import torch

    torch.manual_seed(seed)
    module = student(kind, wanted.shape[1])
    rate = 0.05 if kind == "n-grams" else 2e-3
    optimiser = torch.optim.Adam(module.parameters(), rate)
    target, weight = torch.from_numpy(np.clip(wanted, -8, 4)), torch.from_numpy(weights)[:, None]
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - epoch / epochs)
        for part in torch.randperm(len(inputs)).split(256):
            off = told(module, [inputs[i] for i in part]) - target[part]
            loss = (off**2 * torch.where(off < 0, 2.0, 1.0) * weight[part]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return module.eval()


def told(module: Any, inputs: Sequence[Any]) -> Any:
    """The margins that a student expects (n, heads), given bags of buckets or rows of vectors."""
    import torch

    if not isinstance(inputs[0], list):
        return module(torch.from_numpy(np.stack(inputs)))
    starts = torch.from_numpy(np.cumsum([0, *map(len, inputs)])[:-1])
    shares = torch.tensor([len(bag) ** -0.5 for bag in inputs for _ in bag])
    return module(torch.tensor([each for bag in inputs for each in bag]), starts, per_sample_weights=shares)


def say(kind: str, expected: Floats, examples: Sequence[Example], above: Floats, heads: Sequence[str]) -> None:
    """Prints what could be cleared, and what would be lost, with exact 95 % upper bounds."""
    honest = np.array([bool(e.targets) and not any(e.targets.values()) for e in examples])
    caught = {
        head: np.array([e.targets.get(head) == 1.0 for e in examples]) & (above[:, place] >= 0)
        for place, head in enumerate(heads)
    }
    caught = {head: chosen for head, chosen in caught.items() if chosen.sum() >= FEWEST}
    allowed = {
        head: float(np.sort(expected[chosen])[int((1 - KEPT) * chosen.sum())]) for head, chosen in caught.items()
    }
    worst = min(allowed, key=lambda head: allowed[head])
    cleared = expected < allowed[worst]
    share = cleared[honest].mean()
    print(f"\n{kind}: keeping {KEPT:.0%} of each head clears {share:.1%} of honest texts ({worst} decides)")
    sources = Counter(e.source for e, each in zip(examples, honest, strict=True) if each)
    for source in sorted(name for name, count in sources.items() if count >= 40):
        mine = honest & np.array([e.source == source for e in examples])
        print(f"  {source:32} {cleared[mine].mean():6.1%} of {mine.sum()}")
    for share in SHARES:
        below = expected < np.quantile(expected[honest], share)
        lost = {head: (int((below & chosen).sum()), int(chosen.sum())) for head, chosen in caught.items()}
        told = ", ".join(f"{h} {n}/{m} (at most {upper_bound(n, m):.1%})" for h, (n, m) in lost.items())
        print(f"  clearing {share:.0%} of honest texts loses: {told}")


def fused(expected: Floats, examples: Sequence[Example], above: Floats, heads: Sequence[str]) -> None:
    """Prints for each head what the student adds to the encoder: AUROC of the encoder's margin, and of its mean with
    the margin that the student expects."""
    for place, head in enumerate(heads):
        truth = np.array([example.targets.get(head, np.nan) for example in examples])
        if (truth == 1).sum() < FEWEST or (truth == 0).sum() < FEWEST:
            continue
        alone = above[:, place].astype(np.float64)
        both = (alone + expected[:, place]) / 2
        found = (auroc(score[truth == 1], score[truth == 0]) for score in (alone, both))
        print("  {:24} AUROC of the encoder {:.3f}, with the student {:.3f}".format(head, *found))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m classifiers.training.stage0", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cap", type=int, default=450, help="most rows of any source (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import onnx
    import torch
    from onnx import numpy_helper

    torch.set_num_threads(1)
    encoder = Encoder.open(MODELS / DEFAULT_MODEL)
    heads = [head.label for head in encoder.card.heads]
    asked = [place for place, head in enumerate(heads) if head not in APART]
    known = {t.name: t for t in onnx.load(str(MODELS / DEFAULT_MODEL / "model.onnx")).graph.initializer}
    table = numpy_helper.to_array(known["words.weight"]) * numpy_helper.to_array(known["words.weight.step"])
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    train, dev = (loaded(options.data, split, options.cap) for split in ("train", "dev"))
    (wanted, shown), (above, seen) = margins(encoder, train), margins(encoder, dev)
    print(f"{len(train)} texts to learn from, {len(dev)} of other sources to measure")
    counts = Counter(example.source for example in train)
    weights = np.array([1 / np.sqrt(counts[example.source]) for example in train], np.float32)
    inputs = {
        "n-grams": ([grams(e.text) for e in train], [grams(e.text) for e in dev]),
        "word vectors": (list(vectors(table, shown)), list(vectors(table, seen))),
    }
    for kind, (learnt, asked_of) in inputs.items():
        module = learn(kind, learnt, wanted[:, asked], weights / weights.mean(), options.epochs, options.seed)
        with torch.inference_mode():
            expected = told(module, asked_of).numpy()
        names = [heads[place] for place in asked]
        say(kind, expected.max(1), dev, above[:, asked], names)
        fused(expected, dev, above[:, asked], names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
