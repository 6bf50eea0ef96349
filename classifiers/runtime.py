"""What runs the weights: one ONNX Runtime session, one thread per call, the interpreter lock released.

Rows of one call must be equally long: nothing is padded. Where a model is `exact`, each row's answer is bit for bit
what it is alone.

Decision: ONNX Runtime and nothing beside it. Why: on the graph that `training.graph` writes OpenVINO is slower at every
length (`python -m tests.bench.encoder --openvino`), takes 180 MB on disk, compiles 14 ms and keeps 7 MB for every new
length, and reports its import to its makers. Cost: on a graph written for it, OpenVINO would save some 3 %.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

TOGETHER = 256
"""Tokens of short windows that share a pass: alone a short one mostly pays for reading the weights."""

# The kernel that adds and normalises in one step takes five times as long as the two that do it in turn.
_SLOW = ["SkipLayerNormFusion"]


class Engine(Protocol):
    """What runs the weights, here or elsewhere. `outputs` are the names of what it can give; `together` how many tokens
    of equally long rows should share a pass; `waits`: the work is done by another machine."""

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def together(self) -> int: ...

    @property
    def waits(self) -> bool: ...

    def run_many(self, passes: Sequence[Ids], outputs: Sequence[str]) -> list[list[Floats]]:
        """For each of `passes`, rows of token ids (n, t) with special tokens, the `outputs` named, (n, width) each."""


class Session:
    """One model, safe to share between threads. `outputs` are the names of what it can give. `exact`: its graph is one
    of `training.graph`, where no row touches another.

    Raises onnxruntime's errors for bytes that are no model.
    """

    together = TOGETHER
    waits = False

    def __init__(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # Spinning threads take the core from the event loop; remembered patterns grow with every new length.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False
        # Weights outside the graph would be read from the working directory, past every digest.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, ["CPUExecutionProvider"], disabled_optimizers=_SLOW)
        self.outputs = tuple(made.name for made in self._session.get_outputs())
        self.exact = all(given.name != "attention_mask" for given in self._session.get_inputs())

    def run(self, ids: Ids, outputs: Sequence[str] = ("logits", "embedding")) -> list[Floats]:
        """The `outputs` named, (n, labels) or (n, width) each, for rows of token ids (n, t), special tokens
        included."""
        feed = {"input_ids": ids}
        if not self.exact:
            feed["attention_mask"] = np.ones_like(ids)
        made: list[Floats] = self._session.run(list(outputs), feed)
        return made

    def run_many(self, passes: Sequence[Ids], outputs: Sequence[str]) -> list[list[Floats]]:
        """As `run`, one after the other."""
        return [self.run(ids, outputs) for ids in passes]
