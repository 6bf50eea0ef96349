"""A head that was taught with examples: one straight line on what the shipped encoder makes of a text.

A head is a small JSON file: weights, calibration, and a card that says from how many examples it comes, how good it
is and what it is not. It holds no text. It fits one encoder only; where another is installed it does not load.
"""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import option_forms as form
from .base import Finding, Message
from .card import Span
from .catalog import OptionError
from .encoder import DEFAULT_MODEL, LAYERS, WIDTH, Encoder, Passes, place_of
from .linear import sigmoid
from .options import Options, check_label

Floats = NDArray[np.float64]

FORMAT = 1
LARGEST = 1 << 20
"""Bytes of a head's file; a real one has four thousand."""
SHARE = {"embedding": 0.5, "middle": 1.0}
"""How much each layer of the encoder counts where it gives several: tuned on training sources."""
AGAIN = "teach it again: penstock teach LABEL --examples FILE"


Layers = tuple[tuple[str, float], ...]
"""The encoder's layers that a head looks at, in the encoder's order, each with its share."""


def layers_of(encoder: Encoder) -> Layers:
    """What a head that is taught now looks at."""
    return tuple((name, SHARE[name]) for name in encoder.layers)


def features(passes: Passes, layers: Layers) -> Floats:
    """What a head looks at: (windows, width) of length 1, the encoder's layers weighted and side by side."""
    shares = np.asarray([share for _, share in layers], np.float64)
    row: Floats = np.repeat(shares / np.sqrt((shares * shares).sum()), WIDTH)
    return passes.embeddings * row


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One taught label. The probability of a window is sigmoid(scale * (features @ weights + intercept) + bias); the
    best window speaks for a text. `weights` (width,) are exact in half precision. `card` holds what people read:
    date, counts, figures, thresholds, warnings; the classifier uses nothing of it.

    Decision: probabilities are meant for a mix in which half of the texts are bad. Why: the mix of the examples says
    nothing about that of traffic. Cost: in traffic, where few are bad, a score of 0.9 is mostly a false alarm; the
    threshold comes from honest texts, never from the score's meaning.
    """

    label: str
    model: str
    encoder: str
    layers: Layers
    weights: Floats
    intercept: float
    scale: float
    bias: float
    roles: tuple[str, ...]
    card: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Sha256 (hex) of all that decides a score."""
        return _digest({name: value for name, value in self._facts().items() if name not in {"card", "roles"}})

    def _facts(self) -> dict[str, Any]:
        half = self.weights.astype("<f2")
        return {
            "kind": "taught",
            "format": FORMAT,
            "label": self.label,
            "model": self.model,
            "encoder": self.encoder,
            "layers": dict(self.layers),
            "roles": list(self.roles),
            "card": dict(self.card),
            "intercept": self.intercept,
            "scale": self.scale,
            "bias": self.bias,
            "weights": base64.b64encode(half.tobytes()).decode("ascii"),
        }

    def dump(self) -> bytes:
        """The file's bytes."""
        facts = self._facts()
        return json.dumps(facts | {"sha256": _digest(facts)}, indent=1, ensure_ascii=False).encode() + b"\n"

    def probabilities(self, rows: Floats) -> Floats:
        """(windows,) of features (windows, width)."""
        return sigmoid(self.scale * (rows @ self.weights + self.intercept) + self.bias)

    def judge(self, passes: Passes) -> tuple[float, Span | None] | None:
        """Probability and place of the best window; None for a text without any."""
        if not passes.windows:
            return None
        found = self.probabilities(features(passes, self.layers))
        best = int(found.argmax())
        return float(found[best]), passes.place(best)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def parse(raw: bytes, where: str) -> Head:
    """The head in a file's bytes. Raises OptionError (for `path`), which calls the file `where`."""
    if len(raw) > LARGEST:
        raise OptionError("path", f"{where} is no taught head: larger than {LARGEST >> 10} KiB", AGAIN)
    try:
        facts = json.loads(raw)
        if not isinstance(facts, dict) or facts.get("kind") != "taught":
            raise ValueError("it is not of kind taught")
        said = facts.pop("sha256", None)
    except (ValueError, RecursionError) as error:
        what = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)[:80]
        raise OptionError("path", f"{where} is no taught head: {what}", AGAIN) from None
    if facts.get("format") != FORMAT:
        raise OptionError("path", f"{where} is of format {facts.get('format')!r}, this one reads {FORMAT}", AGAIN)
    if said != _digest(facts):
        raise OptionError("path", f"{where} was altered: its digest is not the one it names", AGAIN)
    try:
        weights = np.frombuffer(base64.b64decode(facts["weights"], validate=True), "<f2").astype(np.float64)
        numbers = [float(facts[name]) for name in ("intercept", "scale", "bias")]
        head = Head(
            label=check_label("path", facts["label"]),
            model=str(facts["model"]),
            encoder=str(facts["encoder"]),
            layers=tuple((str(name), float(share)) for name, share in facts["layers"].items()),
            weights=weights,
            intercept=numbers[0],
            scale=numbers[1],
            bias=numbers[2],
            roles=tuple(str(role) for role in facts["roles"]),
            card=dict(facts["card"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OptionError, binascii.Error) as error:
        raise OptionError("path", f"{where} is no taught head: {type(error).__name__} {error}", AGAIN) from None
    known = bool(head.layers) and all(name in LAYERS and 0 < share < math.inf for name, share in head.layers)
    whole = np.isfinite(weights).all() and all(math.isfinite(number) for number in numbers) and numbers[1] > 0
    if not known or not whole or len(weights) != WIDTH * len(head.layers):
        raise OptionError("path", f"{where} is no taught head: its numbers do not fit together", AGAIN)
    return head


def open_encoder(model: str) -> Encoder:
    """The shipped encoder of that name, or the one in that directory. Raises OptionError (for `model`)."""
    return Encoder.open(place_of(model))


class Taught:
    """A taught head as a classifier. One finding where the probability reaches `min_score`."""

    inline = False

    def __init__(self, name: str, head: Head, encoder: Encoder, min_score: float = 0.01) -> None:
        """Raises OptionError where `head` was taught on another encoder."""
        if (head.encoder, tuple(name for name, _ in head.layers)) != (encoder.card.encoder, encoder.layers):
            what = f"the head '{head.label}' was taught on another encoder than the installed {encoder.card.name}"
            raise OptionError("path", what, AGAIN)
        self._name, self._head, self._encoder, self._min_score = name, head, encoder, min_score
        identity = json.dumps([head.digest, encoder.card.digest, min_score])
        self._digest = hashlib.sha256(identity.encode()).hexdigest()
        # The embedded classifier, and other heads, read the same texts at the same time.
        encoder.share()

    @staticmethod
    def options() -> form.Declared:
        """What an author may write."""
        return {
            "path": form.text("The head that penstock teach wrote; starts from this file's directory.", needed=True),
            "model": form.text("The encoder, where it is not the one that the head was taught on."),
            "min_score": form.share("The lowest score that is reported.", 0.01),
        }

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Taught:
        """See `options`. Raises OptionError."""
        given = Options(options, cls.options())
        path, raw = given.file("path")
        head = parse(raw, str(path))
        model = given.maybe_text("model", f"for example {DEFAULT_MODEL}") or head.model
        return cls(name, head, open_encoder(model), given.share("min_score"))

    def on(self, encoder: Encoder) -> Taught:
        """The same head, its texts read by `encoder`, which has the same card."""
        encoder.share()
        made = copy.copy(self)
        made._encoder = encoder
        return made

    @property
    def waits(self) -> bool:
        """Whether the work is done by another machine."""
        return self._encoder.waits

    @property
    def name(self) -> str:
        return self._name

    @property
    def labels(self) -> frozenset[str]:
        return frozenset({self._head.label})

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def head(self) -> Head:
        """What was taught, with its card."""
        return self._head

    @property
    def engine(self) -> Encoder:
        """What its work is mostly done by; classifiers on one engine are asked one after another and share it."""
        return self._encoder

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        """At most one finding a message, its span the best window where there are several. Equal texts of one call are
        judged once. Raises ArithmeticError where the model answers with NaN: the panel makes it a Failure."""
        texts = list(dict.fromkeys(message.text for message in messages))
        passes = self._encoder.read_all([(text, "") for text in texts])
        seen = {text: self._head.judge(each) for text, each in zip(texts, passes, strict=True)}
        findings = []
        for index, message in enumerate(messages):
            found = seen[message.text]
            if found is not None and found[0] >= self._min_score:
                findings.append(Finding(self._name, self._head.label, found[0], index, found[1]))
        return findings
