"""What a caller says about its end user: recorded, as a claim of the account that made it, and believed by nobody.

A claim is kept as a keyed hash of the account and the value: one account's users can be told apart and counted, and the
same name under two accounts is two people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FIELDS = ("safety_identifier", "user")
"""Fields of a request that name an end user; `metadata.user_id` is another."""

Hashed = Callable[[str], str]


def claim(account: str, value: str, hashed: Hashed) -> str:
    """What stands in the records for `value`."""
    return hashed(f"{account}\0{value}")


def claims(tree: Any, account: str, hashed: Hashed) -> dict[str, str]:
    """The claims in a request's body, by the name of the field."""
    found: dict[str, str] = {}
    if type(tree) is not dict:
        return found
    for name in FIELDS:
        value = tree.get(name)
        if type(value) is str and value:
            found[name] = claim(account, value, hashed)
    metadata = tree.get("metadata")
    if type(metadata) is dict:
        value = metadata.get("user_id")
        if type(value) is str and value:
            found["metadata.user_id"] = claim(account, value, hashed)
    return found
