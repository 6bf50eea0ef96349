"""Can the audit be written here, how long does a disk take to be sure, and is what is there whole?"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..audit import AuditUnavailable, Reader
from ..audit.target import shown
from ..audit_key import audit_key, has_key
from ..config import Settings
from .base import Finding, Place, State

NAME = "audit"
SYNCS = 9
SLOW, TOO_SLOW = 0.025, 0.5
"""Seconds that a sync may take: each exchange waits for one."""
LITTLE, TOO_LITTLE = 2 << 30, 64 << 20
"""Bytes that should be free."""
MOST_ROWS = 300_000
"""Rows that are verified in a few seconds."""
MENDS = {
    errno.ENOSPC: "free space on its file system: requests are refused meanwhile",
    errno.EDQUOT: "free space, or raise the quota: requests are refused meanwhile",
    errno.EROFS: "mount it writable, or choose --data-dir",
    errno.EIO: "check the disk, or choose --data-dir",
}
FORGETFUL = frozenset({"tmpfs", "ramfs", "overlay"})
SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "ceph"})


def check_disk(place: Place) -> Iterator[Finding]:
    """The folder of the audit."""
    folder = place.settings.data_dir
    here = folder
    while not os.path.exists(here) and here != here.parent:
        here = here.parent
    try:
        times = _syncs(here)
    except OSError as error:
        mend = f"make it and let this user write there: mkdir -p {folder} && chown USER {folder}; or choose --data-dir"
        mend = MENDS.get(error.errno or 0, mend)
        yield Finding(NAME, State.WRONG, f"{folder} cannot be written: {error.strerror}", mend)
        return
    if here != folder and not os.path.exists(folder):
        yield Finding(NAME, State.WELL, f"{folder} does not exist and will be made")
    yield _speed(here, times)
    yield _room(here)
    yield from _kind(here)


def check_chain(place: Place) -> Iterator[Finding]:
    """What was written before."""
    settings = place.settings
    if settings.audit_database is not None:
        return  # `database` sees to it
    try:
        size = settings.audit_path.stat().st_size
    except FileNotFoundError:
        yield Finding(NAME, State.WELL, f"{settings.audit_path} does not exist and will be made")
        return
    except OSError:
        size = 1  # who reads it says why that cannot be done
    if not size:
        yield Finding(NAME, State.WELL, f"{settings.audit_path} is empty: a start ended before anything was recorded")
        return
    yield from verified(settings)


def verified(settings: Settings) -> Iterator[Finding]:
    """Whether the log that is there is whole."""
    path = shown(settings.audit_where)
    try:
        key = audit_key(settings) if has_key(settings) else None
        with Reader(settings.audit_where, settings.audit_head) as log:
            rows = log.last_seq()
            if rows > MOST_ROWS:
                yield Finding(
                    NAME, State.SKIPPED, f"{path} has {rows:,} rows: verify them with `penstock audit verify`"
                )
                return
            verdict = log.verify(key)
    except AuditUnavailable as error:
        yield Finding(NAME, State.WRONG, error.problem, error.mend or "begin a new one elsewhere")
        return
    if verdict.broken is not None:
        broken = verdict.broken
        detail = f"{path} is broken at row {broken.seq}: {broken.what}"
        yield Finding(NAME, State.WRONG, detail, "find out who wrote to it: `penstock audit verify` says more")
        return
    for note in verdict.notes:
        yield Finding(NAME, State.WARNING, note, "find out who took it away")
    yield Finding(NAME, State.WELL, f"{path} is whole: {verdict.rows:,} rows")


def _syncs(folder: Path) -> list[float]:
    """Seconds of each of some syncs of a file in `folder`, which is gone afterwards."""
    times = []
    file, name = tempfile.mkstemp(prefix=".penstock-doctor-", dir=folder)
    try:
        for _ in range(SYNCS):
            os.write(file, bytes(4096))
            began = time.perf_counter()
            os.fsync(file)
            times.append(time.perf_counter() - began)
    finally:
        os.close(file)
        with contextlib.suppress(OSError):
            os.unlink(name)
    return times


def _speed(folder: Path, times: list[float]) -> Finding:
    median = statistics.median(times)
    detail = f"{folder}: a sync takes {median * 1000:.1f} ms (longest {max(times) * 1000:.1f})"
    mend = "put it on a local solid-state disk: --data-dir; each exchange waits for a sync"
    state = State.WRONG if median > TOO_SLOW else State.WARNING if median > SLOW else State.WELL
    return Finding(NAME, state, detail, mend if state is not State.WELL else "")


def _room(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    state = State.WRONG if free < TOO_LITTLE else State.WARNING if free < LITTLE else State.WELL
    mend = "make room: requests are refused once the audit cannot be written" if state is not State.WELL else ""
    return Finding(NAME, state, f"{folder}: {free / 2**30:.1f} GiB free", mend)


def _kind(folder: Path) -> Iterator[Finding]:
    kind = filesystem(folder, _mounts())
    if kind in FORGETFUL:
        detail = f"{folder} lies on {kind}: what was acknowledged is gone with this machine or container"
        yield Finding(NAME, State.WARNING, detail, "mount a volume there")
    elif kind in SHARED:
        detail = f"{folder} lies on {kind}: the log is one process's own, and a lock there may not hold"
        yield Finding(NAME, State.WARNING, detail, "use a local disk, or one volume for each replica")


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text("utf-8", "replace")
    except OSError:
        return ""


def filesystem(folder: Path, mounts: str) -> str:
    """The kind of the file system on which `folder` lies, by the lines of /proc/self/mounts; empty if unknown."""
    best, kind = "", ""
    path = str(folder.resolve())
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        below = point in {"/", path} or path.startswith(point + "/")
        if below and len(point) >= len(best):
            best, kind = point, found
    return kind
