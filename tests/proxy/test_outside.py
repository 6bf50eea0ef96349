"""Every part outside, missing, slow, lying or refusing our key: a named state, a metric, one line with the mend, what
the rules say meanwhile, and back without a restart: the cells of tests/conformance/outside.yml that say how, which also
names the tests of all others."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from classifiers import breaker
from proxy import keeper, outside, policy_fetch
from proxy.bundle import sign
from proxy.logs import Entry, captured
from proxy.upstream import Upstream as Upstreams
from tests.classifiers.test_judge import says
from tests.classifiers.test_remote import shouts
from tests.conformance.test_outside import parts
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand
from tests.proxy.test_policy_fetch import FIRST, PRIVATE, PUBLIC, bundle
from tests.servers.names import hanging
from tests.upstream import End, Reply, Request, Upstream, api, replies, shapes

JUDGED = """
id: test
version: 1
owner: tests
description: A classifier on another machine is asked about every request.
classifiers:
  far: {{{options}, deadline_ms: 5000}}
rules:
  - id: far
    description: What the far one finds is blocked.
    stages: [input]
    roles: [user]
    when: {{finding: "far.*", at_least: 0.9}}
    action: block
    on_error: {on_error}
"""
REMOTE = "kind: remote, url: {url}, model: m, labels: [null, loud], timeout_ms: {wait:.0f}"
JUDGE = "kind: judge, url: {url}/v1, model: m, format: llama_guard, timeout_ms: {wait:.0f}"
WAIT = 4.0
"""Seconds that a part outside may take; fewer where a test waits for that."""


class Other:
    """A part outside, which does what it is for, or `reply` instead."""

    def __init__(self, well: Callable[[Request], Reply]) -> None:
        self.well = well
        self.reply: Reply | None = None

    def __call__(self, request: Request) -> Reply:
        return self.well(request) if self.reply is None else self.reply


@dataclass
class Case:
    """A stand with one part outside, and what happens to an exchange while that part fails."""

    stand: Stand
    other: Other
    part: str
    lines: list[Entry]
    questions: int = 1
    faults: dict[str, Reply | None] = field(default_factory=dict)
    held: Callable[[], Awaitable[object]] | None = None
    changed: Callable[[str], None] | None = None

    async def begin(self, fault: str) -> None:
        """The part fails from now on."""
        if self.changed is not None:
            self.changed(fault)
        if self.held is not None:
            await self.held()
        else:
            self.other.reply = {**FAULTS, **self.faults}[fault]

    def end(self) -> None:
        """It is well again."""
        if self.changed is not None:
            self.changed("")
        self.other.reply = None

    async def told(self) -> dict[str, Any]:
        answer = await self.stand.client.get(self.stand.admin_url + "/readyz")
        found: dict[str, Any] = answer.json()
        return found

    async def until(self, state: str) -> None:
        async with asyncio.timeout(60):
            while not str((await self.told())["parts"].get(self.part, "")).startswith(state):
                await asyncio.sleep(0.02)

    async def up(self) -> float:
        page = (await self.stand.client.get(self.stand.admin_url + "/metrics")).text
        [line] = [line for line in page.splitlines() if line.startswith(f'penstock_part_up{{part="{self.part}"}}')]
        return float(line.rpartition(" ")[2])

    def said(self) -> list[Entry]:
        return [line for line in self.lines if line.get("part") == self.part]


Open = Callable[[Make, pytest.MonkeyPatch], contextlib.AbstractAsyncContextManager[Case]]


@contextlib.asynccontextmanager
async def upstream(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    other = Other(api.answer)
    with captured() as lines:
        async with stand(settings={"first_byte_timeout": WAIT}) as s:
            s.upstream.reply = other
            yield Case(s, other, "upstream upstream", lines, faults={"version": [b"SSH-2.0-OpenSSH_9.6\r\n"]})


@contextlib.asynccontextmanager
async def keyed(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    other = Other(api.answer)
    with captured() as lines:
        async with stand(settings={"upstream_key": "sk-of-the-operator"}) as s:
            s.upstream.reply = other
            yield Case(s, other, "upstream upstream", lines)


@contextlib.asynccontextmanager
async def narrow(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    """One connection to the upstream, and one exchange that holds it."""
    other, free = Other(api.answer), asyncio.Event()
    with captured() as lines:
        async with stand(settings={"max_connections": 1}) as s:
            s.upstream.reply = other
            case, busy = Case(s, other, "upstream upstream", lines), list[asyncio.Task[Any]]()

            async def hold() -> None:
                other.reply = [free, *replies.json(shapes.completion("Fine."))]
                busy.append(asyncio.create_task(s.chat("Hold it")))
                await s.upstream.arrived(2)

            case.held, case.changed = hold, lambda fault: None if fault else free.set()
            yield case
            assert (await busy[0]).status_code == 200


@contextlib.asynccontextmanager
async def named(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    """An upstream by its name, which a resolver is asked for."""
    other, real, now, comes = Other(api.answer), socket.getaddrinfo, [""], threading.Event()

    def getaddrinfo(host: Any, *more: Any, **rest: Any) -> Any:
        if host in {"model.example", b"model.example"}:
            if now[0] == "missing":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            if now[0] == "slow":
                comes.wait(60)
            host = "127.0.0.1"
        return real(host, *more, **rest)

    def change(fault: str) -> None:
        now[0] = fault
        if not fault:
            comes.set()

    with captured() as lines:
        async with Upstream(other) as there:
            monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
            port = there.url.rpartition(":")[2]
            monkeypatch.setattr(Upstreams, "_rested", lambda upstream: None)  # each exchange asks for the name
            async with stand(settings={"upstream": f"http://model.example:{port}", "connect_timeout": WAIT}) as s:
                yield Case(s, other, "upstream upstream", lines, changed=change, faults={"slow": None, "missing": None})


@contextlib.asynccontextmanager
async def _judged(stand: Make, well: Any, options: str, on_error: str) -> AsyncIterator[Case]:
    other = Other(well)
    with captured() as lines:
        async with Upstream(other) as there:
            policy = JUDGED.format(options=options.format(url=there.url, wait=1000 * WAIT), on_error=on_error)
            async with stand(policy=policy) as s:
                yield Case(s, other, "classifier far", lines, breaker.FAULTS + 1)


def remote(stand: Make, monkeypatch: pytest.MonkeyPatch) -> contextlib.AbstractAsyncContextManager[Case]:
    return _judged(stand, shouts, REMOTE, "block")


def judge(stand: Make, monkeypatch: pytest.MonkeyPatch) -> contextlib.AbstractAsyncContextManager[Case]:
    return _judged(stand, lambda request: replies.json(says("safe")), JUDGE, "pass")


@contextlib.asynccontextmanager
async def policy(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    monkeypatch.setattr(policy_fetch, "TIMEOUT", WAIT)
    raw = bundle(FIRST)

    def well(request: Request) -> Reply:
        return replies.content(sign(raw, PRIVATE).encode() if request.path.endswith(".sig") else raw)

    other = Other(well)
    with captured() as lines:
        async with Upstream(other) as there:
            settings = {"policy": there.url + "/bundle.tar", "policy_public_key": PUBLIC, "policy_poll": 0.05}
            async with stand(settings=settings) as s:
                yield Case(s, other, "policy", lines)


@contextlib.asynccontextmanager
async def collector(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    other = Other(lambda request: replies.content(b"", content_type="application/x-protobuf"))
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(WAIT / 4))
    with captured() as lines:
        async with Upstream(other) as there:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
            async with stand(settings={"traces": True}) as s:
                yield Case(s, other, "traces", lines)


FAULTS: dict[str, Reply] = {
    "missing": [End.RESET],
    "slow": [60.0],
    "version": replies.error(404, "there is no such thing here"),
    "credentials": replies.error(401, "no such key"),
    "full": replies.error(429, "too much"),
    "lying": replies.html("Welcome to nginx!"),
}
OPENED: dict[str, Open] = {
    "upstream": upstream, "keyed": keyed, "narrow": narrow, "named": named, "remote": remote, "judge": judge,
    "policy": policy, "collector": collector,
}  # fmt: skip
CELLS = [
    pytest.param(cell.run, fault, cell.state, cell.status, id=f"{name}, {fault}")
    for name, part in parts().items()
    for fault, cell in part.cells().items()
    if cell.run
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (outside, "LOOK", 0.02), (outside, "QUIET", 0.1), (keeper, "LOOK", 0.02),
        (breaker, "PAUSE", 0.05), (breaker, "LONGEST", 0.1), (breaker, "FAULTS", 2),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize(("run", "fault", "state", "status"), CELLS)
async def test_a_part_that_fails(
    run: str, fault: str, state: str, status: int, stand: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "slow":
        monkeypatch.setattr(sys.modules[__name__], "WAIT", 0.5)
    async with OPENED[run](stand, monkeypatch) as case:
        assert (await case.stand.chat("Hi 0")).status_code == 200
        await case.until("ready")
        assert await case.up() == 1
        assert case.said() == []

        await case.begin(fault)
        for number in range(case.questions):
            answer = await case.stand.chat(f"Hi {number} again")
            assert answer.status_code == status
        await case.until(state)
        assert await case.up() == 0
        [line] = case.said()
        assert (line["level"], line["state"]) == ("error", state.partition(":")[0])
        assert line["mend"]
        assert line["meanwhile"]

        case.end()
        async with asyncio.timeout(60):
            while (await case.stand.chat("Hi at last")).status_code != 200:
                await asyncio.sleep(0.02)
        await case.until("ready")
        assert await case.up() == 1
        assert [line["event"] for line in case.said()] == ["part is not well", "part is well again"]


async def test_a_name_that_hangs_keeps_nobody_waiting_who_does_not_need_it(
    stand: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream() as there:
        settings = {
            "upstreams": {
                "slow": {"url": "http://slow.example:9"},
                "fast": {"url": "http://fast.example:" + there.url.rpartition(":")[2]},
            },
            "routes": [{"models": ["slow"], "upstream": "slow"}],
            "default_upstream": "fast",
            "connect_timeout": 1.0,
        }
        with hanging(monkeypatch, "slow.example", "fast.example"):
            async with stand(settings=settings) as s:
                late = await asyncio.gather(*[s.chat("Hi", model="slow") for _ in range(50)])
                assert {answer.status_code for answer in late} == {502}
                assert (await s.chat("Hi")).status_code == 200
                assert (await s.client.post(s.admin_url + "/policy/reload")).status_code == 200


async def test_a_classifier_that_is_no_more_is_none_of_our_parts(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with remote(stand, monkeypatch) as case:
        await case.until("ready")
        (case.stand.data.parent / "policy.yaml").write_text(RULES.format(**DEFAULTS))
        await case.stand.client.post(case.stand.admin_url + "/policy/reload")
        async with asyncio.timeout(30):
            while case.part in (await case.told())["parts"]:
                await asyncio.sleep(0.02)
        page = (await case.stand.client.get(case.stand.admin_url + "/metrics")).text
        assert "classifier far" not in page


async def test_files_that_run_out_are_told_and_that_they_are_back(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "LOOK", 0.02)
    with captured() as lines:
        async with stand() as s:
            case = Case(s, Other(api.answer), "files", lines)
            assert "files" not in (await case.told())["parts"]
            with monkeypatch.context() as low:
                low.setattr(resource, "getrlimit", lambda kind: (8, 8))
                await case.until("full: 8 of 8 files are open")
                assert await case.up() == 0
            await case.until("ready")
            assert (await s.client.get(s.admin_url + "/readyz")).status_code == 200
    assert "LimitNOFILE" in case.said()[0]["mend"]
