"""One encoder, many heads, each example heard only by the heads that it speaks of."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..windows import SIZE
from . import augment, encoder
from .corpus import Example
from .labels import INDEX, NAMES

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `minutes` bounds the computing time of one seed: the rate falls to zero by then."""

    seed: int = 0
    epochs: int = 1
    minutes: float = 60.0
    longest: int = 160
    budget: int = 4096
    rate: float = 5e-5
    head_rate: float = 1e-3
    smooth: float = 0.02
    threads: int = 2
    average: float = 0.998
    context: int = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """ids, mask (n, t); what is said and how much it counts (n, heads)."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    said: NDArray[np.float32]
    counts: NDArray[np.float32]


def balance(examples: Sequence[Example]) -> NDArray[np.float32]:
    """Weights (2, heads) of honest and of bad examples: each head's two sides come near to each other (by the square
    root of their ratio, 8 at most), and heads of which little is known are heard twice as much at most."""
    totals = np.zeros((2, len(NAMES)))
    for example in examples:
        for head, value in example.targets.items():
            totals[int(value > 0.5), INDEX[head]] += example.weight
    ratio = np.clip(np.sqrt(totals[0] / np.maximum(totals[1], 1.0)), 1.0, 8.0)
    return np.stack((np.ones(len(NAMES)), ratio)).astype(np.float32)


def _piece(
    ids: NDArray[np.int64], offsets: Sequence[tuple[int, int]], example: Example, room: int, rng: random.Random
) -> NDArray[np.int64]:
    """At most `room` tokens: around a planted order; else of an attack most often the start, which says what it is;
    of honest texts any part."""
    if len(ids) <= room:
        return ids
    last = len(ids) - room
    if example.marked:
        starts = [i for i, (a, b) in enumerate(offsets) if b > example.marked[0] and a < example.marked[1]]
        if starts:
            first, final = starts[0], starts[-1]
            lowest = max(0, final + 1 - room)
            start = rng.randint(min(lowest, last), max(min(first, last), min(lowest, last)))
            return ids[start : start + room]
    bad = any(value == 1.0 for value in example.targets.values())
    start = 0 if rng.random() < (0.75 if bad else 0.3) else rng.randint(0, last)
    return ids[start : start + room]


Row = tuple[tuple[int, ...], NDArray[np.int64], Example]
"""Ids of the context with the special token behind it (or none), ids of a piece of the text, the example."""


def _rows(
    examples: Sequence[Example], tokenizer: Tokenizer, longest: int, context: int, rng: random.Random
) -> Iterator[Row]:
    for start in range(0, len(examples), 2048):
        part = examples[start : start + 2048]
        clean = [e.text[:20000].encode("utf-8", "replace").decode("utf-8") for e in part]
        before = [e.context[-2000:].encode("utf-8", "replace").decode("utf-8") for e in part]
        said = [t.ids[-context:] for t in tokenizer.encode_batch(before, add_special_tokens=False)]
        encoded = tokenizer.encode_batch(clean, add_special_tokens=False)
        for encoding, ids, example in zip(encoded, said, part, strict=True):
            first = (*ids, encoder.LAST) if ids else ()
            room = longest - 2 - len(first)
            yield first, _piece(np.asarray(encoding.ids, np.int64), encoding.offsets, example, room, rng), example


def _size(row: Row) -> int:
    return len(row[0]) + len(row[1]) + 2


def batches(
    examples: Sequence[Example], tokenizer: Tokenizer, weights: NDArray[np.float32], recipe: Recipe, rng: random.Random
) -> Iterator[Batch]:
    """Batches of like lengths with about `budget` tokens each, in random order."""
    rows = list(_rows(examples, tokenizer, recipe.longest, recipe.context, rng))
    rows.sort(key=lambda row: _size(row) + rng.random() * 6)
    groups: list[list[Row]] = [[]]
    for row in rows:
        if groups[-1] and (len(groups[-1]) + 1) * _size(row) > recipe.budget:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    for group in groups:
        yield _batch(group, weights)


def _batch(group: Sequence[Row], weights: NDArray[Any]) -> Batch:
    longest = max(_size(row) for row in group)
    ids = np.zeros((len(group), longest), np.int64)
    mask, shape = np.zeros_like(ids), (len(group), len(NAMES))
    said, counts = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i, (first, tokens, example) in enumerate(group):
        size = _size(group[i])
        ids[i, :size] = (encoder.FIRST, *first, *tokens, encoder.LAST)
        mask[i, :size] = 1
        for head, value in example.targets.items():
            said[i, INDEX[head]] = value
            counts[i, INDEX[head]] = example.weight * weights[int(value > 0.5), INDEX[head]]
    return Batch(ids, mask, said, counts)


def train(examples: Sequence[Example], recipe: Recipe, kept: Path, say: Say, start: Path | None = None) -> None:
    """Trains, from the base or from the weights in `start`, and writes `kept` (safetensors) after each epoch: the
    weights averaged over the last steps."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    # Moments of rarely used weights decay into numbers that a processor is slow with.
    torch.set_flush_denormal(True)
    rng = random.Random(recipe.seed)
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json(encoder.base_directory()))
    tokenizer.encode_special_tokens = True
    module = encoder.build()
    if start:
        module.load_state_dict(load_file(str(start)))
    module.words.weight.requires_grad_(False)
    # Computed in bfloat16 where that is faster, remembered in float32: steps too small for bfloat16 would be lost.
    exact = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    average = {n: p.clone() for n, p in exact.items()}
    module.to(fastest()).heads.float()
    live = {n: p for n, p in module.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for n, p in exact.items() if n.startswith("heads.") == heads], "lr": rate}
        for heads, rate in ((False, recipe.rate), (True, recipe.head_rate))
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    weights, clock, step = balance(examples), _Clock(recipe), 0
    for number in range(recipe.epochs):
        made = augment.epoch(examples, rng)
        every = list(batches(made, tokenizer, weights, recipe, rng))
        say(f"{len(made)} texts, {len(every)} batches")
        seen = 0.0
        for place, batch in enumerate(every):
            done = clock.done(number + place / len(every))
            if done >= 1:
                break
            for group, rate in zip(optimiser.param_groups, (recipe.rate, recipe.head_rate), strict=True):
                group["lr"] = rate * min(1.0, done / 0.06 + 0.01) * (0.5 + 0.5 * math.cos(math.pi * done))
            loss = _loss(module.train(), batch, recipe.smooth)
            loss.backward()
            for name, parameter in live.items():
                exact[name].grad, parameter.grad = parameter.grad.float(), None
            torch.nn.utils.clip_grad_norm_(exact.values(), 1.0)
            optimiser.step()
            step += 1
            for name, parameter in live.items():
                parameter.data.copy_(exact[name])
                average[name].lerp_(exact[name], 1 - min(recipe.average, step / (step + 10)))
            seen = loss.item() if not seen else 0.98 * seen + 0.02 * loss.item()
            if step % 50 == 0:
                say(f"seed {recipe.seed} epoch {number + 1} batch {place + 1}/{len(every)} loss {seen:.3f} {clock}")
        held = {n: t.float() for n, t in module.state_dict().items()} | average
        save_file({n: t.contiguous() for n, t in held.items()}, str(kept))


def fastest() -> Any:
    """The type to compute in: bfloat16 where this processor multiplies it faster than float32. Without an instruction
    of its own for that it takes three times as long."""
    import torch

    times = {}
    for kind in (torch.float32, torch.bfloat16):
        one = torch.ones(1024, 1024, dtype=kind)
        one @ one
        begun = time.process_time()
        for _ in range(8):
            one @ one
        times[kind] = time.process_time() - begun
    return min(times, key=lambda kind: times[kind])


class _Clock:
    """How much of a training is done: by its epochs, or by its minutes of computing on all its threads, whichever
    is further. Waiting for other programs does not count."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._begun = recipe, time.process_time()

    def minutes(self) -> float:
        return (time.process_time() - self._begun) / 60 / self._recipe.threads

    def done(self, epochs: float) -> float:
        return max(epochs / self._recipe.epochs, self.minutes() / self._recipe.minutes)

    def __str__(self) -> str:
        return f"{self.minutes():.1f} minutes"


def _loss(module: Any, batch: Batch, smooth: float) -> Any:
    """Masked, weighted cross entropy of a batch, per example."""
    import torch
    from torch.nn import functional

    logits, _ = module(torch.from_numpy(batch.ids), torch.from_numpy(batch.mask))
    said = torch.from_numpy(batch.said) * (1 - 2 * smooth) + smooth
    counts = torch.from_numpy(batch.counts)
    return functional.binary_cross_entropy_with_logits(logits, said, counts, reduction="sum") / len(batch.ids)


def logits(module: Any, examples: Sequence[Example], recipe: Recipe) -> NDArray[np.float32]:
    """Logits (n, heads) of `examples`, a piece of `longest` tokens of each: quick, for mining; what ships is
    measured by `judge`."""
    import torch

    torch.set_num_threads(recipe.threads)
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json(encoder.base_directory()))
    rows = list(_rows(examples, tokenizer, recipe.longest, recipe.context, random.Random(recipe.seed)))
    order = sorted(range(len(rows)), key=lambda i: _size(rows[i]))
    found = np.zeros((len(rows), len(NAMES)), np.float32)
    with torch.inference_mode():
        for first in range(0, len(order), 32):
            part = order[first : first + 32]
            batch = _batch([rows[i] for i in part], np.ones((2, len(NAMES))))
            found[part] = module(torch.from_numpy(batch.ids), torch.from_numpy(batch.mask))[0].float().numpy()
    return found


def averaged(paths: Sequence[Path]) -> Any:
    """The module whose weights are the mean of those in `paths`: a soup of seeds costs no time when it runs."""
    import torch
    from safetensors.torch import load_file

    module = encoder.build(0.0)
    states = [load_file(str(path)) for path in paths]
    module.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    return module.eval()


def shown(examples: Sequence[Example], count: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """Token ids (special ones included) of `count` examples: what quantisation sees of the world. Sources take turns,
    so that every kind of text is among them, and answers come behind what was said before."""
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json(encoder.base_directory()))
    rng = random.Random(seed)
    queues: dict[tuple[str, str], list[Example]] = {}
    for example in rng.sample(list(examples), len(examples)):
        queues.setdefault((example.source, example.role), []).append(example)
    chosen: list[Example] = []
    while len(chosen) < count and queues:
        for name in list(queues):
            chosen.append(queues[name].pop())
            if not queues[name]:
                del queues[name]
    rows = _rows(chosen[:count], tokenizer, SIZE, Recipe().context, rng)
    return [np.asarray([encoder.FIRST, *first, *ids, encoder.LAST], np.int64) for first, ids, _ in rows]
