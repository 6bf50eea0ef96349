"""Packages that one test needs and the development environment must not hold: other people's servers, PyTorch.

They are installed once from `requirements/test-NAME.lock` into a folder under `build/`, to be put on the path of a
process of their own or behind our own packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = 400
_UNREACHABLE = ("No matching distribution", "Could not find a version", "Connection", "timed out", "name resolution")


def packages(name: str) -> Path:
    """The folder with the packages of that lock. Skips the test where the package index is out of reach, or has no
    such packages for this platform, and says so."""
    lock = ROOT / "requirements" / f"test-{name}.lock"
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / "packages" / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.wait").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)  # other test processes want the same
        if not folder.exists():
            _install(lock, folder)
    return folder


def _install(lock: Path, folder: Path) -> None:
    half = folder.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--retries=1",
    ]
    what = [
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-compile",
        "--target",
        str(half),
        "-r",
        str(lock),
    ]
    try:
        done = subprocess.run([*pip, *what], capture_output=True, text=True, timeout=SECONDS, check=False)
        said, code = done.stderr, done.returncode
    except subprocess.TimeoutExpired:
        said, code = "timed out", 1
    if code:
        shutil.rmtree(half, ignore_errors=True)
        if any(sign in said for sign in _UNREACHABLE):
            pytest.skip(f"the packages of {lock.name} are out of reach: {said.strip().splitlines()[-1][:200]}")
        pytest.fail(f"pip could not install {lock.name}: {said[-2000:]}")
    half.rename(folder)
