"""Penstock keys for tests, made as `penstock keys create` makes them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from proxy.accounts.file import KeyFile, hashing
from proxy.accounts.record import KeyRecord, new_id
from proxy.accounts.secret import mint


def give(data: Path, name: str = "ci", **more: Any) -> str:
    """A new key in the data directory `data`; `more` are fields of its record."""
    data.mkdir(exist_ok=True)
    secret = mint()
    digest = hashing(data / "keys.key")(secret.encode())
    values = {"id": new_id(), "digest": digest, "name": name, "account": name, "created": time.time(), **more}
    KeyFile(data / "keys.json").change(lambda known: [*known, KeyRecord(**values)])
    return secret


def change(data: Path, name: str, **more: Any) -> None:
    """Give every key called `name` other values."""
    file = KeyFile(data / "keys.json")
    file.change(lambda known: [r.model_copy(update=more) if r.name == name else r for r in known])
