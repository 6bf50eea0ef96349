"""The official client speaks Responses through Penstock: what it reads, what it raises, that it does not ask again."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy import local_model
from tests.proxy.conftest import Make
from tests.upstream import End, replies, responses

openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")
pydantic = pytest.importorskip("pydantic")

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "input": "Hi"}
WORDS = "I'm sorry, but I can't help with that request"
LONG = "Some honest words that go on and on, so that some of them have left by then. "
CITED = {"type": "url_citation", "title": "t", "url": "u", "start_index": 0, "end_index": 1}
ITEMS = [
    responses.reasoning("They ask for a place.", "So a lookup is due."),
    responses.message(responses.text(LONG, annotations=[CITED])),
    responses.call(),
    responses.custom(),
]
ANSWERS: dict[str, list[Any]] = {
    "text": [responses.message(responses.text(LONG))],
    "refusal": [responses.message(responses.refusal("I will not."))],
    "two messages": [responses.message(responses.text("One.")), responses.message(responses.text("Two."), id="msg_2")],
    "everything": ITEMS,
    "log probabilities": [responses.message(responses.text(LONG, logprobs=responses.tokens(LONG)))],
}


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="sk-test") as made:
        yield made


async def events(made: Any, **more: Any) -> list[Any]:
    """The events of `responses.create(stream=True)`."""
    return [event async for event in await made.responses.create(**ASK, stream=True, **more)]


async def gathered(made: Any, **more: Any) -> tuple[list[Any], Any]:
    """The events of `responses.stream`, and the response that the client adds up, if it is complete."""
    async with made.responses.stream(**ASK, **more) as stream:
        seen = [event async for event in stream]
        try:
            return seen, await stream.get_final_response()
        except RuntimeError:
            return seen, None


@pytest.mark.parametrize("rule", [{}, {"stream": "whole"}], ids=["hold", "whole"])
async def test_reads_the_same_as_directly(stand: Make, rule: dict[str, str]) -> None:
    async with stand(**rule) as s, client(s.upstream.url) as direct, client(s.url) as through:
        for name, items in ANSWERS.items():
            s.upstream.reply = replies.json(responses.response(*items))
            whole = [await made.responses.create(**ASK) for made in (direct, through)]
            assert whole[0].to_dict() == whole[1].to_dict(), name
            for padded in (False, True):
                s.upstream.reply = replies.sse(responses.stream(*items, padded=padded))
                told = [await events(made) for made in (direct, through)]
                assert [event.to_dict() for event in told[0]] == [event.to_dict() for event in told[1]], name
                final = [(await gathered(made))[1] for made in (direct, through)]
                assert final[0].to_dict() == final[1].to_dict(), name
                assert final[1].output_text == whole[0].output_text


async def test_the_bytes_are_those_of_the_upstream(stand: Make) -> None:
    async with stand() as s:
        for items in ANSWERS.values():
            for size in (1, 3, 80):
                raw = responses.stream(*items, size=size, padded=True)
                s.upstream.reply = replies.sse(raw)
                answer = await s.client.post("/v1/responses", json={**ASK, "stream": True})
                assert answer.content == b"".join(raw)


async def test_structured_answers_are_parsed(stand: Make) -> None:
    class Said(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        city: str

    async with stand() as s, client(s.url) as made:
        s.upstream.reply = replies.json(responses.response(responses.message(responses.text('{"city":"Paris"}'))))
        answer = await made.responses.parse(**ASK, text_format=Said)
        assert answer.output_parsed.city == "Paris"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_question_is_an_error_once(stand: Make, stream: bool) -> None:
    async with stand() as s, client(s.url) as made:
        with pytest.raises(openai.BadRequestError) as caught:
            await made.responses.create(model="m", input="MARK", stream=stream)
        assert (caught.value.code, caught.value.param) == ("invalid_prompt", "input")
        assert caught.value.body["message"].startswith(WORDS)
        assert len(await s.rows()) == 1
        assert s.upstream.requests == []


@pytest.mark.parametrize("more", [{"background": True}, {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}])
async def test_what_was_not_judged_here_is_an_error_once(stand: Make, more: dict[str, Any]) -> None:
    async with stand() as s, client(s.url) as made:
        with pytest.raises(openai.BadRequestError) as caught:
            await made.responses.create(**ASK, **more)
        assert caught.value.param == next(iter(more))
        for ask in (
            made.responses.retrieve,
            made.responses.cancel,
            made.responses.delete,
            made.responses.input_items.list,
        ):
            with pytest.raises(openai.NotFoundError):
                await ask("resp_1")
        assert s.upstream.requests == []


async def test_a_blocked_question_can_be_an_answer(stand: Make) -> None:
    async with stand(on_block="message") as s, client(s.url) as made:
        answer = await made.responses.create(model="m", input="MARK")
        assert answer.status == "completed"
        assert answer.output_text.startswith(WORDS)
        async with made.responses.stream(model="m", input="MARK") as stream:
            final = await stream.get_final_response()
        assert final.output_text.startswith(WORDS)
        assert s.upstream.requests == []


BLOCKED: dict[str, list[Any]] = {
    "text": [responses.message(responses.text("MARK"))],
    "reasoning": [responses.reasoning("MARK"), responses.message(responses.text("x"))],
    "arguments": [responses.call(arguments='{"a":"MARK"}')],
    "escaped arguments": [responses.call(arguments='{"a":"\\u004dARK"}')],
    "custom input": [responses.custom(input="MARK")],
    "the second of two": [responses.call(), responses.call(id="fc_2", call_id="call_2", arguments='{"a":"MARK"}')],
    "behind words": [responses.message(responses.text(LONG)), responses.call(arguments='{"a":"MARK"}')],
    "a tool's name": [responses.call(name="MARK")],
}


@pytest.mark.parametrize("items", BLOCKED.values(), ids=BLOCKED.keys())
@pytest.mark.parametrize("mode", ["{hold_back: 8}", "whole"])
async def test_a_blocked_answer_says_so_in_words(stand: Make, items: list[Any], mode: str) -> None:
    """Whole, it is an answer of words alone; in a stream no blocked call arrives, and what is open is closed."""
    async with stand(stream=mode) as s, client(s.url) as made:
        s.upstream.reply = replies.json(responses.response(*items))
        answer = await made.responses.create(**ASK)
        assert [item.type for item in answer.output] == ["message"]
        assert answer.output_text.startswith(WORDS)
        for size in (1, 4, 100):
            s.upstream.reply = replies.sse(responses.stream(*items, size=size))
            seen, final = await gathered(made)
            assert "MARK" not in repr(seen)
            last = seen[-1].response
            if final is None:
                assert (last.status, last.error.code) == ("failed", "invalid_prompt")
                assert last.error.message.startswith(WORDS)
            else:
                assert final.output_text.startswith(WORDS)
            assert WORDS in "".join(event.delta for event in seen if event.type == "response.output_text.delta")
            assert [event.sequence_number for event in seen] == list(range(len(seen)))
            calls = [event for event in seen if "call" in event.type or "call" in str(getattr(event, "item", ""))]
            assert len(calls) == 0 or items is BLOCKED["the second of two"]


async def test_masked_text_is_read_as_such(stand: Make) -> None:
    items = [responses.message(responses.text("the SECRET word")), responses.call(arguments='{"a":"a SECRET"}')]
    async with stand() as s, client(s.url) as made:
        s.upstream.reply = replies.json(responses.response(*items))
        answer = await made.responses.create(**ASK)
        assert answer.output_text == "the [VEILED] word"
        s.upstream.reply = replies.sse(responses.stream(*items, size=2))
        seen, final = await gathered(made)
        assert "SECRET" not in repr(seen)
        for found in (answer, final):
            assert found.output_text == "the [VEILED] word"
            assert found.output[1].arguments == '{"a":"a [VEILED]"}'


@pytest.mark.parametrize("stream", [False, True])
async def test_an_outage_of_the_guard_is_not_tried_again(stand: Make, stream: bool) -> None:
    async with stand(options="fault: crash") as s, client(s.url) as made:
        with pytest.raises(openai.InternalServerError) as caught:
            await made.responses.create(**ASK, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (503, "guard_unavailable")
        assert len(await s.rows()) == 1


async def test_a_stream_that_breaks_says_so(stand: Make) -> None:
    async with stand() as s, client(s.url) as made:
        for how in (End.RESET, End.CLOSE):
            s.upstream.reply = replies.sse([*responses.stream(responses.message(responses.text(LONG * 3)))[:40], how])
            with pytest.raises(openai.APIError, match="upstream"):
                await gathered(made)


@pytest.mark.model
async def test_a_real_model_says_the_same_through_penstock(stand: Make) -> None:
    """llama.cpp numbers neither items nor events."""
    ask = {
        "model": local_model.MODEL,
        "input": "What is the capital of France?",
        "temperature": 0,
        "max_output_tokens": 24,
    }
    with local_model.running() as url:
        async with (
            stand(settings={"upstream": url}) as s,
            openai.AsyncOpenAI(base_url=url, api_key="x", timeout=120) as direct,
            openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="x", timeout=120) as through,
        ):
            said = []
            for made in (direct, through):
                said.append((await made.responses.create(**ask)).output_text)
                stream = await made.responses.create(**ask, stream=True)
                said.append("".join([e.delta async for e in stream if e.type == "response.output_text.delta"]))
            assert len(set(said)) == 1
        word = max(re.findall("[A-Za-z]+", said[0]), key=len)
        async with (
            stand(settings={"upstream": url}, options=f"word: '{word}', inline: true", stages="[output]") as s,
            openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="x", timeout=120) as through,
        ):
            assert (await through.responses.create(**ask)).output_text.startswith(WORDS)
            seen = [event async for event in await through.responses.create(**ask, stream=True)]
            assert word not in repr(seen)
            assert WORDS in repr(seen[-1])
