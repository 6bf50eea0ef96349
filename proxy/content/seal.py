"""The envelope: a master key wraps the keys of subjects, and these seal what is kept.

    wrapped key = AES-256-GCM(wrapping key, key of the subject, bound to the subject)
    row key     = HKDF-SHA256(the keys of all its subjects, the decision's id)
    sealed row  = AES-256-GCM(row key, deflated content, bound to the decision's id)

So a key under another subject's name, and a row under another decision's id, do not open.
"""

from __future__ import annotations

import hmac
import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SIZE = 32
"""Bytes of a key."""
_NONCE = 12
_FORMAT = b"\x01"


class ContentUnavailable(Exception):
    """Kept content cannot be written, read or forgotten. `problem` and `mend` are one line each, for an operator;
    `state` is one word."""

    def __init__(self, problem: str, mend: str = "", state: str = "unwritable") -> None:
        super().__init__(f"content: {problem}" + (f" ({mend})" if mend else ""))
        self.problem, self.mend, self.state = problem, mend, state


class NothingKept(ContentUnavailable):
    """There is no store yet."""


class Broken(Exception):
    """What was to be opened is not what was sealed, or not under this key or name."""


class Master:
    """The master key. `fingerprint` tells it from others and says nothing about it."""

    def __init__(self, secret: bytes) -> None:
        """Raises ValueError for fewer than 32 bytes."""
        if len(secret) < SIZE:
            raise ValueError("a master key needs at least 32 bytes")
        self._wrapping = AESGCM(hmac.digest(secret, b"penstock content keys 1", "sha256"))
        self.fingerprint = hmac.digest(secret, b"penstock content fingerprint 1", "sha256")[:8].hex()

    def fresh(self, subject: str) -> tuple[bytes, bytes]:
        """A new key for `subject`, and the same wrapped."""
        key = os.urandom(SIZE)
        return key, self.wrap(subject, key)

    def wrap(self, subject: str, key: bytes) -> bytes:
        """The key of `subject`, wrapped."""
        return _sealed(self._wrapping, key, _owner(subject))

    def unwrap(self, subject: str, wrapped: bytes) -> bytes:
        """Raises Broken."""
        return _opened(self._wrapping, wrapped, _owner(subject))

    @classmethod
    def read(cls, text: str, where: str) -> Master:
        """From hex digits that stand in `where`. Raises ContentUnavailable."""
        mend = "write 64 hex digits or more, like `openssl rand -hex 32` prints"
        try:
            return cls(bytes.fromhex(text.strip()))
        except ValueError:
            raise ContentUnavailable(f"{where} holds no master key", mend) from None

    @classmethod
    def load(cls, path: Path) -> Master:
        """From a file of hex digits. Raises ContentUnavailable."""
        try:
            mode, text = path.stat().st_mode, path.read_text("ascii")
        except OSError as error:
            mend = f"make one with `openssl rand -hex 32 > {path}`, or put the old one back: only it opens what is kept"
            raise ContentUnavailable(f"the master key's file {path}: {error.strerror}", mend) from None
        except UnicodeDecodeError:
            text, mode = "", 0
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ContentUnavailable(f"the master key's file {path} is open to every user", f"chmod 600 {path}")
        return cls.read(text, f"the file {path}")


def seal(keys: Sequence[bytes], id: str, content: bytes) -> bytes:
    """`content` under the keys of all its subjects, in their order, for the decision `id`."""
    return _FORMAT + _sealed(_row(keys, id), zlib.compress(content, 1), id.encode())


def unseal(keys: Sequence[bytes], id: str, sealed: bytes) -> bytes:
    """Raises Broken."""
    if sealed[:1] != _FORMAT:
        raise Broken
    return zlib.decompress(_opened(_row(keys, id), sealed[1:], id.encode()))


def _row(keys: Sequence[bytes], id: str) -> AESGCM:
    # HKDF (RFC 5869) with one block: extract from all keys, expand for the decision.
    extracted = hmac.digest(b"penstock content row 1", b"".join(keys), "sha256")
    return AESGCM(hmac.digest(extracted, id.encode() + b"\x01", "sha256"))


def _owner(subject: str) -> bytes:
    return b"penstock content subject 1\0" + subject.encode()


def _sealed(key: AESGCM, plain: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + key.encrypt(nonce, plain, bound)


def _opened(key: AESGCM, sealed: bytes, bound: bytes) -> bytes:
    try:
        return key.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
    except (InvalidTag, ValueError):
        raise Broken from None
