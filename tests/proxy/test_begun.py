"""An answer that goes on from what the request began: what is split over the two is found in the answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from classifiers.base import Finding, Message, Report, Role
from classifiers.joints import REACH
from classifiers.patterns import Patterns
from proxy.begun import TOGETHER, Begun, Joint, begun, crossing
from proxy.dialects.base import Request
from tests.proxy.conftest import Make, Stand
from tests.upstream import Reply, messages, replies, responses, shapes

STOP = Patterns.from_options(
    "words",
    {
        "patterns": {
            "stop": {"words": ["stop it"], "score": 0.5},
            "loud": {"words": ["stop it now"]},
            "first": "^it",
            "last": "go$",
        }
    },
)


def ask(texts: list[Message]) -> Report:
    return Report(tuple(STOP.classify(texts)))


def found(before: str, text: str, *, label: str = "stop") -> list[tuple[tuple[int, int] | None, str]]:
    said = [Message(Role.SETTING, "id", "/id"), Message(Role.ASSISTANT, text, "/text")]
    end = begun(Request(tree={"messages": [{"role": "assistant", "content": before}]}), "chat")
    report = ask(said)
    after = crossing(said, end.joints(said) if end else (), report, ask)
    new = after.findings[len(report.findings) :]
    assert after.findings[: len(report.findings)] == report.findings
    assert all(finding.message == 1 for finding in new)
    return [(finding.span, finding.view) for finding in new if finding.label == label]


CROSSES: dict[str, tuple[str, str, list[tuple[tuple[int, int], str]]]] = {
    "in a word": ("Please st", "op it.", [((0, 5), "joint")]),
    "behind a word": ("Please stop", " it.", [((0, 3), "joint")]),
    "in a disguise": ("Please STO", "P IT.", [((0, 4), "joint")]),
    "in a name": ("please_st", "op_it = 1", [((0, 5), "joint")]),
    "in base64": ("c3Rv", "cCBpdCE=", [((0, 8), "joint.decoded")]),
    "all of it before": ("Please stop it", " now", []),
    "all of it behind": ("Please", " stop it", []),
    "up to the seam": ("stop it", "!", []),
    "from the seam on": ("Well, ", "stop it", []),
    "a longer word": ("nonst", "op it", []),
    "known there": ("stop ", "it, stop it", [((0, 2), "joint")]),
    "far from the seam": ("st" + "x" * REACH, "op it", []),
    "nothing begun": ("", "op it", []),
}


@pytest.mark.parametrize(("before", "text", "spans"), CROSSES.values(), ids=CROSSES.keys())
def test_what_lies_across(before: str, text: str, spans: Any) -> None:
    assert found(before, text) == spans


def test_a_cut_is_no_beginning_and_no_end() -> None:
    assert found("i", "t is", label="first") == [((0, 1), "joint")]
    assert found("." * REACH + "i", "t is", label="first") == []
    assert found("x" * (REACH + 1) + "it " + "." * (REACH - 4) + "i", "t is", label="first") == []
    assert found("g", "o", label="last") == [((0, 1), "joint")]
    assert found("g", "o on", label="last") == []
    assert found("g" + "", "o" + "." * REACH, label="last") == []


def test_more_is_told_of_what_is_known_as_less() -> None:
    """What the answer holds alone may be the weaker half."""
    said = [Message(Role.ASSISTANT, "stop it now", "/text")]
    known = Report((Finding("words", "loud", 0.4, 0, (0, 7)),))
    weak = crossing(
        said, [Joint(0, "now st")], known, lambda texts: Report((Finding("words", "loud", 0.5, 0, (2, 9)),))
    )
    assert [finding.score for finding in weak.findings] == [0.4, 0.5]
    strong = crossing(said, [Joint(0, "now st")], known, lambda t: Report((Finding("words", "loud", 0.4, 0, (2, 9)),)))
    assert strong == known


@given(st.integers(0, 12), st.text("ab .\n\u00e9", max_size=300), st.text("ab .\n\u00e9", max_size=300))
@example(1, "", "")
@example(6, "a" * 300, "a" * 300)
def test_a_word_is_found_wherever_it_is_split(at: int, front: str, rear: str) -> None:
    word = "stop it"
    at = at % (len(word) + 1)
    spans = found(front + " " + word[:at], word[at:] + " " + rear)
    assert spans == ([((0, len(word) - at), "joint")] if 0 < at < len(word) else [])


def test_many_answers_are_all_read() -> None:
    said = [Message(Role.ASSISTANT, "op it", f"/choices/{n}/text") for n in range(2 * TOGETHER + 5)]
    joints = Begun(("st", "do not st", ""), TOGETHER).joints(said)
    assert [len(joint.before) for joint in joints] == [2] * TOGETHER + [9] * TOGETHER
    report = crossing(said, joints, Report(), ask)
    assert [finding.message for finding in report.findings] == list(range(2 * TOGETHER))


def test_only_what_begins_goes_on() -> None:
    said = [
        Message(Role.ASSISTANT, "a", "/content/0/text"),
        Message(Role.REASONING, "b", "/content/1/thinking"),
        Message(Role.TOOL_CALL, "c", "/content/2/input"),
        Message(Role.ASSISTANT, "d", "/content/3/text"),
        Message(Role.ASSISTANT, "e", "/content#joined"),
    ]
    assert [joint.message for joint in Begun(("x",)).joints(said, (0, 0, 0, 40))] == [0, 1]


def turns(*said: Any, key: str = "messages") -> dict[str, Any]:
    return {key: list(said)}


USER = {"role": "user", "content": "Hi"}
ENDS: dict[str, tuple[str, dict[str, Any], Begun | None]] = {
    "a user's turn": ("chat", turns(USER), None),
    "an assistant's turn": ("chat", turns(USER, {"role": "assistant", "content": "abc"}), Begun(("abc",))),
    "an assistant's turn before": ("chat", turns({"role": "assistant", "content": "abc"}, USER), None),
    "parts": (
        "messages",
        turns(USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        Begun(("ab",)),
    ),
    "a call": ("chat", turns({"role": "assistant", "content": None, "tool_calls": []}), None),
    "no text": ("chat", turns({"role": "assistant", "content": [{"type": "image"}, 5, None]}), None),
    "long": ("chat", turns({"role": "assistant", "content": "x" * 500}), Begun(("x" * (REACH + 1),))),
    "an item": ("responses", turns({"role": "assistant", "content": "abc"}, key="input"), Begun(("abc",))),
    "a text": ("responses", {"input": "abc"}, None),
    "nothing": ("responses", {}, None),
    "no turns": ("chat", turns(), None),
    "a prompt": ("completions", {"prompt": "abc"}, Begun(("abc",))),
    "prompts": ("completions", {"prompt": ["abc", "", "d"], "n": 2}, Begun(("abc", "", "d"), 2)),
    "tokens": ("completions", {"prompt": [1, 2]}, None),
    "more tokens than texts may be": ("completions", {"prompt": ["abc", *[1] * 2048]}, None),
    "prompts and tokens": ("completions", {"prompt": [[1], "b"]}, Begun(("", "b"))),
    "embeddings": ("embeddings", {"input": [{"role": "assistant", "content": "abc"}]}, None),
}


@pytest.mark.parametrize(("dialect", "tree", "end"), ENDS.values(), ids=ENDS.keys())
def test_what_an_answer_goes_on_from(dialect: str, tree: dict[str, Any], end: Begun | None) -> None:
    assert begun(Request(tree=tree), dialect) == end


# Through a whole Penstock

PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
}


def asks(dialect: str, before: str) -> dict[str, Any]:
    if dialect == "completions":
        return {"model": "m", "prompt": before}
    more = {"max_tokens": 99} if dialect == "messages" else {}
    said = [USER, {"role": "assistant", "content": before}] if before else [USER]
    return {"model": "m", ("input" if dialect == "responses" else "messages"): said, **more}


def says(dialect: str, text: str, *, stream: bool) -> Reply:
    match dialect:
        case "chat":
            return replies.sse(shapes.stream(text, size=1)) if stream else replies.json(shapes.completion(text))
        case "messages":
            block = messages.text(text)
            return replies.sse(messages.stream(block, size=1)) if stream else replies.json(messages.message(block))
        case "responses":
            item = responses.message(responses.text(text))
            return replies.sse(responses.stream(item, size=1)) if stream else replies.json(responses.response(item))
    head = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": "m"}
    if not stream:
        return replies.json(
            {**head, "choices": [{"text": text, "index": 0, "finish_reason": "stop", "logprobs": None}]}
        )
    chunks = [{**head, "choices": [{"text": letter, "index": 0, "finish_reason": None}]} for letter in text]
    end = {**head, "choices": [{"text": "", "index": 0, "finish_reason": "stop"}]}
    return replies.sse([shapes.event(chunk) for chunk in (*chunks, end)] + [shapes.DONE])


async def answered(s: Stand, dialect: str, before: str, text: str, *, stream: bool) -> bytes:
    s.upstream.reply = says(dialect, text, stream=stream)
    body = {**asks(dialect, before), "stream": stream}
    return (await s.client.post(PATHS[dialect], json=body)).content


everywhere = pytest.mark.parametrize("stream", [False, True])
spoken = pytest.mark.parametrize("dialect", PATHS)
LONG = " and so on" * 40


@everywhere
@spoken
async def test_a_split_word_is_stopped(stand: Make, dialect: str, stream: bool) -> None:
    async with stand() as s:
        answer = await answered(s, dialect, "It is MA", f"RK, zebra{LONG}", stream=stream)
        assert b"zebra" not in answer
        assert b"invalid_prompt" in answer or b"can't help" in answer
        for before, text in (("It is MA", f"zebra RK{LONG}"), ("", f"RK, zebra{LONG}")):
            plain = await answered(s, dialect, before, text, stream=stream)
            assert b"can't help" not in plain
            assert plain.count(b"z") >= 1
        statuses = [row["status"] for row in await s.rows()]
        assert sorted(statuses) == ["blocked", "released", "released"]


@everywhere
@spoken
async def test_of_a_split_word_the_answers_half_is_masked(stand: Make, dialect: str, stream: bool) -> None:
    async with stand() as s:
        answer = await answered(s, dialect, "The word is SEC", "RET, and so on", stream=stream)
        assert b"RET" not in answer
        assert b"VEILED" in answer
        assert b"so on" in answer.replace(b'"', b"") or stream


@everywhere
async def test_the_clients_own_words_stop_no_answer(stand: Make, stream: bool) -> None:
    async with stand(stages="[output]") as s:
        answer = await answered(s, "chat", "It says MARK", f" and goes on{LONG}", stream=stream)
        assert b"can't help" not in answer
        (row,) = await s.rows()
        assert row["status"] == "released"


async def test_what_only_logs_tells_of_it_too(stand: Make) -> None:
    async with stand(action="log") as s:
        for stream in (False, True):
            answer = await answered(s, "chat", "It is MA", f"RK{LONG}", stream=stream)
            assert b"can't help" not in answer
        for row in await s.rows():
            assert (row["status"], row["output"]["rules"]) == ("released", {"no-mark": "log"})


async def test_a_card_that_is_split(stand: Make) -> None:
    policy = """
id: cards
version: 1
owner: tests
description: Card numbers leave in no answer.
classifiers: {pii: {kind: pii}}
rules:
  - id: no-card
    description: A card number is masked.
    stages: [output]
    when: {finding: pii.card, at_least: 0.5}
    action: mask
"""
    async with stand(policy=policy) as s:
        answer = orjson.loads(await answered(s, "messages", "It is 4111 1111 11", "11 1111, I think.", stream=False))
        assert answer["content"][0]["text"].endswith(", I think.")
        assert "11 1111" not in answer["content"][0]["text"]
