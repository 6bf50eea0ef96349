"""What a request on an open route mentions: nobody judges it, but it may not lead to what is another account's.

INVARIANT: a body that a provider could read as JSON or as a form is read here as well, or refused.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from ..dialects.base import BadRequest, Malformed
from ..strict import parse
from .holder import Holder

_FIELD = re.compile(rb"\n[ \t]*\r?\n[ \t]*([\w.:-]{4,200})[ \t]*\r?\n--")
"""A field of a form whose value is one word: behind a blank line, and before a boundary."""
_JSON = re.compile(rb"[\s\x00\xef\xbb\xbf\xfe\xff]*[{\[]")
"""How JSON begins, in whatever encoding."""


def check(holder: Holder, query: bytes, body: bytes) -> bool:
    """Whether the path names no stored thing. Raises NotFound where it, the query or the body names somebody else's,
    and BadRequest where that cannot be told."""
    listing = not holder.named()
    holder.body(_values(query))
    if not body:
        return listing
    try:
        holder.body(parse(body))
    except Malformed as error:
        if _JSON.match(body):
            raise BadRequest(f"The body was refused: {error}.") from None
        holder.body([word.decode("ascii", "replace") for word in _FIELD.findall(body)])
        holder.body(_values(body))
    return listing


def _values(form: bytes) -> list[str]:
    """The values of a query, or of a form that is written like one."""
    if b"=" not in form:
        return []
    try:
        return [value for _, value in parse_qsl(form.decode("ascii"), max_num_fields=1000)]
    except ValueError:  # other letters than a query has, or more of them than anybody needs
        return []
