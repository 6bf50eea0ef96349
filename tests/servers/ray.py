"""A small Ray on this machine that serves what deploy/ray/serve.yaml says, for tests. `server` makes one.

Ray comes from an environment of its own (tests/packages.py) and runs apart from us. Its telemetry is off, and what it
writes lies in a folder of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from ruamel.yaml import YAML

from tests.bench.candidates import free_port
from tests.packages import ROOT, packages

START_SECONDS = 180.0
_HEAD = Path(__file__).with_name("ray_head")


class Ray:
    """Ray and its Serve, started and ended as one. The port stays the same."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log = folder / "log"
        self._packages = packages("ray")
        self._process: subprocess.Popen[bytes] | None = None
        yaml = YAML(typ="safe", pure=True)
        config: dict[str, Any] = yaml.load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
        config["http_options"] |= {"host": "127.0.0.1", "port": self.port}
        [deployment] = config["applications"][0]["deployments"]
        deployment["ray_actor_options"] = {"num_cpus": 0.5}
        with (folder / "serve.yaml").open("w") as file:
            yaml.dump(config, file)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when the encoder is served."""
        assert self._process is None
        path = os.pathsep.join(map(str, (ROOT, ROOT / "deploy" / "ray", self._packages)))
        environment = {
            **os.environ, "PYTHONPATH": path, "HOME": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # half of the time that a start takes
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_HEAD), str(self.folder), str(self.folder / "serve.yaml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        self.wait()

    def wait(self) -> None:
        """Return when the encoder is served."""
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        while not self._ready():
            said = self.log.read_text("utf-8", "replace")[-2000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.1)

    def _ready(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/v2/health/ready", timeout=10, trust_env=False).status_code == 200
        return False

    def kill_replicas(self) -> int:
        """Every replica of the encoder, at once: Serve is to make new ones. How many there were."""
        assert self._process is not None
        found = [pid for pid in _family(self._process.pid) if _title(pid).startswith("ray::ServeReplica")]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return len(found)

    def stop(self) -> None:
        """All of it, at once."""
        process, self._process = self._process, None
        if process is None:
            return
        for pid in (*_family(process.pid), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)


def _family(pid: int) -> list[int]:
    """Everything that descends from a process, the youngest first."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found += [*_family(child), child]
    return found


def _title(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    return ""


@contextlib.contextmanager
def server() -> Iterator[Ray]:
    """One that runs until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: sockets have names of a hundred letters at most
    made = Ray(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
