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

MAX_DEPTH = 128

# A JSON string in a text that is already known to be valid JSON. The alternatives exclude each other, so no input
# makes `re` backtrack: time is linear.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


class Malformed(ValueError):
    """A body with no single reading. The message names the problem and its place, and never quotes the body."""


def parse(body: bytes | str, max_depth: int = MAX_DEPTH) -> Any:
    """The JSON value of `body`. Raises Malformed."""
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not valid JSON: {error}") from None
    # Too few brackets to be too deep. And without an escaped ':' all colons of `raw` that are not a lost member's or in
    # a lost member are in the tree as well: writing it again finds as many, or one was lost.
    shallow = raw.count(b"{") + raw.count(b"[") <= max_depth
    if shallow and b"\\u003" not in raw and orjson.dumps(tree).count(b":") == raw.count(b":"):
        return tree
    try:
        members = _members(tree, max_depth)
    except RecursionError:
        raise Malformed(f"nested deeper than {max_depth} levels") from None
    if raw.count(b":") != members and _STRING.sub(b"", raw).count(b":") != members:
        raise Malformed("an object has the same key twice")
    return tree


def _members(tree: Any, depth: int) -> int:
    """The number of object members in `tree`; raises RecursionError where it is nested deeper than `depth`."""
    if depth < 0:
        raise RecursionError
    if type(tree) is dict:
        count = len(tree)
        for value in tree.values():
            kind = type(value)
            if kind is dict or kind is list:
                count += _members(value, depth - 1)
        return count
    if type(tree) is list:
        count = 0
        for value in tree:
            kind = type(value)
            if kind is dict or kind is list:
                count += _members(value, depth - 1)
        return count
    return 0
