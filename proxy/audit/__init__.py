"""The audit log: what was decided, written down so that it can neither be lost nor quietly changed.

`record` is the word, `chain` the arithmetic that makes a change visible (`seal` the part that the writer needs, `key`
the secret in it), `head` the side file that makes a cut-off tail visible, `keeping` what may go when it is old. `store`
is the interface of what holds the log, and the SQLite file; `postgres` is a PostgreSQL database (`target` tells one
from the other, `schema` and `postgres_schema` are their tables and errors). `writer` is the process that writes
(`process` starts it, `wire` is their language), `log` the asyncio face that the proxy calls. `reader` is everything
that only reads, of either (`source`), `search` what can be looked for, `export` rows for other tools.

An exchange writes two records under one id: an `intent`, the decision about the input, on disk before the first
byte of the answer leaves; and later an `outcome`. An intent whose process died gets the outcome `aborted` when the
log is opened next. Records hold keyed hashes, names, scores and offsets, never judged text.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: the writer's process does without `typing`
if TYPE_CHECKING:
    from .entry import AuditUnavailable
    from .key import Key
    from .log import Audit
    from .reader import Exchange, Reader
    from .record import Record, new_id

__all__ = ["Audit", "AuditUnavailable", "Exchange", "Key", "Reader", "Record", "new_id"]

_HOMES = {
    "Audit": "log",
    "AuditUnavailable": "entry",
    "Exchange": "reader",
    "Key": "key",
    "Reader": "reader",
    "Record": "record",
    "new_id": "record",
}


def __getattr__(name: str) -> object:
    """Imported when asked for: the writer's process passes here too, and needs none of them."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
