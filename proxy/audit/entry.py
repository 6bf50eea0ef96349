"""A record on its way into the file, and the error that the whole log shares. Imports nothing: see `writer`."""

from __future__ import annotations

Plain = str | int | None

FIELDS = ("action", "rule", "policy", "model", "account", "status", "stage", "request")
"""Columns that stand in a body under the same name."""
COLUMNS = (*FIELDS, "fired", "error")
"""What exchanges are found by. `fired` has every rule that fired and how, `error` what went wrong: see `record`."""

Entry = tuple[
    bytes, str, str, float, bytes, Plain, Plain, Plain, Plain, Plain, Plain, Plain, Plain, Plain, Plain
]  # fmt: skip
"""Stamp, id, kind, time, body, then COLUMNS: plain values, for they travel between processes. The stamp is the JSON
list of id, kind and time, the body a JSON text: both go into the hash as they are."""


class AuditUnavailable(Exception):
    """The audit log cannot be read or written. `problem` and `mend` are one line each, for an operator; `state` is a
    word of STATES."""

    def __init__(self, problem: str, mend: str = "", state: str = "failing") -> None:
        super().__init__(f"audit: {problem}" + (f" ({mend})" if mend else ""))
        self.problem, self.mend, self.state = problem, mend, state

    def again(self) -> AuditUnavailable:
        """A fresh copy to raise: one instance raised many times would gather every traceback."""
        return AuditUnavailable(self.problem, self.mend, self.state)


STATES = frozenset(
    {
        "full",
        "read_only",
        "slow",
        "missing",
        "forbidden",
        "busy",
        "version",
        "damaged",
        "overloaded",
        "stopped",
        "failing",
    }
)
"""What can be the matter. missing: not there, or nobody answers; forbidden: this user may not; version: of another kind
or version; damaged: not what was written; overloaded: the queue is full."""
