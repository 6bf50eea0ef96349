"""Packages that one test needs and the development environment must not hold: other people's servers, PyTorch, clients.

They are installed once into a folder under `build/`: from `requirements/test-NAME.lock`, to be put on the path of a
process of their own or behind our own packages, or from a folder with `package.json` and `package-lock.json`.

`python -m tests.packages` installs them all: `make test` has it run beside ruff, mypy and the first tests. Who needs
one meanwhile waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = 400
LATER = frozenset({"agents", "coding"})
"""What only `make clients` needs."""
_UNREACHABLE = (
    "No matching distribution", "Could not find a version", "Connection", "timed out", "name resolution",
    "ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN",
)  # fmt: skip
_PIP = (sys.executable, "-m", "pip")
_UV = Path(sys.prefix, "bin", "uv")
_QUIETLY = ("--quiet", "--disable-pip-version-check", "--no-input", "--retries=1")


def packages(name: str) -> Path:
    """The folder with the packages of that lock. Skips the test where the package index is out of reach, or has no
    such packages for this platform, and says so."""
    lock = _lock(name)

    def install(half: Path) -> None:
        what = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--target", str(half), "-r", str(lock)]
        # uv takes a fifth of the time. Where it cannot, pip says why, or knows an index that uv was not told of.
        if not _UV.exists() or _exit([_UV, "pip", "install", "--quiet", "--python", sys.executable, *what]):
            shutil.rmtree(half, ignore_errors=True)
            _run([*_PIP, "install", *_QUIETLY, "--no-compile", *what], lock.name)

    return _once(name, lock.read_bytes(), install)


def sources(name: str, distribution: str) -> Path:
    """The folder with the unpacked source distribution that a lock names. Skips as `packages` does."""
    entry = re.search(rf"^{re.escape(distribution)}==(?:.*\\\n)+.*\n", _lock(name).read_text(), re.MULTILINE)
    assert entry is not None, f"{_lock(name).name} holds no {distribution}"

    def fetch(half: Path) -> None:
        half.mkdir()
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder) / "wanted.txt"
            wanted.write_text(entry[0])
            what = ["--no-deps", "--require-hashes", f"--no-binary={distribution}", "--dest", folder]
            _run([*_PIP, "download", *_QUIETLY, *what, "-r", str(wanted)], f"the source of {distribution}")
            (archive,) = Path(folder).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                if hasattr(tarfile, "data_filter"):  # Debian's 3.11.2 has none
                    tar.extraction_filter = tarfile.data_filter
                tar.extractall(half)

    (unpacked,) = _once(f"{name}-{distribution}-source", entry[0].encode(), fetch).iterdir()
    return unpacked


def node_packages(folder: Path) -> Path:
    """A folder like `folder`, with its `node_modules`. Skips the test where node or npm is missing, or the package
    index out of reach."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    files = [folder / "package.json", folder / "package-lock.json"]

    def install(half: Path) -> None:
        half.mkdir()
        for file in files:
            shutil.copy(file, half)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _run([*command, "--prefix", str(half.resolve())], f"{folder.name}/package-lock.json")  # npm knows no links

    return _once(f"node-{folder.name}", b"".join(file.read_bytes() for file in files), install)


def _lock(name: str) -> Path:
    """That of tests alone, or one from which an image is made as well."""
    own = ROOT / "requirements" / f"test-{name}.lock"
    return own if own.exists() else own.with_name(f"{name}.lock")


def _once(name: str, what: bytes, fill: Callable[[Path], None]) -> Path:
    """The folder that `fill` fills, once for each `what`."""
    key = hashlib.sha256(what + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / "packages" / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.wait").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)  # other test processes want the same
        if not folder.exists():
            half = folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            try:
                fill(half)
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)
    return folder


def _exit(command: Sequence[str | Path]) -> int:
    try:
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        return 1


def _run(command: Sequence[str], what: str) -> None:
    """Run an installer. Skips the test where its index is out of reach; fails it on any other fault."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        said, code = done.stderr, done.returncode
    except subprocess.TimeoutExpired:
        said, code = "timed out", 1
    if code:
        if any(sign in said for sign in _UNREACHABLE):
            pytest.skip(f"the packages of {what} are out of reach: {said.strip().splitlines()[-1][:200]}")
        pytest.fail(f"could not install {what}: {said[-2000:]}")


def main() -> None:
    """Install all that `make test` needs. What cannot be installed is told by the test that needs it."""
    names = [lock.stem.removeprefix("test-") for lock in sorted((ROOT / "requirements").glob("test-*.lock"))]
    for name in [*(name for name in names if name not in LATER), "ray"]:
        with contextlib.suppress(pytest.skip.Exception, pytest.fail.Exception):
            packages(name)
    for found in sorted((ROOT / "tests").glob("*/**/package-lock.json")):
        if found.parent.name in LATER:
            continue
        with contextlib.suppress(pytest.skip.Exception, pytest.fail.Exception):
            node_packages(found.parent)


if __name__ == "__main__":
    main()
