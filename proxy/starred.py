"""Stars in the place of a secret that an upstream repeats."""

from __future__ import annotations


class Starred:
    """Puts stars where `hidden` stands in a body, however it is cut: what may be the beginning of it waits for the next
    piece. `hidden` holds no line end, so a piece that ends with one never waits."""

    __slots__ = ("_hidden", "_kept", "_stars")

    def __init__(self, hidden: bytes) -> None:
        self._hidden, self._stars, self._kept = hidden, b"*" * len(hidden), b""

    def shown(self, piece: bytes) -> bytes:
        """What may be seen of what waited and of `piece`; nothing yet where all of it must wait."""
        hidden = self._hidden
        piece = (self._kept + piece).replace(hidden, self._stars)
        self._kept = b""
        if not piece.endswith(b"\n"):
            for size in range(min(len(hidden) - 1, len(piece)), 0, -1):
                if piece.endswith(hidden[:size]):
                    self._kept = piece[-size:]
                    return piece[:-size]
        return piece

    def rest(self) -> bytes:
        """What still waits when the body has ended."""
        kept, self._kept = self._kept, b""
        return kept
