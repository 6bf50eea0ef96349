"""A decision that cannot be written in time: its caller is refused, and the audit and the figures say so, not what
would have been; also when the disk writes in the end what it was given first."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.audit import AuditUnavailable, Reader
from proxy.audit.process import Process
from proxy.recorded import recorded
from tests.proxy.conftest import Make, Stand
from tests.upstream import replies, shapes

CHAT = "/v1/chat/completions"


@dataclass
class Case:
    """A request, what the upstream says to it, and how it would have ended."""

    ends: str
    path: str = CHAT
    text: str = "Hi"
    answer: str = "Fine."
    stream: bool = False
    late: bool = False
    raw: bytes | None = None
    reply: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    rule: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> dict[str, Any]:
        if self.raw is not None:
            return {"content": self.raw, "headers": {"content-type": "application/json"}}
        if self.path != CHAT:
            return {"json": {"model": "m", "input": self.text}}
        return {"json": {"model": "m", "stream": self.stream, "messages": [{"role": "user", "content": self.text}]}}

    @property
    def said(self) -> Any:
        if self.reply is not None:
            return self.reply
        if self.stream:
            return replies.sse(shapes.stream(self.answer))
        said = replies.json(shapes.completion(self.answer))
        return [0.1, *said] if self.late else said


CASES = {
    "an answer": Case("released"),
    "an answer that comes after its intent": Case("released", late=True),
    "an answer that is blocked": Case("blocked", answer="MARK"),
    "a stream": Case("", stream=True),
    "a stream that is blocked": Case("blocked", answer="MARK", stream=True, rule={"stream": "whole"}),
    "a request that is blocked": Case("blocked", text="MARK"),
    "a body that is none": Case("refused invalid_json", raw=b"{"),
    "an upstream that makes no sense": Case("upstream_fault unreadable", reply=replies.html("Oh.")),
    "texts to moderate": Case("moderated", path="/v1/moderations"),
    "an open route": Case("relayed unjudged", path="/v1/fine_tuning/jobs", settings={"open_routes": ["/v1"]}),
}


@contextlib.asynccontextmanager
async def hanging(s: Stand, patience: float) -> AsyncIterator[None]:
    """The audit's disk hangs; at the end it has written all that it was given."""
    audit = s.running.audit
    line = audit._line
    assert isinstance(line, Process)
    before, audit._patience = audit._patience, patience
    os.kill(line.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(line.pid, signal.SIGCONT)
    audit._patience = before
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(AuditUnavailable):
                await audit.probe()
                break
            await asyncio.sleep(0.02)


def outcomes(s: Stand) -> dict[str, float]:
    """The exchanges that were counted, by how they ended."""
    found: Counter[str] = Counter()
    for (_, _, outcome), count in s.running.metrics.exchanges.counts().items():
        found[outcome] += int(count)
    return dict(found)


def one(s: Stand) -> dict[str, Any]:
    """What the audit says of the only exchange, whoever reads it."""
    with Reader(s.data / "audit.db") as log:
        (shown,) = log.latest(10)
        (walked,) = log.walk()
        assert walked == shown
        assert shown.outcome is not None
        assert log.after(0)[1] == [shown]
        judged = [id for rows in recorded(log) for id in rows.ids]
        assert judged == ([shown.id] if shown["action"] else [])
        return shown.outcome


@pytest.mark.parametrize("name", CASES)
async def test_what_could_not_be_written_in_time_is_told_as_what_it_was(stand: Make, name: str) -> None:
    case = CASES[name]
    async with stand(settings=case.settings, **case.rule) as s:
        s.upstream.reply = case.said
        async with hanging(s, 0.2):
            answer = await s.client.post(case.path, **case.sent)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")
            assert outcomes(s) == {"refused": 1}
        told = one(s)
        assert (told["status"], told["detail"]) == ("refused", "audit_unavailable")
        assert told.get("instead_of") == (case.ends or None)
        assert outcomes(s) == {"refused": 1}
        assert (await s.client.post(case.path, **case.sent)).status_code != 503
        assert s.running.audit.lost == 0


@pytest.mark.parametrize("name", ["an answer", "an answer that comes after its intent", "a request that is blocked"])
async def test_who_hangs_up_before_it_is_written_got_nothing(stand: Make, name: str) -> None:
    case = CASES[name]
    async with stand(settings=case.settings) as s:
        s.upstream.reply = case.said
        async with hanging(s, 60):
            asking = asyncio.create_task(s.client.post(case.path, **case.sent))
            async with asyncio.timeout(20):
                while not s.running.audit.waiting:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3 if case.late else 0)
            asking.cancel()
            async with asyncio.timeout(20):
                while s.running.plane.in_flight:
                    await asyncio.sleep(0.01)
            assert outcomes(s) == {"client_gone": 1}
        told = one(s)
        assert (told["status"], told["instead_of"]) == ("client_gone", case.ends)
        assert told.get("detail") is None


async def test_while_nothing_can_be_written_refusals_are_counted_and_wait_for_nobody(stand: Make) -> None:
    async with stand() as s:
        async with hanging(s, 0.2):
            await s.client.post(CHAT, **CASES["an answer"].sent)
            for path in (CHAT, "/v1/moderations"):
                answer = await s.client.post(path, json={"model": "m", "input": "Hi", "messages": []})
                assert answer.status_code in {400, 503}
            answer = await s.client.post(CHAT, **CASES["an answer"].sent)
            assert answer.json()["error"]["code"] == "audit_unavailable"
            assert outcomes(s) == {"refused": 4}
            assert s.running.audit.waiting == 2  # of the first: the others were never taken
        assert len(await s.rows()) == 1
