"""Every policy revision that was ever in force, by its content, and which one is to be: a directory in the data
directory that people can read.

    revisions/<revision>/manifest.json    where it came from, its files, what it asks of whom (`policies.heard`)
    revisions/<revision>/files/...        its files as they were, with what they name beside them
    pin.json                              the revision that is to be in force, whatever the settings say
    history.jsonl                         what was loaded, refused, pinned, and when
    serving/<pid>.json                    what each process enforces

Precedence: a pinned revision, else the setting `policy`. Everything is written beside its place and renamed into it:
a reader sees the whole or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers.catalog import PATHS
from policies.heard import Description, describe
from policies.ready import PolicySet

from . import whole

MOST_HISTORY = 1000
"""Lines of history that are read back."""
LARGEST_COPY = 1 << 20
"""Bytes of a file that is copied; larger ones are linked to."""


class StoreError(Exception):
    """The directory cannot be used, or holds no such revision. The message is for the operator, with the mend."""


class FetchError(Exception):
    """The newest bundle cannot be had from its server; the message says why."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A revision that is kept. `entry` is what to load; `at` (unix seconds) when it was first in force."""

    revision: str
    digest: str
    source: str
    at: float
    entry: str


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a set as they were loaded: names and contents, and what they refer to by path."""

    sources: tuple[tuple[str, bytes], ...]
    beside: tuple[Path, ...] = ()


class Store:
    """The policies of one data directory. Every method raises StoreError where the disk does not do as told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pin_path = root / "pin.json"

    # ---- revisions

    def keep(self, policies: PolicySet, files: Files) -> bool:
        """Keep what is going to be in force; False where it was kept before. What is kept and lacks a file, or was kept
        by an older Penstock that did not say which files it has, is kept anew."""
        home = self.root / "revisions" / policies.revision
        known, there = self._manifest(policies.revision), home.exists()
        if known is not None and _whole(home, known):
            return False
        with _disk(self.root):
            home.parent.mkdir(parents=True, exist_ok=True)
            aside = home.parent / f".{policies.revision}.{secrets.token_hex(4)}"
            old = aside.with_name(f"{aside.name}.old")
            try:
                entry, copied = _copy(files, aside / "files")
                at = time.time() if known is None else known.get("at", time.time())
                manifest = {**describe(policies), "source": policies.source, "at": at, "entry": entry, "files": copied}
                _write(aside / "manifest.json", json.dumps(manifest, indent=1))
                if there:
                    with contextlib.suppress(FileNotFoundError):  # another process keeps the same
                        home.rename(old)
                settle(aside, home)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
        return True

    def description(self, revision: str) -> Description | None:
        """What a kept revision asked; None for one that is not kept."""
        return self._manifest(revision) if _plain(revision) else None

    def get(self, revision: str) -> Kept:
        """A kept revision, by its name or the beginning of it."""
        names = [name for name in self._names() if name.startswith(revision)] if _plain(revision) else []
        if len(names) != 1:
            problem = "several revisions begin so" if names else "no such revision is kept"
            raise StoreError(f"{revision}: {problem} (`penstock policy history` lists them)")
        found = self._manifest(names[0])
        if found is None:
            raise StoreError(f"{names[0]}: its manifest cannot be read (activate another revision)")
        entry = self.root / "revisions" / names[0] / "files" / found["entry"]
        return Kept(names[0], found["digest"], found["source"], float(found["at"]), str(entry))

    def all(self) -> list[Kept]:
        """Every kept revision, the oldest first."""
        found = []
        for name in self._names():
            with contextlib.suppress(StoreError):
                found.append(self.get(name))
        return sorted(found, key=lambda kept: kept.at)

    def last_good(self, source: str) -> Kept | None:
        """The newest that was in force as it was loaded from `source`, if it is kept."""
        loaded = [line for line in self._events() if line.get("event") == "loaded" and line.get("source") == source]
        for line in reversed(loaded):
            with contextlib.suppress(StoreError):
                return self.get(str(line.get("revision")))
        return None

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.root / "revisions") if _plain(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror}") from None

    def _manifest(self, revision: str) -> dict[str, Any] | None:
        found = _read(self.root / "revisions" / revision / "manifest.json")
        return found if isinstance(found, dict) and "entry" in found else None

    # ---- the pin

    def pinned(self) -> str | None:
        """The revision that is to be in force whatever the settings say."""
        found = _read(self.pin_path)
        if found is None:
            return None
        revision = found.get("revision") if isinstance(found, dict) else None
        if not isinstance(revision, str):
            if not os.access(self.pin_path, os.R_OK):
                mend = f"give this user the right to read {self.root.parent}"
                raise StoreError(f"{self.pin_path} may not be read ({mend})")
            raise StoreError(f"{self.pin_path} cannot be read (remove it with `penstock policy unpin`)")
        return revision

    def pin(self, revision: str) -> None:
        with _disk(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            _write(self.pin_path, json.dumps({"revision": revision, "at": time.time()}))
        self.note("pinned", revision)

    def unpin(self) -> None:
        with _disk(self.root), contextlib.suppress(FileNotFoundError):
            self.pin_path.unlink()
            self.note("unpinned", "")

    # ---- history, and who serves what

    def note(self, event: str, revision: str, source: str = "", problem: str = "") -> None:
        """One line of history: loaded, refused, pinned or unpinned."""
        line = {"at": time.time(), "event": event, "revision": revision}
        line |= {key: value for key, value in (("source", source), ("problem", problem)) if value}
        with _disk(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            # One write of one short line, appended: several processes do not cut each other's.
            fd = os.open(self.root / "history.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(fd).st_size
                torn = size and os.pread(fd, 1, size - 1) != b"\n"  # by a disk that was full
                whole.write(fd, b"\n" * bool(torn) + json.dumps(line).encode() + b"\n")
            finally:
                os.close(fd)

    def history(self) -> list[dict[str, Any]]:
        """The newest lines of history, oldest first."""
        return self._events(MOST_HISTORY)

    def _events(self, most: int = 0) -> list[dict[str, Any]]:
        """All lines of history, or the newest."""
        try:
            raw = (self.root / "history.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.root}: the history cannot be read: {error.strerror}") from None
        found = []
        for line in raw.decode("utf-8", "replace").splitlines()[-most:]:  # a line that is damaged is none
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def serving(self, state: Mapping[str, Any]) -> None:
        """Tell what this process enforces."""
        with _disk(self.root):
            (self.root / "serving").mkdir(parents=True, exist_ok=True)
            _write(self._own(), json.dumps({"pid": os.getpid(), **state}))

    def ended(self, pid: int | None = None) -> None:
        """This process serves no more, or one of its children that could not say so."""
        with contextlib.suppress(OSError):
            self._own(pid).unlink()

    def processes(self) -> list[dict[str, Any]]:
        """What each living process enforces."""
        found = []
        for path in sorted((self.root / "serving").glob("*.json")):
            state = _read(path)
            if isinstance(state, dict) and _alive(state.get("pid")):
                found.append(state)
        return found

    def _own(self, pid: int | None = None) -> Path:
        return self.root / "serving" / f"{pid or os.getpid()}.json"


def settle(aside: Path, home: Path) -> None:
    """Give a finished directory its name, where no other process has put the same there meanwhile. Raises OSError."""
    try:
        aside.rename(home)
    except OSError:  # of a directory that is there it says that it is not empty
        if not home.is_dir():
            raise


def referred(policies: PolicySet) -> tuple[Path, ...]:
    """The files and directories that the options of classifiers name by a relative path."""
    found: list[Path] = []
    for policy in policies.policies:
        file = Path(policies.places.get((policy.id, "file", 0), ""))
        for spec in policy.classifiers.values():
            for name in PATHS.get(spec.kind, ()):
                value = spec.options.get(name)
                if isinstance(value, str) and value.strip() and not Path(value).is_absolute():
                    found.append(file.parent / value)
    return tuple(dict.fromkeys(found))


def _whole(home: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether all that a kept revision is to hold is there."""
    files = manifest.get("files")
    return isinstance(files, list) and all(isinstance(name, str) and (home / "files" / name).exists() for name in files)


def _copy(files: Files, home: Path) -> tuple[str, list[str]]:
    """The files under `home`, as far from each other as they were; answers where the policy is in it, and their names.
    Small files are copied, large ones and directories (models) are linked to: the digest shows when one of them
    changes."""
    paths = [Path(os.path.abspath(name)) for name, _ in files.sources]
    beside = [Path(os.path.abspath(path)) for path in files.beside]
    base = Path(os.path.commonpath([path.parent for path in [*paths, *beside]]))
    for path, (_, raw) in zip(paths, files.sources, strict=True):
        _write(home / path.relative_to(base), raw)
    for path in beside:
        target = home / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size <= LARGEST_COPY:
            _write(target, path.read_bytes())
        elif not target.exists():
            target.symlink_to(path.resolve())
    one = len(files.sources) == 1
    entry = paths[0] if one else paths[0].parent
    return str(entry.relative_to(base)), sorted({str(path.relative_to(base)) for path in [*paths, *beside]})


def _plain(revision: str) -> bool:
    return revision.isalnum() and len(revision) <= 64


def _write(path: Path, content: str | bytes) -> None:
    """A whole file, or none; on the disk before it has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with aside.open("wb") as out:
        out.write(content.encode() if isinstance(content, str) else content)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{root}: {error.strerror} (policies are kept there; make it writable)") from None


def heard_by(stores: Sequence[Store]) -> dict[str, Description]:
    """What every kept revision of some stores asked."""
    return {
        kept.revision: found
        for store in stores
        for kept in store.all()
        if (found := store.description(kept.revision)) is not None
    }
