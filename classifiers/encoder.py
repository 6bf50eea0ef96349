"""The transformer that ships with the product: its card, its weights, its windows, and what it makes of a text.

The card beside the weights (`card.json`) is the whole truth about them: digests, order of heads, calibration,
suggested thresholds, window. Windows are read as if alone: only those that are equally long may share a pass, nothing
is padded, and company changes no bit of an answer. Nothing that is judged is cut. An answer can be judged in its
conversation: what was said before it stands in front of each of its windows, as far as the model's context reaches
back.

Decision: classifiers that read the same text at about the same time share its passes (`share`). Why: a pass is all
the cost of a head. Cost: a few windows are remembered, as numbers under a keyed hash, until another is read more than
`MOMENT` later; no text is kept. Where only one classifier uses an encoder nothing is remembered.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .card import DEFAULT_MODEL, MODELS, Card, Head, Span, Weights, place_of, read_card
from .runtime import Engine, Floats, Session
from .windows import SPECIAL, Window, span, split
from .workers import Unwanted, look_up

__all__ = ["DEFAULT_MODEL", "LAYERS", "MODELS", "WIDTH", "Card", "Encoder", "Head", "Passes", "place_of", "read_card"]

WIDTH = 384
"""Numbers in the embedding of one layer."""
LAYERS = ("embedding", "middle")
"""Outputs that are embeddings: of the last layer, and of one in the middle, which knows more of what the heads were
not trained for. A model may lack the second."""
SHARED, MOMENT = 512, 3.0
"""How many windows at most, and for how many seconds, classifiers share (3 kB a window)."""

UNDISTURBED = 8
"""Passes between two looks at whether anybody waits for them."""

REACH = 2000
"""Code points at the end of a context that are looked at: far more than the tokens that a model takes of them."""

Ids = NDArray[np.int64]
NOTHING: Ids = np.zeros(0, dtype=np.int64)
_Part = tuple[Ids, Ids]
"""Token ids of a window, and of the context before it."""
_Row = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Passes:
    """What the encoder made of one text: for each of w windows its logits (w, labels) and its mean embeddings, one of
    length 1 for each layer, side by side (w, 384 * layers), float32. A text without a token has no window. `offsets`
    are each token's own [start, end)."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    windows: tuple[Window, ...]
    offsets: Sequence[Span]

    def place(self, window: int) -> Span | None:
        """[start, end) of a window in code points of the text; None where there is but one."""
        return None if len(self.windows) == 1 else span(self.windows[window], self.offsets)


class Encoder:
    """The weights and the tokenizer of one model directory, one thread per call; safe to share between threads.

    `run` releases the interpreter lock while the model works, and so does `tokens`.
    """

    _open: ClassVar[WeakValueDictionary[str, Encoder]] = WeakValueDictionary()
    _opening: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def open(cls, directory: Path) -> Encoder:
        """The encoder of `directory`, the same one for all who use it at a time; its files are verified each time.
        Raises OptionError (for `model`) where a file is missing or is not the one that the card names."""
        return Weights(directory).encoder()

    @classmethod
    def of(cls, card: Card, model: bytes, tokenizer: bytes) -> Encoder:
        """The encoder of a card and the verified bytes of its files, the same one for all who use it at a time."""
        with cls._opening:
            found = cls._open.get(card.digest)
            if found is None:
                found = cls._open[card.digest] = cls(card, model, tokenizer)
            return found

    def __init__(self, card: Card, model: bytes, tokenizer: bytes) -> None:
        self.card = card
        session = Session(model)
        self.layers = tuple(name for name in LAYERS if name in session.outputs)
        self.exact = session.exact
        self._session: Engine = session
        self._tokenizer = Tokenizer.from_str(tokenizer.decode("utf-8"))
        # "[SEP]" typed by a caller is text like any other.
        self._tokenizer.encode_special_tokens = True
        self._shared: _Shared | None = None
        self._embeds = True

    def tokens(self, text: str) -> tuple[Ids, Sequence[Span]]:
        """Token ids (n,) without special tokens, and each one's [start, end) in code points of `text`."""
        # A lone surrogate cannot be encoded; a question mark keeps all offsets.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        encoding = self._tokenizer.encode_batch([clean], add_special_tokens=False)[0]
        return np.asarray(encoding.ids, dtype=np.int64), encoding.offsets

    def context(self, before: str) -> Ids:
        """Token ids of the end of what was said before an answer, as many as the model takes."""
        if not self.card.context or not before:
            return NOTHING
        return self.tokens(before[-REACH:])[0][-self.card.context :]

    @property
    def engine(self) -> Engine:
        """What runs the weights."""
        return self._session

    @property
    def words(self) -> int:
        """How many token ids there are."""
        return self._tokenizer.get_vocab_size()

    @property
    def waits(self) -> bool:
        """Whether the work is done by another machine."""
        return self._session.waits

    def over(self, engine: Engine) -> Encoder:
        """The same encoder, the passes of whose windows are made by `engine`. Embeddings, most of an answer, are asked
        of it only once it is shared: until then `Passes` has none."""
        made = copy.copy(self)
        made._session, made._shared, made._embeds = engine, None, False
        return made

    def run(self, ids: Ids, context: Ids = NOTHING) -> _Row:
        """Logits (labels,) and embeddings (384 * layers,) of one window of token ids (n,) behind its `context`,
        specials not included. Raises ArithmeticError where the model answers with NaN or infinity, NoAnswer where
        another machine does not answer."""
        return self._run_all([(ids, context)])[0]

    def passes(self, texts: Sequence[tuple[str, str]]) -> list[Ids]:
        """The windows of each text and what was said before it, as (1, t) token ids with special tokens."""
        made = []
        for text, before in texts:
            ids, context = self.tokens(text)[0], self.context(before)
            parts = [ids[window.start : window.end] for window in self.windows(ids, context)]
            made += [np.array([self._row(part, context)], dtype=np.int64) for part in parts]
        return made

    def _row(self, ids: Ids, context: Ids) -> list[int]:
        card = self.card
        return [card.first, *(*context, card.last) * (len(context) > 0), *ids, card.last]

    def _rows(self, made: Sequence[Floats]) -> list[_Row]:
        """What one pass made, window by window."""
        logits, *layers = made
        pooled = np.concatenate(layers, axis=1) if layers else np.zeros((len(logits), 0), np.float32)
        if not (np.isfinite(logits).all() and np.isfinite(pooled).all()):
            raise ArithmeticError(f"model {self.card.name} answered with a number that is not finite")
        return list(zip(logits, pooled, strict=True))

    def _run_all(self, parts: Sequence[_Part]) -> list[_Row]:
        """As `run`, for each of `parts`. Short ones that are equally long, behind contexts that are, share a pass: each
        is read as if alone."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for place, (ids, context) in enumerate(parts):
            sizes.setdefault((len(ids), len(context)), []).append(place)
        shared: list[list[int]] = []
        for size, places in sizes.items():
            most = max(1, self._session.together // (sum(size) + SPECIAL)) if self.exact else 1
            shared += [places[at : at + most] for at in range(0, len(places), most)]
        passes = [np.array([self._row(*parts[place]) for place in places], dtype=np.int64) for places in shared]
        rows: dict[int, _Row] = {}
        outputs = ["logits", *(self.layers if self._embeds else ())]
        step = len(passes) if self.waits else UNDISTURBED
        for at in range(0, len(passes), max(step, 1)):
            if at:
                look_up(lend=self._shared is None)  # what is shared, this very thread may have promised
            made = self._session.run_many(passes[at : at + step], outputs)
            for places, each in zip(shared[at : at + step], made, strict=True):
                rows.update(zip(places, self._rows(each), strict=True))
        return [rows[place] for place in range(len(parts))]

    def windows(self, ids: Ids, context: Ids = NOTHING) -> tuple[Window, ...]:
        """The windows over `ids`, each short enough to stand behind `context`."""
        special = SPECIAL + len(context) + 1 if len(context) else SPECIAL
        return split(len(ids), self.card.window, self.card.overlap, special)

    def share(self) -> None:
        """From now on classifiers that read the same windows at about the same time share their passes."""
        if self._shared is None:
            self._embeds = True  # first: what is shared has embeddings
            self._shared = _Shared()

    def read(self, text: str, before: str = "") -> Passes:
        """All windows of `text`, each read as if alone behind the end of what was said `before`, and equal ones once.
        Raises ArithmeticError as `run` does."""
        return self.read_all([(text, before)])[0]

    def read_all(self, texts: Sequence[tuple[str, str]]) -> list[Passes]:
        """As `read`, for each text and what was said before it. Windows that are equal are read once in all: a text
        of one letter, a million times, has few different ones."""
        known: dict[tuple[bytes, bytes], int] = {}
        parts: list[_Part] = []
        found: list[tuple[tuple[Window, ...], Sequence[Span], list[int]]] = []
        for text, before in texts:
            ids, offsets = self.tokens(text) if text and not text.isspace() else (NOTHING, ())
            context = self.context(before)
            windows = self.windows(ids, context)
            which = []
            for window in windows:
                part = ids[window.start : window.end]
                place = known.setdefault((part.tobytes(), context.tobytes()), len(parts))
                if place == len(parts):
                    parts.append((part, context))
                which.append(place)
            found.append((windows, offsets, which))
        rows = self._run_all(parts) if self._shared is None else self._shared.get(self._run_all, parts)
        logits = np.array([row[0] for row in rows]).reshape(len(rows), len(self.card.heads))
        width = len(rows[0][1]) if rows else WIDTH * len(self.layers)
        embeddings = np.array([row[1] for row in rows]).reshape(len(rows), width)
        return [Passes(logits[which], embeddings[which], windows, offsets) for windows, offsets, which in found]


class _Shared:
    """What was made of the windows of the last moments. Two threads that ask for one window run it once."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._made: OrderedDict[bytes, tuple[float, Future[_Row]]] = OrderedDict()

    def _name(self, ids: Ids, context: Ids) -> bytes:
        digest = hashlib.blake2b(context.tobytes() + b"|" + ids.tobytes(), key=self._key, digest_size=32)
        digest.update(len(context).to_bytes(8, "little"))
        return digest.digest()

    def get(self, run: Callable[[Sequence[_Part]], list[_Row]], parts: Sequence[_Part]) -> list[_Row]:
        """What `run` makes of `parts`, or has made of them a moment ago. Raises what `run` raises."""
        names = [self._name(*part) for part in parts]
        futures: list[Future[_Row]] = []
        mine: list[int] = []
        now = time.monotonic()
        with self._lock:
            while self._made and (len(self._made) > SHARED or next(iter(self._made.values()))[0] < now - MOMENT):
                self._made.popitem(last=False)
            for place, name in enumerate(names):
                if name not in self._made:
                    mine.append(place)
                    self._made[name] = now, Future()
                futures.append(self._made[name][1])
        try:
            rows = run([parts[place] for place in mine]) if mine else []
        except BaseException as error:
            with self._lock:
                for place in mine:
                    self._made.pop(names[place], None)
            for place in mine:
                futures[place].set_exception(error)
            raise
        for place, row in zip(mine, rows, strict=True):
            futures[place].set_result(row)
        # Whoever made the others is running and waits for nobody before they are done: this cannot lock up.
        return [self._of(future, run, part) for future, part in zip(futures, parts, strict=True)]

    @staticmethod
    def _of(future: Future[_Row], run: Callable[[Sequence[_Part]], list[_Row]], part: _Part) -> _Row:
        """What another thread made, or what is made now where that one let go of it."""
        try:
            return future.result()
        except Unwanted:
            return run([part])[0]
