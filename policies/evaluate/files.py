"""A run's folder: manifest.json (what was run), scores.jsonl.gz (one line a row), results.json, report.html.

It is there whole or not at all: everything is written beside it first.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .dataset import Dataset
from .subject import Outcome

MANIFEST, SCORES, RESULTS, REPORT = "manifest.json", "scores.jsonl.gz", "results.json", "report.html"
NAMES = frozenset({MANIFEST, SCORES, RESULTS, REPORT})
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
    """Raises RunError where a run may not be written to `folder`: before the hours of judging, not after."""
    try:
        inside = {item.name for item in folder.iterdir()} if folder.is_dir() else set()
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; name a folder with --out")
        if inside - NAMES:
            raise RunError(f"{folder} holds other files; name a new folder with --out")
        if inside and not force:
            raise RunError(f"{folder} holds a run already; name a new folder with --out, or say --force")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(folder.parent, os.W_OK):
            raise RunError(f"{folder.parent} cannot be written to")
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror}") from None


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end, or vanishes."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        yield beside
        if folder.is_dir():
            for name in NAMES:
                (folder / name).unlink(missing_ok=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write(
    folder: Path, told: Mapping[str, Any], outcomes: Sequence[Outcome], results: Mapping[str, Any], page: str
) -> None:
    """Writes a run. Raises RunError."""
    try:
        with written_whole(folder) as beside:
            (beside / MANIFEST).write_text(_json(told) + "\n", "utf-8")
            (beside / RESULTS).write_text(_json(results) + "\n", "utf-8")
            (beside / REPORT).write_text(page, "utf-8")
            with (beside / SCORES).open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                for outcome in outcomes:
                    packed.write(_line(outcome).encode("ascii"))
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None


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
