"""What a request on an open route mentions: nobody judges it, but it may not lead to what is another account's, nor to
a model that is not for this one.

INVARIANT: a body that a provider could read as JSON or as a form is read here as well, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

from ..dialects.base import BadRequest, Malformed
from ..strict import parse
from .holder import Holder

_FIELD = re.compile(rb"\n[ \t]*\r?\n[ \t]*([\w.:-]{4,200})[ \t]*\r?\n--")
"""A field of a form whose value is one word: behind a blank line, and before a boundary."""
_PART = re.compile(rb"content-disposition[ \t]*:([^\r\n]*)\r?\n", re.IGNORECASE)
"""How a part of a form is called."""
_BLANK = re.compile(rb"\n\r?\n([^\r\n]*)")
"""The line before what a part holds, and the first one of that."""
_HEAD = 4096
"""Bytes within which the headers of a part end."""
_CALLED = re.compile(rb';[ \t]*name[ \t]*=[ \t]*(?:"([^"\\%]*)"|([^\s";\\%]+))', re.IGNORECASE)
_CODED = re.compile(rb"(?<![a-z])name[ \t]*\*", re.IGNORECASE)
_PLACE = re.compile(rb"/v1/models/(.+)|/v1/engines/(.+(?=/[^/]+$)|[^/]+$)", re.DOTALL)
"""Paths that name a model. Behind that of an engine may stand what is asked of it."""
_AND, _EITHER = re.compile(rb"[^&]+"), re.compile(rb"[^&;]+")
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
    holder.body([value for name, value in asked if listing or name not in _PLACES])
    holder.body([value for _, value in asked], strict=False)
    if not body:
        return listing
    try:
        holder.body(parse(body))
    except Malformed as error:
        if _JSON.match(body):
            raise BadRequest(f"The body was refused: {error}.") from None
        holder.body([word.decode("ascii", "replace") for word in _FIELD.findall(body)])
        # What stands in files is for nobody to read as a form, and may be anything.
        holder.body(_values(body), strict=not kind.strip().lower().startswith(_FILES))
    return listing


def _values(form: bytes) -> list[str]:
    """The values of a query, or of a form that is written like one."""
    return [value for _, value in pairs(form)]


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
    """The models that a request names, where the APIs name one: in its plain path, its query, its JSON, or its form.
    Servers in Go take names in any case. Raises BadRequest where that cannot be told."""
    found = [value for name, value in pairs(query) if name.lower() == "model"]
    if (at := _PLACE.match(path)) is not None:
        found += [(at[1] or at[2]).decode("ascii")]
    try:
        tree = parse(body) if body else None
    except Malformed:
        return found + _in_form(body) + [value for name, value in pairs(body) if name.lower() == "model"]
    sessions = [value for key, value in tree.items() if key.casefold() == "session"] if isinstance(tree, dict) else []
    for holder in (tree, *sessions):
        for key, value in holder.items() if isinstance(holder, dict) else ():
            found += [value] if key.lower() == "model" and isinstance(value, str) else []
    return found


def _in_form(body: bytes) -> list[str]:
    """The first lines of the parts that are called so."""
    found: list[str] = []
    for part in _PART.finditer(body):
        names = [quoted or plain for quoted, plain in _CALLED.findall(part[1])]
        if len(names) > 1 or _CODED.search(part[1]):
            raise BadRequest("A field of the form is called in a way that has two readings.")
        if any(name.lower() == b"model" for name in names):
            held = _BLANK.search(body, part.end() - 1, part.end() + _HEAD)
            if held is None:
                raise BadRequest("A field of the form has more headers than anybody needs.")
            found.append(held[1].decode("utf-8", "replace"))
    return found
