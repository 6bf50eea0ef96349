"""What a request on an open route mentions: nobody judges it, but it may not lead to what is another account's, nor to
a model that is not for this one.

INVARIANT: a body that a provider could read as JSON or as a form is read here as well, or refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

import orjson

from ..dialects.base import BadRequest, Malformed
from ..strict import parse
from .holder import Holder
from .stored import NOTED

_FIELD = re.compile(rb"\n[ \t]*\r?\n[ \t]*([\w.:-]{4,200})[ \t]*\r?\n--")
"""A field of a form whose value is one word: behind a blank line, and before a boundary."""
_PART = re.compile(rb"content-disposition[ \t]*:([^\r\n]*)\r?\n", re.IGNORECASE)
"""How a part of a form is called."""
_BLANK = re.compile(rb"\n\r?\n([^\r\n]*)")
"""The line before what a part holds, and the first one of that."""
_MODEL = re.compile(rb"(?:.*\[)?model\]?", re.IGNORECASE | re.DOTALL)
"""How a field is called that holds one, of what it is in as well (`session[model]`)."""
_HEAD = 4096
"""Bytes within which the headers of a part end."""
_CALLED = re.compile(rb';[ \t]*name[ \t]*=[ \t]*(?:"([^"\\%]*)"|([^\s";\\%]+))', re.IGNORECASE)
_CODED = re.compile(rb"(?<![a-z])name[ \t]*\*", re.IGNORECASE)
_PLACE = re.compile(rb"/v1/models/(.+)|/v1/engines/(.+(?=/[^/]+$)|[^/]+$)", re.DOTALL)
"""Paths that name a model. Behind that of an engine may stand what is asked of it."""
_AND, _EITHER = re.compile(rb"[^&]+"), re.compile(rb"[^&;]+")
_CALLED_BY = frozenset({"id", "name"})
_PLACES = frozenset({"after", "after_id", "before", "before_id", "page"})
"""Where a query says from which thing on a list goes: in a list of what one has, it leads nowhere."""
_FILES = (b"multipart/", b"audio/", b"video/", b"image/", b"application/octet-stream")
_JSON = re.compile(rb"[\s\x00\xef\xbb\xbf\xfe\xff]*[{\[]")
"""How JSON begins, in whatever encoding."""


def check(holder: Holder, query: bytes, body: bytes, kind: bytes = b"") -> bool:
    """Whether the path names no stored thing. Raises NotFound where it, the query or the body (of content type `kind`)
    names what is not this account's, and BadRequest where that cannot be told."""
    listing = not holder.named()
    asked = list(pairs(query))
    holder.body([{"" if not listing and name in _PLACES else name: value} for name, value in asked])
    if not body:
        return listing
    try:
        holder.body(parse(body))
    except Malformed as error:
        if _JSON.match(body):
            raise BadRequest(f"The body was refused: {error}.") from None
        words = [word.decode("ascii", "replace") for word in _FIELD.findall(body)]
        holder.body(words + _fields(body) + _in_parts(body))
        # What stands in files is for nobody to read as a form, and may be anything.
        files = kind.strip().lower().startswith(_FILES)
        holder.body([{"" if files else name: value} for name, value in pairs(body)])
    return listing


def _fields(body: bytes) -> list[dict[str, str]]:
    """The first line of each part of a form that is no file, under the part's name."""
    found: list[dict[str, str]] = []
    for part in _PART.finditer(body):
        names = _names(part)
        held = _BLANK.search(body, part.end() - 1, part.end() + _HEAD) if b"filename" not in part[1].lower() else None
        if held is not None:
            found += [{name.decode("latin-1"): held[1].decode("utf-8", "replace").strip()} for name in names]
    return found


def pairs(form: bytes) -> Iterator[tuple[str, str]]:
    """Names and values, as any server would read them: some end one at a semicolon, too."""
    for separate in (_AND, _EITHER) if b";" in form else (_AND,):
        for match in separate.finditer(form):
            name, equals, value = match[0].partition(b"=")
            if equals:
                yield _plain(name), _plain(value)


def _plain(word: bytes) -> str:
    return unquote_plus(word.decode("latin-1"), "utf-8", "replace")


def models(path: bytes, query: bytes, body: bytes) -> list[str]:
    """The models that a request names, where the APIs name one: in its plain path, its query, its JSON (at any depth:
    of graders, runs, sessions), or its form. Servers in Go take names in any case. Raises BadRequest where that cannot
    be told."""
    found = [value for name, value in pairs(query) if name.lower() == "model"]
    if (at := _PLACE.match(path)) is not None:
        found += [(at[1] or at[2]).decode("ascii")]
    try:
        tree = parse(body) if body else None
    except Malformed:
        found += [name for tree in _in_parts(body) for name in _in_tree(tree)]
        return found + _in_form(body) + [value for name, value in pairs(body) if _MODEL.fullmatch(name.encode())]
    return found + _in_tree(tree)


def _in_tree(tree: Any) -> list[str]:
    """What stands under a key that is called so, at any depth. What a caller notes, or has in rows, asks nobody."""
    found, stack = list[str](), [("", tree)]
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict):
            stack += [(key.casefold(), inner) for key, inner in value.items() if key not in NOTED]
            if place == "model":  # Anthropic's agents have one with its settings
                stack += [("model", inner) for key, inner in value.items() if key in _CALLED_BY]
        elif isinstance(value, list):
            stack += [(place, inner) for inner in value]
        elif place == "model" and isinstance(value, str):
            found.append(value)
    return found


def _in_parts(body: bytes) -> list[Any]:
    """The fields of a form that are JSON (a session's settings, say). Raises BadRequest for one with two readings."""
    found, parts = list[Any](), list(_PART.finditer(body))
    for part, end in zip(parts, [*(part.start() for part in parts[1:]), len(body)], strict=False):
        if _CALLED.search(part[1]) is None or b"filename" in part[1].lower():
            continue
        held = _BLANK.search(body, part.end() - 1, min(part.end() + _HEAD, end))
        text = body[held.start(1) : end] if held is not None else b""
        text = text.partition(b"\n--")[0]
        if not _JSON.match(text):
            continue
        try:
            found.append(parse(text))
        except Malformed:
            with contextlib.suppress(orjson.JSONDecodeError):  # a text that only begins so
                orjson.loads(text)
                raise BadRequest("A field of the form is JSON with two readings.") from None
    return found


def _names(part: re.Match[bytes]) -> list[bytes]:
    """How a part of a form is called, as often as it says so."""
    return [quoted or plain for quoted, plain in _CALLED.findall(part[1])]


def _in_form(body: bytes) -> list[str]:
    """The first lines of the parts that are called so."""
    found: list[str] = []
    for part in _PART.finditer(body):
        names = _names(part)
        if len(names) > 1 or _CODED.search(part[1]):
            raise BadRequest("A field of the form is called in a way that has two readings.")
        if any(_MODEL.fullmatch(name) for name in names):
            held = _BLANK.search(body, part.end() - 1, part.end() + _HEAD)
            if held is None:
                raise BadRequest("A field of the form has more headers than anybody needs.")
            found.append(held[1].decode("utf-8", "replace"))
    return found
