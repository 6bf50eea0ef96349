"""`python -m classifiers.training.rehead --data DIR --out DIR`: the shipped weights with one head fitted again.

Documentation for programmers looked like orders to a model: of 200 READMEs of packages 16 % were blocked. Here the head
`injection_indirect` hears pages of documentation, from which no encoder learns (data/unlearnt), honest and with orders
planted, beside what it was trained on, and stays near what it was. German looked like an
injection, for a third of the German texts that it knew were: `--head injection` hears sentences of 17 languages
(data/news.yaml), honest ones and orders.
Everything else in the file stays what it is, to the bit.

Decision: the head alone, on the shipped int8 encoder. Why: to train the encoder on moved heads that nothing was said
of; this takes two minutes. Cost: what the encoder cannot tell apart, no head can. OUT gets model.onnx without the
second opinions of `middle`, which are fitted after this; judge it with `python -m classifiers.training.compare`, and
write its card as `__main__` does.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoder import DEFAULT_MODEL, MODELS, Encoder
from ..runtime import Session
from . import compose, corpus, middle
from .corpus import Example
from .encoder import FIRST, LAST
from .judge import LONGEST, held
from .labels import INDEX
from .measure import Floats

HEAD, TONGUES = "injection_indirect", "injection"
NEAR = 0.03
"""How dear it is to leave what the head was. Of .01 to 1, one that told orders from pages best where a third of the
pages was left out of the fit, with as many orders in dev found as by the others."""
HONEST, BAD, COMPOSED, NEWS = 1300, 700, 800, 2000
Rows = list[tuple[str, bool, float]]
"""Text, whether it gives orders, and its weight."""


def texts(training: Sequence[Example], rng: random.Random) -> Rows:
    """What the head hears: texts of outside from the training sources, composed ones, and documentation of ours, of
    which every page comes honest and with an order planted between two of its paragraphs."""
    known = [e for e in training if HEAD in e.targets and e.role in {"tool_result", "document"}]
    pages = [page.text for page in corpus.unlearnt()]
    rng.shuffle(known)
    bad, honest = ([e for e in known if e.targets[HEAD] == side] for side in (1.0, 0.0))
    rows: Rows = [(e.text, e.targets[HEAD] == 1.0, 1.0) for e in (*bad[:BAD], *honest[:HONEST])]
    rows += [(e.text, e.targets.get(HEAD) == 1.0, 0.7) for e in compose.outside(COMPOSED, rng)]
    for page, (ordered, _) in zip(pages, compose.between_paragraphs(pages, rng), strict=True):
        rows += [(page, False, 1.0), (ordered, True, 1.0)]
    return rows


def prompts(training: Sequence[Example], rng: random.Random) -> Rows:
    """What the head `injection` hears: prompts of the training sources, and sentences in other languages."""
    known = [e for e in training if TONGUES in e.targets and e.role == "prompt"]
    rng.shuffle(known)
    bad, honest = ([e for e in known if e.targets[TONGUES] == side] for side in (1.0, 0.0))
    rows = [*bad[:BAD], *honest[:HONEST], *compose.news(NEWS, rng)]
    return [(e.text, e.targets[TONGUES] == 1.0, e.weight) for e in rows]


HEARD = {HEAD: texts, TONGUES: prompts}


class Heads:
    """The heads of an ONNX file, and what goes into them."""

    def __init__(self, folder: Path) -> None:
        import onnx
        from onnx import helper, numpy_helper

        self._encoder = Encoder.open(folder)
        self.model: Any = onnx.load(str(folder / "model.onnx"))
        middle.remove(self.model)
        last = [node for node in self.model.graph.node if node.op_type == "Gemm"][-1]
        self._input, *names = last.input
        tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._tensors = [tensors[name] for name in names]
        self._arrays = [numpy_helper.to_array(tensor).copy() for tensor in self._tensors]
        seeing = onnx.ModelProto()
        seeing.CopyFrom(self.model)
        seeing.graph.output.append(helper.make_tensor_value_info(self._input, onnx.TensorProto.FLOAT, None))
        self._session = Session(seeing.SerializeToString())

    def of(self, head: int) -> tuple[Floats, float]:
        """Its weights (width,) and bias."""
        return self._arrays[0][head].astype(np.float64), float(self._arrays[1][head])

    def change(self, head: int, weights: Floats, bias: float) -> None:
        from onnx import numpy_helper

        self._arrays[0][head], self._arrays[1][head] = weights, bias
        for tensor, array in zip(self._tensors, self._arrays, strict=True):
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    def see(self, text: str) -> Floats:
        """What of each window of `text` goes into the heads: (windows, width)."""
        ids, _ = self._encoder.tokens(text[:LONGEST])
        rows = [[FIRST, *ids[w.start : w.end], LAST] for w in self._encoder.windows(ids)]
        made = [self._session.run(np.asarray([row], np.int64), [self._input])[0][0] for row in rows]
        return np.asarray(made, np.float64)


def fitted(
    seen: Sequence[Floats], bad: NDArray[np.bool_], weights: Floats, was: tuple[Floats, float]
) -> tuple[Floats, float]:
    """Weights and bias near `was`. Of a bad text the window that was taken for the worst is one; of an honest text no
    window is. Both sides weigh alike."""
    import torch

    before, shift = was
    rows, truth, cost = [], [], []
    for windows, side, weight in zip(seen, bad, weights, strict=True):
        chosen = windows[[int(np.argmax(windows @ before))]] if side else windows
        rows.append(chosen)
        truth += [float(side)] * len(chosen)
        cost += [weight] * len(chosen)
    spread = torch.tensor(np.concatenate(list(seen)).std(0) + 1e-6)
    x, y, w = torch.tensor(np.concatenate(rows)), torch.tensor(truth).double(), torch.tensor(cost).double()
    w[y == 1] *= w[y == 0].sum() / w[y == 1].sum()
    start = torch.tensor(before)
    step = torch.zeros(len(before), dtype=torch.float64, requires_grad=True)
    lift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([step, lift], max_iter=300, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        logits = x @ (start + step / spread) + shift + lift
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
        whole = (each * w).sum() / w.sum() + NEAR * (step * step).sum()
        whole.backward()
        return whole

    optimiser.step(loss)
    return (start + step.detach() / spread).numpy(), shift + float(lift.detach())


def refit(folder: Path, folders: Sequence[Path], head: str, known: Sequence[Example]) -> None:
    """Fits `head` of the model in `folder` again to what it sees of texts of `known`, and writes that model with it to
    the first of `folders`, and the head into the models of all others."""
    heads = Heads(folder)
    rows = HEARD[head](known, random.Random(5))
    print(f"{head}: {len(rows)} texts, {sum(bad for _, bad, _ in rows)} with orders", flush=True)
    seen = [heads.see(text) for text, _, _ in rows]
    bad, weights = np.array([side for _, side, _ in rows]), np.array([weight for *_, weight in rows])
    found = fitted(seen, bad, weights, heads.of(INDEX[head]))
    for place, target in enumerate(folders):
        changed = Heads(target) if place else heads
        changed.change(INDEX[head], *found)
        (target / "model.onnx").write_bytes(changed.model.SerializeToString())


def training(data: Path) -> list[Example]:
    """All rows that training may use, as `__main__` reads them."""
    loaded, _ = corpus.load(data, "train")
    ours, _ = corpus.handwritten()
    return corpus.unique([*(e for e in loaded if not held(e)), *ours])


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m classifiers.training.rehead", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.gz")
    parser.add_argument("--start", type=Path, default=MODELS / DEFAULT_MODEL, help="folder of the model to change")
    parser.add_argument("--head", choices=sorted(HEARD), default=HEAD)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(None if arguments is None else list(arguments))
    options.out.mkdir(parents=True, exist_ok=True)
    refit(options.start, [options.out], options.head, training(options.data))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
