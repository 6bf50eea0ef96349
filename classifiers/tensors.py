"""A graph of ours behind the Open Inference Protocol v2: token ids in an INT64 tensor, logits and embeddings in FP32
tensors. Equally long rows share a request, nothing is padded.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from .base import NoAnswer, Silence
from .encoder import Encoder
from .runtime import Floats, Ids
from .service import Question, Service

MOST_ROWS = 64
"""Rows of one request: an answer with embeddings is 16 kB a row."""


class Unfit(NoAnswer):
    """There is a server, and it has no such model."""


class Model:
    """The model of `encoder` at a server. Thread-safe."""

    def __init__(self, service: Service, encoder: Encoder) -> None:
        self._service, self._name = service, encoder.card.name
        self._path = f"/v2/models/{quote(self._name, safe='')}"
        self._needed = ("logits", *encoder.layers)
        self._labels = len(encoder.card.heads)

    def look(self) -> None:
        """Raises Unfit where the server has no such model, NoAnswer where it does not say."""
        [about] = self._service.ask([Question(self._path)])
        if isinstance(about, NoAnswer):
            raise about
        for what, names, datatype in (("inputs", ("input_ids",), "INT64"), ("outputs", self._needed, "FP32")):
            listed = about.get(what) if isinstance(about, dict) else None
            if not isinstance(listed, list):
                raise NoAnswer(Silence.BAD_ANSWER, "no description of the model")
            known = {each.get("name"): each.get("datatype") for each in listed if isinstance(each, dict)}
            if missing := [name for name in names if known.get(name) != datatype]:
                raise Unfit(Silence.BAD_ANSWER, f"model {self._name} has no {missing[0]} of {datatype} there")

    def ask(self, passes: Sequence[Ids], outputs: Sequence[str]) -> tuple[list[list[Floats]], str | None]:
        """What the server makes of `passes`, and which version of the model it says that it is. Raises NoAnswer."""
        parts = [ids[at : at + MOST_ROWS] for ids in passes for at in range(0, len(ids), MOST_ROWS)]
        codes = [secrets.token_hex(8) for _ in parts]
        questions = [
            Question(f"{self._path}/infer", _question(ids, outputs, code))
            for ids, code in zip(parts, codes, strict=True)
        ]
        answers = self._service.ask(questions)
        versions: set[str | None] = set()
        found: list[list[Floats]] = []
        for ids, code, answer in zip(parts, codes, answers, strict=True):
            if isinstance(answer, NoAnswer):
                raise answer
            found.append(self._read(answer, len(ids), outputs, code))
            versions.add(answer.get("model_version"))
        if len(versions) > 1:
            raise NoAnswer(Silence.BAD_ANSWER, "two versions of the model answered")
        return _whole(passes, found), versions.pop() if versions else None

    def _read(self, answer: Any, count: int, outputs: Sequence[str], code: str) -> list[Floats]:
        if not isinstance(answer, dict) or not isinstance(answer.get("outputs"), list):
            raise NoAnswer(Silence.BAD_ANSWER, "no outputs")
        if answer.get("model_name") != self._name or not isinstance(answer.get("model_version"), str | None):
            raise NoAnswer(Silence.BAD_ANSWER, "another model answered")
        if answer.get("id") not in (None, "", code):
            raise NoAnswer(Silence.BAD_ANSWER, "an answer to another question")
        named = {each.get("name"): each for each in answer["outputs"] if isinstance(each, dict)}
        made = [_tensor(named.get(name), count) for name in outputs]
        if made[0].shape[1] != self._labels:
            raise NoAnswer(Silence.BAD_ANSWER, f"{made[0].shape[1]} logits, {self._labels} are known")
        return made


def _question(ids: Ids, outputs: Sequence[str], code: str) -> dict[str, Any]:
    tensor = {"name": "input_ids", "shape": list(ids.shape), "datatype": "INT64", "data": ids.ravel().tolist()}
    return {"id": code, "inputs": [tensor], "outputs": [{"name": name} for name in outputs]}


def _tensor(told: Any, count: int) -> Floats:
    """(count, width) of finite numbers. Raises NoAnswer."""
    try:
        rows, width = told["shape"]
        if told["datatype"] != "FP32" or rows != count or not 0 < width <= 4096:
            raise ValueError
        with np.errstate(over="ignore"):
            values = np.asarray(told["data"], np.float32).reshape(count, width)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise NoAnswer(Silence.BAD_ANSWER, "an output of another shape or type") from None
    if not np.isfinite(values).all():
        raise NoAnswer(Silence.BAD_ANSWER, "a number that is not finite")
    return values


def _whole(passes: Sequence[Ids], found: Sequence[list[Floats]]) -> list[list[Floats]]:
    """The parts of each pass put together again."""
    left = iter(found)
    whole = []
    for ids in passes:
        parts = [next(left) for _ in range(0, len(ids), MOST_ROWS)]
        whole.append(parts[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*parts, strict=True)])
    return whole
