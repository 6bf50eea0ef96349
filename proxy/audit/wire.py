"""What the proxy and the writer's process say to each other over their socket: length-framed values.

To the writer: an `Opening`, then lists of entries, the next when the last was answered (an empty one is a probe), at
last None. It answers with a word and its values:

    opened ... as `Opened` | failed problem mend state      once
    written seq hash id room                                the list is on the disk; the head; whether more will fit
    fault problem mend state                                an attempt failed; it goes on trying
    closed                                                  at last, after None

Decision: `marshal`, where JSON would do.
Why: it is in every interpreter without an import, carries bytes as they are, and costs a tenth.
Cost: both ends must be the same interpreter, and trust each other: they are one program and its child.
"""

from __future__ import annotations

import marshal

from .seal import Head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


Place = tuple[str, int, int, bytes]
"""A place among the writers of a log: the name of its lock file, its number, and of the newest row that its owner knows
of the seq and hash."""
Opening = tuple[str, bytes | None, float, Place | None, float, str]
"""How to open the log: its absolute path or URL, the key of the chain, seconds of patience, the place to take over,
seconds that rows are kept (0 is for ever), the file in which the head of a database is noted."""
Opened = tuple[str, int, Head, int]
"""Lock file and number of the writer's place, the head, and how many rows of this place follow the `Place` given."""


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
