"""The SQLite file itself: its tables and version, how it is opened, and what an operator reads when it is not."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import closing, suppress

from .entry import COLUMNS, AuditUnavailable
from .seal import Sealer

FilePath = str | os.PathLike[str]

APPLICATION = 0x50534155  # "PSAU" in the file's header: tells our file from anybody else's
VERSION, OLDER = 2, 1
"""Of the schema: this one, and the one that `upgrade` knows."""

INDEX = f"CREATE INDEX records_found ON records (at, {', '.join(COLUMNS)})"
"""One index that holds all that is asked for.

Decision: a search reads it from the newest end, whatever it looks for, and not the rows. Why: it grows at one end,
where an index for each column touches a page of its own with every record; and the rarest value among a million rows is
found in .4 s instead of 1.1. Cost: 5 microseconds a record, where all of it took 11, and a tenth more of disk.
"""
_TABLES = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE writers (
  id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, pid INTEGER NOT NULL, host TEXT NOT NULL,
  started REAL NOT NULL, seen REAL, stopped REAL,
  low INTEGER NOT NULL  -- no intent of this writer before this row is still open
);
CREATE TABLE records (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, writer INTEGER NOT NULL,
  action, rule, policy, model, account, status, stage, request, fired, error, body TEXT NOT NULL, hash BLOB NOT NULL
);
CREATE INDEX records_id ON records (id);
"""
    + INDEX
)

_CODES = {
    sqlite3.SQLITE_FULL: ("full", "the disk is full", "free space on the file system of {path}"),
    sqlite3.SQLITE_READONLY: ("read_only", "{path} is read-only", "make the file and its directory writable"),
    sqlite3.SQLITE_BUSY: (
        "busy", "{path} is locked by another process", "end the program that holds it open for writing",
    ),
    sqlite3.SQLITE_IOERR: (
        "failing", "the disk reports an error for {path}", "check the disk and its free space",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "missing", "cannot open {path}", "check that it is there and that this user may write it",
    ),
    sqlite3.SQLITE_NOTADB: ("version", "{path} is not an audit log", "name another path"),
    sqlite3.SQLITE_CORRUPT: (
        "damaged", "{path} is damaged", "move it and its -head file away, keep them, and restart",
    ),
    sqlite3.SQLITE_PERM: ("forbidden", "{path} may not be opened", "give this user the right to write it"),
}  # fmt: skip
_ERRNO = {
    errno.ENOENT: ("missing", "cannot open {path}: no such directory", "mkdir -p {folder}"),
    errno.ENOTDIR: ("missing", "cannot open {path}: {folder} is not a directory", "name another path"),
    errno.EISDIR: ("missing", "{path} is a directory", "name a file in it"),
    errno.EACCES: ("forbidden", "{path} may not be opened", "give this user the right to write {folder}"),
    errno.EPERM: ("forbidden", "{path} may not be opened", "give this user the right to write {folder}"),
    errno.EROFS: ("read_only", "{path} is on a read-only file system", "mount it writable or name another path"),
    errno.ENOSPC: ("full", "the disk is full", "free space on the file system of {path}"),
    errno.EDQUOT: ("full", "the disk quota is used up", "free space on the file system of {path}"),
    errno.EIO: ("failing", "the disk reports an error for {path}", "check the disk"),
}


_GONE = (
    "missing", "{path} is gone", "put it back, or move its -head file away too and restart, which begins a new one",
)  # fmt: skip


ROOM = 8 << 20
"""Bytes that must be free again on a disk that was full, or a thirty-second of a small one."""


def explain(error: Exception, path: FilePath) -> AuditUnavailable:
    """The error as one line for an operator."""
    if isinstance(error, AuditUnavailable):
        return error
    known = None
    if isinstance(error, sqlite3.Error):
        known = _CODES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    elif isinstance(error, OSError):
        known = _ERRNO.get(error.errno or 0)
        if error.errno == errno.ENOENT and os.path.isdir(os.path.dirname(os.fspath(path)) or "."):
            known = _GONE
    if known is None:
        return AuditUnavailable(f"{path}: {error}", "see `penstock audit verify`")
    folder = os.path.dirname(os.fspath(path))
    state, problem, mend = (text.format(path=path, folder=folder) for text in known)
    return AuditUnavailable(problem, mend, state)


def is_roomy(path: FilePath) -> bool:
    """Whether a disk that was full has room for new work: a small record may fit where the next one does not. Raises
    OSError."""
    found = os.statvfs(os.path.dirname(os.fspath(path)))
    return found.f_bavail >= min(ROOM // found.f_frsize, found.f_blocks // 32)


def connect(path: FilePath, patience: float, mode: str = "rw") -> sqlite3.Connection:
    """A connection to a file that is there. Raises sqlite3.Error."""
    uri = f"file:{_quoted(os.fspath(path))}?mode={mode}"
    db = sqlite3.connect(uri, timeout=patience, isolation_level=None, check_same_thread=False, uri=True)
    try:
        if mode == "rw":
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 0")  # done by `tidy`, when nobody waits
            db.execute("PRAGMA journal_size_limit = 67108864")
            db.execute("PRAGMA cache_size = -256")  # KiB: a writer touches the end of two trees only
        return db
    except sqlite3.Error:
        db.close()
        raise


def _quoted(path: str) -> str:
    """As urllib.parse.quote, whose module is large."""
    plain = b"/-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "".join([chr(byte) if byte in plain else f"%{byte:02X}" for byte in os.fsencode(path)])


def inspect(path: FilePath, seal: Sealer) -> None:
    """Refuse what is not ours before anything is made beside it. A missing or empty file is fine.

    Raises AuditUnavailable, OSError, sqlite3.Error."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if not os.path.exists(path) or not os.path.getsize(path):
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "not writable")
    with closing(connect(path, 5.0)) as db:
        if not _blank(db):
            open_meta(db, path, seal)


def _blank(db: sqlite3.Connection) -> bool:
    """True for a new file, also one whose making was cut short."""
    return db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def open_meta(db: sqlite3.Connection, path: FilePath, seal: Sealer) -> str:
    """The file's uuid, after its kind, version and key were found to be right. Raises AuditUnavailable."""
    check_version(db, path)
    meta = dict(db.execute("SELECT name, value FROM meta"))
    have, want = seal.fingerprint, meta.get("key", "")
    if have != want:
        if not want:
            raise AuditUnavailable(f"{path} was begun without a key", "leave the key out or begin a new log")
        problem = "was written with another key" if have else "was written with a key"
        raise AuditUnavailable(f"{path} {problem}", "name its key file, or begin a new log at another path")
    return str(meta["uuid"])


def check_version(db: sqlite3.Connection, path: FilePath) -> None:
    """Raises AuditUnavailable for a file of another program or of another version of ours."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise AuditUnavailable(f"{path} is not an audit log", "name another path", "version")
    if version > VERSION:
        mend = "upgrade Penstock or name another path"
        raise AuditUnavailable(f"{path} has schema {version}, this Penstock knows {VERSION}", mend, "version")
    if version < OLDER:
        mend = "move it and its -head file away and begin a new log"
        raise AuditUnavailable(f"{path} has schema {version}, which this Penstock no longer reads", mend, "version")
    if version < VERSION:
        mend = f"stop Penstock, and run: penstock audit upgrade --path {os.fspath(path)}"
        raise AuditUnavailable(f"{path} has schema {version}, that of an older Penstock", mend, "version")


def create(path: FilePath, seal: Sealer, patience: float) -> sqlite3.Connection:
    """Open for writing, with the tables made where the file is empty. Under the head lock."""
    db = connect(path, patience)
    try:
        if _blank(db):
            db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.strip().rstrip(";").split(";"):
                db.execute(statement)
            meta = {"uuid": os.urandom(16).hex(), "key": seal.fingerprint, "created": str(time.time())}
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            mend = "use a local file system: network ones lack the shared memory that it needs"
            raise AuditUnavailable(f"{path}: the file system does not allow a write-ahead log", mend)
        return db
    except BaseException:
        db.close()
        raise
