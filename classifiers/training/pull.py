"""The trained encoder drawn back towards the base that it began as, and its heads fitted again on what it sees then.

Training bends the encoder to its sources until it parts them nearly without error, and what the base knew of all other
texts goes. A mean of both sets of weights keeps most of what was learnt and more of what was known: on unseen sources
it is better than either (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). The heads stand on what
is seen, so they are fitted again on the training texts, near to what they were: trained together with the encoder they
have heard of more than a line on a frozen one can learn.

Decision: after training, not as a pull during it. Why: one run serves every strength, and the heads are told once.
Cost: a pass over the texts, minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import encoder, fit
from .corpus import Example
from .labels import INDEX, NAMES

KEPT = 0.7
"""The trained weights' part of the mean."""
NEAR = 0.01
"""How dear it is for a head to leave what it was, on features of spread 1, beside its mean loss over the texts."""
ATTACHED = {"injection": 0.5}
"""Heads that stay nearer: what a line learns of injections from the training sources does not hold elsewhere."""
STEPS = 80
TEXTS = 40_000
"""Texts to which the heads are fitted."""

Say = Callable[[str], None]


def drawn(module: Any, kept: float = KEPT) -> Any:
    """`module` with the mean of its encoder's weights (`kept`) and the base's; the heads stay."""
    import torch

    base = encoder.build(0.0).state_dict()
    mean = {
        name: value if name.startswith("heads.") else torch.lerp(base[name], value, kept)
        for name, value in module.state_dict().items()
    }
    made = encoder.build(0.0)
    made.load_state_dict(mean)
    return made.eval()


def told(rows: Sequence[Example], smooth: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `rows` say of each head, smoothed, and how much each counts: (rows, heads) both, the latter of sum 1 for
    each head that any row speaks of."""
    said, counts = np.zeros((len(rows), len(NAMES)), np.float32), np.zeros((len(rows), len(NAMES)), np.float32)
    weights = fit.balance(rows)
    for place, row in enumerate(rows):
        for name, value in row.targets.items():
            said[place, INDEX[name]] = value * (1 - 2 * smooth) + smooth
            counts[place, INDEX[name]] = row.weight * weights[int(value > 0.5), INDEX[name]]
    return said, counts / np.maximum(counts.sum(0), 1e-9)


def refitted(module: Any, rows: Sequence[Example], recipe: fit.Recipe, say: Say) -> Any:
    """`module` with heads that are fitted to what it sees of `rows`, near to what they are."""
    import torch

    seen = fit.pooled(module, rows, recipe)
    say(f"{len(rows)} texts seen: fitting the heads again")
    middle, spread = seen.mean(0), seen.std(0) + 1e-6
    features = (seen - middle) / spread
    said, counts = (torch.from_numpy(each) for each in told(rows, recipe.smooth))
    with torch.no_grad():
        before = module.heads.weight * spread
        shift = module.heads.bias + module.heads.weight @ middle
    lines, shifts = before.clone().requires_grad_(True), shift.clone().requires_grad_(True)
    near = torch.tensor([ATTACHED.get(name, NEAR) for name in NAMES])[:, None]
    solver = torch.optim.LBFGS([lines, shifts], max_iter=STEPS, history_size=12, line_search_fn="strong_wolfe")

    def loss() -> Any:
        solver.zero_grad()
        logits = features @ lines.T + shifts
        errors = torch.nn.functional.binary_cross_entropy_with_logits(logits, said, reduction="none")
        total = (errors * counts).sum() + (near * (lines - before) ** 2).sum()
        total.backward()
        return total

    solver.step(loss)
    with torch.no_grad():
        found = lines / spread
        module.heads.weight.copy_(found)
        module.heads.bias.copy_(shifts - found @ middle)
    return module


def pulled(module: Any, rows: Sequence[Example], recipe: fit.Recipe, say: Say) -> Any:
    """The mean of `module` and the base, its heads fitted again to `rows`."""
    return refitted(drawn(module), rows, recipe, say)
