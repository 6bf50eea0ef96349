"""What a provider sealed comes back with every turn: a policy is told of it under a name of its own (T15)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.conftest import Make
from tests.upstream import messages, replies, responses

RULE = """
id: test
version: 1
owner: tests
description: Does something about parts that a provider sealed.
rules:
  - id: {label}
    description: Parts that nobody here can read.
    stages: [input, output]
    when: {{finding: surface.{label}, at_least: 0.5}}
    action: block
    stream: {{hold_back: 1}}
"""
RECALLED = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
HISTORY: dict[str, tuple[str, Any]] = {
    "/v1/messages": ("content", [{"type": "redacted_thinking", "data": "EmwKAhgB"}]),
    "/v1/responses": ("input", [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAAB"}]),
}
SEALED = {
    "/v1/messages": messages.message({"type": "redacted_thinking", "data": "EmwKAhgB"}, messages.text("Hi")),
    "/v1/responses": responses.response({**responses.reasoning("Hm."), "encrypted_content": "gAAAAAB"}),
}


def asked(path: str, *, sealed: bool) -> dict[str, Any]:
    key, said = HISTORY[path]
    if key == "input":
        return {"model": "m", "input": [*(said if sealed else []), {"role": "user", "content": "Go on."}]}
    past = [{"role": "assistant", "content": said}] if sealed else []
    return {"model": "m", "max_tokens": 9, "messages": [*past, {"role": "user", "content": "Go on."}]}


@pytest.mark.parametrize("path", HISTORY)
@pytest.mark.parametrize("label", ["opaque", "unscannable"])
async def test_only_a_rule_of_its_own_stops_what_is_sealed(stand: Make, path: str, label: str) -> None:
    stops = label == "opaque"
    async with stand(policy=RULE.format(label=label)) as s:
        s.upstream.reply = replies.json(SEALED[path])
        for sealed in (True, False):
            answer = await s.client.post(path, json=asked(path, sealed=sealed))
            assert answer.status_code == (400 if stops and sealed else 200)
            assert ("EmwKAhgB" in answer.text or "gAAAAAB" in answer.text) is not stops
        assert len(s.upstream.requests) == 1 + (not stops)
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
        assert any("unscanned" in line and 'kind="encrypted"' in line for line in metrics.splitlines())


@pytest.mark.parametrize("label", ["opaque", "unscannable"])
async def test_thoughts_that_the_provider_keeps_are_such_a_part(stand: Make, label: str) -> None:
    """A provider that keeps answers finds them by their id, whatever their summary says."""
    async with stand(policy=RULE.format(label=label)) as s:
        s.upstream.reply = replies.json(responses.response(responses.message(responses.text("Hi"))))
        for item, refused in (
            (RECALLED, label == "opaque"),
            ({**RECALLED, "encrypted_content": None}, label == "opaque"),
            ({**RECALLED, "id": None}, False),
        ):
            asked = {"model": "m", "input": [item, {"role": "user", "content": "Go on."}]}
            assert (await s.client.post("/v1/responses", json=asked)).status_code == (400 if refused else 200), item
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
        assert any("unscanned" in line and 'kind="recalled"' in line for line in metrics.splitlines())
