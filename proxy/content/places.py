"""From the settings to an open vault: which stores, which master key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from ..config import Settings
from .choice import Choice, seconds
from .keeping import Keeping
from .seal import ContentUnavailable, Master
from .sqlite import SqliteContents, SqliteKeys
from .store import Contents, Keys
from .vault import Vault


def keeping(settings: Settings, told: Callable[[ContentUnavailable | None], object]) -> Keeping:
    """What keeps content as the settings say, started; `told` hears how it is. Raises ContentUnavailable."""
    choice = Choice.read(settings.keep_content)
    assert choice is not None  # the caller looked
    last = _last(settings.content_path)
    vault = opened(settings, master_of(settings), create=True)
    made = Keeping(vault, choice, seconds(settings.content_keep), told, last)
    made.start()
    return made


def _last(path: Path) -> float:
    """When something was written there last (unix seconds); 0 where nothing is."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def master_of(settings: Settings) -> Master:
    """The master key. Raises ContentUnavailable."""
    if settings.content_key is not None:
        return Master.read(settings.content_key.get_secret_value(), "content_key")
    if settings.content_key_file is not None:
        return Master.load(settings.content_key_file)
    mend = "set content_key_file to a file with 64 hex digits (`openssl rand -hex 32`), or leave keep_content out"
    raise ContentUnavailable("no master key is set", mend)


def opened(settings: Settings, master: Master | None, *, create: bool = False) -> Vault:
    """The vault beside the audit; without `create` only where there is one. Raises ContentUnavailable."""
    with contextlib.ExitStack() as stack:
        keys, contents = _databases(settings, create) if settings.audit_database else _files(settings, create)
        stack.callback(keys.close)
        stack.callback(contents.close)
        vault = Vault(keys, contents, master)
        stack.pop_all()
        return vault


def _files(settings: Settings, create: bool) -> tuple[Keys, Contents]:
    keys = SqliteKeys.open(settings.content_keys_path, create=create)
    try:
        return keys, SqliteContents.open(settings.content_path, create=create)
    except BaseException:
        keys.close()
        raise


def _databases(settings: Settings, create: bool) -> tuple[Keys, Contents]:
    try:
        from .postgres import PostgresContents, PostgresKeys
    except ImportError:
        mend = "pip install 'penstock[postgres]'"
        raise ContentUnavailable("kept content in PostgreSQL needs psycopg, which is not installed", mend) from None
    rows = settings.audit_where
    own = settings.content_keys_database
    keys = PostgresKeys.open(own.get_secret_value() if own is not None else rows, create=create)
    try:
        return keys, PostgresContents.open(rows, create=create)
    except BaseException:
        keys.close()
        raise
