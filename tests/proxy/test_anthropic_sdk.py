"""The official anthropic client through Penstock: what it reads, what it raises, and that it does not try again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pydantic
import pytest

from tests.proxy.conftest import Make
from tests.upstream import End, messages, replies
from tests.upstream.messages import call, text, thinking

anthropic = pytest.importorskip("anthropic", reason="the official client comes with the dev extra")

FOLDER = Path(__file__).parent.parent / "fixtures" / "anthropic_messages"
ASK: dict[str, Any] = {"model": "claude", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
BLOCKED = {**ASK, "messages": [{"role": "user", "content": "MARK"}]}
WORDS = "I'm sorry, but I can't help with that request"
LONG = "Some honest words that go on and on, so that some of them have left by then. "
HOP = {"connection", "keep-alive", "transfer-encoding"}


def files(kind: str) -> list[Path]:
    found = sorted((FOLDER / kind).iterdir())
    assert len(found) > 4
    return found


@asynccontextmanager
async def client(url: str, **more: Any) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test", **more) as made:
        yield made


async def streamed(made: Any, begun: asyncio.Event | None = None, **more: Any) -> tuple[Any, list[str], str | None]:
    """What the client's own accumulator makes of a stream, its events, and the error that it ended in. `begun` is set
    once half a line was read."""
    failure, names, whole = None, [], None
    async with made.messages.stream(**{**ASK, **more}) as events:
        try:
            async for event in events:
                names.append(event.type)
                if begun and event.type == "text" and len(event.snapshot) >= 40:
                    begun.set()
        except anthropic.APIError as error:
            failure = str(error)
        if "message_start" in names:
            whole = events.current_message_snapshot.model_dump(warnings=False)
    return whole, names, failure


@pytest.mark.parametrize("rule", [{}, {"stream": "whole"}], ids=["hold", "whole"])
async def test_reads_the_same_as_directly(stand: Make, rule: dict[str, str]) -> None:
    async with stand(**rule) as s, client(s.upstream.url) as direct, client(s.url) as through:
        for path in files("messages"):
            s.upstream.reply = replies.json(path.read_bytes())
            first, second = [await made.messages.create(**ASK) for made in (direct, through)]
            assert first.model_dump(warnings=False) == second.model_dump(warnings=False), path.name
        for path in files("streams"):
            s.upstream.reply = replies.sse([path.read_bytes()])
            assert await streamed(through) == await streamed(direct), path.name


async def test_the_fixtures_are_a_fair_yardstick(stand: Make) -> None:
    """The client reads from a stream what it reads from the same message in one piece."""
    async with stand() as s, client(s.upstream.url) as direct:
        for path in files("messages"):
            s.upstream.reply = replies.json(path.read_bytes())
            whole = (await direct.messages.create(**ASK)).model_dump(warnings=False)
            s.upstream.reply = replies.sse([(FOLDER / "streams" / f"{path.stem}.sse").read_bytes()])
            said, names, failure = await streamed(direct)
            assert failure is None
            assert names[-1] == "message_stop"
            assert said["stop_reason"] == whole["stop_reason"]
            for one, other in zip(said["content"], whole["content"], strict=True):
                # This client's accumulator leaves out the input of blocks that only its beta knows.
                keys = {key for key in other if other[key] is not None} - ({"input"} if path.stem == "mcp" else set())
                assert {key: one.get(key) for key in keys} == {key: other[key] for key in keys}, path.name


@pytest.mark.parametrize("rule", [{}, {"stream": "whole"}], ids=["hold", "whole"])
async def test_every_byte_passes(stand: Make, rule: dict[str, str]) -> None:
    """Body and headers, both ways."""
    headers = {
        "x-api-key": "k",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "b",
        "content-type": "application/json",
    }
    async with stand(**rule) as s, httpx2.AsyncClient(trust_env=False, timeout=20) as made:
        for path in [*files("messages"), *files("streams"), *files("requests")]:
            raw = path.read_bytes()
            body = raw if path.parent.name == "requests" else json.dumps(ASK).encode()
            for size in (len(raw), 61):
                cut = [raw[at : at + size] for at in range(0, len(raw), size)]
                s.upstream.reply = (
                    replies.sse(cut) if path.suffix == ".sse" else replies.json(b"{}" if body == raw else raw)
                )
                found = []
                for url in (s.upstream.url, s.url):
                    answer = await made.post(url + "/v1/messages", content=body, headers=headers)
                    kept = [pair for pair in answer.headers.items() if pair[0] not in HOP]
                    found.append((answer.status_code, kept, answer.content))
                    sent = s.upstream.requests[-1]
                    assert sent.body == body
                    assert {name: sent.header(name) for name in headers} == headers
                assert found[0] == found[1], path.name


async def test_reads_the_same_of_an_error(stand: Make) -> None:
    async with stand() as s, client(s.upstream.url) as direct, client(s.url) as through:
        for status, kind in ((400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"),
                             (413, "request_too_large")):  # fmt: skip
            s.upstream.reply = messages.error(status, kind, "no")
            seen = []
            for made in (direct, through):
                before = len(s.upstream.requests)
                with pytest.raises(anthropic.APIStatusError) as caught:
                    await made.messages.create(**ASK)
                error = caught.value
                calls = len(s.upstream.requests) - before
                seen.append((type(error), error.status_code, error.body, error.request_id, calls))
            assert seen[0] == seen[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_question_is_an_error_once(stand: Make, stream: bool) -> None:
    async with stand() as s, client(s.url) as made:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await made.messages.create(**BLOCKED, stream=stream)
        body = caught.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
        assert body["error"]["message"].startswith(WORDS)
        assert caught.value.request_id == body["request_id"] == body["error"]["penstock"]["decision_id"]
        assert len(await s.rows()) == 1
        assert s.upstream.requests == []


async def test_a_blocked_question_can_be_an_answer(stand: Make) -> None:
    async with stand(on_block="message") as s, client(s.url) as made:
        answer = await made.messages.create(**BLOCKED)
        assert answer.stop_reason == answer.stop_details.type == "refusal"
        assert answer.content[0].text.startswith(WORDS)
        whole, _, failure = await streamed(made, **BLOCKED)
        assert failure is None
        assert whole["stop_reason"] == "refusal"
        assert whole["content"][0]["text"].startswith(WORDS)
        assert s.upstream.requests == []


async def test_counting_tokens(stand: Make) -> None:
    async with stand(on_block="message") as s, client(s.url) as made:
        s.upstream.reply = replies.json({"input_tokens": 14})
        counted = {key: ASK[key] for key in ("model", "messages")}
        assert (await made.messages.count_tokens(**counted)).input_tokens == 14
        with pytest.raises(anthropic.BadRequestError):
            await made.messages.count_tokens(model="m", messages=BLOCKED["messages"])
        assert len(s.upstream.requests) == 1


@pytest.mark.parametrize("mode", ["{hold_back: 8}", "whole"])
async def test_a_blocked_stream_ends_well(stand: Make, mode: str) -> None:
    begun = asyncio.Event()
    async with stand(stream=mode) as s, client(s.url) as made:
        events = messages.stream(text(LONG + "MARK" + LONG), pad=True)
        s.upstream.reply = replies.sse(events if mode == "whole" else replies.halted(events, begun))
        whole, names, failure = await streamed(made, begun)
        assert failure is None
        assert names[-1] == "message_stop"
        assert whole["stop_reason"] == "refusal"
        said = "".join(block["text"] for block in whole["content"])
        assert WORDS in said
        assert "MARK" not in said
        assert said.startswith(LONG[:40]) is (mode != "whole")
        assert len(await s.rows()) == 1


class City(pydantic.BaseModel):
    name: str


async def test_a_blocked_stream_of_json_is_a_refusal(stand: Make) -> None:
    """The client parses a text as soon as its block ends: JSON that is cut is neither closed nor goes on in words."""
    begun = asyncio.Event()
    async with stand() as s, client(s.url) as made:
        s.upstream.reply = replies.sse(replies.halted(messages.stream(text('{"name":"' + LONG + "MARK")), begun, 0.6))
        whole, names, failure = await streamed(made, begun, output_format=City)
        assert failure is None
        assert names[-1] == "message_stop"
        assert whole["stop_reason"] == "refusal"
        (block,) = whole["content"]
        assert ('{"name":"' + LONG).startswith(block["text"])
        assert len(block["text"]) >= 40


CALLS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "the input": ([call(a="MARK")], ""),
    "the input, escaped": ([call(a="MARK")], "M"),
    "the second of two": ([call(), call(id="toolu_2", a="MARK")], ""),
    "the name": ([call(name="MARK")], ""),
    "behind words": ([text("Let me look."), call(a="MARK")], ""),
    "behind thoughts": ([thinking("So."), call(a="MARK")], ""),
    "an inner key": ([call(a={"MARK": 1})], ""),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", ["{hold_back: 8}", "whole"])
async def test_no_byte_of_a_blocked_call_arrives(stand: Make, name: str, mode: str) -> None:
    """Clients execute what they received, whatever the stop reason says."""
    blocks, escape = CALLS[name]
    blocked = [block for block in blocks if "MARK" in json.dumps(block)]
    async with stand(stream=mode) as s, client(s.url) as made:
        for size in (1, 3, 100):
            s.upstream.reply = replies.sse(messages.stream(*blocks, size=size, escape=escape))
            whole, names, failure = await streamed(made)
            assert failure is None
            assert names[-1] == "message_stop"
            called = [block for block in whole["content"] if block["type"] == "tool_use"]
            assert all(block["id"] not in {item["id"] for item in blocked} for block in called)
            assert whole["stop_reason"] == "refusal"
            assert whole["content"][-1]["text"].strip().startswith(WORDS)
        s.upstream.reply = replies.json(messages.message(*blocks))
        answer = await made.messages.create(**ASK)
        assert [block.type for block in answer.content] == ["text"]
        assert answer.stop_reason == "refusal"


async def test_a_cut_call_does_not_arrive(stand: Make) -> None:
    async with stand() as s, client(s.url) as made:
        events = messages.stream(text("So."), call(), size=3)
        for end in ([], [End.RESET], [End.CLOSE]):
            s.upstream.reply = replies.sse([*events[:12], *end])
            whole, _, _ = await streamed(made)
            assert whole is None or all(block["type"] != "tool_use" for block in whole["content"])


@pytest.mark.parametrize("stream", [False, True])
async def test_an_outage_of_the_guard_is_not_tried_again(stand: Make, stream: bool) -> None:
    async with stand(options="fault: crash") as s, client(s.url) as made:
        with pytest.raises(anthropic.InternalServerError) as caught:
            await made.messages.create(**ASK, stream=stream)
        assert (caught.value.status_code, caught.value.body["error"]["code"]) == (503, "guard_unavailable")
        assert len(await s.rows()) == 1


async def test_an_outage_of_the_guard_ends_a_stream(stand: Make) -> None:
    async with stand(options="fault: crash", stages="[output]") as s, client(s.url) as made:
        s.upstream.reply = replies.sse(messages.stream(text(LONG)))
        whole, _, failure = await streamed(made)
        assert failure is not None
        assert "could not be checked" in failure
        assert whole is None or not whole["content"]


@pytest.mark.parametrize("stream", [False, True])
async def test_masked_text_is_read_as_such(stand: Make, stream: bool) -> None:
    blocks = [text("the SECRET word"), call(a="a SECRET", deep=[{"b": "SECRET"}])]
    async with stand() as s, client(s.url) as made:
        if stream:
            s.upstream.reply = replies.sse(messages.stream(*blocks, size=2))
            whole, _, _ = await streamed(made)
        else:
            s.upstream.reply = replies.json(messages.message(*blocks))
            whole = (await made.messages.create(**ASK)).model_dump(warnings=False)
        assert whole["content"][0]["text"] == "the [VEILED] word"
        assert whole["content"][1]["input"] == {"a": "a [VEILED]", "deep": [{"b": "[VEILED]"}]}


async def test_both_ways_to_show_a_key(stand: Make) -> None:
    """Older clients send x-api-key, newer ones a bearer: both reach the upstream, and both are accounts."""
    async with stand() as s:
        s.upstream.reply = replies.json(messages.message())
        for more in ({"api_key": "k"}, {"api_key": None, "auth_token": "t"}):
            async with anthropic.AsyncAnthropic(base_url=s.url, **more) as made:
                await made.messages.create(**ASK)
        accounts = {row["account"] for row in await s.rows()}
        assert len(accounts) == 2
        assert "anonymous" not in accounts


async def test_a_tool_runner_goes_on_without_what_was_not_judged_here(stand: Make) -> None:
    """It sends but what is new of a conversation that the provider keeps. Refused in the API's words, it sends all."""

    async def get_weather(city: str) -> str:
        """The weather."""
        return f"{city}: sunny"

    tool = anthropic.beta_async_tool(get_weather)

    def reply(request: Any) -> Any:
        turn = len(s.upstream.requests)
        said = call(id=f"toolu_{turn}", city="Paris") if turn < 3 else text("It is sunny.")
        return replies.json(messages.message(said, id=f"msg_{turn}"))

    async with stand() as s, client(s.url) as made:
        s.upstream.reply = reply
        last = await made.beta.messages.tool_runner(**ASK, tools=[tool]).until_done()
        assert last.content[0].text == "It is sunny."
        sent = [request.json() for request in s.upstream.requests]
        assert [len(each["messages"]) for each in sent] == [1, 3, 5]
        assert [each.get("thread") for each in sent] == [{"type": "create"}, None, None]
        assert [row["detail"] for row in await s.rows()].count("thread_unsupported_request") == 1
