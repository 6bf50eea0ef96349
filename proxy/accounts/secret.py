"""What a caller holds: ``penstock_``, 43 letters that are 256 random bits, and 6 that are their checksum.

The prefix lets scanners of code and logs find a key that was lost; the checksum tells a mistyped key from a revoked one
without asking anybody.
"""

from __future__ import annotations

import secrets
import zlib

PREFIX = "penstock_"
BODY, SUM = 43, 6
LENGTH = len(PREFIX) + BODY + SUM

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def mint() -> str:
    """A new key."""
    body = _written(int.from_bytes(secrets.token_bytes(32)), BODY)
    return PREFIX + body + _checksum(body)


def well_formed(text: str) -> bool:
    """Whether `text` could be a key: right prefix, length and checksum."""
    if len(text) != LENGTH or not text.startswith(PREFIX):
        return False
    body = text[len(PREFIX) : -SUM]
    return body.isascii() and body.isalnum() and text[-SUM:] == _checksum(body)


def _checksum(body: str) -> str:
    return _written(zlib.crc32((PREFIX + body).encode("ascii")), SUM)


def _written(number: int, length: int) -> str:
    letters = []
    for _ in range(length):
        number, digit = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[digit])
    return "".join(reversed(letters))
