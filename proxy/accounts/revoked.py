"""Which keys were ended: a file of their ids beside that of the keys, that only grows.

A copy of the keys that is put back is older than some revocation; and a file of keys that cannot be read must not keep
anybody from ending one. So what is in here is revoked whatever the other file says. A line is an id and when that was
(unix seconds); any id that stands anywhere in the file counts, so that one may be written by hand.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .. import whole

_ENDED = re.compile(rb"\b(key_[0-9a-f]{12})\b(?:[ \t]+([0-9]{1,12}))?")


def read(path: Path) -> dict[str, float]:
    """Ids, and since when: 0 where the file does not say. A missing file holds none. Raises OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    return {found[1].decode(): float(found[2] or 0) for found in _ENDED.finditer(data)}


def add(path: Path, id: str, at: float) -> None:
    """It is on the disk when this returns. Raises OSError."""
    made = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if made and os.geteuid() == 0:
            # Made by root for a server that is not: it belongs to whom the data directory belongs.
            owner = os.stat(path.parent)
            os.fchown(fd, owner.st_uid, owner.st_gid)
        whole.write(fd, f"\n{id} {at:.0f}\n".encode())  # a line of its own also behind one that was cut short
        os.fsync(fd)
    finally:
        os.close(fd)
    if made:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
