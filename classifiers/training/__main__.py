"""`python -m classifiers.training --data DIR --out DIR`: from labelled sets to a model directory that can ship."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..card import DEFAULT_MODEL, MODELS
from . import compose, corpus, encoder, export, fit, middle, mine, rehead, shipped
from .corpus import CorpusError, Example, Tally
from .labels import NAMES


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m classifiers.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.gz and dev/*.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="model directory to write (its name names the model)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings; their weights are averaged (default 1)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=120.0,
        help="most computing time for all trainings, on all threads (default 120); 0 with --start: their mean as it is",
    )
    parser.add_argument("--epochs", type=int, default=1, help="passes before the mining of false alarms (default 1)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: a core each")
    parser.add_argument("--cap", type=int, default=None, help="most rows of any source (for a quick try)")
    parser.add_argument("--dev-cap", type=int, default=1500, help="most rows of any dev source")
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        default=(),
        help="model directories to go on from, with one shorter epoch: from the mean of their weights",
    )
    parser.add_argument("--weights", type=Path, nargs="*", default=(), help="trained weights: skip the training")
    return parser


def main() -> int:
    options = arguments().parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        run(options)
    except (CorpusError, OSError, ImportError, RuntimeError) as error:
        print(f"training stopped: {error}", file=sys.stderr)
        return 1
    return 0


def examples(options: argparse.Namespace) -> tuple[list[Example], list[Example], list[Example], list[Example], Tally]:
    """(to train on, kept out of the same sources, of unseen sources, our validation families, tally)."""
    from .judge import held, planted

    loaded, tally = corpus.load(options.data, "train", cap=options.cap)
    for name, count in sorted((tally.unlisted + tally.licence).items()):
        say(f"left out: {name}, {count} rows (not in sources.yaml, or licence)")
    ours, ours_kept = corpus.handwritten()
    made = compose.composed() + compose.news(NEWS, random.Random(0))
    training = corpus.balance_languages([e for e in loaded if not held(e)] + ours + made)
    kept = [e for e in loaded if held(e)]
    dev, _ = corpus.load(options.data, "dev", cap=options.dev_cap)
    seen = {" ".join(e.text.casefold().split()) for e in training}
    dev = [e for e in dev if " ".join(e.text.casefold().split()) not in seen]
    dev += planted(dev, ours_kept) + [replace(e, suite="outside" if e.role != "prompt" else "ours") for e in ours_kept]
    return training, kept, dev, ours_kept, tally


def run(options: argparse.Namespace) -> None:
    from . import card
    from .judge import judge

    training, kept, dev, _, tally = examples(options)
    say(f"{len(training)} texts to train on, {len(kept)} kept out, {len(dev)} of unseen sources")
    work: Path = options.out.with_name(options.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    recipe = fit.Recipe(epochs=options.epochs, minutes=options.minutes / options.seeds, threads=options.threads)
    paths = [Path(path) for path in options.weights]
    if options.start and not options.minutes:
        paths = [_mean(options.start, work)]
    elif not paths:
        most = min(MINED[1 if options.start else 0], len(training) // 5)
        spare = mine.spare(corpus.load(options.data, "train", capped=False)[0], [*training, *kept], most)
        paths = [work / f"seed{seed}.safetensors" for seed in range(options.seeds)]
        seeds = {path: replace(recipe, seed=seed) for seed, path in enumerate(paths)}
        if options.start:
            go_on(training, spare, seeds, options.start)
        else:
            for path, each in seeds.items():
                train(training, spare, each, path)
    module = fit.averaged(paths)
    seconds = time.monotonic() - begun
    options.out.mkdir(parents=True, exist_ok=True)
    export.to_onnx(module, work / "model.onnx")
    (work / "tokenizer.json").write_text(encoder.tokenizer_json(encoder.base_directory()), "utf-8")
    shutil.copy(work / "tokenizer.json", options.out / "tokenizer.json")
    export.quantise(work / "model.onnx", options.out / "model.onnx", fit.shown(training, 400))
    _blank_cards(work, options.out)

    from ..encoder import Encoder

    rehead.refit(options.out, [options.out, work], rehead.HEAD, training)
    _blank_cards(work, options.out)
    opinions = middle.learnt(Encoder.open(options.out), middle.texts(training, random.Random(0)))
    for directory in (work, options.out):
        middle.write(directory / "model.onnx", opinions)
    _blank_cards(work, options.out)
    shipped = Encoder.open(options.out)
    judged, rest = judge(shipped, dev, say), judge(shipped, kept, say)
    version, start = _begun_with(options.start, options.minutes)
    facts: dict[str, Any] = {
        "version": version,
        "summary": "MiniLM-L6 (Apache-2.0) fine-tuned with one sigmoid head per label; static int8 ONNX.",
        "base": {"name": "all-MiniLM-L6-v2", "licence": "Apache-2.0", "files": encoder.PINNED},
        "training": {
            "recipe": asdict(recipe) | start,
            "seeds": options.seeds,
            "texts": len(training),
            "per_head": corpus.summary(training),
            "seconds": round(seconds),
            "quantisation": _quantisation(work, judged.examples, judged.logits),
            "milliseconds": _cost(shipped),
        },
        "sources": _sources(tally, training),
    }
    card.write(options.out, card.finish(options.out.name, judged, rest, facts))
    np.savez_compressed(work / "judged.npz", dev=judged.logits, kept=rest.logits)
    say(f"written: {options.out}")


def _blank_cards(work: Path, out: Path) -> None:
    """Cards for the files as they are now in both directories, so that they can be opened."""
    from . import card

    for directory in (work, out):
        card.write(directory, card.blank(out.name))


def train(training: list[Example], spare: list[Example], recipe: fit.Recipe, kept: Path) -> None:
    """One seed: the epochs of `recipe`, then a shorter one on what the model mistook, our own texts and a part of the
    rest."""
    first = replace(recipe, minutes=0.6 * recipe.minutes)
    fit.train(training, first, kept.with_suffix(".first"), say)
    last = replace(recipe, minutes=0.4 * recipe.minutes)
    refine(training, mined(spare, kept.with_suffix(".first"), last), last, kept.with_suffix(".first"), kept)


REST, AGAIN = 0.6, 0.13
"""The part of the texts that the last epoch sees again, and how much slower it learns; the part that a model sees again
which goes on from others."""
LEAST = 300
"""The bad texts of a head that a last epoch sees at least, or all where there are fewer: what is not heard again is
forgotten."""
NEWS = 1500
"""Texts of newspapers and chats in languages that public sets know for their attacks."""
MINED = 8000, 1000
"""Most honest texts among which false alarms are sought; and for a model that goes on, which has learnt from most."""


def go_on(training: list[Example], spare: list[Example], seeds: dict[Path, fit.Recipe], start: Sequence[Path]) -> None:
    """All seeds, each from the mean of the models in the directories `start`."""
    first = _mean(start, next(iter(seeds)).parent)
    hard = mined(spare, first, next(iter(seeds.values())))
    for path, recipe in seeds.items():
        refine(training, hard, recipe, first, path, AGAIN)


def _mean(directories: Sequence[Path], work: Path) -> Path:
    """Writes the mean of the weights of the models in `directories` to a file in `work`."""
    import torch
    from safetensors.torch import save_file

    known, path = [shipped.weights(directory) for directory in directories], work / "start.safetensors"
    mean = {name: np.mean([each[name] for each in known], axis=0, dtype=np.float32) for name in known[0]}
    save_file({name: torch.from_numpy(value) for name, value in mean.items()}, str(path))
    return path


def mined(spare: list[Example], weights: Path, recipe: fit.Recipe) -> list[Example]:
    """The honest texts of `spare` that `weights` mistake."""
    hard = mine.mistaken(spare, fit.logits(fit.averaged([weights]), spare, recipe), most=2000, per_source=400)
    say(f"{len(hard)} honest texts of {len(spare)} were mistaken: learning from them")
    return hard


def refine(
    training: list[Example], hard: list[Example], recipe: fit.Recipe, start: Path, kept: Path, share: float = REST
) -> None:
    """The last epoch of a seed, from the weights in `start`: `share` of the texts, our own ones and the `hard` ones."""
    ours = [e for e in training if e.source in {"handwritten", "composed"}]
    part = again(training, share, random.Random(recipe.seed))
    fit.train(part + ours + hard, replace(recipe, epochs=1, rate=REST * recipe.rate), kept, say, start)


def again(training: Sequence[Example], share: float, rng: random.Random) -> list[Example]:
    """`share` of the texts, and of each head's bad ones LEAST at least."""
    order = rng.sample(range(len(training)), len(training))
    taken = corpus.with_bad(training, order, int(share * len(training)), LEAST)
    return [training[place] for place in order if place in taken]


def _begun_with(start: Sequence[Path], minutes: float) -> tuple[int, dict[str, Any]]:
    """The version of the new model, one more than those that it goes on from or follows, and what its card says of the
    former."""
    before = [json.loads((each / "card.json").read_text("utf-8")) for each in start]
    if not before:
        followed = json.loads((MODELS / DEFAULT_MODEL / "card.json").read_text("utf-8"))
        return 1 + int(followed["version"]), {}
    versions = [int(card["version"]) for card in before]
    told = {
        "versions": versions,
        "model.onnx": [card["files"]["model.onnx"] for card in before],
        "share of texts seen again": AGAIN if minutes else 0,
    }
    return 1 + max(versions), {"goes on from the mean of": told}


def _sources(tally: Tally, training: list[Example]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"source": name, "licence": licence, "texts": sum(e.source == name for e in training)}
        for name, licence in sorted(tally.licences.items())
    ]
    ours = sum(e.source in {"handwritten", "composed"} for e in training)
    return [*rows, {"source": "written by us (training/data)", "licence": "Apache-2.0", "texts": ours}]


def _quantisation(work: Path, dev: tuple[Example, ...], int8: Any, most: int = 2000) -> dict[str, Any]:
    """AUROC and recall at 1 % of each head in fp32 and int8 on the same texts of unseen sources."""
    from ..encoder import Encoder
    from . import measure
    from .judge import judge
    from .labels import INDEX

    chosen = np.random.default_rng(0).permutation(len(dev))[:most]
    whole = judge(Encoder.open(work), [dev[i] for i in chosen], say)
    found = {}
    for name in NAMES:
        known = [(place, i) for place, i in enumerate(chosen) if name in dev[i].targets]
        bad = [pair for pair in known if dev[pair[1]].targets[name] == 1.0]
        honest = [pair for pair in known if dev[pair[1]].targets[name] == 0.0]
        if len(bad) >= 30 and len(honest) >= 30:
            head = INDEX[name]
            sides = {
                "fp32": (whole.logits[[p for p, _ in bad], head], whole.logits[[p for p, _ in honest], head]),
                "int8": (int8[[i for _, i in bad], head], int8[[i for _, i in honest], head]),
            }
            found[name] = {kind: round(measure.auroc(*pair), 4) for kind, pair in sides.items()}
            found[name] |= {f"{kind}_recall": round(measure.recall_at(*pair, 0.01), 4) for kind, pair in sides.items()}
    return found


def _cost(encoder: Any) -> dict[str, float]:
    """Process milliseconds of one window by its length, median of 20, one thread."""
    rng, found = np.random.default_rng(0), {}
    for length in (32, 128, 192, 256):
        ids = rng.integers(1000, 20000, length - 2)
        times = []
        for _ in range(20):
            begun = time.process_time()
            encoder.run(ids)
            times.append(1000 * (time.process_time() - begun))
        found[str(length)] = round(float(np.median(times)), 1)
    return found


if __name__ == "__main__":
    sys.exit(main())
