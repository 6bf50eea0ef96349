"""What the proxy and the writer's process say to each other over their socket: length-framed values.

To the writer: `Opening`, then a list of entries per turn of the event loop (an empty one is a probe), at last None. It
answers with a word and its values:

    opened token writer head kept | failed problem mend     once
    written frames head                                     per commit: so many lists more are on the disk
    fault problem mend                                      per attempt that failed; it goes on trying
    closed                                                  at last, after None

Decision: `marshal`, where JSON would do.
Why: it is in every interpreter without an import, carries bytes as they are, and costs a tenth.
Cost: both ends must be the same interpreter, and trust each other: they are one program and its child.
"""

from __future__ import annotations

import marshal
from typing import Any, NamedTuple

from .seal import Head


class Place(NamedTuple):
    """A place among the writers of a log: the name of its lock file, its number, and the newest row that its owner
    knows of."""

    token: str
    writer: int
    seq: int
    hash: bytes


class Opening(NamedTuple):
    """How to open the log. `key` seals the chain; `place` is the one that a writer before held, None for a new one."""

    path: str
    key: bytes | None
    patience: float
    gather: float
    place: Place | None = None


class Opened(NamedTuple):
    """The log is open, and its file could be written. `kept`: rows of this place that follow `Place.seq`."""

    token: str
    writer: int
    head: Head
    kept: int


def pack(message: list[Any] | tuple[Any, ...] | None) -> bytes:
    """A frame: four bytes of length, then the value. Plain lists and tuples of plain values only."""
    body = marshal.dumps(message)
    return len(body).to_bytes(4, "little") + body


class Frames:
    """Turns what a socket brings into the messages that were packed."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Any]:
        """The messages that are complete by now."""
        rest = self._rest
        rest += data
        found, at = [], 0
        with memoryview(rest) as view:
            while len(view) >= at + 4:
                end = at + 4 + int.from_bytes(view[at : at + 4], "little")
                if len(view) < end:
                    break
                with view[at + 4 : end] as body:
                    found.append(marshal.loads(body))  # noqa: S302 - from our own program
                at = end
        del rest[:at]
        return found
