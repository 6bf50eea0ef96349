"""The ids that a stream on an open route gives away, noted as they pass."""

from __future__ import annotations

import orjson

from ..sse import Decoder, Undecodable
from .holder import Holder

LARGEST = 64 * 1024
"""Bytes of an event that is looked at: what begins is told of in small ones."""


class Heard:
    """What `holder` is told by the pieces of an event stream. What is no such stream tells nothing."""

    def __init__(self, holder: Holder) -> None:
        self._holder, self._known = holder, set[str]()
        self._decoder: Decoder | None = Decoder()

    def feed(self, piece: bytes) -> None:
        """To be called before `piece` leaves: who reads an id may ask for it at once."""
        if self._decoder is None:
            return
        try:
            events = self._decoder.feed(piece)
        except Undecodable:
            self._decoder = None
            return
        for event in events:
            if event.data is not None and len(event.raw) <= LARGEST and event.data.startswith("{"):
                try:
                    tree = orjson.loads(event.data)
                except orjson.JSONDecodeError:
                    continue
                self._holder.told(tree, self._known)
