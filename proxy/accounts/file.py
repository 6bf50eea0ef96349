"""Where keys are kept: a JSON file that is replaced whole, under a lock beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..audit import AuditUnavailable, Key
from .record import KeyRecord

Records = Sequence[KeyRecord]
Stamp = tuple[int, int, int]


class KeysUnavailable(Exception):
    """The file of keys cannot be read or written. The message is one line for an operator, with the mend."""


def hashing(path: Path) -> Callable[[bytes], str]:
    """The hash that keys are kept by, whose secret stands in the file at `path`, made where it is missing. Raises
    KeysUnavailable."""
    try:
        return Key.load(path).caller_hash
    except AuditUnavailable as error:
        raise KeysUnavailable(f"{error.problem} ({error.mend})") from None


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[KeyRecord] = []


class KeyFile:
    """The file at `path`. A missing one holds no keys. Methods raise KeysUnavailable."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> Stamp | None:
        """What changes whenever the file does; None where there is none."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeysUnavailable(f"{self.path}: {error.strerror}") from None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> list[KeyRecord]:
        """Every key, revoked ones too, in the order in which they were made."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeysUnavailable(f"{self.path}: {error.strerror} (this user must be able to read it)") from None
        try:
            return _Content.model_validate_json(text).keys
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(step) for step in first["loc"]) or "the file"
            raise KeysUnavailable(f"{self.path}: {place}: {first['msg']} (put the last good copy back)") from None

    def change(self, edit: Callable[[Records], Records]) -> None:
        """Replace the keys by what `edit` makes of them; nobody else changes them meanwhile."""
        with self._alone():
            content = _Content(keys=list(edit(self.read())))
            self._replace(content.model_dump_json(indent=1).encode() + b"\n")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeysUnavailable(
                f"{self.path.parent}: {error.strerror} (this user must be able to write it)"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _replace(self, data: bytes) -> None:
        aside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        folder = self.path.parent
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, data)
                os.fsync(fd)
                if os.geteuid() == 0:
                    # Made by root for a server that is not: it belongs to whom the data directory belongs.
                    owner = os.stat(folder)
                    os.fchown(fd, owner.st_uid, owner.st_gid)
            finally:
                os.close(fd)
            os.replace(aside, self.path)
            whole = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(whole)
            finally:
                os.close(whole)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise KeysUnavailable(f"{self.path}: {error.strerror} (nothing was changed)") from None
