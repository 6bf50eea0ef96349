"""Headers that travel on, and those of one connection only. An upstream sends the same names again and again: what
follows from the names of an answer's headers is worked out once."""

from __future__ import annotations

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# An alternative service would lead the client past Penstock, and the length is the body's that leaves here.
_NOT_RELAYED = HOP_BY_HOP | {b"alt-svc", b"content-length"}
REMEMBERED = 64
"""Sets of names that are remembered, each no larger than a head may be."""


class Names:
    """The names of an answer's headers. `came` are they in their order and case; `at` says where those stand that are
    called so in lower case; `kept` which of them a client may see, without the length and with it."""

    __slots__ = ("at", "came", "kept")

    def __init__(self, came: tuple[bytes, ...]) -> None:
        self.came = came
        self.at: dict[bytes, list[int]] = {}
        lower = [name.lower() for name in came]
        for place, name in enumerate(lower):
            self.at.setdefault(name, []).append(place)
        seen = {place for place, name in enumerate(lower) if not _hidden(name)}
        self.kept = tuple(sorted(seen)), tuple(sorted(seen.union(self.at.get(b"content-length", ()))))


def _hidden(name: bytes) -> bool:
    return name in _NOT_RELAYED or name.startswith(b"x-penstock-")


_known: dict[tuple[bytes, ...], Names] = {}


def names_of(came: list[bytes]) -> Names:
    """What follows from these names."""
    key = tuple(came)
    names = _known.get(key)
    if names is None:
        if len(_known) >= REMEMBERED:
            _known.clear()
        names = _known[key] = Names(key)
    return names


def plain(headers: list[tuple[bytes, bytes]], version: str) -> bool:
    """Whether a request (header names in lower case) is of a version that is spoken here, and its body in chunks or
    not coded at all: what else the parser lets pass, the next one may read otherwise."""
    coded = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    return version in {"1.0", "1.1"} and coded in ([], [b"chunked"])


def nominated(values: list[bytes]) -> frozenset[bytes]:
    """The headers that `Connection`, with these values, declares to be of this hop only."""
    named = [value.lower() for value in values]
    if not named or named in ([b"keep-alive"], [b"close"]):
        return frozenset()
    return frozenset(token.strip() for value in named for token in value.split(b","))


def kind_of(values: list[bytes]) -> tuple[bytes, str]:
    """The media type of an answer whose Content-Type headers are `values`, and why its text has more than one reading
    (a client may decode it otherwise than it is judged), or nothing."""
    if len(values) > 1:
        return b"", "it has two content types"
    kind, *parameters = (values[0] if values else b"").lower().split(b";")
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip().startswith(b"charset") and value.strip().strip(b"\"'") not in _UTF8:
            return kind.strip(), "its charset is not UTF-8"
    return kind.strip(), ""


_UTF8 = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})
"""Charsets whose readers see what is judged, or, of other letters than ASCII's, nothing."""
