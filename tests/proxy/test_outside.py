"""Every part outside, missing, slow, lying or refusing our key: a named state, a metric, one line with the mend, what
the rules say meanwhile, and back without a restart. Redis, PostgreSQL and the encoder's server have such tests of their
own (test_accounts_remembered, test_audit_postgres, test_encoder_server)."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from classifiers import breaker
from proxy import keeper, outside, policy_fetch
from proxy.bundle import sign
from proxy.logs import Entry, captured
from tests.classifiers.test_judge import says
from tests.classifiers.test_remote import shouts
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand
from tests.proxy.test_policy_fetch import FIRST, PRIVATE, PUBLIC, bundle
from tests.upstream import End, Reply, Request, Upstream, api, replies

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
    status: int
    questions: int = 1

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
            yield Case(s, other, "upstream upstream", lines, 500)


@contextlib.asynccontextmanager
async def keyed(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    other = Other(api.answer)
    with captured() as lines:
        async with stand(settings={"upstream_key": "sk-of-the-operator"}) as s:
            s.upstream.reply = other
            yield Case(s, other, "upstream upstream", lines, 401)


@contextlib.asynccontextmanager
async def _judged(stand: Make, well: Any, options: str, on_error: str, status: int) -> AsyncIterator[Case]:
    other = Other(well)
    with captured() as lines:
        async with Upstream(other) as there:
            policy = JUDGED.format(options=options.format(url=there.url, wait=1000 * WAIT), on_error=on_error)
            async with stand(policy=policy) as s:
                yield Case(s, other, "classifier far", lines, status, breaker.FAULTS + 1)


def remote(stand: Make, monkeypatch: pytest.MonkeyPatch) -> contextlib.AbstractAsyncContextManager[Case]:
    return _judged(stand, shouts, REMOTE, "block", 503)


def judge(stand: Make, monkeypatch: pytest.MonkeyPatch) -> contextlib.AbstractAsyncContextManager[Case]:
    return _judged(stand, lambda request: replies.json(says("safe")), JUDGE, "pass", 200)


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
                yield Case(s, other, "policy", lines, 200)


@contextlib.asynccontextmanager
async def collector(stand: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    other = Other(lambda request: replies.content(b"", content_type="application/x-protobuf"))
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(WAIT))
    with captured() as lines:
        async with Upstream(other) as there:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
            async with stand(settings={"traces": True}) as s:
                yield Case(s, other, "traces", lines, 200)


FAULTS: dict[str, Reply] = {
    "missing": [End.RESET],
    "slow": [60.0],
    "lying": replies.html("Welcome to nginx!"),
    "refusing our key": replies.error(401, "no such key"),
}
CLASSIFIER = {
    "missing": "unavailable", "slow": "timeout", "lying": "bad_answer", "refusing our key": "unavailable: HTTP 401",
}  # fmt: skip
# The part, and the state that each fault puts it into.
PARTS: dict[str, tuple[Open, dict[str, str]]] = {
    "upstream": (upstream, {"missing": "reset", "slow": "timeout", "lying": "unreadable"}),
    "upstream with our key": (keyed, {"refusing our key": "credentials: it answers 401 to our key"}),
    "remote": (remote, CLASSIFIER),
    "judge": (judge, CLASSIFIER),
    "policy": (policy, dict.fromkeys(FAULTS, "refused")),
    "collector": (collector, {"missing": "away", "slow": "away", "refusing our key": "away"}),
}  # fmt: skip
ROWS = [(part, fault) for part, (_, states) in PARTS.items() for fault in states]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (outside, "LOOK", 0.02), (outside, "QUIET", 0.1), (keeper, "LOOK", 0.02),
        (breaker, "PAUSE", 0.05), (breaker, "LONGEST", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize(("part", "fault"), ROWS, ids=[f"{part}, {fault}" for part, fault in ROWS])
async def test_a_part_that_fails(part: str, fault: str, stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, states = PARTS[part]
    if fault == "slow":
        monkeypatch.setattr(sys.modules[__name__], "WAIT", 0.5)
    async with opened(stand, monkeypatch) as case:
        assert (await case.stand.chat("Hi 0")).status_code == 200
        await case.until("ready")
        assert await case.up() == 1
        assert case.said() == []

        case.other.reply = FAULTS[fault]
        for number in range(case.questions):
            answer = await case.stand.chat(f"Hi {number} again")
            assert answer.status_code // 100 * 100 == case.status // 100 * 100
        await case.until(states[fault])
        assert await case.up() == 0
        [line] = case.said()
        assert (line["level"], line["state"]) == ("error", states[fault].partition(":")[0])
        assert line["mend"]
        assert line["meanwhile"]

        case.other.reply = None
        async with asyncio.timeout(60):
            while (await case.stand.chat("Hi at last")).status_code != 200:
                await asyncio.sleep(0.02)
        await case.until("ready")
        assert await case.up() == 1
        assert [line["event"] for line in case.said()] == ["part is not well", "part is well again"]


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
            case = Case(s, Other(api.answer), "files", lines, 200)
            assert "files" not in (await case.told())["parts"]
            with monkeypatch.context() as low:
                low.setattr(resource, "getrlimit", lambda kind: (8, 8))
                await case.until("full: 8 of 8 files are open")
                assert await case.up() == 0
            await case.until("ready")
            assert (await s.client.get(s.admin_url + "/readyz")).status_code == 200
    assert "LimitNOFILE" in case.said()[0]["mend"]
