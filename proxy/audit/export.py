"""Exchanges as rows for other tools, one each: JSON lines, or Parquet (through pyarrow, which is an extra).

Rows are written a few thousand at a time, into a file beside the one that was named, which takes its name at the end:
what carries the name is complete.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from .reader import Exchange

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 4096
"""Rows of one group in a Parquet file; what is held in memory."""
_WORDS = (
    "action", "rule", "policy", "model", "account", "key", "status", "stage", "detail", "reason", "dialect", "method",
    "path", "upstream", "request", "revision",
)  # fmt: skip
_TIMES = ("input", "audit", "upstream", "first_token", "gate", "output", "added", "total")


class Exporting(Exception):
    """It cannot be written; the message says why and the mend."""


def row(exchange: Exchange) -> dict[str, Any]:
    """One exchange, flat. Times are in unix seconds, durations in milliseconds; `input` and `output` are what was seen
    there, `times` how often it happened (only refusals are told by the many), `body` is the rest that either record
    says."""
    body = {**(exchange.intent or {}), **{k: v for k, v in (exchange.outcome or {}).items() if v is not None}}
    found: dict[str, Any] = {"id": exchange.id, "began": exchange.at, "ended": exchange.ended}
    for name in _WORDS:
        value = body.pop(name, None)
        found[name] = None if value is None else str(value)
    found["times"] = _of(int, body.pop("times", 1))
    found["stream"] = _of(bool, body.pop("stream", None))
    found["upstream_status"] = _of(int, body.pop("upstream_status", None))
    times = body.pop("milliseconds", None)
    for name in _TIMES:
        found[f"{name}_ms"] = _of(float, times.get(name)) if isinstance(times, dict) else None
    for stage in ("input", "output"):
        seen = body.pop(stage, None)
        seen = seen if isinstance(seen, dict) else {}
        found[f"{stage}_rules"] = sorted(map(str, seen.get("rules") or ()))
        found[f"{stage}_shadow"] = sorted(map(str, seen.get("shadow") or ()))
        scores = seen.get("scores")
        found[f"{stage}_scores"] = scores if isinstance(scores, dict) else {}
        failures = seen.get("failures")
        found[f"{stage}_failures"] = failures if isinstance(failures, dict) else {}
    found["body"] = body
    return found


def write(exchanges: Iterable[Exchange], to: Path, form: str) -> int:
    """Write them as `form` (jsonl or parquet) and return how many. `-` is standard output. Raises Exporting."""
    try:
        if str(to) == "-":
            return _lines(exchanges, sys.stdout.buffer)
        aside = to.with_name(f".{to.name}.{os.getpid()}")
        try:
            if form == "parquet":
                count = _parquet(exchanges, aside)
            else:
                with aside.open("wb") as file:
                    count = _lines(exchanges, file)
            aside.replace(to)
        finally:
            aside.unlink(missing_ok=True)
        return count
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Exporting(f"{to} cannot be written: {error.strerror or 'the disk reports an error'}") from None


def _lines(exchanges: Iterable[Exchange], file: BinaryIO) -> int:
    count = 0
    for exchange in exchanges:
        file.write(orjson.dumps(row(exchange), option=orjson.OPT_APPEND_NEWLINE))
        count += 1
    file.flush()
    return count


def _parquet(exchanges: Iterable[Exchange], file: Path) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise Exporting("Parquet needs pyarrow: pip install 'penstock[parquet]', or write --form jsonl") from None
    schema, count = _schema(pa), 0
    with contextlib.closing(parquet.ParquetWriter(file, schema, compression="zstd")) as writer:
        for rows in _groups(exchanges):
            writer.write_table(pa.Table.from_pylist([_plain(each) for each in rows], schema))
            count += len(rows)
    return count


def _groups(exchanges: Iterable[Exchange]) -> Iterator[list[dict[str, Any]]]:
    walk = map(row, exchanges)
    while group := list(islice(walk, AT_ONCE)):
        yield group


def _schema(pa: Any) -> pa.Schema:
    text, moment = pa.string(), pa.timestamp("us", "UTC")
    fields: dict[str, Any] = {"id": text, "began": moment, "ended": moment, **dict.fromkeys(_WORDS, text)}
    fields |= {"times": pa.int64(), "stream": pa.bool_(), "upstream_status": pa.int64()}
    fields |= {f"{name}_ms": pa.float64() for name in _TIMES}
    for stage in ("input", "output"):
        fields[f"{stage}_rules"] = fields[f"{stage}_shadow"] = pa.list_(text)
        fields[f"{stage}_scores"] = pa.map_(text, pa.float64())
        fields[f"{stage}_failures"] = pa.map_(text, text)
    return pa.schema([*fields.items(), ("body", text)])


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """As Arrow takes it: microseconds, lists of pairs, and the rest as JSON text."""
    plain = dict(found)
    for name in ("began", "ended"):
        plain[name] = None if found[name] is None else int(found[name] * 1e6)
    for stage in ("input", "output"):
        plain[f"{stage}_scores"] = [(str(name), float(score)) for name, score in found[f"{stage}_scores"].items()]
        plain[f"{stage}_failures"] = [(str(name), str(why)) for name, why in found[f"{stage}_failures"].items()]
    plain["body"] = orjson.dumps(found["body"]).decode()
    return plain


def _of(kind: type, value: Any) -> Any:
    """The value where it is of that kind; None else."""
    if kind is float:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return value if type(value) is kind else None
