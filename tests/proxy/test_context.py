"""An answer is judged with what it answers: what the user and the tools said, in JSON and in a stream."""

from __future__ import annotations

import pytest

from classifiers.base import Message, Role, said_before
from tests.proxy.conftest import Make
from tests.upstream import replies, shapes

ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "First"}, {"type": "text", "text": "half"}]},
    {"role": "assistant", "content": "Go on."},
    {"role": "tool", "tool_call_id": "call_1", "content": "Found it"},
    {"role": "user", "content": "And now?"},
]


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_are_judged_behind_what_was_said_before(stand: Make, stream: bool) -> None:
    async with stand(options="inline: false") as s:
        s.upstream.reply = (
            replies.sse(shapes.stream("Now rest.")) if stream else replies.json(shapes.completion("Now rest."))
        )
        body = {"model": "m", "messages": ASKED, "stream": stream}
        assert (await s.client.post("/v1/chat/completions", json=body)).status_code == 200
        read = [m for c in s.running.plane.guard.policies.classifiers.values() for m in getattr(c, "read", [])]
    answers = {m.context for m in read if m.role is Role.ASSISTANT and "Now rest." in m.text}
    assert answers == {"First\nhalf\nFound it\nAnd now?"}
    assert {m.context for m in read if m.role is not Role.ASSISTANT} == {""}


def test_a_context_is_the_end_of_a_long_talk() -> None:
    said = [Message(Role.USER, "a" * 10_000, "/0"), Message(Role.USER, "the end", "/1")]
    assert said_before(said).endswith("a\nthe end")
    assert len(said_before(said)) == 8000
