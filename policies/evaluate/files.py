"""A run's folder: manifest.json (what was run), scores.jsonl.gz (one line a row), results.json, report.html.

It is there whole or not at all: everything is written beside it first, and an older run leaves when the new one is
there.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .dataset import Dataset
from .subject import Outcome

MANIFEST, SCORES, RESULTS, REPORT = "manifest.json", "scores.jsonl.gz", "results.json", "report.html"
NAMES = (MANIFEST, SCORES, RESULTS, REPORT)
BESIDE = ".penstock-eval-"
"""How the folders begin in which runs are written. A killed process leaves one."""
SCHEMA = 1


class RunError(ValueError):
    """A run's folder cannot be written, or is none."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read back. `rows` are those of scores.jsonl.gz."""

    path: Path
    manifest: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]


def manifest(dataset: Dataset, subject: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is known before a run: code, subject, data, settings and machine."""
    code = {"version": _version(), **_commit()}
    return {
        "schema": SCHEMA,
        "penstock": code,
        "subject": dict(subject),
        "data": {
            "files": [{"name": file.name, "rows": file.rows, "sha256": file.digest} for file in dataset.files],
            "left_out": dict(dataset.left_out),
            "repeated": dataset.repeated,
            "contradictory": dataset.contradictory,
        },
        "settings": dict(settings),
        "machine": _machine(),
    }


def counted(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Sources and labels of what was judged, for the manifest's `data`."""
    sources: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = sources.setdefault(outcome.source, {"bad": 0, "honest": 0})
        row["bad" if outcome.bad else "honest"] += 1
    labels = {
        side: sorted({outcome.label for outcome in outcomes if outcome.bad is bad})
        for side, bad in (("bad", True), ("honest", False))
    }
    return {"sources": dict(sorted(sources.items())), "labels": labels}


def _version() -> str:
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "unknown"


def _commit() -> dict[str, Any]:
    """The commit of a checkout and whether its files were changed since; None where it is no checkout."""
    unknown = {"commit": None, "changed": None}
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return unknown
    told = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "classifiers", "policies", "proxy"]):
        line = [git, "-C", str(root), *command]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - ours
        except (OSError, subprocess.SubprocessError):
            return unknown
        told.append(done.stdout.strip())
    return {"commit": told[0], "changed": bool(told[1])}


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    except OSError:
        pass
    libraries = {}
    for name in ("numpy", "onnxruntime", "tokenizers", "google-re2"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = "none"
    return {
        "cpu": cpu,
        "cores": cores(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": libraries,
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_free(folder: Path, force: bool) -> None:
    """Raises RunError where a run may not or cannot be written to `folder`: before the hours of judging, not after."""
    real = _real(folder)
    try:
        inside = {item.name for item in real.iterdir()} if real.is_dir() else set()
        if real.exists() and not real.is_dir():
            raise RunError(f"{folder} is a file; name a folder with --out")
        if others := sorted(name for name in inside - set(NAMES) if not name.startswith(BESIDE)):
            raise RunError(f"{folder} holds other files ({others[0]}); name a new folder with --out")
        if inside & set(NAMES) and not force:
            raise RunError(f"{folder} holds a run already; name a new folder with --out, or say --force")
        _try(real)
    except OSError as error:
        raise RunError(f"{folder} cannot be written to: {error.strerror}; name another folder with --out") from None


def _real(folder: Path) -> Path:
    """Where the folder is: behind links, and by its own name where it was called `.`"""
    return Path(os.path.realpath(folder))


def _beside(folder: Path) -> Path:
    """A new folder on the same disk. In the folder, where there is one already: it may be a mount point, which nothing
    can take the place of, and what it lies in may belong to others."""
    parent = folder if folder.is_dir() else folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    beside = parent / f"{BESIDE}{os.getpid()}-{secrets.token_hex(4)}"
    beside.mkdir()
    return beside


def _try(folder: Path) -> None:
    """Makes what a run is written with, and takes it away again. Raises OSError."""
    beside = _beside(folder)
    try:
        (beside / REPORT).write_bytes(b"\n")
        if not folder.exists():  # a name may be too long, or none that this disk can hold
            folder.mkdir()
            folder.rmdir()
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _place(beside: Path, folder: Path) -> None:
    """Puts what is in `beside` into `folder`, whose old run goes last. Raises OSError, and nothing has changed then."""
    if not folder.exists():
        os.replace(beside, folder)
        return
    old = beside / "old"
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        # The manifest leaves first and comes last: a folder without one is no run, whenever the power goes.
        for here, there, names in ((folder, old, NAMES), (beside, folder, NAMES[::-1])):
            for name in names:
                if (here / name).exists():
                    os.replace(here / name, there / name)
                    moved.append((here / name, there / name))
    except BaseException:
        for before, after in reversed(moved):
            os.replace(after, before)
        old.rmdir()
        raise
    shutil.rmtree(beside, ignore_errors=True)


def write(
    folder: Path, told: Mapping[str, Any], outcomes: Sequence[Outcome], results: Mapping[str, Any], page: str
) -> None:
    """Writes a run. Raises RunError; what was in the folder is there as before then."""
    real = _real(folder)
    try:
        beside = _beside(real)
        try:
            (beside / RESULTS).write_text(_json(results) + "\n", "utf-8")
            (beside / REPORT).write_text(page, "utf-8")
            with (beside / SCORES).open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                for outcome in outcomes:
                    packed.write(_line(outcome).encode("ascii"))
            (beside / MANIFEST).write_text(_json(told) + "\n", "utf-8")
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        _place(beside, real)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; the run is whole in {beside}") from None
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False)


def _line(outcome: Outcome) -> str:
    row = asdict(outcome)
    if row["text"] is None:
        del row["text"]
    # JSON has no infinity: what found nothing at all has no score.
    row["scores"] = {name: (value if abs(value) < float("inf") else None) for name, value in outcome.scores.items()}
    row["seconds"] = round(outcome.seconds, 7)
    return json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"


def read(folder: Path) -> Run:
    """Reads a run back. Raises RunError."""
    try:
        told = json.loads((folder / MANIFEST).read_text("utf-8"))
        if told["schema"] != SCHEMA:
            raise RunError(f"{folder} was written by another version of Penstock (schema {told['schema']})")
        with gzip.open(folder / SCORES, "rt", encoding="ascii") as lines:
            rows = tuple(json.loads(line) for line in lines)
        expected = sum(sum(sides.values()) for sides in told["data"]["sources"].values())
    except OSError as error:
        raise RunError(f"{folder} is no run of penstock eval: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{folder} is no run of penstock eval, or is damaged: {type(error).__name__}") from None
    if len(rows) != expected:
        raise RunError(f"{folder}: {SCORES} holds {len(rows):,} rows and {MANIFEST} names {expected:,}; evaluate again")
    return Run(folder, told, rows)
