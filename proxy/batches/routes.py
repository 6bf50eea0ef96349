"""How each request about batches is served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..dialects.base import Dialect
from ..exchange import Exchange
from ..listener import Incoming
from ..upstream import Headers
from .form import boundary_of
from .records import Recorded, Records
from .results import Fetched, Results
from .table import Kind, kind_of
from .upload import Files, Lists, Uploaded

_OBJECTS = {
    "chat.completion": "/v1/chat/completions",
    "response": "/v1/responses",
    "text_completion": "/v1/completions",
    "list": "/v1/embeddings",
    "message": "/v1/messages",
}
"""What an answer calls itself -> the path that it comes from."""


@dataclass(frozen=True, slots=True)
class Found:
    """How a request is served. `json`: it has a body, and that is JSON. `fit`: its head is as it must be.
    `headers` are those that may go on."""

    dialect: Records
    exchange: type[Exchange]
    headers: Headers
    json: bool = False
    fit: bool = True


class Batches:
    """The routes of batches. `dialects` are the judged paths; `most` rows are taken in one upload."""

    def __init__(self, dialects: Iterable[tuple[bytes, Dialect]], most: int) -> None:
        self._paths: Mapping[str, Dialect] = {path.decode(): dialect for path, dialect in dialects}
        self._most = most
        self._askable = {path: self._paths[path] for path in _OBJECTS.values() if path != "/v1/messages"}
        self._objects = {name: self._paths[path] for name, path in _OBJECTS.items()}

    def find(self, incoming: Incoming, path: bytes, speaker: Dialect) -> Found | None:
        """How this request for a plain `path` is served, by the words of `speaker`; None where it is none of the
        table's."""
        kind, headers = kind_of(incoming.method, path), _unranged(incoming.raw)
        given = next((value for name, value in incoming.headers if name == b"content-type"), None)
        anthropic = path.startswith(b"/v1/messages/")
        match kind:
            case None:
                return None
            case Kind.FILE:
                boundary = boundary_of(given or b"")
                files = Files(speaker, boundary or b"", self._askable, self._most)
                return Found(files, Uploaded, headers, fit=boundary is not None)
            case Kind.LIST:
                return Found(Lists(speaker, self._paths["/v1/messages"], self._most), Uploaded, headers, json=True)
            case Kind.RESULTS:
                results = Results(speaker, self._objects, anthropic)
                return Found(results, Fetched, headers, json=given is not None)
            case Kind.BATCH:
                return Found(Records(speaker, self._askable), Recorded, headers, json=True)
            case Kind.RECORD:
                return Found(Records(speaker), Recorded, headers, json=given is not None)


def _unranged(headers: Headers) -> Headers:
    """A request's headers without those that ask for a piece of a file: a piece of a row cannot be judged."""
    return [pair for pair in headers if pair[0].lower() not in {b"range", b"if-range"}]
