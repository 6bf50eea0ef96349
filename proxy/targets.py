"""What a request asks for by its method and the form of its target (RFC 9112, 3.2).

A path is asked for as it stands or in absolute form, as clients write it who take Penstock for a forward proxy: the
host in it is not heeded, for the model's name alone says where a request goes.
"""

from __future__ import annotations

import httptools

_ELSEWHERE = (
    "Penstock is no forward proxy: give its address to your client as the base URL, not as its HTTP or HTTPS proxy."
)
_NO_PATH = "The target of a request is a path like /v1/chat/completions, or an http:// address with one."


class Misdirected(ValueError):
    """A target that leads nowhere: what is answered, and why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def path_of(method: bytes, target: bytes) -> bytes:
    """The path and query that a request asks for. Raises Misdirected."""
    if method == b"CONNECT":
        raise Misdirected(405, "not_a_proxy", _ELSEWHERE)
    if target.startswith(b"/"):
        return target
    if method == b"OPTIONS" and target == b"*":
        raise Misdirected(405, "method_not_allowed", "Penstock tells nothing of itself by OPTIONS *.")
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        url = None
    if url is None or not url.host or url.userinfo or (url.schema or b"").lower() not in {b"http", b"https"}:
        raise Misdirected(400, "invalid_target", _NO_PATH)
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")
