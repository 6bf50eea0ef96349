"""The head file: the newest row's number and hash, beside the database, so that a cut-off tail is seen.

It is overwritten in place after each commit, one short write without a sync: never ahead of the table, at most the
last moments before a power cut behind it, and whole after `kill -9`. Its lock is also the queue in which the
processes that share a log wait for their turn, because the kernel wakes the next one at once where SQLite would poll.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from ..whole import overwrite
from .entry import AuditUnavailable
from .seal import Head, Sealer

_MAGIC = b"penstock-audit-head 1"
PRUNED = b"penstock-audit-pruned 1"
"""What begins the note of the last row that was pruned."""


class BadHead(ValueError):
    """The head file is not one of ours, was cut short, or was sealed with another key."""


def path_of(database: str | os.PathLike[str]) -> str:
    return f"{os.fspath(database)}-head"


def pack(head: Head, seal: Sealer, magic: bytes = _MAGIC) -> bytes:
    line = b"%s %020d %s %-64s " % (magic, head.seq, head.hash.hex().encode(), head.id.encode())
    return line + seal(line).hex().encode() + b"\n"


def unpack(raw: bytes, seal: Sealer | None, magic: bytes = _MAGIC) -> Head:
    """Raises BadHead. Without `seal` the figures are read but not trusted."""
    parts = raw.split()
    try:
        head = Head(int(parts[2]), bytes.fromhex(parts[3].decode("ascii")), parts[4].decode("ascii"))
    except (IndexError, ValueError):
        raise BadHead("it is not a head file or was cut short") from None
    if seal is not None and pack(head, seal, magic) != raw:
        raise BadHead("it was edited or sealed with another key")
    return head


class HeadFile:
    """An open head file. Methods raise OSError."""

    def __init__(self, path: str, seal: Sealer) -> None:
        self._seal, self.path = seal, path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> Head | None:
        """None where the file is new. Raises BadHead."""
        raw = os.pread(self._fd, 1024, 0)
        return unpack(raw, self._seal) if raw else None

    def write(self, head: Head) -> None:
        overwrite(self._fd, pack(head, self._seal))

    def sync(self) -> None:
        """Once, when new: from then on each write replaces one sector that is already there."""
        os.fsync(self._fd)
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def turn(self, patience: float | None = None) -> Iterator[None]:
        """Hold the lock. Raises AuditUnavailable after `patience` seconds."""
        if patience is None:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        else:
            self._poll(time.monotonic() + patience)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _poll(self, until: float) -> None:
        while True:
            try:
                return fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    mend = "end the process that holds it, or use another path"
                    raise AuditUnavailable(f"{self.path} is locked by another process", mend) from None
                time.sleep(0.01)

    def close(self) -> None:
        os.close(self._fd)
