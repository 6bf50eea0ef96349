"""`penstock serve` as processes of its own, one or several, in front of a simulated upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.bench.candidates import free_port
from tests.proxy.conftest import DEFAULTS, RULES

QUICK = {
    "proxy.workers.supervisor.RESTART": (0.01, 0.05),
    "proxy.workers.crew.LOOK": 0.1,
    "proxy.keeper.LOOK": 0.05,
}
"""What is waited for in tests."""
_MAIN = """
import importlib, json, sys
from classifiers import catalog
catalog.KINDS["canary"] = "tests.proxy.kinds:Canary"
for name, value in json.loads(sys.argv.pop(1)).items():
    module, _, name = name.rpartition(".")
    setattr(importlib.import_module(module), name, value)
from proxy.__main__ import main
main()
"""


@dataclass
class Served:
    """A running Penstock: its process, its lines so far, and where it is."""

    process: asyncio.subprocess.Process
    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    admin: str = ""

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def said(self, event: str) -> list[dict[str, Any]]:
        """Its lines about one event."""
        return [line for line in self.lines if line["event"] == event]

    def deafen(self) -> None:
        """Close our end of its standard error."""
        pipe = self.process._transport.get_pipe_transport(2)  # type: ignore[attr-defined]
        pipe.close()

    def children(self, pid: int | None = None) -> list[int]:
        """The workers' process ids, or the children of another process."""
        parent = self.process.pid if pid is None else pid
        with contextlib.suppress(FileNotFoundError):
            return [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        return []

    async def until(self, true: Callable[[], Any], seconds: float = 30) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(self.lines) from None

    async def metrics(self, client: httpx2.AsyncClient) -> dict[str, float]:
        """Each series with its value."""
        page = (await client.get(self.admin + "/metrics")).text
        pairs = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    async def ready(self, client: httpx2.AsyncClient) -> dict[str, str]:
        """What is not ready."""
        return dict((await client.get(self.admin + "/readyz")).json()["checks"])


@contextlib.asynccontextmanager
async def served(
    folder: Path,
    upstream: str,
    *,
    workers: int = 1,
    patched: dict[str, Any] | None = None,
    policy: str | None = None,
    settings: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    onto: str = "",
    **rule: str,
) -> AsyncIterator[Served]:
    """`penstock serve`, once it serves. `patched` are constants of ours, by module and name; `onto` is a file that has
    its lines, which we then do not see."""
    ports = (free_port(), free_port()) if onto else (0, 0)
    (folder / "policy.yaml").write_text(policy or RULES.format(**{**DEFAULTS, **rule}))
    (folder / "penstock.yaml").write_text(
        json.dumps(
            {
                "upstream": upstream, "policy": str(folder / "policy.yaml"), "data_dir": str(folder / "data"),
                "port": ports[0], "admin_port": ports[1], "workers": workers, "heartbeat_interval": 0,
                "drain_timeout": 5, "decision_headers": True, "log_format": "json", **(settings or {}),
            }
        )
    )  # fmt: skip
    with open(onto, "w") if onto else contextlib.nullcontext() as lines:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _MAIN, json.dumps({**QUICK, **(patched or {})})),
            *("serve", "--config", str(folder / "penstock.yaml")),
            stderr=lines or asyncio.subprocess.PIPE,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
                **(environment or {}),
            },
        )
    made = Served(process, folder)
    reading = asyncio.create_task(_mute(made, *ports) if onto else _read(made))
    try:
        await made.until(lambda: made.said("serving") or reading.done())
        (line,) = made.said("serving") or [{}]
        made.url, made.admin = line.get("base_url", "").removesuffix("/v1"), line.get("admin", "")
        yield made
    finally:
        children = made.children()
        if process.returncode is None:
            process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        await process.wait()
        await asyncio.wait_for(reading, 20)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Another command of Penstock's, to its end."""
    line = [sys.executable, "-c", _MAIN, "{}", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


async def _mute(made: Served, port: int, admin: int) -> None:
    """What its first line would have said."""
    line = {"event": "serving", "base_url": f"http://127.0.0.1:{port}/v1", "admin": f"http://127.0.0.1:{admin}"}
    async with httpx2.AsyncClient(trust_env=False) as client:
        while made.process.returncode is None:
            with contextlib.suppress(httpx2.TransportError):
                if (await client.get(f"{line['admin']}/readyz")).status_code == 200:
                    made.lines.append(line)
                    return
            await asyncio.sleep(0.05)


async def _read(made: Served) -> None:
    assert made.process.stderr is not None
    while line := await made.process.stderr.readline():
        try:
            made.lines.append(json.loads(line))
        except ValueError:
            made.lines.append({"event": "plain", "text": line.decode()})
