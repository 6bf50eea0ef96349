"""One decision as history, and the plain columns by which it is found again."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable
from math import isfinite
from typing import Any, Literal, NamedTuple

import orjson

from .entry import FIELDS, Entry, Plain

Kind = Literal["intent", "outcome"]

MAX_BODY = 1 << 20
"""Bytes of JSON in one record."""

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}").fullmatch
_KINDS = {"intent": "intent", "outcome": "outcome"}
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LETTERS = _ALPHABET.encode() * 8
"""A letter for each byte, all equally often."""


class Record(NamedTuple):
    """One half of an exchange. `id` is shared by both halves; `at` is unix seconds; `body` is JSON-able."""

    id: str
    kind: Kind
    at: float
    body: dict[str, Any]


def new_id() -> str:
    """``pn_`` and 26 letters: 48 bits of milliseconds, so that an index on it grows at one end, and 80 of chance."""
    return _moment(time.time_ns() // 1_000_000) + os.urandom(16).translate(_LETTERS).decode()


@functools.lru_cache(maxsize=1)
def _moment(milliseconds: int) -> str:
    return "pn_" + "".join([_ALPHABET[milliseconds >> shift & 31] for shift in range(45, -1, -5)])


def columns(body: dict[str, Any]) -> tuple[Plain, ...]:
    """The filter columns of a body as JSON gave it: text and 64-bit integers, anything else is only in the body."""
    return (*[_plain(body.get(name)) for name in FIELDS], *_derived(body))


def _derived(body: dict[str, Any]) -> tuple[str | None, str | None]:
    """All rules that fired with their modes, like `` pii=enforce tone=shadow ``, and what went wrong, like
    `` upstream_timeout guard=crash ``; None for nothing. Words stand between blanks, so that one can be looked for."""
    detail, judged = body.get("detail"), (body.get("input"), body.get("output"))
    if detail is None and not judged[0] and not judged[1]:
        return _NOTHING
    fired: dict[str, None] = {}
    errors: list[str] = []
    if isinstance(detail, str) and body.get("status") != "relayed":
        errors.append(detail[:100])
    for seen in judged:
        if not seen or not isinstance(seen, dict):
            continue
        rules, shadow, failures = seen.get("rules"), seen.get("shadow"), seen.get("failures")
        if not rules and not shadow and not failures:
            continue
        canary = _names(seen.get("canary"))
        for rule in _names(rules):
            fired[f"{rule}={'canary' if rule in canary else 'enforce'}"] = None
        for rule in _names(shadow):
            fired[f"{rule}=shadow"] = None
        if isinstance(failures, dict):
            errors += [f"{classifier}={reason}" for classifier, reason in failures.items()]
    if not fired and not errors:
        return _NOTHING
    return _words(fired, 400), _words(errors, 250)


_NOTHING = None, None


def _words(words: Iterable[str], most: int) -> str | None:
    """Between blanks, as many as fit: an index has to hold them."""
    text = " ".join(words)
    if len(text) > most:
        text = text[: most + 1].rpartition(" ")[0] or text[:most]
    return f" {text} " if text else None


def _names(found: Any) -> tuple[str, ...]:
    return tuple(map(str, found)) if isinstance(found, dict | list) else ()


def _plain(value: object) -> Plain:
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 63 else None
    return value if isinstance(value, str) else None


def encode(record: Record) -> Entry:
    """The record as an entry. Raises ValueError where it could not be stored or found again as it is."""
    id, kind, at = record.id, _KINDS.get(record.kind), float(record.at)
    if not _ID(id):
        raise ValueError("audit record: the id must be 1 to 64 letters, digits or _ . : -")
    if kind is None:
        raise ValueError("audit record: the kind is 'intent' or 'outcome'")
    if not isfinite(at):
        raise ValueError("audit record: the time must be a finite number of seconds")
    try:
        body = orjson.dumps(record.body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:  # orjson names the type, never the value
        raise ValueError(f"audit record: the body is not JSON-able: {error}") from None
    if len(body) > MAX_BODY:
        raise ValueError(f"audit record: the body has {len(body)} bytes, at most {MAX_BODY} are kept")
    get = record.body.get
    found: tuple[Any, ...] = (
        get("action"),
        get("rule"),
        get("policy"),
        get("model"),
        get("account"),
        get("status"),
        get("stage"),
        get("request"),
        *_derived(record.body),
    )
    for value in found:
        if value is not None and type(value) is not str:
            # An enumeration, a number, a bool: what it becomes in JSON is what `verify` will derive.
            found = columns(orjson.loads(body))
            break
    return (orjson.dumps((id, kind, at)), str(id), kind, at, body, *found)
