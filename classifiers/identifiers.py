"""Identifiers read as the words that they are made of: snake_case and camelCase. Linear time."""

from __future__ import annotations

import re

from .edits import Edit

GATE = "_|[a-z]{2}[A-Z]"
"""An RE2 expression for what can be taken apart."""
_TURN = re.compile("[A-Z](?<=[a-z]{2}.)")


def snakes_apart(text: str) -> str:
    """`text` with blanks for underscores; as long."""
    return text.replace("_", " ")


def turns(text: str) -> list[Edit]:
    """A blank before each capital letter of ASCII that stands behind two small ones."""
    places = [match.start() for match in _TURN.finditer(text)]
    return [(place - 1, place, f"{text[place - 1]} ") for place in places]
