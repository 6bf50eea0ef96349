"""A policy as one file that can be signed: a plain tar of its files, and a signature (Ed25519) beside it.

Decision: a detached signature over the file's hash, by `cryptography`; no format of our own but the tar. Why: `tar`
shows what is inside, and any web server, bucket or artefact store can hold both. Cost: two files travel together.

Nothing in a tar is believed: members must be small regular files with plain relative names, and the signature is
verified before the tar is opened at all.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .policy_store import LARGEST_COPY, Files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LARGEST = 16 << 20
"""Bytes of a bundle."""
MOST_FILES = 1000
HEAD = "bundle.json"
SIGNATURE = "penstock-signature-1:"
PUBLIC = "penstock-ed25519:"
_CONTEXT = b"penstock policy bundle 1\n"


class BundleError(ValueError):
    """A bundle, signature or key cannot be used; the message says why, and the mend."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a bundle holds. `entry` is the policy's name in `files`, `created` (unix seconds) when it was packed."""

    revision: str
    created: float
    entry: str
    files: dict[str, bytes]


def pack(files: Files, revision: str, created: float) -> bytes:
    """The files as a tar: the same bytes for the same files and time. Raises BundleError."""
    paths = [Path(os.path.abspath(name)) for name, _ in files.sources]
    contents = {path: raw for path, (_, raw) in zip(paths, files.sources, strict=True)}
    for path in (Path(os.path.abspath(path)) for path in files.beside):
        if not path.is_file() or path.stat().st_size > LARGEST_COPY:
            raise BundleError(
                f"{path}: a bundle holds files of {LARGEST_COPY >> 20} MiB at most: "
                "install models on the machines and name them by an absolute path"
            )
        contents[path] = path.read_bytes()
    base = Path(os.path.commonpath([path.parent for path in contents]))
    entry = paths[0] if len(paths) == 1 else paths[0].parent
    head = {"format": 1, "revision": revision, "created": created, "entry": str(entry.relative_to(base))}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _put(tar, HEAD, json.dumps(head).encode())
        for path in sorted(contents):
            _put(tar, f"files/{path.relative_to(base).as_posix()}", contents[path])
    raw = out.getvalue()
    if len(raw) > LARGEST:
        raise BundleError(f"larger than {LARGEST >> 20} MiB")
    return raw


def _put(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(raw), 0o644
    tar.addfile(info, io.BytesIO(raw))


def opened(raw: bytes) -> Opened:
    """What is in a bundle. Raises BundleError. Verify it first."""
    if len(raw) > LARGEST:
        raise BundleError(f"larger than {LARGEST >> 20} MiB")
    try:
        members = dict(_members(raw))
        head = json.loads(members.pop(HEAD))
        revision, created, entry = str(head["revision"]), float(head["created"]), str(head["entry"])
        known = head["format"] == 1
    except (tarfile.TarError, EOFError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError("not a bundle (make one with `penstock policy pack`)") from None
    if not known:
        raise BundleError("a bundle of a newer Penstock: upgrade this one")
    files = {name.removeprefix("files/"): content for name, content in members.items()}
    if entry != ".":
        _checked(entry)
    return Opened(revision, created, entry, files)


def _members(raw: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        for number, member in enumerate(tar):
            if number >= MOST_FILES:
                raise BundleError(f"more than {MOST_FILES} files")
            if not member.isreg():
                raise BundleError(f"{member.name!r} is no regular file")
            name = _checked(member.name)
            if name != HEAD and not name.startswith("files/"):
                raise BundleError(f"{member.name!r} does not belong into a bundle")
            content = tar.extractfile(member)
            assert content is not None  # a regular file has content
            yield name, content.read(LARGEST)


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name:
        raise BundleError(f"{name!r} is no plain relative name")
    return name


def unpack(bundle: Opened, home: Path) -> Path:
    """Writes the files below `home`; answers where the policy is. Raises OSError."""
    for name, content in bundle.files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return home / bundle.entry


# Signatures ----------------------------------------------------------------------------------------------------------


def make_key() -> tuple[bytes, str]:
    """A new key pair: the private one as PEM, the public one as a line of text."""
    ed25519 = _crypto()
    from cryptography.hazmat.primitives import serialization

    private = ed25519.Ed25519PrivateKey.generate()
    pem: bytes = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, PUBLIC + base64.b64encode(private.public_key().public_bytes_raw()).decode()


def sign(raw: bytes, pem: bytes) -> str:
    """The signature of a bundle, as a line of text. Raises BundleError."""
    _crypto()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: Any = load_pem_private_key(pem, None)
        signature: bytes = key.sign(_signed(raw))
    except (ValueError, TypeError, AttributeError):
        raise BundleError("not a private key (`penstock policy keygen` makes one)") from None
    return SIGNATURE + base64.b64encode(signature).decode()


def verify(raw: bytes, signature: str, public: str) -> None:
    """Raises BundleError where the bundle is not what the key's owner signed."""
    key, given = _public(public), _decoded(signature.strip(), SIGNATURE, "signature")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(given, _signed(raw))
    except InvalidSignature:
        raise BundleError("the signature does not fit: the bundle was changed, or signed with another key") from None


def _signed(raw: bytes) -> bytes:
    return _CONTEXT + hashlib.sha256(raw).digest()


def _public(text: str) -> Ed25519PublicKey:
    raw = _decoded(text.strip(), PUBLIC, "public key")
    try:
        key: Ed25519PublicKey = _crypto().Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise BundleError("the public key has the wrong length") from None
    return key


def check_public(text: str) -> None:
    """Raises BundleError for what is no public key."""
    _public(text)


def _decoded(text: str, prefix: str, what: str) -> bytes:
    try:
        if not text.startswith(prefix):
            raise ValueError(text)
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except (ValueError, binascii.Error):
        raise BundleError(f"not a {what}: it begins with {prefix}") from None


def _crypto() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise BundleError("signatures need a library: pip install 'penstock[fleet]'") from None
    return ed25519
