"""What stands between the load and the simulator: nothing, nginx, Penstock in three variants, or any other command."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.bench.scenarios import CHUNKS

HERE = Path(__file__).parent
POLICIES = HERE / "policies"
VARIANTS: dict[str, str] = {
    "off": str(POLICIES / "off"),
    "patterns": str(POLICIES / "patterns"),
    "everything": "baseline",
}
"""Variant of Penstock -> what `--policy` is given."""

CANARY = "heron-lantern-4471"
"""A word that the patterns policy blocks: the proof that its guard was on while it was measured."""

START_SECONDS = 60.0


class BenchError(Exception):
    """The bench cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing to measure. `pid` is the root of its processes, 0 for none."""

    name: str
    port: int
    pid: int = 0


def tool(name: str, package: str = "") -> str:
    """The path of a program of Debian's, out of the package of its name or `package`, installed if it is missing and we
    may."""
    package = package or name
    if path := _found(name):
        return path
    mend = f"install it by hand: sudo apt-get install --no-install-recommends {package}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BenchError(f"{name} is not installed; {mend}")
    print(f"installing Debian's {package} ...", file=sys.stderr, flush=True)
    wait = ["-o", "DPkg::Lock::Timeout=300"]  # other test processes may want something too
    for command in (
        ["apt-get", *wait, "update"],
        ["apt-get", *wait, "install", "-y", "--no-install-recommends", package],
    ):
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BenchError(f"{shlex.join(command)} failed ({last}); {mend}")
    found = _found(name)
    if not found:
        raise BenchError(f"{package} was installed but {name} is not to be found; {mend}")
    return found


def _found(name: str) -> str | None:
    # Debian keeps PostgreSQL's programs in a folder of their version.
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return shutil.which(
        name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *folders])
    )


def free_port() -> int:
    """A port that nobody listens on now, and that the system gives to nobody who asks for any: other tests do, and
    would have it before its server has started."""
    while True:
        port = 10_000 + secrets.randbelow(12_000)  # a node of a Redis Cluster takes the one 10,000 above it, too
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Ground:
    """Starts processes, keeps what they say in `folder`, and ends them. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *_: object) -> None:
        for process, _log in self._running:
            process.terminate()
        for process, log in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):  # what it left behind, or itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.close()

    def start(self, name: str, port: int, command: Sequence[str], environment: dict[str, str]) -> Candidate:
        """Start `command` in a folder and a process group of its own; it is to listen on `port` some time."""
        folder = self.folder / name
        folder.mkdir()
        log = (folder / "output").open("wb")
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
        except OSError as error:
            log.close()
            raise BenchError(f"{name} cannot be started: {error}") from error
        self._running.append((process, log))
        return Candidate(name, port, process.pid)

    def wait(self, candidate: Candidate) -> None:
        """Wait until it listens."""
        process = next(process for process, _ in self._running if process.pid == candidate.pid)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", candidate.port), timeout=1):
                return
            time.sleep(0.05)
        said = (self.folder / candidate.name / "output").read_text("utf-8", "replace").strip().splitlines()
        how = "ended" if process.poll() is not None else f"does not listen after {START_SECONDS:.0f} s"
        raise BenchError(f"{candidate.name} {how}. It said:\n  " + "\n  ".join(said[-8:] or ["nothing"]))


def start_all(ground: Ground, names: Sequence[str], others: dict[str, str]) -> list[Candidate]:
    """Start the simulator and the candidates named; `others` maps further names to commands with {port} and
    {upstream} in them. The first of the list is always `direct`, the simulator itself."""
    # This tree is measured, whatever penstock is installed elsewhere.
    root = {"PYTHONPATH": str(HERE.parent.parent)}
    direct = free_port()
    simulator = [sys.executable, "-m", "tests.upstream", "--port", str(direct)]
    started = [ground.start("simulator", direct, simulator, root)]
    ground.wait(started[0])
    upstream = f"http://127.0.0.1:{direct}"
    for name in names:
        port = free_port()
        if name == "nginx":
            started.append(_start_nginx(ground, port, direct))
        elif name in VARIANTS:
            addresses = ["--host", "127.0.0.1", "--port", str(port), "--admin-port", str(free_port())]
            command = [
                sys.executable,
                "-m",
                "proxy",
                "serve",
                "--upstream",
                f"{upstream}/v1",
                "--policy",
                VARIANTS[name],
                *addresses,
            ]
            started.append(
                ground.start(name, port, command, root | {"PENSTOCK_DATA_DIR": str(ground.folder / name / "data")})
            )
        else:
            command = [part.format(port=port, upstream=upstream) for part in shlex.split(others[name])]
            started.append(ground.start(name, port, command, {}))
    for candidate in started:
        ground.wait(candidate)
    return [Candidate("direct", direct), *started[1:]]


def _start_nginx(ground: Ground, port: int, upstream: int) -> Candidate:
    folder = ground.folder / "nginx"
    configuration = ground.folder / "nginx.conf"
    text = (HERE / "nginx.conf").read_text().format(folder=folder, port=port, upstream=upstream)
    # Started by root, workers would run as another user, who cannot use our folder.
    configuration.write_text("user root;\n" + text if os.geteuid() == 0 else text)
    return ground.start("nginx", port, [tool("nginx"), "-p", str(folder), "-c", str(configuration)], {})


def ask(candidate: Candidate, text: str, *, stream: bool = False) -> tuple[int, bytes]:
    """One chat completion: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", candidate.port, timeout=30)
    body = {"model": f"sim?chunks={CHUNKS}", "stream": stream, "messages": [{"role": "user", "content": text}]}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-bench"}
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def prove(candidate: Candidate) -> None:
    """Honest traffic passes whole, streamed or not; the patterns policy blocks its canary, in a prompt."""
    try:
        status, body = ask(candidate, "Tell me a story of the harbour town.")
        streamed_status, events = ask(candidate, "Tell me another.", stream=True)
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{candidate.name} does not answer: {error!r}") from error
    if status != 200 or b"Story number" not in body:
        raise BenchError(f"{candidate.name} does not pass an honest request: {status} {body[:300]!r}")
    if streamed_status != 200 or events.count(b"data: ") < CHUNKS or b"[DONE]" not in events:
        raise BenchError(f"{candidate.name} does not pass an honest stream: {streamed_status} {events[-300:]!r}")
    if candidate.name == "patterns":
        status, body = ask(candidate, f"Tell me of the {CANARY}.")
        if status != 400:
            raise BenchError(f"the patterns policy does not block its canary: {status} {body[:300]!r}")


@contextlib.contextmanager
def ready(folder: Path, names: Sequence[str], others: dict[str, str]) -> Iterator[list[Candidate]]:
    """All candidates, started and proved."""
    with Ground(folder) as ground:
        started = start_all(ground, names, others)
        for candidate in started:
            prove(candidate)
        yield started
