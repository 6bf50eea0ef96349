"""The shipped encoder as a classifier: one pass, many heads, on a CPU core.

The best window of a text speaks for it, label by label. An answer is judged by what was said before it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from . import option_forms as form
from .base import Finding, Message, Role
from .card import DEFAULT_MODEL, MODELS, Card, Head, Span, Weights, place_of, read_card
from .catalog import OptionError, UnknownWord
from .options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .encoder import Encoder, Passes

__all__ = ["DEFAULT_MODEL", "MODELS", "Card", "Embedded", "Head", "read_card"]

ANSWERS = frozenset({Role.ASSISTANT, Role.REASONING})
"""Roles of texts that are judged in their conversation where it is known."""


class Embedded:
    """A finding for every label whose probability reaches `min_score`."""

    inline = False

    def __init__(self, name: str, model: Weights | Encoder, labels: Sequence[str], min_score: float) -> None:
        self._name, self._model, self._min_score = name, model, min_score
        self._chosen = [index for index, head in enumerate(model.card.heads) if head.label in labels]
        self._heads = tuple(model.card.heads[index] for index in self._chosen)
        identity = json.dumps([model.card.digest, [head.label for head in self._heads], min_score])
        self._digest = hashlib.sha256(identity.encode()).hexdigest()

    @staticmethod
    @cache
    def options() -> form.Declared:
        """What an author may write."""
        known = [head.label for head in read_card(MODELS / DEFAULT_MODEL).heads]
        return {
            "model": form.text("A model that comes with Penstock, or the path of a folder.", DEFAULT_MODEL),
            "labels": form.listed("Which of the model's labels are asked; all when left out.", known, others=True),
            "min_score": form.share("The lowest score that is reported.", 0.01),
        }

    @classmethod
    def together(cls) -> list[dict[str, Any]]:
        """What a schema can say of several options: without another model the labels are known."""
        known = cls.options()["labels"].form["items"]["anyOf"][0]
        shipped = {"properties": {"model": {"const": DEFAULT_MODEL}}}
        return [{"if": shipped, "then": {"properties": {"labels": {"items": known}}}}]

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Embedded:
        """See `options`. Raises OptionError; no file is left unverified."""
        read = Options(options, cls.options())
        model, min_score = read.text("model", f"for example {DEFAULT_MODEL}"), read.share("min_score")
        weights = Weights(place_of(model))
        known = [head.label for head in weights.card.heads]
        labels = options.get("labels", known)
        if isinstance(labels, str) or not isinstance(labels, Sequence) or not labels:
            raise OptionError("labels", "must be a list of labels", "of " + ", ".join(known))
        for at, label in enumerate(labels):
            if label not in known:
                raise UnknownWord(f"labels.{at}", f"model {model} has no label {label!r}", str(label), known)
        return cls(name, weights, labels, min_score)

    def on(self, encoder: Encoder) -> Embedded:
        """The same classifier, its texts read by `encoder`, which has the same card."""
        made = copy.copy(self)
        made._model = encoder
        return made

    @property
    def waits(self) -> bool:
        """Whether the work is done by another machine."""
        return not isinstance(self._model, Weights) and self._model.waits

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
        return self._model.card

    @property
    def engine(self) -> Encoder:
        """What its work is mostly done by, opened if it is not yet; classifiers on one engine are asked one after
        another and share it."""
        return self._model.encoder() if isinstance(self._model, Weights) else self._model

    @cached_property
    def _scale(self) -> NDArray[np.float64]:
        """Of each head, its scale and its bias, (2, heads)."""
        import numpy as np

        return np.asarray([[head.scale for head in self._heads], [head.bias for head in self._heads]], np.float64)

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        """Findings by message, then by order of heads. Equal texts of one call are judged once, answers once for
        each context. Raises ArithmeticError where the model answers with NaN: the panel makes it a Failure."""
        keys = [(message.text, message.context if message.role in ANSWERS else "") for message in messages]
        texts = list(dict.fromkeys(keys))
        seen = {key: self._judge(passes) for key, passes in zip(texts, self.engine.read_all(texts), strict=True)}
        return [
            Finding(self._name, label, score, index, where)
            for index, key in enumerate(keys)
            for label, score, where in seen[key]
        ]

    def _judge(self, passes: Passes) -> list[tuple[str, float, Span | None]]:
        """(label, probability, span of the best window or None if there is but one) for each label to report."""
        if not passes.windows:
            return []
        import numpy as np

        logits = passes.logits[:, self._chosen].astype(np.float64)
        best = logits.argmax(axis=0)
        strongest = logits[best, np.arange(len(self._heads))]
        odds = self._scale[0] * strongest + self._scale[1]
        for place, head in enumerate(self._heads):
            if head.curve:
                odds[place] = head.odds(strongest[place])
        scores = 0.5 * (1.0 + np.tanh(0.5 * odds))
        where = [passes.place(window) for window in best]
        return [
            (head.label, float(score), place)
            for head, score, place in zip(self._heads, scores, where, strict=True)
            if score >= self._min_score
        ]
