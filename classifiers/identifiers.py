"""Identifiers read as the words that they are made of: snake_case and camelCase. Linear time."""

from __future__ import annotations

import re

from .edits import Edit

LETTER = r"[A-Za-z\x{80}-\x{10ffff}]"
"""For RE2: of ASCII, or any sign that is none of its."""
GATE = (
    rf"_{LETTER}|[0-9A-Za-z\x{{80}}-\x{{10ffff}}]_(?:[^0-9A-Za-z]|$)|[a-z]{{3}}_[0-9]|"
    "[a-z]{2}[A-Z][a-z]{2}|[a-z]{4}[A-Z]{3}"
)
"""An RE2 expression for what can be taken apart. That words stand beside it is asked for, since nine of ten random ids
have an underscore or a turn of case: to read each cost more than the search."""
_TURN = re.compile("[A-Z](?<=[a-z]{2}.)")


def snakes_apart(text: str) -> str:
    """`text` with blanks for underscores; as long."""
    return text.replace("_", " ")


def turns(text: str) -> list[Edit]:
    """A blank before each capital letter of ASCII that stands behind two small ones."""
    places = [match.start() for match in _TURN.finditer(text)]
    return [(place - 1, place, f"{text[place - 1]} ") for place in places]
