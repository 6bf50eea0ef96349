"""Upstreams that misbehave: for each misbehaviour what the client gets, what the audit says, and what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from tests.conformance.test_conformance import codes, finishes, told
from tests.proxy.conftest import Stand, standing
from tests.proxy.misbehaviours import REPLIES
from tests.upstream import replies

NOTHING = "nothing"
POLICY = """
id: test
version: 1
owner: tests
description: Blocks a word.
classifiers:
  words: {kind: patterns, patterns: {mark: {words: [MARK]}}}
rules:
  - id: no-mark
    description: The word is blocked.
    stages: [input, output]
    when: {finding: words.mark, at_least: 0.5}
    action: block
    stream: {hold_back: 8}
"""


class Expect(BaseModel):
    """`code` and `mid` are null where an error has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: int
    audit: str
    code: str | None = NOTHING
    mid: str | None = NOTHING
    finish: str = ""
    fault: str = ""
    header: dict[str, str] = {}


def rows() -> Iterator[Any]:
    for group in YAML(typ="safe", pure=True).load(Path(__file__).with_name("misbehaviours.yaml").read_text("utf-8")):
        expect = Expect.model_validate(group["expect"])
        for name in group["replies"]:
            yield pytest.param(name, expect, id=name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """One Penstock for all of them: none leaves anything behind."""
    async with standing(tmp_path_factory.mktemp("stand"), POLICY) as s:
        yield s


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """Another one, for those who say nothing."""
    times = {"gap_timeout": 0.4, "first_byte_timeout": 0.4}
    async with standing(tmp_path_factory.mktemp("stand"), POLICY, times) as s:
        yield s


async def faults(s: Stand) -> dict[str, float]:
    """How often the upstream failed, by how."""
    page = (await s.client.get(s.admin_url + "/metrics")).text
    lines = [line for line in page.splitlines() if line.startswith("penstock_upstream_faults_total{")]
    return {line.partition('fault="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_each_has_its_row() -> None:
    assert sorted(row.values[0] for row in rows()) == sorted(REPLIES)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("name", "expect"), list(rows()))
async def test_misbehaviour(one: Stand, hasty: Stand, name: str, expect: Expect) -> None:
    s = hasty if expect.fault == "timeout" else one
    before = await faults(s)
    known = {row.id for row in await s.rows(20)}
    s.upstream.requests.clear()
    s.upstream.reply = REPLIES[name]()
    answer = await s.chat("Hi", stream="stream" in name)
    while s.running.plane.in_flight:
        await asyncio.sleep(0.002)
    trees = told(answer.content, answer.headers.get("content-type", "").startswith("text/event-stream"))
    assert answer.status_code == expect.status
    wanted = [each for each in (expect.code, expect.mid) if each != NOTHING]
    assert codes(trees) == wanted
    if expect.finish:
        assert finishes(trees) == {expect.finish}
    assert {name: answer.headers[name] for name in expect.header} == expect.header
    assert b"MARK" not in answer.content
    assert b"127.0.0.1" not in answer.content
    assert [row["status"] for row in await s.rows(20) if row.id not in known] == [expect.audit]
    now = await faults(s)
    assert {fault for fault, count in now.items() if count > before.get(fault, 0)} == ({expect.fault} - {""})
    assert len(s.upstream.requests) == 1  # P13
    s.upstream.reply = replies.json({"id": "x", "choices": []})
    assert (await s.chat("Hi")).json() == {"id": "x", "choices": []}  # and the next one has its own answer


@pytest.mark.asyncio(loop_scope="module")
async def test_a_storm_of_refusals(one: Stand) -> None:
    """429 to everybody: each client hears it once and when to come again; nobody is asked twice."""
    s = one
    s.upstream.requests.clear()
    s.upstream.reply = replies.too_many(7)
    answers = await asyncio.gather(*(s.chat("Hi") for _ in range(60)))
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(429, "7")}
    assert len(s.upstream.requests) == 60
