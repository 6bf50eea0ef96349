"""One row of an upload, and one of its results: what it says, read as its own dialect reads it.

A row is one line of a JSONL file, or one item of Anthropic's list. Every leaf of it is read: what belongs to a dialect
by that dialect, the rest (ids, unknown fields) as settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from classifiers.base import Message, Role
from policies.engine import Decision

from ..changes import noted, put
from ..dialects.base import BadRequest, Body, Dialect, Request
from ..dialects.names import one_frame, one_spelling
from ..strict import Malformed, parse

VOCABULARY = frozenset(
    """
    id custom_id method url body response status_code request_id error code message result type succeeded errored
    canceled expired POST params
    """.split()  # noqa: SIM905
)
"""Words of a row's own frame."""

LONGEST_ROW = 8 * 1024 * 1024
"""Bytes."""


@dataclass(slots=True)
class Row:
    """A row, read: `said` is all of it, `request` what its `dialect` is asked under `key`. `number` counts from 1.
    `raw` is its line in a file."""

    number: int
    said: Body
    request: Request
    key: str
    dialect: str
    raw: bytes = b""

    def alterable(self, decision: Decision) -> bool:
        """Whether all that the decision changes lies in what is asked: by the rest of a row its results are found."""
        return all(self.said.messages[mask.message].origin.startswith(f"/{self.key}/") for mask in decision.masks)

    def alter(self, tree: Any, decision: Decision) -> None:
        """Do in `tree`, which is this row, what the decision changes of it."""
        put(tree, self.said, decision)
        if decision.advice:
            noted(tree[self.key], decision, self.dialect)


def lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, line) of each line that says anything. Raises BadRequest for a line that is too long, or that another
    reader would cut in two."""
    start, number = 0, 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        line = content[start:end].removesuffix(b"\r")
        start, number = end + 1, number + 1
        if len(line) > LONGEST_ROW:
            raise BadRequest(f"Row {number} was refused: it is longer than {LONGEST_ROW} bytes.", "file")
        if b"\r" in line:
            raise BadRequest(f"Row {number} was refused: it holds a carriage return.", "file")
        if line.strip(b" \t"):
            yield number, line


def uploaded(number: int, line: bytes, dialects: Mapping[str, Dialect]) -> Row:
    """A line of a file of requests. `dialects` are those that a row may ask, by path. Raises BadRequest."""
    try:
        tree = parse(line)
    except Malformed as error:
        raise BadRequest(f"Row {number} was refused: {error}.", "file") from None
    url = tree.get("url") if isinstance(tree, dict) else None
    dialect = dialects.get(url) if isinstance(url, str) else None
    if dialect is None:
        known = ", ".join(sorted(dialects))
        raise BadRequest(f"Row {number} was refused: 'url' must be one of {known}.", "file")
    if tree.get("method", "POST") != "POST":
        raise BadRequest(f"Row {number} was refused: 'method' must be POST.", "file")
    return replace(_asked(number, tree, "body", dialect, "file"), raw=line)


def listed(number: int, item: Any, dialect: Dialect) -> Row:
    """An item of a list of requests. Raises BadRequest."""
    if not isinstance(item, dict):
        raise BadRequest(f"Row {number} was refused: it must be an object.", f"requests.{number - 1}")
    return _asked(number, item, "params", dialect, f"requests.{number - 1}")


def _asked(number: int, tree: dict[str, Any], key: str, dialect: Dialect, param: str) -> Row:
    """The row `tree`, whose member `key` is what `dialect` is asked."""
    try:
        one_frame(tree)
        if not isinstance(tree.get("custom_id"), str):
            raise BadRequest("'custom_id' must be a string.")
        request = dialect.read_request(one_spelling(tree.get(key)))
    except BadRequest as error:
        raise BadRequest(f"Row {number} was refused: {error}", param) from None
    said = Body()
    _join(said, request, key)
    said.leaves({name: value for name, value in tree.items() if name != key}, Role.SETTING, "", VOCABULARY)
    return Row(number, said, request, key, dialect.name)


def answered(tree: Any, dialects: Mapping[str, Dialect]) -> Body:
    """What a row of results says. `dialects` are known by the `object` or `type` of their answers."""
    said = Body()
    if not isinstance(tree, dict):
        said.leaves(tree, Role.ASSISTANT, "", frozenset())
        return said
    rest = dict(tree)
    for frame, key in (("response", "body"), ("result", "message")):
        outer = tree.get(frame)
        answer = outer.get(key) if isinstance(outer, dict) else None
        if isinstance(outer, dict) and isinstance(answer, dict):
            kind = answer.get("object", answer.get("type"))
            dialect = dialects.get(kind) if isinstance(kind, str) else None
            if dialect is not None:
                read = dialect.read_response(answer)
                _join(said, read, f"{frame}/{key}")
            else:
                said.leaves(answer, Role.ASSISTANT, f"/{frame}/{key}", VOCABULARY)
            rest[frame] = {name: value for name, value in outer.items() if name != key}
    # A file that holds requests is read here as well: nobody knows whose words it returns.
    asked = rest.pop("body", None)
    said.leaves(asked, Role.ASSISTANT, "/body", frozenset())
    for name in ("error", "result", "response"):
        said.leaves(rest.pop(name, None), Role.ERROR, f"/{name}", VOCABULARY)
    said.leaves(rest, Role.SETTING, "", VOCABULARY)
    return said


def _join(said: Body, part: Body, place: str) -> None:
    """Add what `part` says to `said`, from `place` on."""
    said.messages.extend(replace(message, origin=_under(place, message.origin)) for message in part.messages)
    said.unscannable.extend((_under(place, origin), kind) for origin, kind in part.unscannable)


def _under(place: str, origin: str) -> str:
    return f"/{place}{origin}"


def placed(said: Body, role: Role) -> list[tuple[Message, str]]:
    """The parts of `said` that nobody can read, as a guard takes them."""
    return [(Message(role, "", origin), kind) for origin, kind in said.unscannable]
