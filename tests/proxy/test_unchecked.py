"""What a caller reads where a classifier gave no answer: the id by which the operator finds the decision, in the body,
as each API has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.app import DIALECTS, SERVED
from tests.proxy.conftest import Make
from tests.upstream import messages, replies, responses, shapes

PATHS = [path.decode() for path, _ in (*DIALECTS, *SERVED)]
ASK: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/moderations": {"input": "Hi"},
}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}


def told(error: Any, id: str) -> None:
    """An error holds the id, and nothing else of the decision."""
    assert error["code"] == "guard_unavailable"
    assert error["message"].endswith(f"Please tell the operator: {id}.")
    assert error["penstock"] == {"decision_id": id}


@pytest.mark.parametrize("path", PATHS)
async def test_the_body_says_the_decision(stand: Make, path: str) -> None:
    async with stand(options="fault: crash") as s:
        answer = await s.client.post(path, json={"model": "m", **ASK.get(path, CHAT)})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
        (row,) = await s.rows()
        tree = answer.json()
        told(tree["error"], row.id)
        assert answer.headers["x-request-id"] == answer.headers["request-id"] == row.id
        if path.startswith("/v1/messages"):
            assert (tree["type"], tree["request_id"]) == ("error", row.id)


STREAMS = {
    "/v1/chat/completions": shapes.stream("A word."),
    "/v1/messages": messages.stream(messages.text("A word.")),
    "/v1/responses": responses.stream(responses.message(responses.text("A word."))),
}


@pytest.mark.parametrize("path", STREAMS)
async def test_so_does_a_stream_that_ends_for_it(stand: Make, path: str) -> None:
    async with stand(options="fault: crash", stages="[output]") as s:
        s.upstream.reply = replies.sse(STREAMS[path])
        answer = await s.client.post(path, json={"model": "m", "stream": True, **ASK.get(path, CHAT)})
        (row,) = await s.rows()
        sent = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        (last,) = [tree for tree in sent if "error" in tree]
        told(last["error"], row.id)
        if path == "/v1/messages":
            assert last["request_id"] == row.id
