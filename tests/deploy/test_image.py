"""The image without a container: its Dockerfile linted, its wheel built and looked into, and its start command run with
the same arguments and environment, on a root that cannot be written, without capabilities, as a user without a name."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.bench.candidates import free_port
from tests.deploy.tools import DEPLOY, ROOT, hadolint, python
from tests.upstream import Reply, Request, Upstream, replies, shapes

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


@dataclass(frozen=True)
class Stage:
    """What the last stage of the Dockerfile says of the container."""

    environment: dict[str, str]
    command: list[str]
    health: list[str]
    user: str
    data: str


def last_stage() -> Stage:
    text = re.sub(r"\\\n", " ", DOCKERFILE.split("\nFROM ")[-1])
    lines = dict(line.split(" ", 1) for line in text.splitlines()[1:] if re.match(r"[A-Z]+ ", line))
    command = json.loads(lines["ENTRYPOINT"]) + json.loads(lines["CMD"])
    health = json.loads(lines["HEALTHCHECK"].partition("CMD ")[2])
    environment = dict(pair.split("=", 1) for pair in shlex.split(lines["ENV"]))
    return Stage(environment, command, health, lines["USER"], json.loads(lines["VOLUME"])[0])


STAGE = last_stage()


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([hadolint(), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_runs_as_nobody_from_an_image_without_a_shell() -> None:
    base = DOCKERFILE.split("\nFROM debian:12-slim AS base\n")[1].split("\nFROM ")[0]
    assert re.search(r"&& rm -f /bin/sh /bin/dash /bin/bash /bin/rbash$", base.strip())
    assert DOCKERFILE.rindex("RUN ") < DOCKERFILE.index("FROM base AS model") < DOCKERFILE.index("FROM base AS proxy")
    assert STAGE.user == "65532:65532"
    assert STAGE.data == STAGE.environment["PENSTOCK_DATA_DIR"]


def test_every_package_is_named_with_its_hashes() -> None:
    installs = re.findall(r"pip install ([^\n]*)", DOCKERFILE)
    assert len(installs) == 5
    for each in installs:
        assert "--no-deps" in each
        assert "--require-hashes" in each or "--no-index" in each
    for name in re.findall(r"requirements/(\S+\.lock)", DOCKERFILE):
        lock = (ROOT / "requirements" / name).read_text()
        assert len(re.findall(r"^\S+==", lock, re.MULTILINE)) == len(re.findall(r"^\S+==.*\\$", lock, re.MULTILINE))


@pytest.mark.parametrize("extra", ["content", "fleet", "otel", "postgres", "redis"])
def test_what_replicas_need_is_inside(extra: str) -> None:
    """No package can be added to the image where it runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements" / "image.lock").read_text()
    assert "requirements/image.lock" in DOCKERFILE
    for wanted in project["optional-dependencies"][extra] + project["dependencies"]:
        name = re.split(r"[\[><=!;]", wanted)[0].replace(".", "-")
        assert re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE), wanted


def test_only_what_is_needed_is_sent_to_the_builder() -> None:
    allowed = {
        line[1:].partition("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = set(re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE))
    assert {source.partition("/")[0] for line in copied for source in line.split()} == allowed


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what our wheel installs, made as the Dockerfile makes it."""
    folder = tmp_path_factory.mktemp("image")
    done = python(
        "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("penstock-*.whl")
    shutil.unpack_archive(wheel, folder / "site", "zip")
    return folder / "site"


def test_the_wheel_has_models_and_packs_and_they_are_well(installed: Path, tmp_path: Path) -> None:
    """What the build itself asks before it makes the image."""
    (asked,) = re.findall(r"RUN /opt/penstock/bin/penstock (doctor .*)", DOCKERFILE)
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *asked.split(), "--output", "json"],
        env=os.environ | {"PYTHONPATH": str(installed)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = {(each["check"], each["state"]) for each in json.loads(done.stdout)["findings"]}
    assert told == {("packages", "well"), ("policy", "well"), ("models", "well")}
    assert list((installed / "proxy" / "doctor").glob("*.py"))


# The start command

NAMESPACE = """
set -e
mkdir -p "$DATA"
mount -t tmpfs -o mode=0700,uid=65532,gid=65532 none "$DATA"
mount -o remount,bind,ro /
exec setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs \
  --bounding-set=-all,+dac_read_search --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "$@"
"""
"""A mount namespace of its own, whose root cannot be written. The one capability left is to read files below folders
that are closed to others, as this tree may be: it writes nothing."""


class Contained:
    """Penstock, started as the image starts it."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.port, self.admin = free_port(), free_port()
        self.data = folder / "data"
        self.environment = {
            **STAGE.environment, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATA": str(self.data),
            "PENSTOCK_DATA_DIR": str(self.data), "PENSTOCK_UPSTREAM": upstream,
            "PENSTOCK_POLICY": str(folder / "p.yaml"),
            "PENSTOCK_HOST": "127.0.0.1", "PENSTOCK_PORT": str(self.port),
            "PENSTOCK_ADMIN_HOST": "127.0.0.1", "PENSTOCK_ADMIN_PORT": str(self.admin),
        }  # fmt: skip
        (folder / "p.yaml").write_text(POLICY)
        self.log = (folder / "log").open("w+")
        inner = ["unshare", "--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh"]
        command = [*inner, *self._ours(STAGE.command)]
        self.process = subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log, cwd=folder)

    def _ours(self, command: list[str]) -> list[str]:
        """With this environment's interpreter in the place of the image's."""
        assert command[0] == "/opt/penstock/bin/python3"
        return [sys.executable, *command[1:]]

    def healthy(self, wait: float) -> subprocess.CompletedProcess[str]:
        """The image's health check, asked until it says yes or `wait` seconds are over."""
        command = [*self._ours(STAGE.health), "--wait", str(wait)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def said(self) -> str:
        return Path(self.log.name).read_text()


POLICY = """
id: contained
version: 1
owner: tests
description: The shipped model and the search for secrets, as the image holds them.
classifiers:
  guard: {kind: embedded, deadline_ms: 20000}
  secrets: {kind: secrets}
rules:
  - id: attack
    description: An attack.
    stages: [input]
    when: {finding: guard.injection, at_least: 0.99}
    action: block
  - id: secret
    description: A secret.
    stages: [output]
    when: {finding: "secrets.*", at_least: 0.8}
    action: mask
    stream: {hold_back: 64}
"""
SLOW = [*(f"word {number} " for number in range(40))]


def _reply(request: Request) -> Reply:
    if request.method == "POST" and request.json().get("stream"):
        return replies.sse(shapes.stream("".join(SLOW)), gap=0.05)
    return replies.json(shapes.completion("Hello."))


@pytest.fixture
def allowed() -> None:
    """Skips where nobody may make a namespace."""
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("needs unshare and setpriv of util-linux")
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("needs the right to make a mount namespace")


async def test_it_starts_serves_and_drains_as_in_the_image(allowed: None, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    async with Upstream(_reply) as upstream:
        contained = Contained(tmp_path, upstream.url)
        try:
            ready = await asyncio.to_thread(contained.healthy, 60)
            assert ready.returncode == 0, ready.stderr + contained.said()
            status = Path(f"/proc/{contained.process.pid}/status").read_text()
            assert re.search(r"^Uid:\s+65532\s", status, re.MULTILINE)
            assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
            root = next(
                line for line in Path(f"/proc/{contained.process.pid}/mounts").read_text().splitlines() if " / " in line
            )
            assert re.search(r"\bro\b", root)
            base = f"http://127.0.0.1:{contained.port}"
            async with httpx2.AsyncClient(base_url=base, timeout=30, trust_env=False) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}
                assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
                lines: list[str] = []
                async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
                    async for line in answer.aiter_lines():
                        if not lines:
                            # A stream is on its way: now the container is to end.
                            contained.process.send_signal(signal.SIGTERM)
                        lines.append(line)
                chunks = [json.loads(line[6:])["choices"] for line in lines if line.startswith("data: {")]
                said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk)
                assert said == "".join(SLOW)
                assert "data: [DONE]" in lines
            assert await asyncio.to_thread(contained.process.wait, 40) == 0, contained.said()
            assert (await asyncio.to_thread(contained.healthy, 0)).returncode == 1
        finally:
            contained.process.kill()
            contained.process.wait()
            contained.log.close()
        told = [json.loads(line) for line in contained.said().splitlines()]
        assert {line["event"] for line in told} >= {"serving", "draining"}, "each line of the log is JSON"


def test_the_health_check_says_why(tmp_path: Path) -> None:
    environment = {**os.environ, "PENSTOCK_ADMIN_PORT": str(free_port())}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "proxy.health", "--wait", "0.5"], env=environment, capture_output=True, text=True,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert time.monotonic() - began >= 0.5
