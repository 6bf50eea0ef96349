"""The simulator does what its scripts say, and a real client reads its answers as OpenAI's."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx2
import orjson
import pytest

from tests.upstream import End, Request, Upstream, replies, shapes

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
WEATHER = shapes.ToolCall()
TIME = shapes.ToolCall("get_time", '{"zone":"Europe/Paris"}', "call_2")


async def exchange(up: Upstream, body: object = CHAT, *, path: str = "/v1/chat/completions") -> bytes:
    """All bytes that the simulator sends for one request, until it closes or is silent for long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
    data = orjson.dumps(body)
    writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data))
    received = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65536), 0.4 if received else 5):
            received += piece
    except (TimeoutError, ConnectionResetError) as error:
        received += f"<{type(error).__name__}>".encode()
    writer.close()
    return received


def contents(events: list[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(event[6:]) for event in events if event != shapes.DONE]


async def test_keeps_each_request_as_it_arrived() -> None:
    async with Upstream() as up, httpx2.AsyncClient(base_url=up.url) as client:
        answer = await client.post("/v1/chat/completions?a=%2F", json=CHAT, headers={"X-Odd-Case": "1"})
        models = await client.get("/v1/models")
        missing = await client.get("/v1/models/nothing")
    post, get, _ = up.requests
    assert (post.method, post.target, post.json()) == ("POST", b"/v1/chat/completions?a=%2F", CHAT)
    assert (b"X-Odd-Case", b"1") in post.headers
    assert (post.header("x-odd-case"), post.finished.is_set(), post.connection) == ("1", True, get.connection)
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "gpt-4o-mini" in [model["id"] for model in models.json()["data"]]
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


TWO = shapes.stream("abc", size=3)
WHOLE = replies.json({"a": "b" * 100})

ENDINGS: list[tuple[str, replies.Reply, bytes]] = [
    ("stream", replies.sse(TWO), b"[DONE]\n\n\r\n0\r\n\r\n<TimeoutError>"),
    ("until close", replies.sse(TWO, chunked=False), b"data: [DONE]\n\n"),
    ("no DONE", replies.sse(TWO[:-1], chunked=False), TWO[-2]),
    (
        "events after",
        replies.sse([*TWO, shapes.DONE, *TWO], chunked=False),
        b"".join([*TWO, shapes.DONE, *TWO]),
    ),
    ("reset", replies.cut(WHOLE, 5), b'\r\n\r\n{"a":<ConnectionResetError>'),
    ("closed in the head", replies.cut(WHOLE, 20, End.CLOSE, of_body=False), b"HTTP/1.1 200 OK\r\nDat"),
    ("half closed", [*replies.sse([b"data: x\n\n"])[:-1], End.HALF_CLOSE], b"9\r\ndata: x\n\n\r\n"),
    ("error midway", replies.sse([TWO[0], shapes.stream_error()], chunked=False), b'"code":null}}\n\n'),
]


@pytest.mark.parametrize(("name", "reply", "end"), ENDINGS, ids=[case[0] for case in ENDINGS])
async def test_plays_the_steps_and_the_ending(name: str, reply: replies.Reply, end: bytes) -> None:
    async with Upstream(reply) as up:
        assert (await exchange(up)).endswith(end)


HEADS: list[tuple[replies.Reply, bytes]] = [
    (replies.too_many(2), b"retry-after: 2\r\nretry-after-ms: 2000\r\n"),
    (replies.html("Bad gateway", status=502), b"HTTP/1.1 502 Bad Gateway\r\n"),
    (replies.redirect("http://elsewhere.test/"), b"Location: http://elsewhere.test/\r\n"),
    (replies.json({}, gzip=True), b"Content-Encoding: gzip\r\n\r\n\x1f\x8b"),
    (replies.json({}, length=1), b"Content-Length: 1\r\n\r\n{}"),
    (replies.json({}, length=9), b"Content-Length: 9\r\n\r\n{}"),
    (replies.json({}, headers=[("x-huge", "h" * 70_000)]), b"x-huge: " + b"h" * 70_000),
    (replies.informational(replies.json({}), times=2), b"preload\r\n\r\nHTTP/1.1 200 OK\r\n"),
]


@pytest.mark.parametrize(("reply", "part"), HEADS, ids=range(len(HEADS)))
async def test_heads_say_what_was_asked(reply: replies.Reply, part: bytes) -> None:
    async with Upstream([*reply, End.CLOSE]) as up:
        assert part in await exchange(up)


def test_drip_keeps_the_bytes_and_the_rate() -> None:
    steps = replies.drip(WHOLE, size=3, rate=30)
    assert b"".join(step for step in steps if isinstance(step, bytes)) == WHOLE[0]
    assert {step for step in steps if not isinstance(step, bytes)} == {0.1}


async def test_comments_go_on_for_ever() -> None:
    got = b""
    async with (
        Upstream(replies.keepalive(TWO[:1])) as up,
        httpx2.AsyncClient() as client,
        client.stream("GET", up.url) as answer,
    ):
        pieces = answer.aiter_raw()
        while len(got) < len(TWO[0]) + 30:
            got += await anext(pieces)
    assert (TWO[0] + b": ping\n\n" * 9).startswith(got)


def test_forever_can_be_given_again() -> None:
    endless = replies.endless_line()
    assert list(itertools.islice(endless, 5)) == list(itertools.islice(endless, 5))


async def test_a_test_can_hold_a_stream_and_see_the_caller_leave() -> None:
    go_on = asyncio.Event()
    async with Upstream(replies.sse([TWO[0], go_on, *TWO[1:]])) as up, httpx2.AsyncClient() as client:
        async with client.stream("POST", f"{up.url}/v1/chat/completions", json=CHAT) as answer:
            lines = answer.aiter_lines()
            assert "assistant" in await anext(lines)
            request = await up.arrived()
            assert not request.gone.is_set()
            sent = request.sent
        await asyncio.wait_for(request.gone.wait(), 30)
        assert (request.finished.is_set(), request.sent) == (False, sent)
        assert sent > len(TWO[0])
        assert not up.open


async def test_a_slow_reader_stops_the_writer() -> None:
    async with Upstream(replies.Forever(replies.sse([])[:-1], [replies.chunk(b"x" * 65536)])) as up:
        _, writer = await asyncio.open_connection("127.0.0.1", up.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        request = await up.arrived()
        assert 0 < request.sent < 50_000_000
        writer.transport.abort()
        await asyncio.wait_for(request.gone.wait(), 30)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def first(up: Upstream) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
        writer.write(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        return data

    def script(request: Request) -> replies.Reply:
        slow: replies.Reply = [0.01, *replies.json(request.path)]
        return slow if request.path == "/1" else [*replies.json(request.path), End.CLOSE]

    async with Upstream(script) as up:
        data = await first(up)
    assert data.index(b'"/1"') < data.index(b'"/2"')


async def test_a_broken_script_is_told_to_the_test() -> None:
    with pytest.raises(ExceptionGroup, match="script of the simulated upstream"):
        async with Upstream(lambda request: request.json()["missing"]) as up:
            assert await exchange(up) == b""


async def test_replies_in_turn() -> None:
    async with (
        Upstream(replies.in_turn(replies.too_many(), replies.json(1))) as up,
        httpx2.AsyncClient() as client,
    ):
        statuses = [(await client.get(up.url)).status_code for _ in range(3)]
    assert statuses == [429, 200, 200]


def test_interleaved_choices_keep_their_order() -> None:
    told = ["", "", ""]
    order = []
    for body in contents(shapes.stream(["one", "two and", None], size=2)):
        for choice in body["choices"]:
            order.append(choice["index"])
            told[choice["index"]] += choice["delta"].get("content") or ""
    assert told == ["one", "two and", ""]
    assert order[:6] == [0, 1, 2, 0, 1, 0]


def test_usage_comes_once_and_padding_in_every_chunk() -> None:
    bodies = contents(shapes.stream("abcdefgh", include_usage=True, obfuscation=True))
    assert [body["usage"] is None for body in bodies] == [True] * (len(bodies) - 1) + [False]
    assert bodies[-1]["choices"] == []
    assert all(1 <= len(body["obfuscation"]) <= 14 for body in bodies)


def test_tool_calls_name_themselves_once() -> None:
    deltas = [body["choices"][0]["delta"] for body in contents(shapes.stream(tool_calls=[WEATHER, TIME]))]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [(call["index"], call["id"]) for call in calls if "id" in call] == [(0, WEATHER.id), (1, TIME.id)]
    assert "".join(call["function"]["arguments"] for call in calls if call["index"] == 1) == TIME.arguments
    assert deltas[0]["content"] is None


SAID: list[tuple[str, dict[str, Any]]] = [
    ("text", {"text": "Hello, wörld 🌍"}),
    ("choices", {"text": ["one", "two"], "n": 2}),
    ("tools", {"tool_calls": [WEATHER, TIME]}),
    ("refusal", {"refusal": "I'm sorry, I can't help with that."}),
    ("reasoning", {"text": "42", "reasoning": "six times seven"}),
    ("logprobs", {"text": "yes", "logprobs": True}),
]


@pytest.mark.parametrize(("name", "said"), SAID, ids=[case[0] for case in SAID])
async def test_the_official_client_reads_the_same_streamed_or_not(name: str, said: dict[str, Any]) -> None:
    openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")

    def script(request: Request) -> replies.Reply:
        if request.json().get("stream"):
            return replies.sse(shapes.stream(**said, include_usage=True, obfuscation=True))
        return replies.json(shapes.completion(**said))

    arguments: dict[str, Any] = {"model": "gpt-4o-mini", "messages": CHAT["messages"]}
    async with Upstream(script) as up, openai.AsyncOpenAI(base_url=f"{up.url}/v1", api_key="sk") as client:
        whole = await client.chat.completions.create(**arguments)
        async with client.chat.completions.stream(**arguments) as stream:
            streamed = await stream.get_final_completion()
    for one, other in zip(whole.choices, streamed.choices, strict=True):
        assert one.finish_reason == other.finish_reason
        assert (one.message.content or "", one.message.refusal) == (
            other.message.content or "",
            other.message.refusal,
        )
        assert [(call.id, call.function.name, call.function.arguments) for call in one.message.tool_calls or ()] == [
            (call.id, call.function.name, call.function.arguments) for call in other.message.tool_calls or ()
        ]
    assert streamed.usage.total_tokens == whole.usage.total_tokens
