"""The arithmetic of the hash chain: each row's hash covers the row and the hash before it.

    hash[0] = seal("penstock audit 1 " + uuid of the file)
    hash[n] = seal(hash[n-1] + JSON of [seq, id, kind, at, writer, body])

`seal` is HMAC-SHA256 under the operator's key, or SHA-256 where no key was given. Without a key the chain shows
accidents and careless hands only: whoever can write the file can compute it anew. With one, write access to the
database is not enough. The filter columns are not in the hash because they are derived from the body: `verify`
derives them again.

Known limit: a chain cannot show that its newest rows were cut off. The head file (see `head`) shows it unless the
same hand puts back an older copy of that file too; only a head noted elsewhere (`penstock audit verify --head`)
closes that gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from .entry import COLUMNS, Plain
from .record import columns
from .seal import Head, Sealer

__all__ = ["Break", "Head", "Row", "Verdict", "link", "verify"]


class Row(NamedTuple):
    """A row as read back. After tampering any field may be of any type."""

    seq: int
    id: str
    kind: str
    at: float
    writer: int
    body: str
    hash: bytes
    columns: tuple[Plain, ...]


def link(seal: Sealer, prev: bytes, seq: int, id: str, kind: str, at: float, writer: int, body: str) -> bytes:
    """The hash of a row, by definition; `seal.sealed` is the same for the writer. Raises TypeError for values that no
    honest row holds."""
    return seal(prev + orjson.dumps((seq, id, kind, at, writer, orjson.Fragment(body))))


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where the log is not what was written.

    `what` is edited, deleted, inserted, reordered, rewritten, truncated, head or corrupt; `seq` and `id` name the
    row (the first missing one, where rows are missing), `id` is "-" where nothing tells it.
    """

    what: str
    seq: int
    id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` saw: `rows` good rows, the last of which is `head`, the first break or None, and notes."""

    rows: int
    head: Head
    broken: Break | None
    notes: tuple[str, ...] = ()


def verify(
    rows: Callable[[], Iterable[Row]],
    seal: Sealer,
    start: Head,
    anchors: Iterable[Head],
    derived: Callable[[dict[str, Any]], tuple[Plain, ...]] = columns,
) -> Verdict:
    """Walk the chain from `start`, which is before the first row. `rows()` gives them in order of seq and may be asked
    twice. `anchors` are heads noted outside the table; each must be found in it. `derived` makes columns of a body."""
    wanted = {anchor.seq: anchor for anchor in anchors}
    head, notes = start, list[str]()
    met = wanted.pop(start.seq, None)
    if met is not None and met.hash != start.hash:
        return Verdict(0, head, Break("head", start.seq, "-", "the noted head belongs to another log"))
    walk = iter(rows())
    for row in walk:
        broken = _check(row, head, seal, derived)
        if broken is not None:
            if broken.what == "edited" and row.seq == head.seq + 1:
                broken = _explain(row, head, walk, rows, seal, broken)
            return Verdict(head.seq - start.seq, head, broken, tuple(notes))
        head = Head(row.seq, row.hash, row.id)
        if row.kind == "note":
            notes.append(f"row {row.seq}: {row.body}")
        met = wanted.pop(row.seq, None)
        if met is not None and met.hash != row.hash:
            detail = "the chain was computed anew at or before this row: it does not end in the noted head"
            return Verdict(row.seq - start.seq, head, Break("rewritten", row.seq, row.id, detail), tuple(notes))
    if wanted:
        last = max(wanted.values())
        gone = last.seq - head.seq
        detail = f"the newest {gone} row(s) are gone: the noted head is row {last.seq} ({last.id})"
        first = last.id if gone == 1 else "-"
        return Verdict(head.seq - start.seq, head, Break("truncated", head.seq + 1, first, detail), tuple(notes))
    return Verdict(head.seq - start.seq, head, None, tuple(notes))


def _fits(row: Row, prev: bytes, seq: int, seal: Sealer) -> bool:
    try:
        return link(seal, prev, seq, row.id, row.kind, row.at, row.writer, row.body) == row.hash
    except (TypeError, ValueError):
        return False


def _check(
    row: Row, head: Head, seal: Sealer, columns_of: Callable[[dict[str, Any]], tuple[Plain, ...]]
) -> Break | None:
    want = head.seq + 1
    if row.seq != want:
        gone = f"row {want}" if row.seq == want + 1 else f"rows {want} to {row.seq - 1}"
        return Break("deleted", want, "-", f"{gone} missing between {head.id} and {row.id} (row {row.seq})")
    if not _fits(row, head.hash, want, seal):
        detail = f"the row does not fit its hash (or row {head.seq}, {head.id}, was replaced together with its own)"
        return Break("edited", want, str(row.id), detail)
    try:
        body = orjson.loads(row.body)
        derived = columns_of(body) if row.kind in ("intent", "outcome") else row.columns
    except ValueError:
        return Break("edited", want, row.id, "the body is not JSON")
    for name, is_, was in zip(COLUMNS, row.columns, derived, strict=True):
        if is_ != was:
            return Break("edited", want, row.id, f"the column {name} is not what the body says")
    return None


def _explain(
    row: Row, head: Head, later: Iterator[Row], rows: Callable[[], Iterable[Row]], seal: Sealer, broken: Break
) -> Break:
    """Tell an edited row from one that was moved, put in, or renumbered over a gap."""
    seq = row.seq
    if _fits(row, head.hash, seq, seal):
        return broken  # only a derived column or the JSON is wrong
    after = [r for r, _ in zip(later, range(8), strict=False)]
    if after and after[0].seq == seq + 1:
        if _fits(after[0], row.hash, seq + 1, seal):
            return broken
        for gone in range(1, 9):
            if _fits(after[0], row.hash, seq + 1 + gone, seal):
                detail = f"{gone} row(s) are missing after {head.id}; the later ones were renumbered"
                return Break("deleted", seq, "-", detail)
    home = _home(row, rows, seal)
    if home is not None:
        return Break("reordered", seq, row.id, f"the row that stands here was written as row {home}")
    for put_in, candidate in enumerate(after, 1):
        if _fits(candidate, head.hash, seq, seal):
            return Break("inserted", seq, str(row.id), f"{put_in} row(s) put in before {candidate.id}")
    return broken


def _home(row: Row, rows: Callable[[], Iterable[Row]], seal: Sealer) -> int | None:
    before: Row | None = None
    for other in rows():
        # Where two neighbours changed places, the hash that came before this row now stands in its old place.
        if _fits(row, other.hash, other.seq, seal) or (before and _fits(row, before.hash, other.seq, seal)):
            return other.seq
        before = other
    return None
