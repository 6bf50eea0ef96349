"""A record on its way into the file, and the error that the whole log shares. Imports nothing: see `writer`."""

from __future__ import annotations

Plain = str | int | None

COLUMNS = ("action", "rule", "policy", "model", "account", "status")

Entry = tuple[bytes, str, str, float, bytes, Plain, Plain, Plain, Plain, Plain, Plain]
"""Stamp, id, kind, time, body, then COLUMNS: plain values, for they travel between processes. The stamp is the JSON
list of id, kind and time, the body a JSON text: both go into the hash as they are."""


class AuditUnavailable(Exception):
    """The audit log cannot be read or written. `problem` and `mend` are one line each, for an operator."""

    def __init__(self, problem: str, mend: str = "") -> None:
        super().__init__(f"audit: {problem}" + (f" ({mend})" if mend else ""))
        self.problem, self.mend = problem, mend

    def again(self) -> AuditUnavailable:
        """A fresh copy to raise: one instance raised many times would gather every traceback."""
        return AuditUnavailable(self.problem, self.mend)
