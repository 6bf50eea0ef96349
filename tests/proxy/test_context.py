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


async def test_turns_that_were_judged_are_not_judged_again_for_the_same_account(stand: Make) -> None:
    turns = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]
    async with stand(options="inline: false") as s:
        canary = s.running.plane.guard.policies.classifiers["canary"]
        seen: list[list[str]] = []
        for key, more in (("a", []), ("a", [{"role": "user", "content": "Three"}]), ("b", [])):
            canary.read.clear()  # type: ignore[attr-defined]
            body = {"model": "m", "messages": turns + more}
            headers = {"authorization": f"Bearer {key}"}
            assert (await s.client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
            asked = [m for m in canary.read if not m.context]  # type: ignore[attr-defined]
            seen.append([m.text for m in asked if m.text in {"One", "Two", "Three"}])
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
    assert seen == [["One", "Two"], ["Three"], ["One", "Two"]]
    assert 'penstock_classifier_messages_total{fate="known"}' in metrics
