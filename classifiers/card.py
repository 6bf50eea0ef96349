"""What a model directory says of itself, and its weights before anybody needs them.

Decision: files are verified when a classifier is made, and opened when a text is first judged (`Weights`). Why: half of
what `penstock check` costs was to import numpy and the engine and to open the session, for cases that ask no model.
Cost: whoever serves opens them himself before the first request (`Embedded.engine`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalog import OptionError, UnknownWord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .encoder import Encoder

MODELS = Path(__file__).parent / "models"
DEFAULT_MODEL = "minilm-heads"

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """One label of a model. The calibrated probability is sigmoid(`odds`): scale * logit + bias with scale > 0, or,
    where a line does not fit, the `curve` through (logit, log odds), both rising, which goes on with `scale` beyond
    its ends. `block` and `log` are suggested thresholds on it, `roles` where it was trained to be asked."""

    label: str
    scale: float
    bias: float
    block: float
    log: float
    roles: tuple[str, ...]
    curve: tuple[tuple[float, float], ...] = ()

    def odds(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated log odds of `logits`, any shape."""
        import numpy as np

        if not self.curve:
            return self.scale * logits + self.bias
        known, given = np.array(self.curve).T
        beyond = np.minimum(logits - known[0], 0.0) + np.maximum(logits - known[-1], 0.0)
        return np.asarray(np.interp(logits, known, given) + self.scale * beyond)


@dataclass(frozen=True, slots=True)
class Card:
    """What `card.json` says of a model directory. `digest` is the sha256 of the card itself, which names the
    digests of all other `files` (sha256, hex). `first` and `last` are the ids of the special tokens around each
    window. `context` is how many tokens of what was said before an answer stand in front of it: 0 for a model that
    reads every text alone."""

    name: str
    digest: str
    files: Mapping[str, str]
    heads: tuple[Head, ...]
    window: int
    overlap: int
    first: int
    last: int
    context: int = 0

    @property
    def encoder(self) -> str:
        """Sha256 (hex) of all that makes an embedding: weights, tokenizer, windows. Other thresholds or other
        calibration on the card do not change it."""
        names = ("model.onnx", "tokenizer.json")
        facts = [*(self.files.get(name) for name in names), self.window, self.overlap, self.first, self.last]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def head(self, label: str) -> Head:
        return next(head for head in self.heads if head.label == label)


def place_of(model: str) -> Path:
    """The directory of the shipped model of that name, or the one at that path. Raises OptionError (for `model`)."""
    shipped, given = MODELS / model, Path(model)
    if shipped.is_dir() or given.exists():
        return shipped if shipped.is_dir() else given
    names = sorted(card.parent.name for card in MODELS.glob("*/card.json"))
    raise UnknownWord("model", f"no shipped model and no directory {model!r}", model, names)


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
            heads=tuple(_head(head) for head in card["heads"]),
            window=card["window"]["tokens"],
            overlap=card["window"]["overlap"],
            first=card["special"]["first"],
            last=card["special"]["last"],
            context=card.get("context", {}).get("tokens", 0),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError("model", f"{place} is no model card: {error!r}", "train again, or reinstall") from None


def _head(told: Mapping[str, Any]) -> Head:
    """A head as the card has it. Raises KeyError, TypeError or ValueError where it is broken."""
    curve = tuple((float(logit), float(odds)) for logit, odds in told.get("curve", ()))
    if not told["scale"] > 0 or any(a >= c or b >= d for (a, b), (c, d) in pairwise(curve)):
        raise ValueError(f"the calibration of {told['label']} does not rise")
    return Head(told["label"], told["scale"], told["bias"], told["block"], told["log"], tuple(told["roles"]), curve)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        mend = "name a shipped model or a path to one, or reinstall"
        raise OptionError("model", f"cannot read {path}: {error.strerror}", mend) from None


def verified(path: Path, expected: str) -> bytes:
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


class Weights:
    """The verified weights and tokenizer of a model directory, opened when somebody first asks for their encoder."""

    def __init__(self, directory: Path) -> None:
        """Raises OptionError (for `model`) where a file is missing or is not the one that the card names."""
        self.card = read_card(directory)
        files = ("model.onnx", "tokenizer.json")
        # The bytes are kept until then: nobody can change the files in between.
        self._raw = tuple(verified(directory / name, self.card.files.get(name, "")) for name in files)
        self._encoder: Encoder | None = None
        self._lock = threading.Lock()

    def encoder(self) -> Encoder:
        """The encoder, the same one for all who use these weights at a time."""
        with self._lock:
            if self._encoder is None:
                from .encoder import Encoder

                self._encoder = Encoder.of(self.card, *self._raw)
                self._raw = ()
            return self._encoder
