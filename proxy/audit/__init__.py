"""The audit log: what was decided, written down so that it can neither be lost nor quietly changed.

`record` is the word, `chain` the arithmetic that makes a change visible, `head` the side file that makes a cut-off
tail visible, `store` the SQLite file (one narrow interface, `Store`, so that another database can take its place),
`log` the asyncio face that the proxy calls, `reader` everything that only reads.

An exchange writes two records under one id: an `intent`, the decision about the input, on disk before the first
byte of the answer leaves; and later an `outcome`. An intent whose process died gets the outcome `aborted` when the
log is opened next. Records hold keyed hashes, names, scores and offsets, never judged text.
"""

from .chain import Key
from .log import Audit
from .reader import Exchange, Reader
from .record import AuditUnavailable, Record, new_id

__all__ = ["Audit", "AuditUnavailable", "Exchange", "Key", "Reader", "Record", "new_id"]
