"""From the trained module to the file that ships: ONNX, then static int8.

Static, because dynamic quantisation scales a text by its company: one caller's text would change another's verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime import Ids, Session
from . import graph
from .encoder import FIRST, LAST
from .graph import Floats, Range

CLOSE = 2e-3
"""How far a logit of the written graph may lie from the module's."""
_SAMPLES = ([FIRST, 2129, 2079, LAST], [FIRST, 7592, LAST, 2129, 2079, 2003, LAST])


def to_onnx(module: Any, path: Path) -> None:
    """Writes fp32 ONNX, see `graph.encoder`. Raises RuntimeError where it does not compute what `module` does."""
    import torch

    weights = {name: value.float().numpy() for name, value in module.eval().state_dict().items()}
    path.write_bytes(graph.encoder(weights).SerializeToString())
    session = Session(path.read_bytes())
    for sample in _SAMPLES:
        ids = np.asarray([sample], np.int64)
        with torch.inference_mode():
            made = module(torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.int64))
        expected = [part.float().numpy() for part in made[:2]]
        for mine, theirs in zip(session.run(ids), expected, strict=True):
            if not np.abs(mine - theirs).max() < CLOSE:
                raise RuntimeError("the graph does not compute what the module does: change training/graph.py with it")


def quantise(source: Path, path: Path, texts: Sequence[NDArray[np.int64]]) -> None:
    """Writes the static int8 form of `source`, which `to_onnx` wrote. `texts` are token ids (special ones included)
    that show the range of every activation."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    # The graph holds the weights of products as (in, out).
    weights = {
        name: value.T if name.startswith("layers.") and value.ndim == 2 else value for name, value in weights.items()
    }
    path.write_bytes(graph.encoder(weights, observed(model, texts)).SerializeToString())


def observed(model: Any, texts: Sequence[Ids]) -> dict[str, Range]:
    """The range of every point of an fp32 `model` over `texts`."""
    from onnx import TensorProto, helper

    names = graph.points()
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names.values())
    session = Session(model.SerializeToString())
    found: dict[str, Range] = {}
    for ids in texts:
        made: dict[str, Floats] = dict(zip(names, session.run(ids[None], list(names.values())), strict=True))
        for name, value in made.items():
            now = Range(value.min(0), value.max(0))
            before = found.get(name, now)
            found[name] = Range(np.minimum(before.low, now.low), np.maximum(before.high, now.high))
    return found
