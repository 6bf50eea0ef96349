"""Which classifier reads which part of what: proxy/COVERAGE.md, from what the panel is really asked.

Every dialect is driven, whole and streamed, with a request and an answer that hold every documented field, under the
shipped `baseline` policy whose classifiers are replaced by ones that only note what they are given.
`python -m tests.conformance.test_parts` writes the page anew.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import policies as packs
from classifiers.base import Classifier, Finding, Message
from policies.model import Stage
from proxy.app import DIALECTS, SERVED
from proxy.guard import Guard
from tests.conformance.cases import Answer, Send
from tests.conformance.speak import reply, request
from tests.conformance.test_leaves import ANSWERS, REQUESTS
from tests.conformance.test_leaves_others import FULL
from tests.conformance.test_leaves_responses import ANSWER, REQUEST
from tests.proxy.conftest import Stand, standing
from tests.upstream import Reply, messages, replies, responses, shapes

PAGE = Path(__file__).parent.parent.parent / "proxy" / "COVERAGE.md"
HEAD = """# Which classifier reads which part

Written by `python -m tests.conformance.test_parts` from what the classifiers of the shipped `baseline` policy are
really given when a request and an answer with every documented field pass; the suite fails when it is stale. A part is
the role in which a text is judged (`setting` is every other text: names, metadata, unknown fields and keys); `places`
counts the different fields that it stood in. What a rule of another policy looks at, it reads likewise: a rule without
`roles` reads every part.

A part that no classifier can read is a finding `surface.unscannable` that rules decide about (`baseline` refuses the
request), and is counted in `penstock_unscanned_parts_total`. Rows of batches are read as requests to their own path.

"""
Seen = dict[tuple[str, str, str, str], dict[str, set[str]]]
"""(endpoint, way, streamed, part) -> classifier -> places."""


class Noting:
    """A classifier that finds nothing and notes what it was given. `name`, `labels` and `digest` are another's."""

    inline = True

    def __init__(self, classifier: Classifier) -> None:
        self.name, self.labels, self.digest = classifier.name, classifier.labels, classifier.digest
        self.read: list[Message] = []

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        self.read.extend(messages)
        return []


def whole_request(dialect: str) -> Any:
    tree = {**REQUESTS, **FULL, "responses": REQUEST, "count_tokens": REQUESTS["messages"]}.get(dialect)
    return tree or {"model": "m", "input": ["One text", "Another"]}


def whole_answer(dialect: str, stream: bool) -> Reply:
    """An answer with every documented field, as far as a stream can say it."""
    if dialect == "chat" and stream:
        text = json.dumps(ANSWERS["chat"]).replace('"message": {', '"delta": {')
        return replies.sse([shapes.event(text.encode()), shapes.DONE])
    if dialect == "messages" and stream:
        return replies.sse(messages.spread(ANSWERS["messages"]))
    if dialect == "responses":
        frame = {"type": "response.completed", "response": ANSWER}
        return replies.sse(responses.numbered([frame])) if stream else replies.json(ANSWER)
    if dialect in ANSWERS:
        return replies.json(ANSWERS[dialect])
    if dialect == "count_tokens":
        return replies.json({"input_tokens": 9})
    return reply(dialect, Answer(part="content" if dialect == "embeddings" else "logprobs"), stream)


def place(origin: str) -> str:
    return re.sub(r"\d+", "*", origin)


async def driven(folder: Path) -> tuple[Seen, dict[tuple[str, str], set[str]]]:
    """What was read, and (endpoint, way) -> kinds of parts that nobody can read."""
    seen: Seen = defaultdict(lambda: defaultdict(set))
    async with standing(folder, logged()) as s:
        noting = noted(s)

        async def one(path: str, stream: bool, body: Any, ways: dict[Stage, str]) -> None:
            for stage in noting:
                for each in noting[stage]:
                    each.read.clear()
            await s.client.post(path, json={**body, **({"stream": True} if stream else {})})
            while s.running.plane.in_flight:
                await asyncio.sleep(0.002)
            for stage, way in ways.items():
                for each in noting[stage]:
                    for message in each.read:
                        key = path, way, "yes" if stream else "no", str(message.role)
                        seen[key][each.name].add(place(message.origin))

        for path, dialect in [(path.decode(), reader.name) for path, reader in (*DIALECTS, *SERVED)]:
            for stream in (False, True) if dialect in {"chat", "responses", "messages", "completions"} else (False,):
                await one(path, stream, whole_request(dialect), {Stage.INPUT: "request"})
                if dialect != "moderations":
                    s.upstream.reply = whole_answer(dialect, stream)
                    _, _, body, _ = request("messages" if dialect == "count_tokens" else dialect, Send(), stream)
                    await one(path, stream, json.loads(body), {Stage.OUTPUT: "answer"})
        return seen, await unscanned(s)


def logged() -> str:
    """The baseline policy, but for its rule about what nobody can read: it would end a stream before its texts."""
    text = (Path(packs.__file__).parent / "packs" / "baseline.yaml").read_text("utf-8")
    before, rule, after = text.partition("  - id: unreadable\n")
    assert "    action: block\n" in after
    after = after.partition("\ncases:\n")[0] + "\n"  # they are about what it does, not about what is asked
    return before + rule + after.replace("    action: block\n", "    action: log\n", 1)


def noted(s: Stand) -> dict[Stage, list[Noting]]:
    """Give a stand classifiers that only note, others for each stage."""
    guard = s.running.plane.guard
    policies, out = guard.policies, {}
    for stage in Stage:
        noting = {name: Noting(classifier) for name, classifier in policies.classifiers.items()}
        made = Guard(replace(policies, classifiers=noting), guard._panel, guard._metrics)
        if stage is Stage.INPUT:
            s.running.plane.guards[""] = made
        else:
            s.running.plane.guard._asked[stage] = made._asked[stage]
        out[stage] = list(noting.values())
    return out


async def unscanned(s: Stand) -> dict[tuple[str, str], set[str]]:
    page = (await s.client.get(s.admin_url + "/metrics")).text
    names = {reader.name: path.decode() for path, reader in (*DIALECTS, *SERVED)}
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in page.splitlines():
        match = re.match(r'penstock_unscanned_parts_total\{dialect="(\w+)",kind="(\w+)",stage="(\w+)"\} (?!0\.0)', line)
        if match and match[1] in names:
            kinds[names[match[1]], "request" if match[3] == "input" else "answer"].add(match[2])
    return kinds


def page(seen: Seen, kinds: dict[tuple[str, str], set[str]]) -> str:
    lines = [HEAD, "| endpoint | way | streamed | part | places | read by |\n| --- | --- | --- | --- | --- | --- |\n"]
    for (path, way, stream, part), found in sorted(seen.items()):
        places = set().union(*found.values())
        lines.append(f"| `{path}` | {way} | {stream} | {part} | {len(places)} | {', '.join(sorted(found))} |\n")
    lines.append("\n| endpoint | way | parts that nobody can read |\n| --- | --- | --- |\n")
    lines += [f"| `{path}` | {way} | {', '.join(sorted(names))} |\n" for (path, way), names in sorted(kinds.items())]
    return "".join(lines)


async def test_the_page_is_current(tmp_path: Path) -> None:
    assert PAGE.read_text("utf-8") == page(*await driven(tmp_path))


@pytest.mark.parametrize(("action", "status"), [("log", 200), ("block", 400)])
async def test_a_rule_acts_on_what_nobody_can_read(tmp_path: Path, action: str, status: int) -> None:
    """And it is counted, whatever the rule does."""
    policy = f"""
id: test
version: 1
owner: tests
description: Parts that nobody can read.
rules:
  - id: unscannable
    description: Parts that nobody can read.
    stages: [input]
    when: {{finding: surface.unscannable, at_least: 0.5}}
    action: {action}
"""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    async with standing(tmp_path, policy) as s:
        for number in (1, 2):
            response = await s.chat({"role": "user", "content": [{"type": "text", "text": "Look:"}, image]})
            assert response.status_code == status
            assert len(s.upstream.requests) == (number if status == 200 else 0)
            lines = (await s.client.get(s.admin_url + "/metrics")).text.splitlines()
            counted = 'penstock_unscanned_parts_total{dialect="chat",kind="image",stage="input"}'
            assert f"{counted} {float(number)}" in lines
        assert {row["rule"] for row in await s.rows()} == {"unscannable"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(*asyncio.run(driven(Path(folder)))), "utf-8")
