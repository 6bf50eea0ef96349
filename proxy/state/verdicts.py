"""What slow classifiers found before, on any machine: kept in Redis for as long as it is good for.

Names and values say nothing to whoever reads them there: a name is a keyed hash of account, classifier and text, a
value has labels, scores and places, and no letter of a text. What the secret did not sign is not believed.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import orjson

from classifiers.cache import KEPT, Seen

from ..metrics import Metrics
from .base import StateUnavailable
from .line import Line

PREFIX = b"penstock:found:"
MOST = 2048
"""Findings that wait to be told; more are told nobody."""
TOGETHER = 64
"""Findings that are told at once."""
_SIGNED = 16
"""Bytes of a signature."""


class Verdicts:
    """Findings in the Redis at the end of `line`, for who has `secret` (32 bytes). A `classifiers.cache.Beyond`."""

    def __init__(self, line: Line, secret: bytes, metrics: Metrics) -> None:
        self.key = hmac.digest(secret, b"names", "sha256")
        self._signing = hmac.digest(secret, b"values", "sha256")
        self._line, self._metrics = line, metrics
        self._told: dict[bytes, bytes] = {}
        self._telling: asyncio.Task[None] | None = None

    async def fetch(self, names: Sequence[bytes]) -> Mapping[bytes, tuple[float, Seen]]:
        """Waits no longer than the line's deadline; knows nothing where Redis is away."""
        if not self._line.up:
            return {}
        try:
            (values,) = await self._line.ask(("MGET", *[PREFIX + name for name in names]))
        except StateUnavailable:
            self._metrics.verdicts.inc("unanswered", by=len(names))
            return {}
        now = time.time()
        found = {}
        for name, value in zip(names, values, strict=True):
            known = self._read(name, value, now) if value is not None else None
            if known is not None:
                found[name] = known
        self._metrics.verdicts.inc("found", by=len(found))
        self._metrics.verdicts.inc("unknown", by=len(names) - len(found))
        return found

    def tell(self, name: bytes, seen: Seen) -> None:
        """Nobody waits for it."""
        if not self._line.up or len(self._told) >= MOST:
            return
        body = orjson.dumps((time.time(), [(label, score, *(place or ())) for label, score, place in seen]))
        self._told[name] = self._signature(name, body) + body
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._told:
            told = {name: self._told.pop(name) for name in list(self._told)[:TOGETHER]}
            try:
                await self._line.ask_behind(
                    *[("SET", PREFIX + name, value, "EX", int(KEPT)) for name, value in told.items()]
                )
            except StateUnavailable:  # the line has told of it; it is only a saving
                return

    def _read(self, name: bytes, value: bytes, now: float) -> tuple[float, Seen] | None:
        """Age and findings; None for what we did not write."""
        body = value[_SIGNED:]
        if not hmac.compare_digest(value[:_SIGNED], self._signature(name, body)):
            self._metrics.verdicts.inc("forged")
            return None
        at, rows = orjson.loads(body)
        seen = tuple((label, score, (place[0], place[1]) if place else None) for label, score, *place in rows)
        return max(now - at, 0.0), seen

    def _signature(self, name: bytes, body: bytes) -> bytes:
        return blake2b(name + body, key=self._signing, digest_size=_SIGNED).digest()
