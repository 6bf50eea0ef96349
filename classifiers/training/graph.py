"""The encoder as an ONNX graph, written node by node: in fp32, or in static int8 where the ranges are known.

Rows of one call are equally long and there is no mask: nothing can be padded, so no row can touch another.

Decision: written, not traced from torch. Why: the traced graph had 600 nodes, its int8 form cost 9.5 ms for 128 tokens
where this one costs 6.8, and its errors were six times as large. Cost: whoever changes the module changes this too;
`export` compares the two and stops where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encoder import ATTENTION_HEADS, EPSILON, LAST, LAYERS, WIDTH

OPSET = 23
"""The first that knows attention as one operator."""
MIDDLE = 4
"""The layer whose mean is the output `middle`: it knows more of what the heads were not trained for."""
EVEN = 0.7
"""How much of an activation's outliers moves into the weights, where each row has room of its own (SmoothQuant)."""

FEW = 16
"""Channels with the widest ranges at a point: what they hold beyond the range of all others is added in fp32. Two of
1,536 had taken three quarters of the int8 range of GELU's output for themselves."""
WIDE = ("outer",)
"""The points where such channels are."""

PAIR = 128
"""The most that two neighbouring int8 weights of a column may come to. A processor without VNNI adds their products
with two uint8 in 16 bits, which hold 128 * 255 and not twice 127 * 255: such sums were cut, and a logit was wrong by .1
on average there, by .03 elsewhere."""

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the greatest value that each channel of an activation took (channels,)."""

    low: Floats
    high: Floats


def points() -> dict[str, str]:
    """What products with weights read: name of the point -> name of its value in the fp32 graph, (texts * tokens,
    channels)."""
    found = {}
    for layer in range(LAYERS):
        own = f"layers.{layer}"
        found[f"{own}.attend"] = "x.0" if layer == 0 else f"layers.{layer - 1}.x2"
        found[f"{own}.joined"], found[f"{own}.inner"], found[f"{own}.outer"] = (
            f"{own}.{name}" for name in ("mixed.flat", "x1", "active")
        )
    return found


def encoder(weights: Weights, ranges: Mapping[str, Range] | None = None) -> Any:
    """The ONNX model: input_ids (texts, tokens) int64 -> logits (texts, heads), embedding and middle (texts, 384).

    `weights` are named as in the torch module. With `ranges` of all `points`, products with weights take int8 and
    give floats: their own outputs hold a few huge values that int8 would spoil. Attention's products of two
    activations stay fp32 for the same reason, and so do the heads, which cost nothing and decide everything.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = _Graph(weights, ranges)
    judged = _judged(graph)
    x = _embedded(graph, judged)
    graph.add("Shape", [x], "cube")
    x = graph.add("Reshape", [x, graph.constant("flat", np.array([-1, WIDTH]))], "x.0")
    middle = ""
    for layer in range(LAYERS):
        x = _layer(graph, f"layers.{layer}", x)
        if layer + 1 == MIDDLE:
            middle = x
    _pooled(graph, x, middle, judged)
    widths = {"logits": len(weights["heads.bias"]), "embedding": WIDTH, "middle": WIDTH}
    made = helper.make_graph(
        graph.nodes,
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["texts", "tokens"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["texts", width]) for name, width in widths.items()],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in graph.constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Nodes and constants while they are put together. `add` and `constant` give the name of the value made."""

    def __init__(self, weights: Weights, ranges: Mapping[str, Range] | None) -> None:
        self.weights, self.ranges = weights, ranges
        self.nodes: list[Any] = []
        self.beyond: dict[str, tuple[str, NDArray[np.int64]]] = {}
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = name or f"{kind.lower()}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{name}/{kind}", **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        self.constants.setdefault(name, np.asarray(value))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def normal(self, x: str, name: str, out: str) -> str:
        """Layer normalisation with the weights called `name`."""
        terms = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.add("LayerNormalization", terms, out, axis=-1, epsilon=EPSILON)

    def even(self, point: str) -> Floats | None:
        """What each channel at `point` is divided by, and the weights that read it multiplied with."""
        if self.ranges is None:
            return None
        most = np.maximum(np.abs(self.ranges[point].low), np.abs(self.ranges[point].high))
        if point.endswith(WIDE):
            # Values beyond are not rounded, so their rows need not grow either.
            most = np.minimum(most, np.sort(most)[-FEW - 1])
        layer, _, kind = point.rpartition(".")
        readers = ("query", "key", "value") if kind == "attend" else (kind,)
        taken = np.max([np.abs(self.weights[f"{layer}.{reader}.weight"]).max(0) for reader in readers], axis=0)
        by = np.maximum(most, 1e-5) ** EVEN / np.maximum(taken, 1e-5) ** (1 - EVEN)
        return np.asarray(by / np.exp(np.log(by).mean()), np.float32)

    def read(self, x: str, point: str, folded: bool = False) -> str:
        """`x` as the products at `point` read it. `folded`: what made it has divided its channels already."""
        by = self.even(point)
        if by is None or self.ranges is None:
            return x
        if not folded:
            x = self.add("Mul", [x, self.constant(f"{point}.even", 1 / by)])
        lows, highs = self.ranges[point].low / by, self.ranges[point].high / by
        few = np.argsort(np.maximum(-lows, highs))[-FEW:] if point.endswith(WIDE) else np.zeros(0, np.int64)
        low, high = (float(side) for side in (np.delete(lows, few).min(), np.delete(highs, few).max()))
        low, high = min(0.0, low), max(0.0, high)
        step = np.float32(max(high - low, 1e-6) / 255)
        zero = np.uint8(np.clip(round(-low / float(step)), 0, 255))
        if len(few):
            self._keep_beyond(x, point, few.astype(np.int64), step, zero)
        terms = [self.constant(f"{point}.step", step), self.constant(f"{point}.nought", zero)]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [x, *terms]), *terms])

    def _keep_beyond(self, x: str, point: str, few: NDArray[np.int64], step: np.float32, zero: np.uint8) -> None:
        """Remembers by how much the channels `few` of `x` leave what int8 can say with this step and zero."""
        part = self.add("Gather", [x, self.constant(f"{point}.few", few)], axis=1)
        bounds = [np.float32((side - int(zero)) * step) for side in (0, 255)]
        ends = [self.constant(f"{point}.{name}", side) for name, side in zip(("least", "most"), bounds, strict=True)]
        self.beyond[point] = self.add("Sub", [part, self.add("Clip", [part, *ends])]), few

    def product(self, x: str, name: str, point: str, fold: Floats | None = None) -> str:
        """x @ weight + bias of the linear layer called `name`, whose x is read at `point`; its outputs divided by
        `fold`."""
        weight, bias = self.weights[f"{name}.weight"].T.astype(np.float64), self.weights[f"{name}.bias"].astype(float)
        if fold is not None:
            weight, bias = weight / fold, bias / fold
        by = self.even(point)
        if by is None:
            terms = [self.constant(f"{name}.weight", weight.astype(np.float32))]
            return self.add("Gemm", [x, *terms, self.constant(f"{name}.bias", bias.astype(np.float32))], name)
        weight = weight * by[:, None]
        steps = _steps(weight)
        both = steps * self.constants[f"{point}.step"]
        rounded = np.rint(weight / steps).clip(-127, 127).astype(np.int8)
        given = []
        for what, value, step, axis in (
            ("weight", rounded, steps, 1),
            ("bias", np.rint(bias / both).astype(np.int32), both, 0),
        ):
            nought = self.constant(f"{name}.{what}.nought", np.zeros(len(step), value.dtype))
            terms = [self.constant(f"{name}.{what}", value), self.constant(f"{name}.{what}.step", step), nought]
            given.append(self.add("DequantizeLinear", terms, axis=axis))
        if point not in self.beyond:
            return self.add("Gemm", [x, *given], name)
        left, few = self.beyond[point]
        left = self.add("MatMul", [left, self.constant(f"{name}.beyond", weight[few].astype(np.float32))])
        return self.add("Add", [self.add("Gemm", [x, *given]), left], name)


def _steps(weight: NDArray[np.float64]) -> Floats:
    """The step of each column of a weight (in, out): so wide that no int8 leaves -127..127, no two neighbours PAIR."""
    size = np.abs(weight)
    pairs = size[0::2] + size[1::2]
    # Half a step more for each of the two: they may both be rounded up.
    widest = np.maximum(size.max(0) / 127, pairs.max(0) / (PAIR - 1))
    return np.asarray(np.maximum(widest, 1e-14), np.float32)


def _judged(graph: _Graph) -> str:
    """1 for the tokens after the first [last] of a row that has two, else 0 (texts, tokens) int64."""
    from onnx import TensorProto

    is_last = graph.add("Equal", ["input_ids", graph.constant("last", np.int64(LAST))])
    ends = graph.add("Cast", [is_last], to=TensorProto.INT64)
    passed = graph.add("CumSum", [ends, graph.constant("tokens", np.int64(1))])
    return graph.add("Min", [graph.add("Sub", [passed, ends]), graph.constant("one", np.int64(1))])


def _embedded(graph: _Graph, judged: str) -> str:
    """Words, places and kinds of tokens, added and normalised (texts, tokens, 384)."""
    nought, one = graph.constant("0", np.array([0])), graph.constant("1", np.array([1]))
    count = graph.add("Shape", ["input_ids"], start=1, end=2)
    words = _rows(graph, "words.weight", lambda table: graph.add("Gather", [table, "input_ids"]))
    places = _rows(graph, "places.weight", lambda table: graph.add("Slice", [table, nought, count, nought, one]))
    kinds = graph.add("Gather", [graph.weight("types.weight"), judged])
    return graph.normal(graph.add("Add", [graph.add("Add", [words, places]), kinds]), "norm", "x")


def _rows(graph: _Graph, name: str, choose: Any) -> str:
    """The rows of a table that `choose` picks; in int8 each row has a step of its own."""
    from onnx import TensorProto

    if graph.ranges is None:
        return str(choose(graph.weight(name)))
    table = graph.weights[name]
    steps = np.maximum(np.abs(table).max(1, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
    chosen = choose(graph.constant(name, np.rint(table / steps).astype(np.int8)))
    return graph.add(
        "Mul", [graph.add("Cast", [chosen], to=TensorProto.FLOAT), choose(graph.constant(f"{name}.step", steps))]
    )


def _layer(graph: _Graph, own: str, x: str) -> str:
    """One layer: (texts * tokens, 384) to the same."""
    read = graph.read(x, f"{own}.attend")
    fold = graph.even(f"{own}.joined")
    parts = [graph.product(read, f"{own}.{name}", f"{own}.attend") for name in ("query", "key")]
    # Channels of the mixture are those of the values: what evens it out costs nothing there.
    parts.append(graph.product(read, f"{own}.value", f"{own}.attend", fold))
    cubes = [graph.add("Reshape", [part, "cube"]) for part in parts]
    mixed = graph.add("Attention", cubes, q_num_heads=ATTENTION_HEADS, kv_num_heads=ATTENTION_HEADS)
    y = graph.read(graph.add("Reshape", [mixed, "flat"], f"{own}.mixed.flat"), f"{own}.joined", folded=True)
    y = graph.product(y, f"{own}.joined", f"{own}.joined")
    x = graph.normal(graph.add("Add", [y, x]), f"{own}.norm1", f"{own}.x1")
    y = graph.product(graph.read(x, f"{own}.inner"), f"{own}.inner", f"{own}.inner")
    y = graph.add("Gelu", [y], f"{own}.active")
    y = graph.product(graph.read(y, f"{own}.outer"), f"{own}.outer", f"{own}.outer")
    return graph.normal(graph.add("Add", [y, x]), f"{own}.norm2", f"{own}.x2")


def _pooled(graph: _Graph, x: str, middle: str, judged: str) -> None:
    """The outputs. Only the tokens of the judged text count: of all where nothing stands before it."""
    from onnx import TensorProto

    one, two = graph.constant("1", np.array([1])), graph.constant("2", np.array([2]))
    flags = graph.add("Cast", [judged], to=TensorProto.FLOAT)
    unit = graph.constant("unit", np.float32(1))
    alone = graph.add("Sub", [unit, graph.add("ReduceMax", [flags, one], keepdims=1)])
    kept = graph.add("Add", [flags, alone])
    row, count = graph.add("Unsqueeze", [kept, one]), graph.add("ReduceSum", [kept, one], keepdims=1)
    x, middle = (graph.add("Reshape", [value, "cube"]) for value in (x, middle))
    means = []
    for value, name in ((x, "embedding"), (middle, "middle")):
        total = graph.add("Squeeze", [graph.add("MatMul", [row, value]), one])
        means.append(graph.add("Div", [total, count]))
        graph.add("LpNormalization", [means[-1]], name, axis=-1, p=2)
    far = graph.add("Mul", [graph.add("Sub", [kept, unit]), graph.constant("far", np.float32(1e4))])
    strongest = graph.add("ReduceMax", [graph.add("Add", [x, graph.add("Unsqueeze", [far, two])]), one], keepdims=0)
    both = graph.add("Concat", [means[0], strongest], axis=-1)
    graph.add("Gemm", [both, graph.weight("heads.weight"), graph.weight("heads.bias")], "logits", transB=1)
