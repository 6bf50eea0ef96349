"""What an upstream says in place of an answer: an error as its API writes it, or as servers and gateways do.

Some write a list where their API has an object (Gemini's does, for OpenAI's clients), or a line of plain text (as
Starlette and Envoy do), or nothing. It is judged and passes as it came: clients go by the status and show the rest.
"""

from __future__ import annotations

from typing import Any

from classifiers.base import Message, Role

from ..strict import Malformed, parse
from .base import Body, Dialect

_PLAIN = frozenset({"text/plain", "text/plain;charset=utf-8", "text/plain;charset=us-ascii"})


def read_error(dialect: Dialect, raw: bytes, kind: bytes) -> tuple[Any, Body] | None:
    """The value and the texts of an error whose content type is `kind`; None where it has more than one reading, as
    HTML has. The value is None where there is no body, and a str where it is a text."""
    try:
        tree = parse(raw) if raw else None
        if isinstance(tree, dict):
            body = dialect.read_response(tree)
            body.messages = [Message(Role.ERROR, said.text, said.origin) for said in body.messages]
            return tree, body
    except Malformed:
        if kind.decode("latin-1").lower().replace(" ", "").replace('"', "") not in _PLAIN:
            return None
        try:
            tree = raw.decode("utf-8")
        except UnicodeDecodeError:
            return None
    body = Body()
    body.leaves(tree, Role.ERROR, "", frozenset())
    return tree, body
