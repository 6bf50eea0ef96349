"""Starting, refusing to start, loading a policy again, and ending: what an operator sees of one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.config import load
from proxy.reloading import reload
from proxy.server import CannotServe, serving
from tests.proxy.conftest import DEFAULTS, RULES, Make
from tests.upstream import Upstream, replies, shapes

POLICY = RULES.format(**DEFAULTS)
PATTERNS = """
id: plain
version: 1
owner: tests
description: Needs no classifier of the tests.
rules:
  - id: seen
    description: Parts that nobody can read are written down.
    stages: [input]
    when: {finding: surface.unscannable, at_least: 0.5}
    action: log
"""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Settings that work."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    return {
        "upstream": "http://127.0.0.1:9",
        "policy": str(tmp_path / "policy.yaml"),
        "port": 0,
        "admin_port": 0,
        "data_dir": tmp_path / "data",
    }


async def refused(given: dict[str, Any]) -> str:
    """The message with which Penstock refuses to start."""
    with pytest.raises(CannotServe) as caught:
        async with serving(load(None, **given)):
            pass
    return str(caught.value)


async def test_it_starts(settings: dict[str, Any]) -> None:
    async with serving(load(None, **settings)) as running:
        assert running.address[1] != running.admin_address[1]


async def test_no_upstream(settings: dict[str, Any]) -> None:
    assert "--upstream" in await refused({**settings, "upstream": ""})


@pytest.mark.parametrize("name", ["port", "admin_port"])
async def test_a_taken_port(settings: dict[str, Any], name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = await refused({**settings, name: port})
    assert f"127.0.0.1:{port}" in message
    assert "--" + name.replace("_", "-") in message


async def test_an_address_that_is_not_ours(settings: dict[str, Any]) -> None:
    assert "192.0.2.1" in await refused({**settings, "host": "192.0.2.1"})
    assert "no-such-host.invalid" in await refused({**settings, "host": "no-such-host.invalid"})


def unwritable(tmp_path: Path) -> Path:
    """A place where nobody can write, root included."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


async def test_an_unwritable_data_directory(settings: dict[str, Any], tmp_path: Path) -> None:
    for place in (unwritable(tmp_path), unwritable(tmp_path) / "below", Path("/proc/none")):
        message = await refused({**settings, "data_dir": place})
        assert str(place) in message
        assert len(message.splitlines()) == 1


POLICIES: dict[str, tuple[str | None, list[str]]] = {
    "no such file": (None, ["policy.yaml"]),
    "empty": ("", ["policy.yaml"]),
    "no YAML": ("a: [", ["policy.yaml:1"]),
    "unknown key": (POLICY + "rool: 1\n", ["policy.yaml", "rool"]),
    "unknown classifier": (POLICY.replace("kind: canary,", "kind: canari,", 1), ["policy.yaml", "canari"]),
    "a threshold of nought": (POLICY.replace("at_least: 0.5", "at_least: 0", 1), ["policy.yaml", "at_least"]),
}


@pytest.mark.parametrize(("text", "words"), POLICIES.values(), ids=POLICIES.keys())
async def test_a_policy_with_an_error(
    settings: dict[str, Any], tmp_path: Path, text: str | None, words: list[str]
) -> None:
    (tmp_path / "policy.yaml").unlink()
    if text is not None:
        (tmp_path / "policy.yaml").write_text(text)
    message = await refused(settings)
    for word in words:
        assert word in message, message
    assert "Traceback" not in message


async def test_a_classifier_that_does_not_answer(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: Any, messages: Any) -> Any:
        raise RuntimeError("weights are gone")

    monkeypatch.setattr("tests.proxy.kinds.Canary.classify", crash)
    assert "canary does not answer: crash" in await refused(settings)


async def test_nothing_stays_open_when_it_cannot_start(settings: dict[str, Any], tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        await refused({**settings, "data_dir": unwritable(tmp_path)})
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


async def test_one_policy_after_another(stand: Make, tmp_path: Path) -> None:
    """P3: the new one is in force at once, a broken one never, and what is in flight keeps its own."""
    async with stand() as s:
        wait = asyncio.Event()
        s.upstream.reply = [wait, *replies.json(shapes.completion("an ODD word"))]
        early = asyncio.create_task(s.chat("Hi"))
        await s.upstream.arrived()
        first = s.running.plane.guard.policies.revision
        (tmp_path / "policy.yaml").write_text(
            POLICY.replace("kind: canary, inline", "kind: canary, word: ODD, inline", 1)
        )
        assert await reload(s.running)
        second = s.running.plane.guard.policies.revision
        assert first != second
        wait.set()
        assert b"ODD" in (await early).content
        assert (await s.chat("ODD")).status_code == 400
        assert (await s.chat("MARK")).status_code == 200
        for broken in ("", "rules: [", POLICY.replace("canary.mark", "canary.none"), POLICY[: len(POLICY) // 2]):
            (tmp_path / "policy.yaml").write_text(broken)
            assert not await reload(s.running)
            assert s.running.plane.guard.policies.revision == second
        assert (await s.chat("ODD")).status_code == 400
        assert [row["revision"] for row in await s.rows()] == [first, second, second, second]


async def test_readiness_says_what_is_missing(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: flip each."""
    async with stand() as s:

        async def checks() -> dict[str, str]:
            response = await s.client.get(s.admin_url + "/readyz")
            assert response.status_code == (503 if response.json()["checks"] else 200)
            return dict(response.json()["checks"])

        assert await checks() == {}
        with monkeypatch.context() as broken:
            broken.setattr("tests.proxy.kinds.Canary.classify", lambda self, messages: [None])
            assert set(await checks()) == {"classifier canary", "classifier veil"}
        assert await checks() == {}
        assert (await s.client.get(s.admin_url + "/livez")).json() == {"status": "alive"}


# The command


def penstock(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    command = [sys.executable, "-m", "proxy", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**clean, **environment}, timeout=60, check=False
    )


async def test_the_command_says_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    policy = tmp_path / "plain.yaml"
    policy.write_text(PATTERNS)
    common = (
        "serve",
        "--policy",
        str(policy),
        "--port",
        "0",
        "--admin-port",
        "0",
        "--data-dir",
        str(tmp_path / "data"),
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        wrong: list[tuple[tuple[str, ...], str]] = [
            (common, "--upstream"),
            ((*common, "--upstream", "https://x", "--port", port), port),
            ((*common, "--upstream", "https://x", "--policy", str(tmp_path / "none")), "none"),
            ((*common, "--upstream", "https://x", "--data-dir", str(unwritable(tmp_path))), "file"),
            ((*common, "--upstream", "nowhere"), "setting upstream"),
            ((*common, "--config", str(tmp_path / "none.yaml")), "none.yaml"),
        ]
        for done in await asyncio.gather(*(asyncio.to_thread(penstock, *arguments) for arguments, _ in wrong)):
            word = wrong.pop(0)[1]
            assert done.returncode == 1, done
            assert done.stdout == ""
            assert done.stderr.startswith("penstock: ")
            assert word in done.stderr
            assert len(done.stderr.splitlines()) == 1


async def test_wrong_usage(tmp_path: Path) -> None:
    assert penstock("serve", "--no-such-option").returncode == 2


@contextlib.asynccontextmanager
async def process(tmp_path: Path, upstream: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`penstock serve` as a process, and its base URL."""
    (tmp_path / "plain.yaml").write_text(PATTERNS)
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--upstream", upstream, "--policy", str(tmp_path / "plain.yaml")),
        *("--port", "0", "--admin-port", "0", "--data-dir", str(tmp_path / "data")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PENSTOCK_LOG_FORMAT": "json", "PENSTOCK_DRAIN_TIMEOUT": "5"},
    )
    assert made.stderr is not None
    try:
        line = (await asyncio.wait_for(made.stderr.readline(), 30)).decode()
        yield made, line.partition('"base_url": "')[2].partition('/v1"')[0]
    finally:
        if made.returncode is None:
            made.kill()
        await made.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_well(tmp_path: Path, number: int) -> None:
    """P11: what is in flight is answered, then it ends, with no more words than that."""
    wait = asyncio.Event()
    async with (
        Upstream([wait, *replies.json(shapes.completion("Fine."))]) as upstream,
        process(tmp_path, upstream.url) as (made, url),
    ):
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
            busy = asyncio.create_task(client.post("/v1/chat/completions", json={"model": "m", "messages": []}))
            await upstream.arrived(timeout=20)
            made.send_signal(number)
            await asyncio.sleep(0.2)
            wait.set()
            assert (await busy).status_code == 200
        assert made.stderr is not None
        errors = (await asyncio.wait_for(made.stderr.read(), 20)).decode()
        assert await asyncio.wait_for(made.wait(), 20) == 0
        assert "Traceback" not in errors
    done = penstock("audit", "verify", "--path", str(tmp_path / "data" / "audit.db"))
    assert done.returncode == 0, done


FAILING_CASE = POLICY + "cases:\n  - {name: must pass, text: a MARK, expect: {action: pass}}\n"


async def test_a_policy_serves_only_after_its_own_cases_passed(stand: Make, settings: dict[str, Any]) -> None:
    """P4: at the start and at each load."""
    path = Path(settings["policy"])
    path.write_text(FAILING_CASE)
    assert "case 'must pass' failed" in await refused(settings)
    path.write_text(POLICY)
    async with stand() as s:
        before = s.running.plane.guard
        path.write_text(FAILING_CASE)
        assert not await reload(s.running)
        assert s.running.plane.guard is before
