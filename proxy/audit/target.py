"""Where a log lies: the path of a SQLite file, or the URL of a PostgreSQL database. And how either is shown."""

from __future__ import annotations

import importlib.util
from urllib.parse import parse_qsl, urlsplit

from .entry import AuditUnavailable

SCHEMES = ("postgresql://", "postgres://")


def is_database(where: str) -> bool:
    return where.startswith(SCHEMES)


def check_driver() -> None:
    """Raises AuditUnavailable where what speaks to PostgreSQL is not installed."""
    if importlib.util.find_spec("psycopg") is None:
        mend = "pip install 'penstock[postgres]', or leave audit_database out"
        raise AuditUnavailable("the audit in PostgreSQL needs psycopg, which is not installed", mend, "missing")


def shown(where: str) -> str:
    """As an operator may read it: without the password, and without what else a URL may carry."""
    if not is_database(where):
        return where
    try:
        parts = urlsplit(where)
        host, port = parts.hostname or dict(parse_qsl(parts.query)).get("host", ""), parts.port
    except ValueError:
        return "postgresql://?"
    user = f"{parts.username}@" if parts.username else ""
    return f"postgresql://{user}{host}{f':{port}' if port else ''}{parts.path}"


def problem_with(url: str) -> str:
    """What is wrong with a URL of a database, never with its words; empty where nothing is."""
    if not is_database(url):
        return "is no URL of a PostgreSQL database, like postgresql://user:password@host:5432/penstock"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no valid URL: a password with / ? # @ or : in it must be percent-encoded"
    if port == 0 or len(parts.path) < 2:
        return "names no database, like postgresql://user:password@host:5432/penstock"
    return ""
