"""JSON that has one reading: what cannot be read in two ways is parsed, everything else is refused.

orjson already refuses byte order marks, UTF-16/32, invalid UTF-8, lone surrogates, NaN, Infinity, numbers that
overflow a double, and trailing data (a table in the tests holds it to that). What it does not refuse is a duplicate
key: it keeps the last one, while another parser may keep the first.

INVARIANT: outside of strings, a JSON text has exactly one ':' per object member. So a parsed tree with fewer members
than the text has such colons has lost one, whichever way the keys were escaped.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

MAX_DEPTH = 254
"""Levels that a body may be nested: as many as orjson writes."""

# A JSON string in a text that is already known to be valid JSON. The alternatives exclude each other, so no input
# makes `re` backtrack: time is linear.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


class Malformed(ValueError):
    """A body with no single reading. The message names the problem and its place, and never quotes the body."""


def parse(body: bytes | str) -> Any:
    """The JSON value of `body`. Raises Malformed."""
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not valid JSON: {error}") from None
    try:
        again = orjson.dumps(tree)
    except TypeError:
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels") from None
    # Nothing was lost where it is written again as it came, which is how most clients and servers write. And without an
    # escaped ':' all colons of `raw` that are not a lost member's or in a lost member are in the tree as well.
    if again == raw or (b"\\u003" not in raw and again.count(b":") == raw.count(b":")):
        return tree
    members = _members(tree)
    if raw.count(b":") != members and _STRING.sub(b"", raw).count(b":") != members:
        raise Malformed("an object has the same key twice")
    return tree


def _members(tree: Any) -> int:
    """The number of object members in `tree`."""
    if type(tree) is not dict and type(tree) is not list:
        return 0
    count = len(tree) if type(tree) is dict else 0
    for value in tree.values() if type(tree) is dict else tree:
        kind = type(value)
        if kind is dict or kind is list:
            count += _members(value)
    return count
