"""Server-sent events at byte level, by the specification (WHATWG HTML, 9.2.6), keeping the raw bytes of each event.

A decoder takes pieces and gives whole events. INVARIANT: the events' raw bytes and `pending()` together are exactly
the bytes that were fed, in order, however they were cut (a byte order mark at the very start excepted).
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Undecodable(ValueError):
    """Bytes that are no event stream: not UTF-8, or an event over the size limit."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event (or a run of comments that ends in a blank line).

    `data` is None where there was no data line. `plain` is True where every client reads these bytes as we did: lines
    end in LF or CRLF, and only the fields data, event, id, retry and comments occur. An event that is not plain must
    not leave as it came: use `framed`.
    """

    raw: bytes
    data: str | None
    name: str | None = None
    id: str | None = None
    comment: str | None = None
    plain: bool = True


def framed(data: str, name: str | None = None) -> bytes:
    """An event in its canonical form. `data` may hold line feeds; it holds no carriage return."""
    head = f"event: {name}\n" if name else ""
    return (head + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n").encode()


class Decoder:
    """Feed bytes, get events. Raises Undecodable, after which it must not be fed again."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._buffer = bytearray()
        self._line = 0  # where the line begins that is not yet complete
        self._searched = 0  # no line end lies between `_line` and here: each byte is searched once
        self._started = False
        self._max = max_event

    @property
    def whole(self) -> bool:
        """Whether all that was fed so far is whole events."""
        return self._started and not self._buffer

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes."""
        return [read(raw) for raw in self.frames(piece)]

    def frames(self, piece: bytes) -> list[bytes]:
        """The bytes of each event that `piece` completes; `read` says what they mean."""
        if self._started and not self._buffer and piece.endswith(b"\n\n") and piece[0] != 10 and b"\r" not in piece:
            # Nearly all pieces: whole events, with nothing kept from before.
            if piece.find(b"\n\n") == len(piece) - 2 and len(piece) > 2 and len(piece) <= self._max:
                return [piece]
            frames = [frame + b"\n\n" for frame in piece[:-2].split(b"\n\n")]
            if all(2 < len(frame) <= self._max and frame[0] != 10 for frame in frames):
                return frames
        self._buffer += piece
        if not self._started:
            if len(self._buffer) < len(_BOM) and _BOM.startswith(bytes(self._buffer)):
                return []
            self._started = True
            if self._buffer.startswith(_BOM):
                del self._buffer[: len(_BOM)]
        found: list[bytes] = []
        start = 0
        while (end := self._end_of_event()) > 0:
            found.append(bytes(self._buffer[start:end]))
            start = self._line = self._searched = end
        if start:
            del self._buffer[:start]
            self._line -= start
            self._searched -= start
        if len(self._buffer) > self._max:
            raise Undecodable(f"an event is larger than {self._max} bytes")
        return found

    def pending(self) -> bytes:
        """The bytes of an unfinished event. At the end of a stream every client drops them, and so do we."""
        return bytes(self._buffer)

    def finish(self) -> list[Event]:
        """The event that the end of the stream completes: one whose blank line is a lone CR."""
        return [read(raw) for raw in self.last_frames()]

    def last_frames(self) -> list[bytes]:
        """The bytes of the event that `finish` gives."""
        # A line feed settles that the last CR is a line end; it was not sent, and is no part of the event.
        return [frame[:-1] for frame in self.frames(b"\n")] if self._buffer.endswith(b"\r") else []

    def _end_of_event(self) -> int:
        """The offset just behind the next blank line, or 0 where none is complete.

        A CR at the very end of the buffer is not yet a line end: a LF may follow and belongs to it.
        """
        buffer, size = self._buffer, len(self._buffer)
        while True:
            feed = buffer.find(b"\n", self._searched)
            carriage = buffer.find(b"\r", self._searched, feed if feed >= 0 else size)
            if carriage >= 0:
                if carriage + 1 == size:
                    self._searched = carriage
                    return 0
                stop, after = carriage, carriage + (2 if buffer[carriage + 1] == 0x0A else 1)
            elif feed >= 0:
                stop, after = feed, feed + 1
            else:
                self._searched = size
                return 0
            if stop == self._line:
                return after
            self._line = self._searched = after


def read(raw: bytes) -> Event:
    """The event that `raw` spells; `raw` ends in a blank line. Raises Undecodable."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Undecodable("an event is not valid UTF-8") from None
    if text.startswith("data: ") and text.endswith("\n\n") and text.find("\n") == len(text) - 2 and "\r" not in text:
        return Event(raw, text[6:-2])  # nearly all events of nearly all streams
    plain = True
    if "\r" in text:
        plain = "\r" not in text.replace("\r\n", "\n")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    data: list[str] = []
    comments: list[str] = []
    name: str | None = None
    last_id: str | None = None
    for line in text.split("\n"):
        field, colon, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id":
            last_id = value
            plain = plain and "\0" not in value  # the specification ignores such an id, clients may not
        elif field == "" and colon:
            comments.append(value)
        elif field == "retry":
            plain = plain and value.isascii() and value.isdigit()
        elif line:
            plain = False
    return Event(
        raw,
        "\n".join(data) if data else None,
        name,
        last_id,
        "\n".join(comments) if comments else None,
        plain,
    )
