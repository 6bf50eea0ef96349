"""The key of the audit: the one that the settings hold, which replicas share, else that of the data directory."""

from __future__ import annotations

import os

from .audit import Key
from .config import Settings


def audit_key(settings: Settings, *, create: bool = False) -> Key:
    """Made in the data directory where there is none and `create` says so. Raises AuditUnavailable."""
    if settings.audit_key is not None:
        return Key(bytes.fromhex(settings.audit_key.get_secret_value()))
    return Key.load(settings.key_path, create=create)


def has_key(settings: Settings) -> bool:
    """Whether there is one already."""
    return settings.audit_key is not None or os.path.exists(settings.key_path)
