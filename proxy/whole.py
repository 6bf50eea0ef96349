"""Bytes that are written whole, or not without an error.

A disk that is nearly full takes a part of them and says how many; only the next write says that there is no room.
"""

from __future__ import annotations

import os


def write(fd: int, data: bytes) -> None:
    """All of `data`, behind what was written to `fd` before. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def overwrite(fd: int, data: bytes) -> None:
    """All of `data` in place of what the file `fd` begins with. Raises OSError."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)
