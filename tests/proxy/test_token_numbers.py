"""Numbers of tokens say what a text says, to whoever has the model's vocabulary: what is asked in them is a part that
nobody can read, and what is masked does not leave in them."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.names import UNREADABLE
from tests.proxy.conftest import Make
from tests.proxy.leaves import UNSCANNABLE
from tests.upstream import replies, shapes

ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
    "/v1/responses": {"input": "Hi"},
    "/v1/completions": {"prompt": ""},
    "/v1/embeddings": {"input": ""},
}


@pytest.mark.parametrize("path", ASKS)
async def test_what_is_asked_in_numbers_is_decided_on(stand: Make, path: str) -> None:
    async with stand(UNSCANNABLE) as s:
        for name, kind in UNREADABLE.items():
            for value, status in (([1, 2], 400), ([[1, 2]], 400), ("AAAA", 400), ([], 200), (None, 200)):
                s.upstream.reply = replies.json({})
                answer = await s.client.post(path, json={"model": "m", **ASKS[path], name: value})
                assert (name, value, answer.status_code) == (name, value, status)
            page = (await s.client.get(s.admin_url + "/metrics")).text
            assert f'kind="{kind}",stage="input"' in page
        assert len(s.upstream.requests) == 2 * len(UNREADABLE)
        s.upstream.reply = lambda request: replies.json({})
        cached = {"extra_body": {"google": {"cached_content": "cachedContents/1"}}}
        assert (await s.client.post(path, json={**ASKS[path], "model": "m", **cached})).status_code == 400
        others: list[dict[str, Any]] = [{"extra_body": {"google": {"thinking_config": {}}}}, {"extra_body": []}]
        for other in others:
            assert (await s.client.post(path, json={**ASKS[path], "model": "m", **other})).status_code == 200
        preset = await s.client.post(path, json={**ASKS[path], "model": "m@preset/copywriter"})
        assert preset.status_code == 400


def choice(path: str, text: str, *, stream: bool) -> dict[str, Any]:
    if path == "/v1/completions":
        return {"index": 0, "text": text, "token_ids": [91, 92], "finish_reason": None}
    said = {"delta" if stream else "message": {"role": "assistant", "content": text}}
    return {"index": 0, **said, "token_ids": [91, 92], "finish_reason": None}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_what_is_masked_does_not_leave_in_numbers(stand: Make, path: str, stream: bool) -> None:
    async with stand() as s:
        for text, masked in (("a SECRET", True), ("a word", False)):
            tree = {
                "id": "x",
                "object": "o",
                "created": 0,
                "model": "m",
                "choices": [choice(path, text, stream=stream)],
            }
            end = {**tree, "choices": [{**choice(path, "", stream=stream), "token_ids": None, "finish_reason": "stop"}]}
            events = [shapes.event(tree), shapes.event(end), shapes.DONE]
            s.upstream.reply = replies.sse(events) if stream else replies.json(tree)
            answer = await s.client.post(path, json={"model": "m", **ASKS[path], "stream": stream})
            assert answer.status_code == 200
            assert (b"[VEILED]" in answer.content) is masked
            assert (b"91" not in answer.content) is masked
            assert b"SECRET" not in answer.content
