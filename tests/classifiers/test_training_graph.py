"""The graph that ships computes the encoder, in fp32 and nearly so in int8, and no row of a call touches another.

Weights are random and the vocabulary small: what is tested is the graph, not what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from classifiers.encoder import DEFAULT_MODEL, MODELS
from classifiers.runtime import Session
from classifiers.training import export, graph, shipped
from classifiers.training.encoder import ATTENTION_HEADS, EPSILON, FIRST, INNER, LAST, LAYERS, WIDTH

Floats = NDArray[np.float64]
WORDS, HEADS = 300, 5
RNG = np.random.default_rng(0)


def random_weights() -> dict[str, NDArray[np.float32]]:
    def normal(*shape: int, spread: float = 0.06) -> NDArray[np.float32]:
        return RNG.normal(0, spread, shape).astype(np.float32)

    made = {"words.weight": normal(WORDS, WIDTH), "places.weight": normal(64, WIDTH), "types.weight": normal(2, WIDTH)}
    shapes = {"inner": (INNER, WIDTH), "outer": (WIDTH, INNER)}
    norms = ["norm"]
    for layer in range(LAYERS):
        for name in ("query", "key", "value", "joined", "inner", "outer"):
            shape = shapes.get(name, (WIDTH, WIDTH))
            made[f"layers.{layer}.{name}.weight"] = normal(*shape)
            made[f"layers.{layer}.{name}.bias"] = normal(shape[0])
        norms += [f"layers.{layer}.norm1", f"layers.{layer}.norm2"]
    for name in norms:
        # A few channels are huge, as they are in every trained encoder.
        made[f"{name}.weight"] = normal(WIDTH, spread=0.1) + np.where(np.arange(WIDTH) % 97 == 5, 6, 1).astype(
            np.float32
        )
        made[f"{name}.bias"] = normal(WIDTH)
    made["heads.weight"], made["heads.bias"] = normal(HEADS, 2 * WIDTH), normal(HEADS)
    return made


def forward(weights: Mapping[str, NDArray[np.float32]], ids: list[int]) -> list[Floats]:
    """Logits, embedding and middle of one row, in plain numpy."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def normal(x: Floats, name: str) -> Floats:
        x = x - x.mean(-1, keepdims=True)
        return np.asarray(
            x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def linear(x: Floats, name: str) -> Floats:
        return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    first = ids.index(LAST)
    kind = np.array([place > first for place in range(len(ids))])
    kept = kind if kind.any() else ~kind
    x = normal(w["words.weight"][ids] + w["places.weight"][: len(ids)] + w["types.weight"][kind.astype(int)], "norm")
    layers = []
    for layer in range(LAYERS):
        own = f"layers.{layer}"
        query, key, value = (
            linear(x, f"{own}.{name}").reshape(len(ids), ATTENTION_HEADS, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(x.shape)
        x = normal(x + linear(mixed, f"{own}.joined"), f"{own}.norm1")
        inner = linear(x, f"{own}.inner")
        active = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = normal(x + linear(active, f"{own}.outer"), f"{own}.norm2")
        layers.append(x)
    mean, middle = x[kept].mean(0), layers[graph.MIDDLE - 1][kept].mean(0)
    both = np.concatenate((mean, x[kept].max(0)))
    return [linear(both, "heads"), mean / np.linalg.norm(mean), middle / np.linalg.norm(middle)]


def row(*texts: int) -> list[int]:
    """[first] text [last], or [first] context [last] text [last], of so many random tokens each."""
    ids = [FIRST]
    for count in texts:
        ids += [*RNG.integers(110, WORDS, count).tolist(), LAST]
    return ids


ROWS = [row(1), row(7), row(30), row(4, 9), row(20, 1)]
OUTPUTS = ("logits", "embedding", "middle")


@pytest.fixture(scope="module")
def weights() -> dict[str, NDArray[np.float32]]:
    return random_weights()


@pytest.fixture(scope="module")
def files(weights: dict[str, NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("graph")
    whole, small = folder / "whole.onnx", folder / "small.onnx"
    whole.write_bytes(graph.encoder(weights).SerializeToString())
    export.quantise(whole, small, [np.asarray(row(size, 10), np.int64) for size in range(5, 30)])
    return whole, small


@pytest.fixture(scope="module")
def whole(files: tuple[Path, Path]) -> Session:
    return Session(files[0].read_bytes())


@pytest.fixture(scope="module")
def small(files: tuple[Path, Path]) -> Session:
    return Session(files[1].read_bytes())


def ask(session: Session, ids: list[int]) -> list[Any]:
    return session.run(np.asarray([ids], np.int64), OUTPUTS)


def test_it_gives_what_it_is_to_give_and_knows_no_mask(whole: Session, small: Session) -> None:
    assert whole.outputs == small.outputs == OUTPUTS
    assert [given.name for given in small._session.get_inputs()] == ["input_ids"]


@pytest.mark.parametrize("ids", ROWS, ids=len)
def test_fp32_is_the_encoder(whole: Session, weights: dict[str, NDArray[np.float32]], ids: list[int]) -> None:
    for made, expected in zip(ask(whole, ids), forward(weights, ids), strict=True):
        assert np.abs(made[0] - expected).max() < 1e-3


@pytest.mark.parametrize("ids", ROWS, ids=len)
def test_int8_is_nearly_the_encoder(whole: Session, small: Session, ids: list[int]) -> None:
    exact, rounded = ask(whole, ids), ask(small, ids)
    for place in (1, 2):
        assert float((exact[place] * rounded[place]).sum()) > 0.99
    assert np.abs(exact[0] - rounded[0]).max() < 0.1 * np.abs(exact[0]).max()


def test_a_shipped_model_gives_its_weights_back(files: tuple[Path, Path], weights: Mapping[str, Any]) -> None:
    """What a later model starts from computes what the file does: all that is lost is what int8 had rounded."""
    folder = files[1].parent / "again"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(files[1].read_bytes())
    found = shipped.weights(folder)
    assert found.keys() == dict(weights).keys()
    again = Session(graph.encoder(found).SerializeToString())
    whole = Session(files[0].read_bytes())
    for ids in ROWS:
        exact, back = ask(whole, ids), ask(again, ids)
        assert np.abs(exact[0] - back[0]).max() < 0.05 * np.abs(exact[0]).max()
    (folder / "model.onnx").write_bytes(files[0].read_bytes())
    for name, value in shipped.weights(folder).items():
        assert (value == weights[name]).all()


def test_int8_is_small(files: tuple[Path, Path]) -> None:
    assert files[1].stat().st_size < 0.3 * files[0].stat().st_size


def test_sums_of_products_fit_in_16_bits(files: tuple[Path, Path]) -> None:
    """A processor without VNNI adds two neighbouring products of uint8 and int8 in 16 bits, and cuts what is more. Then
    the same file would judge differently there."""
    found = pairs(files[1])
    assert len(found) == 6 * LAYERS
    assert all(100 < most <= graph.PAIR for most in found.values())
    assert 255 * graph.PAIR < 1 << 15


def test_the_shipped_model_judges_alike_on_every_processor() -> None:
    assert set(pairs(MODELS / DEFAULT_MODEL / "model.onnx").values()) <= set(range(graph.PAIR + 1))


def pairs(path: Path) -> dict[str, int]:
    """The most that two neighbouring weights of a column come to, by product."""
    known = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    sizes = {name: np.abs(value.astype(int)) for name, value in known.items() if name.endswith(".weight")}
    return {
        name: int((size[0::2] + size[1::2]).max())
        for name, size in sizes.items()
        if name.startswith("layers.") and ".norm" not in name
    }


def test_what_is_evened_out_is_worth_it(weights: dict[str, NDArray[np.float32]]) -> None:
    """Rounding all channels of an activation by one step is far worse where a few of them are huge."""
    texts = [np.asarray(row(size, 10), np.int64) for size in range(5, 30)]
    ranges = export.observed(graph.encoder(weights), texts)
    session = Session(graph.encoder(weights).SerializeToString())
    evened = Session(graph.encoder(weights, ranges).SerializeToString())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph._Graph, "even", lambda self, point: np.ones_like(ranges[point].low))
        plain = Session(graph.encoder(weights, ranges).SerializeToString())
    errors = [
        np.mean([np.abs(ask(session, ids)[1] - ask(made, ids)[1]).mean() for ids in ROWS]) for made in (evened, plain)
    ]
    assert errors[0] < 0.7 * errors[1]


def test_few_channels_that_stand_out_cost_the_others_nothing(weights: dict[str, NDArray[np.float32]]) -> None:
    """Two channels of GELU go far beyond what all others reach. Only what is read there is rounded here."""
    loud = dict(weights)
    for layer in range(LAYERS):
        name = f"layers.{layer}.inner.weight"
        loud[name] = weights[name].copy()
        loud[name][[7, 900]] *= 40
    texts = [np.asarray(row(size, 10), np.int64) for size in range(5, 30)]
    ranges = export.observed(graph.encoder(loud), texts)
    even, errors = graph._Graph.even, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph._Graph, "even", lambda self, point: even(self, point) if "outer" in point else None)
        exact = Session(graph.encoder(loud).SerializeToString())
        for wide in (("outer",), ("nowhere",)):
            patch.setattr(graph, "WIDE", wide)
            made = Session(graph.encoder(loud, ranges).SerializeToString())
            errors.append(np.mean([np.abs(ask(exact, ids)[1] - ask(made, ids)[1]).mean() for ids in ROWS]))
    assert errors[0] < 0.7 * errors[1]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9), st.integers(0, 8), st.booleans()
)
def test_company_changes_no_bit(small: Session, size: int, seeds: list[int], place: int, paired: bool) -> None:
    """A row alone, and among others of its length: context rows and odd ids included."""
    rows = np.stack([np.random.default_rng(seed).integers(0, WORDS, size + 2) for seed in seeds])
    rows[:, 0], rows[:, -1] = FIRST, LAST
    if paired:
        rows[0, size // 2] = LAST
    place %= len(seeds)
    alone = small.run(rows[place : place + 1], OUTPUTS)
    for one, many in zip(alone, small.run(rows, OUTPUTS), strict=True):
        assert (one[0] == many[place]).all()
