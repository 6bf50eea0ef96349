"""The operator's secret: what seals the chain, and what stands in the log for an account or a content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from .. import whole
from .entry import AuditUnavailable
from .seal import Sealer


class Key:
    """A secret of at least 32 bytes, split by use so that a hash of one kind says nothing about another."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("a key needs at least 32 bytes")
        self._values = hmac.digest(secret, b"penstock keyed values 1", "sha256")
        self._callers = hmac.digest(secret, b"penstock caller keys 1", "sha256")
        self.shared = hmac.digest(secret, b"penstock shared state 1", "sha256")
        """For what replicas share: those with this secret, and nobody else."""
        self.seal = Sealer(hmac.digest(secret, b"penstock audit chain 1", "sha256"), hashlib.sha256)

    def keyed_hash(self, value: str | bytes) -> str:
        """32 hex digits that stand for a value (an account, a content) and that only the key's holder can recompute."""
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return hmac.digest(self._values, data, "sha256")[:16].hex()

    def caller_hash(self, key: bytes) -> str:
        """64 hex digits, which are all that is kept of a caller's key."""
        return hmac.digest(self._callers, key, "sha256").hex()

    @classmethod
    def load(cls, path: str | Path, *, create: bool = True) -> Key:
        """The key in a file of hex digits, made with mode 0600 where there is none and `create` says so.

        Raises AuditUnavailable."""
        path = Path(path)
        if create:
            _make_key(path)
        try:
            mode, text = path.stat().st_mode, path.read_text("ascii").strip()
            secret = bytes.fromhex(text)
        except OSError as error:
            raise AuditUnavailable(f"key file {path}: {error.strerror}", "name a readable key file") from None
        except ValueError:
            raise AuditUnavailable(f"key file {path} does not hold hex digits", "put the old key back") from None
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise AuditUnavailable(f"key file {path} is open to every user", f"chmod 600 {path}")
        if len(secret) < 32:
            raise AuditUnavailable(f"key file {path} holds fewer than 64 hex digits", "put the old key back")
        return cls(secret)


MENDS = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EROFS: "mount it writable, or name another directory",
}
"""What helps where no file can be made."""


def _make_key(path: Path) -> None:
    # Written aside and linked into place: a second process sees the whole key or none.
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    if os.path.exists(path):
        return
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            whole.write(fd, secrets.token_hex(32).encode() + b"\n")
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        finally:
            os.close(fd)
            os.unlink(aside)
    except OSError as error:
        mend = MENDS.get(error.errno or 0, f"create the directory {path.parent} or name another key file")
        raise AuditUnavailable(f"cannot make the key file {path}: {error.strerror}", mend) from None


def sealer(key: Key | None) -> Sealer:
    """What seals a chain, with a key or without."""
    return key.seal if key else Sealer(None, hashlib.sha256)
