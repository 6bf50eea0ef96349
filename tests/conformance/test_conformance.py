"""Runs the cases, and checks what holds in every one of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from proxy import refusals
from proxy.logs import captured
from proxy.routing import SECRET
from proxy.sse import Decoder
from tests.conformance import speak_completions, speak_messages, speak_responses
from tests.conformance.cases import Case, Expect, load
from tests.conformance.speak import reply, request
from tests.proxy.conftest import DEFAULTS, RULES, Stand, _canary, standing  # noqa: F401 - pytest finds fixtures by name

MARK = b"MARK"
FAULTS = {
    "none": DEFAULTS["options"],
    "timeout": "delay: 0.6, deadline_ms: 100",
    "hang": "fault: hang, deadline_ms: 100",
    "crash": "fault: crash",
    "nan": "fault: nan",
    "queue_full": "",
}


def policy(case: Case) -> str:
    """The test policy, with the case's changes."""
    changes = dict(case.policy)
    options = FAULTS[case.fault]
    if "word" in changes:
        options += ", word: " + changes.pop("word")
    changes["options"] = options.lstrip(", ") or "inline: false"
    text = RULES.format(**{**DEFAULTS, **changes})
    return text.partition("  - id: veil-secret")[0] if changes.get("veil") == "none" else text


def runs() -> Iterator[Any]:
    for file, case in load():
        others = {"completions": speak_completions, "messages": speak_messages, "responses": speak_responses}
        for dialect in [*case.dialects, *(name for name, words in others.items() if words.applies(case))]:
            for stream in case.stream:
                name = f"{file}-{case.id}-{dialect}" + ("-stream" if stream else "")
                yield pytest.param(case, dialect, stream, id=name)


def told(raw: bytes, stream: bool) -> list[Any]:
    """The JSON trees that an answer consists of."""
    if not stream:
        return [json.loads(raw)] if raw[:1] in (b"{", b"[") else []
    return [json.loads(event.data) for event in Decoder().feed(raw) if event.data and event.data != "[DONE]"]


def codes(trees: list[Any]) -> list[str]:
    return [tree["error"]["code"] for tree in trees if isinstance(tree, dict) and isinstance(tree.get("error"), dict)]


def finishes(trees: list[Any]) -> set[str]:
    chosen = {
        choice["finish_reason"] for tree in trees for choice in tree.get("choices", ()) if choice.get("finish_reason")
    }
    return chosen | speak_messages.finishes(trees) | speak_responses.finishes(trees)


def fail_open(s: Stand) -> float:
    """How often a rule has let something pass that its classifier had not read."""
    return sum(s.running.metrics.fail_open.counts().values())


async def send(s: Stand, case: Case, dialect: str, stream: bool) -> httpx2.Response:
    method, target, body, headers = request(dialect, case.send, stream)
    headers = {name: value.format(**s.keys) for name, value in headers.items()} if case.keys else headers
    target = target.format(**s.keys) if case.keys else target
    # As an extension the target is sent as it stands: the client would mend it otherwise.
    return await s.client.request(method, "/", content=body, headers=headers, extensions={"target": target.encode()})


Stands = Callable[[Case], Awaitable[tuple[Stand, set[str]]]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stands(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stands]:
    """One Penstock for all cases that want the same of it (most want nothing special), and the ids of its exchanges
    that were looked at before."""
    async with contextlib.AsyncExitStack() as stack:
        # Strangers' refusals come faster here than they are recorded one by one.
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(refusals, "BURST", 1 << 30)
        made: dict[str, tuple[Stand, set[str]]] = {}

        async def get(case: Case) -> tuple[Stand, set[str]]:
            wanted = repr((policy(case), case.settings, case.fault, case.keys))
            if wanted not in made:
                folder = tmp_path_factory.mktemp("stand")
                s = await stack.enter_async_context(standing(folder, policy(case), case.settings, case.keys))
                made[wanted] = (s, set())
                if case.fault == "queue_full":
                    s.running.plane.guard._panel._working.limit = 0
            return made[wanted]

        yield get


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("case", "dialect", "stream"), list(runs()))
async def test_case(stands: Stands, caplog: pytest.LogCaptureFixture, case: Case, dialect: str, stream: bool) -> None:
    with captured() as logs, caplog.at_level(logging.DEBUG):
        s, known = await stands(case)
        s.upstream.requests.clear()
        s.upstream.reply = reply(dialect, case.upstream, stream)
        opened = fail_open(s)
        response = await send(s, case, dialect, stream)
        while s.running.plane.in_flight:  # what follows the last byte: the end of the upstream's answer, the record
            await asyncio.sleep(0.002)
        rows = [row for row in await s.rows(20) if row.id not in known]
    known.update(row.id for row in rows)
    expect = (case.expect_stream if stream else None) or case.expect
    check(expect, response, dialect)
    assert len(s.upstream.requests) == expect.upstream_calls
    assert [row["status"] for row in rows] == [expect.audit]
    assert (fail_open(s) > opened) == expect.fail_open
    for asked in s.upstream.requests:
        assert {name: asked.header(name) for name in case.sent} == case.sent
    if case.account is not None:
        assert [row["account"] for row in rows] == [case.account]
    secrets = [*s.keys.values(), *[value for name, value in case.settings.items() if name.endswith("_key")]]
    secrets = [secret for secret in secrets if len(secret) >= SECRET]
    whatever(response, rows, logs, caplog, secrets)
    metrics = (await s.client.get(s.admin_url + "/metrics")).text if secrets else ""
    went = repr([(request.target, request.headers, request.body) for request in s.upstream.requests])
    for key in s.keys.values():
        assert key not in went + metrics


def check(expect: Expect, response: httpx2.Response, dialect: str) -> None:
    raw = response.content
    trees = told(raw, response.headers.get("content-type", "").startswith("text/event-stream"))
    assert response.status_code == expect.status
    if expect.status != 200:
        assert codes(trees) == [expect.code]
        param = set() if dialect == "messages" else {"param"}
        assert {"message", "type", "code", *param} <= set(trees[0]["error"])
    else:
        assert codes(trees) == ([expect.mid] if expect.mid else [])
        if expect.finish:
            assert finishes(trees) == {expect.finish}
    for word in expect.contains:
        assert word.encode() in raw
    for word in expect.absent:
        assert word.encode() not in raw


def whatever(
    response: httpx2.Response, rows: Any, logs: Any, caplog: pytest.LogCaptureFixture, secrets: list[str]
) -> None:
    """What holds in every case."""
    assert MARK not in response.content
    assert "MARK" not in str(response.headers.raw)
    assert response.status_code != 500
    assert response.headers["x-request-id"]
    assert "MARK" not in repr(rows)
    printed = repr(logs) + "".join(record.getMessage() + str(record.exc_text or "") for record in caplog.records)
    assert "MARK" not in printed
    assert "Traceback" not in printed
    for secret in secrets:  # T45
        assert secret not in response.text + str(response.headers.raw) + repr(rows) + printed
    # What an upstream does wrong is told to the operator; of ours nothing is.
    assert not [each for each in logs if each["level"] == "error" and each["event"] != "part is not well"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
