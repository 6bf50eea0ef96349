"""A JSON text after a change: byte for byte as it was, but for the values that are others now.

Written anew it would say the same in other bytes: numbers (`1.0`, `1e5`), escapes, blanks. Linear time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from .dialects.base import written

_BLANKS = re.compile(r"[ \t\n\r]*")
_COMPARED = 24
"""Levels at which what did not change is known as a whole; further down each value is looked at, but once."""
_read = json.JSONDecoder().raw_decode


def respelled(raw: bytes, after: Any) -> bytes:
    """`raw`, which has one reading (`strict`), as it spells `after`."""
    text = raw.decode()
    start = _blank(text, 0)
    before, end = _read(text, start)
    if before == after:
        return raw
    pieces = [text[:start]]
    _put(text, start, before, after, pieces, 0)
    pieces.append(text[end:])
    return "".join(pieces).encode()


def _put(text: str, at: int, before: Any, after: Any, pieces: list[str], level: int) -> int:
    """Adds what spells `after` in place of the value `before` at `at`; returns where that one ends."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() <= after.keys():
        return _object(text, at, before, after, pieces, level + 1)
    if isinstance(before, list) and isinstance(after, list):
        more = len(after) - len(before)
        if more == 0:
            return _list(text, at, before, after, -1, pieces, level + 1)
        same = next((i for i, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), len(before))
        if more > 0 and before[same:] == after[same + more :]:
            return _list(text, at, before, after, same, pieces, level + 1)
    pieces.append(written(after))
    end: int = _read(text, at)[1]
    return end


def _object(text: str, at: int, before: dict[str, Any], after: dict[str, Any], pieces: list[str], level: int) -> int:
    """`after` has all keys of `before`, and perhaps more."""
    kept, at = at, _blank(text, at + 1)
    while text[at] != "}":
        key, at = _read(text, at)
        at = _blank(text, _blank(text, at) + 1)
        if _is_same(before[key], after[key], level):
            at = _read(text, at)[1]
        else:
            pieces.append(text[kept:at])
            kept = at = _put(text, at, before[key], after[key], pieces, level)
        at = _next(text, at)
    new = [f"{written(key)}:{written(value)}" for key, value in after.items() if key not in before]
    return _close(text, kept, at, new, bool(before), pieces)


def _list(text: str, at: int, before: list[Any], after: list[Any], first: int, pieces: list[str], level: int) -> int:
    """`after` has as many items as `before` (`first` is -1), or more, which stand together from `first` on."""
    kept, at = at, _blank(text, at + 1)
    more = [written(item) for item in after[first : first + len(after) - len(before)]] if first >= 0 else []
    for place, item in enumerate(before):
        if place == first:
            pieces += (text[kept:at], *[f"{each}," for each in more])
            kept, more = at, []
        if first >= 0 or _is_same(item, after[place], level):
            at = _read(text, at)[1]
        else:
            pieces.append(text[kept:at])
            kept = at = _put(text, at, item, after[place], pieces, level)
        at = _next(text, at)
    return _close(text, kept, at, more, bool(before), pieces)


def _is_same(before: Any, after: Any, level: int) -> bool:
    """Whether this need not be looked at any further."""
    whole = level < _COMPARED or not isinstance(before, dict | list) or type(before) is not type(after)
    return whole and bool(before == after)


def _close(text: str, kept: int, at: int, new: Iterable[str], behind: bool, pieces: list[str]) -> int:
    """What was not copied yet up to the end of a list or object at `at`, with what is `new` there."""
    pieces += (text[kept:at], "," if new and behind else "", ",".join(new), text[at])
    return at + 1


def _next(text: str, at: int) -> int:
    """Where the next value begins behind one, or the end of what holds it."""
    at = _blank(text, at)
    return _blank(text, at + 1) if text[at] == "," else at


def _blank(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()
