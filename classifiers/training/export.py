"""From the trained module to the file that ships: ONNX, then static int8.

Static, because dynamic quantisation scales a text by its company: one caller's text would change another's verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import encoder


def to_onnx(module: Any, path: Path) -> None:
    """Writes fp32 ONNX: input_ids, attention_mask (n, t) int64 -> logits (n, heads), embedding (n, 384)."""
    import torch

    ids = torch.tensor([[encoder.FIRST, 2129, 2079, encoder.LAST]])
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        module.eval(),
        (ids, torch.ones_like(ids)),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits", "embedding"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "texts"}, "embedding": {0: "texts"}},
        opset_version=17,
        dynamo=False,
    )


def quantise(source: Path, path: Path, texts: Sequence[NDArray[np.int64]]) -> None:
    """Writes the static QDQ int8 form of `source`. `texts` are token ids (special ones included) that show the
    range of every activation.

    Products with weights take int8 and give floats: their own outputs hold a few huge values, and quantising those
    cost 3 % of the direction of an embedding for no speed. Attention's products of two activations stay fp32, for
    the same reason, and so do the heads, which cost nothing and decide everything.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(texts)

        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            ids = next(self._left, None)
            return None if ids is None else {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]}

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    graph = onnx.load(str(prepared)).graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [n.name for n in graph.node if n.op_type == "MatMul" and not weights.intersection(n.input)]
    if len(kept) != 2 * encoder.LAYERS:
        raise RuntimeError(f"the exported graph has {len(kept)} products of activations, not {2 * encoder.LAYERS}")
    quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=kept,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    prepared.unlink()
