"""A small transformer that ships with the product: one pass, many heads, on a CPU core.

The card beside the weights (`card.json`) is the whole truth about them: digests, order of heads, calibration,
suggested thresholds, window. Windows over a long text are each judged alone (batch of one), so that company never
changes a verdict; the best window of a text speaks for it, label by label. Nothing is cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .base import Finding, Message
from .catalog import OptionError
from .windows import Window, span, split

MODELS = Path(__file__).parent / "models"
DEFAULT_MODEL = "minilm-heads"
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """One label of a model. The calibrated probability is sigmoid(scale * logit + bias), scale > 0.
    `block` and `log` are suggested thresholds on it, `roles` where it was trained to be asked."""

    label: str
    scale: float
    bias: float
    block: float
    log: float
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """What `card.json` says of a model directory. `digest` is the sha256 of the card itself, which names the
    digests of all other `files` (sha256, hex). `first` and `last` are the ids of the special tokens around each
    window."""

    name: str
    digest: str
    files: Mapping[str, str]
    heads: tuple[Head, ...]
    window: int
    overlap: int
    first: int
    last: int

    def head(self, label: str) -> Head:
        return next(head for head in self.heads if head.label == label)


def read_card(directory: Path) -> Card:
    """The card of `directory`. Raises OptionError (for `model`) where it is missing or broken."""
    place = directory / "card.json"
    raw = _read(place)
    try:
        card = json.loads(raw)
        return Card(
            name=card["name"],
            digest=hashlib.sha256(raw).hexdigest(),
            files=dict(card["files"]),
            heads=tuple(
                Head(h["label"], h["scale"], h["bias"], h["block"], h["log"], tuple(h["roles"])) for h in card["heads"]
            ),
            window=card["window"]["tokens"],
            overlap=card["window"]["overlap"],
            first=card["special"]["first"],
            last=card["special"]["last"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError("model", f"{place} is no model card: {error!r}", "train again, or reinstall") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        mend = "name a shipped model or a path to one, or reinstall"
        raise OptionError("model", f"cannot read {path}: {error.strerror}", mend) from None


def _verified(path: Path, expected: str) -> bytes:
    """The bytes of `path`, which are those that were verified: nobody can change the file in between."""
    raw = _read(path)
    actual = hashlib.sha256(raw).hexdigest()
    if actual != expected:
        raise OptionError(
            "model",
            f"{path} was altered: its sha256 is {actual[:12]}..., the card names {expected[:12] or 'none'}...",
            "reinstall, or train again",
        )
    return raw


def _session(model: bytes) -> ort.InferenceSession:
    """What runs the weights: one thread per call."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Spinning threads take the core from the event loop; remembered patterns grow with every new length.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, ["CPUExecutionProvider"])


class Encoder:
    """The weights and the tokenizer of one model directory, one thread per call; safe to share between threads.

    `run` releases the interpreter lock while the model works, and so does `tokens`.
    """

    _open: ClassVar[WeakValueDictionary[str, Encoder]] = WeakValueDictionary()

    @classmethod
    def open(cls, directory: Path) -> Encoder:
        """The encoder of `directory`, the same one for all who use it at a time; its files are verified each time.
        Raises OptionError (for `model`) where a file is missing or is not the one that the card names."""
        card = read_card(directory)
        model, tokenizer = (
            _verified(directory / name, card.files.get(name, "")) for name in ("model.onnx", "tokenizer.json")
        )
        found = cls._open.get(card.digest)
        if found is None:
            found = cls._open[card.digest] = cls(card, model, tokenizer)
        return found

    def __init__(self, card: Card, model: bytes, tokenizer: bytes) -> None:
        self.card = card
        self._session = _session(model)
        self._tokenizer = Tokenizer.from_str(tokenizer.decode("utf-8"))
        # "[SEP]" typed by a caller is text like any other.
        self._tokenizer.encode_special_tokens = True

    def tokens(self, text: str) -> tuple[NDArray[np.int64], Sequence[Span]]:
        """Token ids (n,) without special tokens, and each one's [start, end) in code points of `text`."""
        # A lone surrogate cannot be encoded; a question mark keeps all offsets.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        encoding = self._tokenizer.encode_batch([clean], add_special_tokens=False)[0]
        return np.asarray(encoding.ids, dtype=np.int64), encoding.offsets

    def run(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (labels,) and pooled embedding (384,) of one window of token ids (n,), specials not included.
        Raises ArithmeticError where the model answers with NaN or infinity."""
        card = self.card
        row = np.concatenate(([card.first], ids, [card.last])).astype(np.int64)[None, :]
        logits, pooled = self._session.run(
            ["logits", "embedding"], {"input_ids": row, "attention_mask": np.ones_like(row)}
        )
        if not np.isfinite(logits).all():
            raise ArithmeticError(f"model {card.name} answered with a number that is not finite")
        return logits[0], pooled[0]

    def windows(self, ids: NDArray[np.int64]) -> tuple[Window, ...]:
        return split(len(ids), self.card.window, self.card.overlap)


class Embedded:
    """The shipped encoder as a classifier. A finding for every label whose probability reaches `min_score`."""

    inline = False

    def __init__(self, name: str, encoder: Encoder, labels: Sequence[str], min_score: float) -> None:
        self._name, self._encoder, self._min_score = name, encoder, min_score
        heads = encoder.card.heads
        chosen = [index for index, head in enumerate(heads) if head.label in labels]
        self._chosen = np.asarray(chosen, dtype=np.intp)
        self._heads = tuple(heads[index] for index in chosen)
        self._scale = np.asarray([head.scale for head in self._heads], dtype=np.float64)
        self._bias = np.asarray([head.bias for head in self._heads], dtype=np.float64)
        identity = json.dumps([encoder.card.digest, [head.label for head in self._heads], min_score])
        self._digest = hashlib.sha256(identity.encode()).hexdigest()

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Embedded:
        """Options: `model` (a directory under classifiers/models, or a path), `labels` (all of the model's unless
        given), `min_score` (in [0, 1), .01 unless given). Raises OptionError; no file is left unverified."""
        for option in options:
            if option not in {"model", "labels", "min_score"}:
                raise OptionError(str(option), "no such option", "one of model, labels, min_score")
        model = options.get("model", DEFAULT_MODEL)
        if not isinstance(model, str) or not model:
            raise OptionError("model", "must be a name or a path", f"for example {DEFAULT_MODEL}")
        min_score = options.get("min_score", 0.01)
        if isinstance(min_score, bool) or not isinstance(min_score, int | float) or not 0 <= min_score < 1:
            raise OptionError("min_score", "must be a number from 0 to below 1", "for example 0.01")
        shipped = MODELS / model
        encoder = Encoder.open(shipped if shipped.is_dir() else Path(model))
        known = [head.label for head in encoder.card.heads]
        labels = options.get("labels", known)
        if isinstance(labels, str) or not isinstance(labels, Sequence) or not labels:
            raise OptionError("labels", "must be a list of labels", "of " + ", ".join(known))
        for label in labels:
            if label not in known:
                raise OptionError("labels", f"model {model} has no label {label!r}", "one of " + ", ".join(known))
        return cls(name, encoder, labels, float(min_score))

    @property
    def name(self) -> str:
        return self._name

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(head.label for head in self._heads)

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def card(self) -> Card:
        """The model's card: suggested thresholds, roles, window."""
        return self._encoder.card

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        """Findings by message, then by order of heads. Equal texts of one call are judged once.
        Raises ArithmeticError where the model answers with NaN: the panel makes it a Failure."""
        seen: dict[str, list[tuple[str, float, Span | None]]] = {}
        findings = []
        for index, message in enumerate(messages):
            if message.text not in seen:
                seen[message.text] = self._judge(message.text)
            findings += [Finding(self._name, label, score, index, where) for label, score, where in seen[message.text]]
        return findings

    def _judge(self, text: str) -> list[tuple[str, float, Span | None]]:
        """(label, probability, span of the best window or None if there is but one) for each label to report."""
        if not text or text.isspace():
            return []
        ids, offsets = self._encoder.tokens(text)
        windows = self._encoder.windows(ids)
        if not windows:
            return []
        # A text of one letter, a million times, has few different windows.
        known: dict[bytes, NDArray[np.float32]] = {}
        rows = []
        for window in windows:
            part = ids[window.start : window.end]
            key = part.tobytes()
            if key not in known:
                known[key] = self._encoder.run(part)[0][self._chosen]
            rows.append(known[key])
        logits = np.stack(rows).astype(np.float64)
        best = logits.argmax(axis=0)
        strongest = logits[best, np.arange(len(self._heads))]
        scores = 0.5 * (1.0 + np.tanh(0.5 * (self._scale * strongest + self._bias)))
        where = [None] * len(best) if len(windows) == 1 else [span(windows[i], offsets) for i in best]
        return [
            (head.label, float(score), place)
            for head, score, place in zip(self._heads, scores, where, strict=True)
            if score >= self._min_score
        ]
