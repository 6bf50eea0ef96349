"""Which request about batches is what: one table of methods and paths. It imports nothing of what serves them: what is
said of a closed path asks it, too."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What passes at a path."""

    FILE = "a file of requests, judged row by row (`purpose` batch only)"
    LIST = "a list of requests, judged row by row"
    RESULTS = "results, judged row by row"
    BATCH = "a batch for a judged path; request and answer judged"
    RECORD = "facts about files and batches; request and answer judged"


TABLE: tuple[tuple[str, str, Kind], ...] = (
    ("POST", "/v1/files", Kind.FILE),
    ("GET", "/v1/files", Kind.RECORD),
    ("GET", "/v1/files/{id}", Kind.RECORD),
    ("DELETE", "/v1/files/{id}", Kind.RECORD),
    ("GET", "/v1/files/{id}/content", Kind.RESULTS),
    ("POST", "/v1/batches", Kind.BATCH),
    ("GET", "/v1/batches", Kind.RECORD),
    ("GET", "/v1/batches/{id}", Kind.RECORD),
    ("POST", "/v1/batches/{id}/cancel", Kind.RECORD),
    ("POST", "/v1/messages/batches", Kind.LIST),
    ("GET", "/v1/messages/batches", Kind.RECORD),
    ("GET", "/v1/messages/batches/{id}", Kind.RECORD),
    ("DELETE", "/v1/messages/batches/{id}", Kind.RECORD),
    ("POST", "/v1/messages/batches/{id}/cancel", Kind.RECORD),
    ("GET", "/v1/messages/batches/{id}/results", Kind.RESULTS),
)
"""Each request about batches. `{id}` is one name."""

_KINDS = {(method.encode(), tuple(path.encode().split(b"/"))): kind for method, path, kind in TABLE}


def kind_of(method: bytes, path: bytes) -> Kind | None:
    """What the plain `path` is, asked with `method`."""
    segments = path.split(b"/")
    at = 4 if segments[2:4] == [b"messages", b"batches"] else 3
    if len(segments) > at:
        segments[at] = b"{id}"
    return _KINDS.get((method, tuple(segments)))
