"""The Open Inference Protocol v2 over one engine: a method, a path and a body in, a status and a body out.

Token ids come in the INT64 tensor `input_ids`, (n, t), rows equally long. `logits` and the embeddings go out as FP32.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import numpy as np
import orjson

from classifiers.runtime import Ids

from .engine import Engine

LARGEST = 4 << 20
"""Bytes of a request."""
MOST_ROWS = 256

Answer = tuple[int, bytes]


class Refused(Exception):
    """A request that is not answered: its status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Protocol:
    """Everything of the protocol that a client needs. For one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pages: dict[str, Any] = {
            "/v2": {"name": "penstock-encoder", "version": engine.version, "extensions": []},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
        }
        for path in self._paths():
            self._pages[path] = self._described()
            self._pages[f"{path}/ready"] = {"name": engine.card.name, "ready": True}

    def _paths(self) -> tuple[str, str]:
        path = f"/v2/models/{self._engine.card.name}"
        return path, f"{path}/versions/{self._engine.version}"

    def _described(self) -> dict[str, Any]:
        engine = self._engine
        return {
            "name": engine.card.name,
            "versions": [engine.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, -1]} for name in engine.outputs],
        }

    async def answer(self, method: str, path: str, raw: bytes) -> Answer:
        """Raises nothing for what a client sent."""
        path = unquote(path).rstrip("/")
        try:
            if path in self._pages:
                _only(method, "GET")
                return _json(200, self._pages[path])
            if path.removesuffix("/infer") in self._paths() and path.endswith("/infer"):
                _only(method, "POST")
                return _json(200, await self._infer(raw))
            raise Refused(404, "there is no such model or page here")
        except Refused as refused:
            return _json(refused.status, {"error": refused.why})

    async def _infer(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > LARGEST:
            raise Refused(413, f"at most {LARGEST} bytes")
        try:
            asked = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise Refused(400, "the body is no JSON") from None
        if not isinstance(asked, dict):
            raise Refused(400, "the body is no object")
        ids, outputs = self._rows(asked.get("inputs")), self._wanted(asked.get("outputs"))
        made = await self._engine.run(ids, outputs)
        return {
            "model_name": self._engine.card.name,
            "model_version": self._engine.version,
            "id": asked["id"] if isinstance(asked.get("id"), str) else "",
            "outputs": [
                {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.ravel()}
                for name, values in zip(outputs, made, strict=True)
            ],
        }

    def _rows(self, inputs: Any) -> Ids:
        mend = "one input: input_ids, INT64, of the shape [rows, tokens]"
        try:
            [tensor] = inputs
            rows, length = tensor["shape"]
            whole = tensor["name"] == "input_ids" and tensor["datatype"] == "INT64"
            ids = np.asarray(tensor["data"], np.int64).reshape(rows, length)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise Refused(400, mend) from None
        if not whole or not 0 < rows <= MOST_ROWS or not 0 < length <= self._engine.card.window:
            raise Refused(400, f"{mend}, at most [{MOST_ROWS}, {self._engine.card.window}]")
        if ids.min() < 0 or ids.max() >= self._engine.words:
            raise Refused(400, f"a token id outside of 0 to {self._engine.words - 1}")
        return ids

    def _wanted(self, outputs: Any) -> list[str]:
        known = self._engine.outputs
        if not outputs:
            return list(known)
        try:
            names = [each["name"] for each in outputs]
            unknown = [name for name in names if name not in known]
        except (KeyError, TypeError):
            raise Refused(400, "outputs is no list of names") from None
        if unknown or len(set(names)) < len(names):
            raise Refused(400, f"outputs, each once: {', '.join(known)}")
        return names


def _only(method: str, wanted: str) -> None:
    if method != wanted:
        raise Refused(405, f"{wanted} only")


def _json(status: int, tree: Any) -> Answer:
    return status, orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)
