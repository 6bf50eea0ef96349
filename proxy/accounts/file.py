"""Where keys are kept: a JSON file that is replaced whole, under a lock beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from .. import whole
from ..audit import AuditUnavailable, Key
from . import revoked
from .record import KeyRecord

Records = Sequence[KeyRecord]
Seen = tuple[int, int, int] | None


class Stamp(NamedTuple):
    """What changes whenever a file does; None where there is none."""

    keys: Seen
    revoked: Seen


class KeysUnavailable(Exception):
    """The files of keys cannot be read or written. The message is one line for an operator, with the mend. `ended` are
    the ids of which they still say that they are revoked."""

    def __init__(self, message: str, ended: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.ended = frozenset(ended)


def hashing(path: Path, keys: KeyFile | None = None) -> Callable[[bytes], str]:
    """The hash that `keys` are kept by, whose secret stands in the file at `path`, made where it is missing and there
    is no key yet: another one would know none of them. Raises KeysUnavailable."""
    if keys is not None and not os.path.exists(path) and keys.read():
        raise KeysUnavailable(f"{path} is missing, and no key of {keys.path} can be known without it (put it back)")
    try:
        return Key.load(path).caller_hash
    except AuditUnavailable as error:
        raise KeysUnavailable(f"{error.problem} ({error.mend})") from None


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[KeyRecord] = []


class KeyFile:
    """The file at `path`, and that of what was revoked beside it. A missing one holds nothing. Methods raise
    KeysUnavailable."""

    def __init__(self, path: Path) -> None:
        self.path, self.revoked_path = path, path.with_suffix(".revoked")

    def stamp(self) -> Stamp:
        """See Stamp."""
        return Stamp(_seen(self.path), _seen(self.revoked_path))

    def read(self) -> list[KeyRecord]:
        """Every key, revoked ones too, in the order in which they were made."""
        try:
            ended = revoked.read(self.revoked_path)
        except OSError as error:
            mend = "(this user must be able to read it)"
            raise KeysUnavailable(f"{self.revoked_path}: {error.strerror} {mend}") from None
        return [
            each.model_copy(update={"revoked": ended[each.id]}) if each.revoked is None and each.id in ended else each
            for each in self._read(ended)
        ]

    def _read(self, ended: Iterable[str]) -> list[KeyRecord]:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            mend = "(this user must be able to read it)"
            raise KeysUnavailable(f"{self.path}: {error.strerror} {mend}", ended) from None
        try:
            return _Content.model_validate_json(text).keys
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(step) for step in first["loc"]) or "the file"
            problem = f"{self.path}: {place}: {first['msg']} (put the last good copy back)"
            raise KeysUnavailable(problem, [*ended, *_ended_in(text)]) from None

    def revoke(self, id: str, at: float) -> None:
        """End a key, also where the file of keys cannot be read."""
        try:
            revoked.add(self.revoked_path, id, at)
        except OSError as error:
            mend = "(this user must be able to write it)"
            raise KeysUnavailable(f"{self.revoked_path}: {error.strerror} {mend}") from None

    def change(self, edit: Callable[[Records], Records]) -> None:
        """Replace the keys by what `edit` makes of them; nobody else changes them meanwhile."""
        with self._alone():
            content = _Content(keys=list(edit(self.read())))
            self._replace(content.model_dump_json(indent=1).encode() + b"\n")

    def hold(self, keys: Records) -> None:
        """Hold exactly these, whatever was there."""
        data = _Content(keys=list(keys)).model_dump_json(indent=1).encode() + b"\n"
        with contextlib.suppress(OSError):
            if self.path.read_bytes() == data:
                return
        self._replace(data)

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
                whole.write(fd, data)
                os.fsync(fd)
                if os.geteuid() == 0:
                    # Made by root for a server that is not: it belongs to whom the data directory belongs.
                    owner = os.stat(folder)
                    os.fchown(fd, owner.st_uid, owner.st_gid)
            finally:
                os.close(fd)
            os.replace(aside, self.path)
            named = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(named)
            finally:
                os.close(named)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise KeysUnavailable(f"{self.path}: {error.strerror} (nothing was changed)") from None


def _seen(path: Path) -> Seen:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysUnavailable(f"{path}: {error.strerror}") from None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _ended_in(text: bytes) -> Iterator[str]:
    """What a file that is JSON, and none of ours, still says of revoked keys."""
    with contextlib.suppress(orjson.JSONDecodeError):
        tree = orjson.loads(text)
        keys = tree.get("keys") if isinstance(tree, dict) else None
        for each in keys if isinstance(keys, list) else ():
            if isinstance(each, dict) and each.get("revoked") is not None and isinstance(each.get("id"), str):
                yield each["id"]
