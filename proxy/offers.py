"""Offers to change the protocol, and which of them may go unheard.

A server may go on in HTTP/1.1 where a client offers HTTP/2 (`Upgrade: h2c`, RFC 9110, 7.8): Java's own client does with
each request to an http:// address, its body behind it. All other protocols are refused, with 426: Codex, which tries a
WebSocket first, goes on in HTTP at once, where it gives up after a 400 and tries seven times after a 404.
"""

from __future__ import annotations

from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

_OFFER = frozenset({b"upgrade", b"http2-settings", b"keep-alive"})


class Offer(NamedTuple):
    """The head of a request that offers another protocol. `length` is its body's, as far as it is told."""

    method: bytes
    target: bytes
    headers: Headers
    length: int

    @property
    def needless(self) -> bool:
        """Whether it may be answered in HTTP/1.1."""
        return self._all(b"upgrade") == [b"h2c"]

    def declined(self) -> bytes:
        """The head without the offer; the connection ends behind the answer, for nobody can tell what follows."""
        nominated = b", ".join(self._all(b"connection")).lower()
        others = [token for token in map(bytes.strip, nominated.split(b",")) if token and token not in _OFFER]
        kept = [pair for pair in self.headers if pair[0].lower() not in _OFFER | {b"connection"}]
        kept.append((b"connection", b", ".join([b"close", *others])))
        if self.length:
            kept.append((b"content-length", b"%d" % self.length))
        lines = [b"%b %b HTTP/1.1\r\n" % (self.method, self.target), *(b"%b: %b\r\n" % pair for pair in kept)]
        return b"".join(lines) + b"\r\n"

    def _all(self, wanted: bytes) -> list[bytes]:
        return [value for name, value in self.headers if name.lower() == wanted]
