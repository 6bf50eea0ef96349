"""The weights of a model that ships, as the module has them: a later model can go on from an earlier one.

What int8 rounded stays rounded (a hundredth of a weight's step at most in each logit); nothing else is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encoder import BaseError

Arrays = Mapping[str, NDArray[Any]]


def weights(directory: Path) -> dict[str, NDArray[np.float32]]:
    """The weights of `directory`/model.onnx under the names that the torch module has for them, float32. Raises
    BaseError where the file is no graph that `graph.encoder` wrote."""
    import onnx
    from onnx import numpy_helper

    known: Arrays = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(str(directory / "model.onnx")).graph.initializer
    }
    found: dict[str, NDArray[np.float32]] = {}
    try:
        for name, value in known.items():
            if name.endswith((".weight", ".bias")):
                found[name] = np.array(_whole(name, value, known), np.float32, order="C")
    except KeyError as error:
        raise BaseError(f"{directory / 'model.onnx'} is no model of ours: {error} is missing") from None
    return found


def _whole(name: str, value: NDArray[Any], known: Arrays) -> NDArray[Any]:
    """One weight without its int8 form. Products are stored as (in, out), each column with a step; where a channel of
    the input was divided on the way in, its row was multiplied."""
    if not name.startswith("layers.") or ".norm" in name:
        return value * known[f"{name}.step"] if f"{name}.step" in known else value
    if f"{name}.step" not in known:
        return value.T if value.ndim == 2 else value
    whole = value * known[f"{name}.step"]
    if value.ndim == 1:
        return whole
    layer, kind = name.removesuffix(".weight").rsplit(".", 1)
    point = f"{layer}.attend" if kind in {"query", "key", "value"} else f"{layer}.{kind}"
    even = known.get(f"{point}.even")
    return (whole if even is None else whole * even[:, None]).T
