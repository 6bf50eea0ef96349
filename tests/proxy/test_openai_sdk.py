"""The official client through Penstock: what it reads, what it raises, and that it does not try again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import Make, Stand
from tests.test_openai_chat_fixtures import CASES, add, plain, spoken
from tests.upstream import End, replies, shapes

openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")

FOLDER = Path(__file__).parent.parent / "fixtures" / "openai_chat"
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
WORDS = "I'm sorry, but I can't help with that request"
LONG = "Some honest words that go on and on, so that some of them have left by then. "


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="sk-test") as made:
        yield made


async def streamed(made: Any, begun: asyncio.Event | None = None, **more: Any) -> tuple[list[Any], Any, str | None]:
    """The choices that a stream adds up to, its usage, and the error that it ended in. `begun` is set once half a line
    was read."""
    choices: list[Any] = []
    usage = failure = None
    try:
        async for chunk in await made.chat.completions.create(**ASK, stream=True, **more):
            for choice in chunk.choices:
                add(choices, choice)
            usage = chunk.usage or usage
            if begun and choices and len(choices[0].get("content") or "") >= 40:
                begun.set()
    except openai.APIError as error:
        failure = str(error)
    return [plain(choice) for choice in choices], usage, failure


async def whole(made: Any, **more: Any) -> tuple[Any, Any]:
    raw = await made.chat.completions.with_raw_response.create(**ASK, **more)
    answer = raw.parse()
    return answer.model_dump(), [spoken(choice.message, choice.finish_reason) for choice in answer.choices]


@pytest.mark.parametrize("rule", [{}, {"stream": "whole"}], ids=["hold", "whole"])
async def test_reads_the_same_as_directly(stand: Make, rule: dict[str, str]) -> None:
    async with stand(**rule) as s, client(s.upstream.url) as direct, client(s.url) as through:
        for case in CASES:
            body = (FOLDER / case["file"]).read_bytes()
            if case["file"].startswith("completions"):
                s.upstream.reply = replies.json(body)
                assert await whole(through) == await whole(direct), case["file"]
            else:
                s.upstream.reply = replies.sse([body])
                assert await streamed(through) == await streamed(direct), case["file"]


async def test_reads_the_same_of_an_error(stand: Make) -> None:
    async with stand() as s, client(s.upstream.url) as direct, client(s.url) as through:
        for reply in (
            replies.error(401, "no key"),
            replies.error(404, "no model"),
            replies.error(400, "no"),
            replies.too_many(0.01),
        ):
            s.upstream.reply = reply
            seen = []
            for made in (direct, through):
                before = len(s.upstream.requests)
                with pytest.raises(openai.APIStatusError) as caught:
                    await whole(made)
                error = caught.value
                seen.append((type(error), error.status_code, error.body, len(s.upstream.requests) - before))
            assert seen[0] == seen[1]


async def calls(s: Stand) -> int:
    return len(await s.rows())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_question_is_an_error_once(stand: Make, stream: bool) -> None:
    async with stand() as s, client(s.url) as made:
        with pytest.raises(openai.BadRequestError) as caught:
            await made.chat.completions.create(model="m", messages=[{"role": "user", "content": "MARK"}], stream=stream)
        assert caught.value.code == "invalid_prompt"
        assert caught.value.body["message"].startswith(WORDS)
        assert caught.value.request_id == caught.value.body["penstock"]["decision_id"]
        assert await calls(s) == 1
        assert s.upstream.requests == []


async def test_a_blocked_question_can_be_an_answer(stand: Make) -> None:
    async with stand(on_block="message") as s, client(s.url) as made:
        ask = {"model": "m", "messages": [{"role": "user", "content": "MARK"}], "n": 2}
        answer = await made.chat.completions.create(**ask)
        assert [(choice.finish_reason, choice.message.refusal) for choice in answer.choices] == [
            ("content_filter", None)
        ] * 2
        assert all(choice.message.content.startswith(WORDS) for choice in answer.choices)
        said: list[Any] = []
        async for chunk in await made.chat.completions.create(
            **ask, stream=True, stream_options={"include_usage": True}
        ):
            for choice in chunk.choices:
                add(said, choice)
        assert [choice["finish_reason"] for choice in said] == ["content_filter"] * 2
        assert all(choice["content"].startswith(WORDS) for choice in said)
        assert chunk.usage.total_tokens == 0
        assert s.upstream.requests == []


async def test_a_blocked_answer_says_so_in_words(stand: Make) -> None:
    async with stand() as s, client(s.url) as made:
        s.upstream.reply = replies.json(shapes.completion([LONG, "MARK"], n=2))
        answer = await made.chat.completions.create(**ASK, n=2)
        assert [choice.finish_reason for choice in answer.choices] == ["content_filter"] * 2
        assert all(
            choice.message.content.startswith(WORDS) and not choice.message.tool_calls for choice in answer.choices
        )
        assert await calls(s) == 1


@pytest.mark.parametrize("mode", ["{hold_back: 8}", "whole"])
async def test_a_blocked_stream_ends_well(stand: Make, mode: str) -> None:
    begun = asyncio.Event()
    async with stand(stream=mode) as s, client(s.url) as made:
        events = shapes.stream(LONG + "MARK" + LONG, include_usage=True, obfuscation=True)
        s.upstream.reply = replies.sse(events if mode == "whole" else replies.halted(events, begun))
        (choice,), usage, failure = await streamed(made, begun, stream_options={"include_usage": True})
        assert failure is None
        assert choice["finish_reason"] == "content_filter"
        assert WORDS in choice["content"]
        assert "MARK" not in choice["content"]
        assert choice["content"].startswith(LONG[:40]) is (mode != "whole")
        assert usage is not None
        assert await calls(s) == 1


async def test_a_blocked_stream_of_two_choices_ends_both(stand: Make) -> None:
    async with stand() as s, client(s.url) as made:
        s.upstream.reply = replies.sse(shapes.stream([LONG, LONG + "MARK"], n=2))
        choices, _, failure = await streamed(made, n=2)
        assert failure is None
        assert all(choice["finish_reason"] in {"content_filter", "stop"} for choice in choices)
        assert choices[1]["finish_reason"] == "content_filter"
        assert "MARK" not in str(choices)


CALLS: dict[str, dict[str, Any]] = {
    "arguments": {"tool_calls": [shapes.ToolCall(arguments='{"a":"MARK"}')]},
    "escaped arguments": {"tool_calls": [shapes.ToolCall(arguments='{"a":"\\u004dARK"}')]},
    "escapes that only a lenient parser reads": {"tool_calls": [shapes.ToolCall(arguments='{"a":1,"a":"\\u004dARK"}')]},
    "the second of two": {"tool_calls": [shapes.ToolCall(), shapes.ToolCall(id="call_2", arguments='{"a":"MARK"}')]},
    "the name": {"tool_calls": [shapes.ToolCall(name="MARK")]},
    "behind words": {"text": ["Let me look."], "tool_calls": [shapes.ToolCall(arguments='{"a":"MARK"}')]},
}


@pytest.mark.parametrize("said", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("mode", ["{hold_back: 8}", "whole"])
async def test_no_byte_of_a_blocked_call_arrives(stand: Make, said: dict[str, Any], mode: str) -> None:
    """Clients execute what they received, whatever the finish reason says."""
    async with stand(stream=mode) as s, client(s.url) as made:
        for size in (1, 3, 100):
            s.upstream.reply = replies.sse(shapes.stream(**said, size=size))
            (choice,), _, failure = await streamed(made)
            assert failure is None
            assert "tool_calls" not in choice
            assert choice["finish_reason"] == "content_filter"
        s.upstream.reply = replies.json(shapes.completion(**said))
        answer = await made.chat.completions.create(**ASK)
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "content_filter"


async def test_a_cut_call_does_not_arrive(stand: Make) -> None:
    async with stand() as s, client(s.url) as made:
        events = shapes.stream(tool_calls=[shapes.ToolCall()], size=3)
        for end in ([], [End.RESET], [End.CLOSE]):
            s.upstream.reply = replies.sse([*events[:5], *end])
            choices, _, _ = await streamed(made.with_options(max_retries=0))
            assert not any("tool_calls" in choice for choice in choices)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_outage_of_the_guard_is_not_tried_again(stand: Make, stream: bool) -> None:
    async with stand(options="fault: crash") as s, client(s.url) as made:
        with pytest.raises(openai.InternalServerError) as caught:
            await made.chat.completions.create(**ASK, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (503, "guard_unavailable")
        assert await calls(s) == 1


async def test_an_outage_of_the_guard_ends_a_stream(stand: Make) -> None:
    async with stand(options="fault: crash", stages="[output]") as s, client(s.url) as made:
        s.upstream.reply = replies.sse(shapes.stream(LONG))
        choices, _, failure = await streamed(made)
        assert failure is not None
        assert "could not be checked" in failure
        assert not any(choice.get("content") for choice in choices)
        assert await calls(s) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_masked_text_is_read_as_such(stand: Make, stream: bool) -> None:
    async with stand() as s, client(s.url) as made:
        said = {"text": ["the SECRET word"], "tool_calls": [shapes.ToolCall(arguments='{"a":"a SECRET"}')]}
        if stream:
            s.upstream.reply = replies.sse(shapes.stream(**said, size=2))  # type: ignore[arg-type]
            (choice,), _, _ = await streamed(made)
        else:
            s.upstream.reply = replies.json(shapes.completion(**said))  # type: ignore[arg-type]
            (choice,) = (await whole(made))[1]
        assert choice["content"] == "the [VEILED] word"
        assert choice["tool_calls"] == [{"name": "get_weather", "arguments": '{"a":"a [VEILED]"}'}]


async def test_a_sync_client_in_a_thread(stand: Make) -> None:
    async with stand() as s:

        def ask() -> str:
            with openai.OpenAI(base_url=s.url + "/v1", api_key="sk-test") as made:
                models = [model.id for model in made.models.list()]
                answer = made.chat.completions.create(**ASK).choices[0].message.content
                return f"{len(models)} {answer}"

        assert await asyncio.to_thread(ask) == "3 Hello! How can I help you today?"
