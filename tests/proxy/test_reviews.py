"""Exchanges wait for a person: a word, the time, a full house, a client that goes, and the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from proxy.cli import app
from tests.conformance.cases import Answer, Send
from tests.proxy.conftest import Make, Stand
from tests.proxy.served import served
from tests.proxy.test_exchange import hanging, settled
from tests.proxy.test_restoring import PROSE, STREAM, ask, heard
from tests.upstream import Upstream

POLICY = """
id: asked
version: 1
owner: tests
description: A person looks at some exchanges.
classifiers:
  words: {{kind: patterns, patterns: {{odd: {{words: [ODD]}}, mark: {{words: [MARK]}}}}}}
rules:
  - id: odd
    description: A person decides.
    stages: [input, output]
    roles: [user, assistant]
    when: {{finding: words.odd, at_least: 0.5}}
    action: review
    hold: {hold}
    otherwise: {otherwise}
    message: Nobody could look at it.
  - id: no-mark
    description: A block goes before it.
    stages: [input, output]
    when: {{finding: words.mark, at_least: 0.5}}
    action: block
    stream: whole
"""


def policy(hold: str = "60s", otherwise: str = "block") -> str:
    return POLICY.format(hold=hold, otherwise=otherwise)


async def waiting(s: Stand, number: int = 1) -> list[dict[str, Any]]:
    """What waits, once so many do."""
    async with asyncio.timeout(20):
        while True:
            held: list[dict[str, Any]] = (await s.client.get(s.admin_url + "/reviews")).json()["reviews"]
            if len(held) == number:
                return held
            await asyncio.sleep(0.01)


async def say(s: Stand, word: str, id: str, by: str = "ann") -> httpx2.Response:
    return await s.client.post(f"{s.admin_url}/reviews/{word}", json={"id": id, "by": by})


@contextlib.asynccontextmanager
async def asking(s: Stand, dialect: str, stream: bool, send: Send, answer: Answer) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(ask(s, dialect, stream, send, answer))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@PROSE
@STREAM
@pytest.mark.parametrize("stage", ["input", "output"])
async def test_a_person_decides(stand: Make, dialect: str, stream: bool, stage: str) -> None:
    async with stand(policy()) as s:
        send = Send(text="An ODD one." if stage == "input" else "Hi")
        answer = Answer(text="Well." if stage == "input" else "An ODD answer.", size=3)
        for word in ("approve", "deny"):
            async with asking(s, dialect, stream, send, answer) as task:
                (held,) = await waiting(s)
                assert not task.done()
                assert len(s.upstream.requests) == (word == "deny") + (stage == "output")
                assert (held["stage"], held["rules"], held["account"] != "") == (stage, ["odd"], True)
                assert held["scores"]["words.odd"] == 1.0
                assert "ODD" not in repr(held)
                assert (await say(s, word, held["id"])).status_code == 200
                response = await task
            if word == "approve":
                assert heard(response, dialect, stream) == answer.text
            else:
                assert "ODD" not in response.text
                assert "Nobody could look at it." in response.text
                assert response.status_code == (400 if stage == "input" else 200)
            assert (await say(s, word, held["id"])).status_code == 404
        rows = sorted(await settled(s), key=lambda row: row["status"])
        assert [row["status"] for row in rows] == ["blocked", "released"]
        assert [row["action"] for row in rows] == ["review", "review"]
        told = [row["review"][stage] for row in rows]
        assert [(each["verdict"], each["by"], each["rule"]) for each in told] == [
            ("denied", "ann", "odd"),
            ("approved", "ann", "odd"),
        ]
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert f'penstock_reviews_total{{stage="{stage}",verdict="approved"}} 1.0' in page
        assert "penstock_reviews_held 0.0" in page


@pytest.mark.parametrize(("otherwise", "status"), [("block", 400), ("pass", 200)])
async def test_nobody_answers(stand: Make, otherwise: str, status: int) -> None:
    async with stand(policy("1s", otherwise)) as s:
        assert (await s.chat("An ODD one.")).status_code == status
        (row,) = await settled(s)
        told = row["review"]["input"]
        assert (told["verdict"], told["by"], told["passed"]) == ("expired", None, otherwise == "pass")
        assert told["seconds"] >= 1


@pytest.mark.parametrize(("otherwise", "seconds"), [("block", 20), ("pass", 60)])
async def test_two_rules_that_ask_wait_as_the_stricter_one_does(stand: Make, otherwise: str, seconds: int) -> None:
    """What passes where nobody answers, waits the longer time; what is blocked then, the shorter one."""
    text = policy("60s", otherwise)
    start, end = text.index("  - id: odd"), text.index("  - id: no-mark")
    second = text[start:end].replace("id: odd", "id: odder").replace("hold: 60s", "hold: 20s")
    async with stand(text[:start] + second + text[start:]) as s, asking(s, "chat", False, Send(text="ODD"), Answer()):
        (held,) = await waiting(s)
        assert seconds - 15 < held["seconds_left"] <= seconds
        assert (held["rules"], held["otherwise"]) == (["odder", "odd"], otherwise)
        await say(s, "deny", held["id"])


@pytest.mark.parametrize(("otherwise", "status"), [("block", 400), ("pass", 200)])
async def test_too_many_wait(stand: Make, otherwise: str, status: int) -> None:
    async with stand(policy(otherwise=otherwise), settings={"max_reviews": 1}) as s:
        async with asking(s, "chat", False, Send(text="ODD"), Answer()):
            await waiting(s)
            assert (await s.chat("Another ODD one.")).status_code == status
        rows = await settled(s)
        assert {row["review"]["input"]["verdict"] for row in rows if row["review"]} == {"full"}


async def test_a_client_that_goes_waits_no_more(stand: Make) -> None:
    async with stand(policy()) as s:
        async with hanging(s, messages=[{"role": "user", "content": "ODD"}]):
            await waiting(s)
        await waiting(s, 0)
        (row,) = await settled(s)
        assert (row["status"], row["review"]) == ("client_gone", None)
        assert not s.upstream.requests


async def test_the_end_of_the_process_decides_by_the_rule(stand: Make) -> None:
    async with stand(policy()) as s:
        async with asking(s, "chat", False, Send(text="ODD"), Answer()) as task:
            await waiting(s)
            s.running.stop()
            assert (await task).status_code == 400
        (row,) = await settled(s)
        assert row["review"]["input"]["verdict"] == "shutdown"


async def test_what_was_approved_is_not_asked_again(stand: Make) -> None:
    """A stream is judged in several steps."""
    async with stand(policy()) as s:
        send, answer = Send(), Answer(text="An ODD answer, and ODD again. " * 20, size=7)
        async with asking(s, "responses", True, send, answer) as task:
            (held,) = await waiting(s)
            await say(s, "approve", held["id"])
            assert heard(await task, "responses", True) == answer.text


async def test_a_block_is_not_for_a_person(stand: Make) -> None:
    async with stand(policy()) as s:
        assert (await s.chat("ODD MARK")).status_code == 400
        assert (await settled(s))[0]["review"] is None


async def test_who_may_say_something(stand: Make) -> None:
    async with stand(policy(), settings={"admin_token": "t" * 32}) as s:
        assert (await s.client.get(s.admin_url + "/reviews")).status_code == 401
        assert (await say(s, "approve", "x")).status_code == 401
        headers = {"authorization": "Bearer " + "t" * 32}
        url = s.admin_url + "/reviews/approve"
        for body in ({}, {"id": "x"}, {"id": "x", "by": ""}, {"id": "x", "by": "a\nb"}, {"id": 1, "by": "a"}):
            assert (await s.client.post(url, json=body, headers=headers)).status_code == 400
        assert (await s.client.post(url, json={"id": "x", "by": "ann"}, headers=headers)).status_code == 404
        assert (await s.client.get(url, headers=headers)).status_code == 405


async def test_the_command(stand: Make) -> None:
    async with stand(policy()) as s:
        admin = "{}:{}".format(*s.running.admin_address)

        async def run(*words: str) -> Any:
            return await asyncio.to_thread(CliRunner().invoke, app, ["review", *words, "--admin", admin])

        assert (await run("list")).stdout == ""
        async with asking(s, "chat", False, Send(text="ODD"), Answer(text="Well.")) as task:
            (held,) = await waiting(s)
            shown = (await run("list")).stdout
            assert held["id"] in shown
            assert "odd  words.odd 1.00" in shown
            done = await run("approve", held["id"], "--by", "eve")
            assert (done.exit_code, done.stderr) == (0, f"{held['id']} is approved by eve\n")
            assert (await task).status_code == 200
        failed = await run("deny", held["id"])
        assert failed.exit_code == 1
        assert "waits here" in failed.stderr
        assert (await settled(s))[0]["review"]["input"]["by"] == "eve"
        gone = await asyncio.to_thread(CliRunner().invoke, app, ["review", "list", "--admin", "127.0.0.1:1"])
        assert (gone.exit_code, "gave no answer" in gone.stderr) == (1, True)


async def test_any_of_several_workers(tmp_path: Path) -> None:
    """The one where it waits gets the word, whoever asks."""
    async with (
        Upstream() as upstream,
        served(tmp_path, upstream.url, workers=2, policy=policy()) as s,
        httpx2.AsyncClient(base_url=s.url, trust_env=False, timeout=30) as c,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "An ODD one."}]}
        asked = [asyncio.create_task(c.post("/v1/chat/completions", json=body)) for _ in range(6)]
        async with asyncio.timeout(30):
            held: list[Any] = []
            while len(held) < len(asked):
                held = (await c.get(s.admin + "/reviews")).json()["reviews"]
        for number, each in enumerate(held):
            word = "approve" if number % 2 else "deny"
            told = {"id": each["id"], "by": "ann"}
            assert (await c.post(f"{s.admin}/reviews/{word}", json=told)).status_code == 200
            assert (await c.post(f"{s.admin}/reviews/{word}", json=told)).status_code == 404
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [400] * 3
