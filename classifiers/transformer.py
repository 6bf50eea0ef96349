"""Any sequence classifier in the form of Hugging Face, from a folder or the local cache of its hub.

    kind: transformer
    model: protectai/deberta-v3-base-prompt-injection-v2
    revision: <the commit, 40 hex digits>
    digest: <of its files, 64 hex digits>
    labels: {INJECTION: injection}

Decision: nothing is fetched, nothing but the model's three files is opened, and none of them can hold code. Why: a
pickle, a `modeling_*.py` or a moved tag runs or becomes what its author wants. Cost: a model must be fetched
beforehand, with a fast tokenizer, and models that need code of their own are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from . import option_forms as form
from .base import Finding, Message, NoAnswer, Silence
from .catalog import OptionError, UnknownWord
from .options import Options
from .transformer_model import Files, Model, read_files
from .windows import Window, span, split

RULES = "transformer-1"
WINDOW = 256
"""Tokens read at once, unless told otherwise or the model reaches less far."""
ACTIVATIONS = {
    "auto": "As config.json says (problem_type).",
    "softmax": "The labels exclude each other.",
    "sigmoid": "Each label has a probability of its own.",
}
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")

OPTIONS: form.Declared = {
    "path": form.text("A folder with config.json, tokenizer.json and weights; starts from this file's directory."),
    "model": form.text("In place of path: its name on the hub; it must be in the local cache."),
    "revision": form.shaped("The commit that you looked at.", "^[0-9a-f]{40}$", "40 hex digits"),
    "digest": form.shaped("Of the files used; an error says what it is.", "^[0-9a-f]{64}$", "64 hex digits"),
    "weights": form.text("A file in the folder, like onnx/model.onnx."),
    "labels": form.labels("From the model's labels to those that policies name; all when left out."),
    "activation": form.choice("How logits become scores.", ACTIVATIONS, "auto"),
    "window": form.whole("Tokens that are read at once; 256 or the model's reach when left out.", None, 3, 1_000_000),
    "overlap": form.whole("Tokens that two windows share; a quarter of one when left out.", None, 0, 1_000_000),
    "min_score": form.share("The lowest score that is reported.", 0.01),
    "timeout_ms": form.whole("No window is begun later than this.", 5000, 1, 60_000),
}


class Transformer:
    """The classifier `transformer`. Thread-safe; `classify` starts no window after `timeout_ms`."""

    inline = False

    def __init__(
        self, name: str, model: Model, labels: Mapping[str, str], sigmoid: bool, window: tuple[int, int], limits: Any
    ) -> None:
        """`labels` from the model's to ours; `window` its tokens and overlap; `limits` the lowest score that is
        reported, and the seconds of a call."""
        self.name, self.labels = name, frozenset(labels.values())
        self._model, self._sigmoid, self._window = model, sigmoid, window
        self._chosen = [(model.labels.index(theirs), ours) for theirs, ours in labels.items()]
        self._min_score, self._seconds = limits
        facts = [RULES, model.digest, dict(labels), sigmoid, window, self._min_score]
        self.digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def options() -> form.Declared:
        """What an author may write."""
        return OPTIONS

    @staticmethod
    def together() -> list[dict[str, Any]]:
        """What a schema can say of several options: a folder, or a name that is pinned."""
        return [
            {"oneOf": [{"required": ["path"]}, {"required": ["model"]}]},
            {"if": {"required": ["model"]}, "then": {"required": ["revision", "digest"]}},
            {"if": {"required": ["path"]}, "then": {"properties": {"revision": False}}},
        ]

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Self:
        """See `options`. Raises OptionError. No file is run unverified."""
        read = Options(options, cls.options())
        folder = _folder(read)
        min_score, seconds = read.share("min_score"), read.whole("timeout_ms") / 1000
        files = read_files(folder, read.maybe_text("weights", "the path of a file of weights in the model's folder"))
        _verify(files, read)
        model = Model.open(files)
        reach = model.reach or WINDOW
        window = read.whole("window", min(WINDOW, reach), model.special + 2, max(reach, model.special + 2))
        overlap = read.whole("overlap", window // 4, 0, window - model.special - 1)
        labels = read.labels("labels", {label: label for label in model.labels}, "from the model's labels to yours")
        for label in labels:
            if label not in model.labels:
                raise UnknownWord("labels", f"the model has no label {label!r}", label, model.labels)
        sigmoid = _is_sigmoid(model.config, read.choice("activation"), len(model.labels))
        return cls(name, model, labels, sigmoid, (window, overlap), (min_score, seconds))

    def classify(self, messages: Sequence[Message]) -> list[Finding]:
        """Findings by message and label; equal texts of one call are judged once. Raises NoAnswer, with what was
        found before, where time is up or the model gives no number."""
        end = time.monotonic() + self._seconds
        known: dict[str, list[tuple[str, float, tuple[int, int] | None]]] = {}
        findings: list[Finding] = []
        for index, message in enumerate(messages):
            if message.text not in known:
                try:
                    known[message.text] = self._judge(message.text, end)
                except NoAnswer as silence:
                    raise NoAnswer(silence.reason, silence.detail, findings) from None
            findings += [Finding(self.name, label, score, index, place) for label, score, place in known[message.text]]
        return findings

    def _judge(self, text: str, end: float) -> list[tuple[str, float, tuple[int, int] | None]]:
        """(label, score, span of the best window or None if there is but one) for each label to report."""
        if not text or text.isspace():
            return []
        ids, offsets = self._model.tokens(text)
        windows = split(len(ids), *self._window, special=self._model.special)
        # A text of one letter, a million times, has few different windows.
        passed: dict[bytes, NDArray[np.float64]] = {}
        best: dict[str, tuple[float, Window]] = {}
        for window in windows:
            part = ids[window.start : window.end]
            scores = passed.get(part.tobytes())
            if scores is None:
                if time.monotonic() > end:
                    raise NoAnswer(Silence.TIMEOUT, f"{len(windows)} windows take more than {self._seconds:g} s")
                scores = passed[part.tobytes()] = self._activate(self._model.run(part))
            for column, label in self._chosen:
                if scores[column] > best.get(label, (-1.0, window))[0]:
                    best[label] = (float(scores[column]), window)
        return [
            (label, score, None if len(windows) == 1 else span(window, offsets))
            for label, (score, window) in best.items()
            if score >= self._min_score
        ]

    def _activate(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._sigmoid:
            return 0.5 * (1.0 + np.tanh(0.5 * logits))
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())


def _folder(read: Options) -> Path:
    """The folder of the model that the options name."""
    if ("path" in read) == ("model" in read):
        raise OptionError("model", "needs either model or path", "write one of the two")
    if "path" in read:
        if "revision" in read:
            raise OptionError("revision", "a folder has none", "pin it by digest")
        folder = Path(read.text("path"))
        if not folder.is_dir():
            raise OptionError("path", f"{folder} is no folder", "the folder that holds config.json")
        return folder
    name = read.text("model")
    if not _ID.fullmatch(name) or ".." in name:
        raise OptionError("model", f"{name!r} is no name of a model", "owner/name, or a folder with path")
    revision = read.text("revision", mend="the commit (40 hex digits) that you looked at: names of branches move")
    if not _SHA1.fullmatch(revision):
        raise OptionError("revision", f"{revision!r} is no commit", "40 hex digits: names of branches move")
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots" / revision
    if not folder.is_dir():
        mend = f"fetch it once: hf download {name} --revision {revision}"
        raise OptionError("model", f"{name} at this revision is not in {cache}", mend)
    return folder


def _verify(files: Files, read: Options) -> None:
    """Whether the files are those that the author saw."""
    pinned = read.maybe_text("digest", "64 hex digits")
    if pinned is None:
        if "model" in read:
            mend = "compare the files with their source, then write it"
            raise OptionError("digest", f"is missing; that of the files here is {files.digest}", mend)
        return
    if not _SHA256.fullmatch(pinned):
        raise OptionError("digest", "must be 64 hex digits", "sha256sum FILES | sha256sum, sorted by name")
    if pinned != files.digest:
        raise OptionError("digest", f"the files were altered: theirs is {files.digest}", "fetch the model again")


def _is_sigmoid(config: Mapping[str, Any], asked: str, count: int) -> bool:
    """Whether each label has a probability of its own."""
    if asked != "auto":
        return asked == "sigmoid"
    problem = config.get("problem_type")
    if problem == "regression":
        raise OptionError("activation", "the model gives numbers, not probabilities", "say sigmoid if that fits")
    return bool(problem == "multi_label_classification" or count == 1)
