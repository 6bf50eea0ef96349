"""What is allowed passes as if Penstock were not there, in every dialect: bodies, streams, headers, errors."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.proxy.conftest import Make, Stand
from tests.proxy.test_transparency import HOP, OBSERVE, pieces, seen
from tests.upstream import End, Reply, Step, messages, replies, responses, shapes

SETTINGS: dict[str, str] = {"stages": "[input, output]", "stream": "{hold_back: 8}"}
UNKNOWN = {"x_new": {"y": [1.5, None, True, "\u00fc/\u2028"]}, "metadata": {"a": "b"}}


@dataclass(frozen=True, slots=True)
class Api:
    """One API: what is asked, and what it answers whole and in a stream (none where it has no streams)."""

    path: str
    ask: dict[str, Any]
    whole: Any
    stream: tuple[bytes, ...] = ()


LONG = "An honest answer that is long enough to be held back and let go several times over, word by word. " * 2
USER = [{"role": "user", "content": "Hi"}]
_ITEMS = (
    responses.reasoning("They ask."), responses.message(responses.text(LONG)), responses.call(),
    responses.call(id="fc_2", call_id="call_2"),
)  # fmt: skip
_BLOCKS = (messages.thinking("So."), messages.text(LONG), messages.call(), messages.call(id="toolu_2"))
_TEXTS = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}


def _text(words: str, end: str | None = None) -> bytes:
    return shapes.event({**_TEXTS, "choices": [{"text": words, "index": 0, "logprobs": None, "finish_reason": end}]})


APIS = {
    "chat": Api(
        "/v1/chat/completions",
        {"model": "m", "messages": USER},
        shapes.completion([LONG], tool_calls=[shapes.ToolCall()]),
        tuple(shapes.stream([LONG], tool_calls=[shapes.ToolCall()], obfuscation=True, include_usage=True)),
    ),
    "responses": Api(
        "/v1/responses",
        {"model": "m", "input": "Hi"},
        responses.response(*_ITEMS),
        tuple(responses.stream(*_ITEMS, padded=True)),
    ),
    "messages": Api(
        "/v1/messages",
        {"model": "m", "max_tokens": 9, "messages": USER},
        messages.message(*_BLOCKS),
        tuple(messages.stream(*_BLOCKS, pad=True)),
    ),
    "count_tokens": Api("/v1/messages/count_tokens", {"model": "m", "messages": USER}, {"input_tokens": 14}),
    "completions": Api(
        "/v1/completions",
        {"model": "m", "prompt": "Hi"},
        {**_TEXTS, "choices": [{"text": LONG, "index": 0, "logprobs": None, "finish_reason": "stop"}]},
        (*(_text(word) for word in shapes.pieces(LONG, 5)), _text("", "stop"), shapes.DONE),
    ),
    "embeddings": Api(
        "/v1/embeddings",
        {"model": "m", "input": ["Hi"]},
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -2e-9]}], "model": "m"},
    ),
}
STREAMED = {name: api for name, api in APIS.items() if api.stream}
LIMITS = [
    ("retry-after", "7"), ("retry-after-ms", "7000"), ("x-ratelimit-reset-tokens", "4ms"), ("x-should-retry", "true"),
    ("anthropic-ratelimit-requests-remaining", "0"), ("request-id", "req_9"), ("Set-Cookie", "a=1"),
    ("Set-Cookie", "b=2"), ("X-Odd-CASE", "kept; as=\"it, is\""),
]  # fmt: skip
SENT = [
    ("Authorization", "Bearer sk-secret"), ("X-Stainless-Lang", "python"), ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", "a-1"), ("anthropic-beta", "b-2"), ("Idempotency-Key", "k"), ("Cookie", "a=b"), ("X-Empty", ""),
    ("Accept", "application/json"), ("User-Agent", "test/1"), ("Content-Type", "application/json"),
]  # fmt: skip
QUERY = "?beta=true&a=%20b%2Fc&&x[]=1&x[]=2&e="


async def both(s: Stand, api: Api, body: bytes, query: str = "") -> list[Any]:
    """What came back directly and through Penstock: status and its words, headers as they came but for those of one
    hop, raw body."""
    found: list[Any] = []
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        for url in (s.upstream.url, s.url):
            async with client.stream("POST", url + api.path + query, content=body, headers=SENT) as response:
                raw = b"".join([piece async for piece in response.aiter_raw()])
            kept = [pair for pair in response.headers.raw if pair[0].decode().lower() not in HOP]
            found.append((response.status_code, response.extensions["reason_phrase"], kept, raw))
    return found


def reworded(reply: Reply, reason: bytes) -> list[Step]:
    """The same reply with other words in its status line."""
    first, *rest = reply
    assert isinstance(first, bytes)
    status, _, others = first.partition(b"\r\n")
    return [b"%b %b\r\n%b" % (status[: len(b"HTTP/1.1 200")], reason, others), *rest]


def body_of(api: Api, *, stream: bool) -> bytes:
    """A request in a spelling of its own: blanks, escapes, unknown members, numbers that a parser would change."""
    tree = {**api.ask, **UNKNOWN, **({"stream": True} if stream else {})}
    return json.dumps(tree, indent=1).encode()[:-1] + b', "n_new" : 1.50, "big": 123456789012345678901}\n'


@pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())
async def test_whole_answers_and_their_requests(stand: Make, api: Api) -> None:
    async with stand(**SETTINGS) as s:
        raw = json.dumps({**api.whole, **UNKNOWN}, indent=1).encode() + b"\n"
        for reason in (b"OK", b"Fine by me, gr\xfcn", b""):
            s.upstream.reply = reworded(replies.json(raw, headers=LIMITS), reason)
            direct, through = await both(s, api, body_of(api, stream=False), QUERY)
            assert direct == through
            assert through[1] == reason
            assert through[3] == raw
        assert {(b"X-Odd-CASE", b'kept; as="it, is"'), (b"Set-Cookie", b"b=2")} <= set(through[2])
        first, second = s.upstream.requests[:2]
        assert seen(first) == seen(second)
        assert (b"X-Stainless-Lang", b"python") in second.headers
        # Headers of one name keep their order.
        assert [value for name, value in second.headers if name == b"anthropic-beta"] == [b"a-1", b"b-2"]


@pytest.mark.parametrize("api", STREAMED.values(), ids=STREAMED.keys())
async def test_streams_however_they_are_cut(stand: Make, api: Api) -> None:
    async with stand(**SETTINGS) as s:
        raw = b"".join(api.stream)
        for chunks in (list(api.stream), pieces(raw, 61), [raw]):
            for chunked in (True, False):
                s.upstream.reply = reworded(replies.sse(chunks, chunked=chunked, headers=LIMITS), b"Go on")
                direct, through = await both(s, api, body_of(api, stream=True))
                assert direct == through
                assert through[3] == raw


def spelled(events: tuple[bytes, ...]) -> dict[str, list[bytes]]:
    """A stream in spellings that every client reads alike."""
    first, *rest = events
    at = first.index(b"{") + 1
    return {
        "CRLF": [event.replace(b"\n", b"\r\n") for event in events],
        "both line ends": [event.replace(b"\n", b"\r\n") if n % 2 else event for n, event in enumerate(events)],
        "no blanks": [event.replace(b"data: ", b"data:").replace(b"event: ", b"event:") for event in events],
        "more blanks": [event.replace(b"data: {", b"data:   { \t").replace(b'":', b'" :') for event in events],
        "comments": [b":\n\n", b": hello\n\n", *(b":x\n" + event for event in events[:-1]), events[-1]],
        "ids and times": [b"retry: 9\n\n", *(b"id: %d\nretry: 10\n%b" % pair for pair in enumerate(events))],
        "ids behind": [event[:-1] + b"id: 7\n\n" for event in events],
        "pauses told": [first, *[b": keep-alive\n\n"] * 3, *rest],
        "data in two lines": [first[:at] + b"\ndata: " + first[at:], *rest],
        "an unknown event": [
            first,
            b'event: new\ndata: {"type":"new","choices":[],"x":[1.50,1e3,"\\u0000"]}\n\n',
            *rest,
        ],
    }


@pytest.mark.parametrize("policy", [None, OBSERVE], ids=["hold back", "observe"])
@pytest.mark.parametrize("api", STREAMED.values(), ids=STREAMED.keys())
async def test_streams_however_they_are_spelled(stand: Make, api: Api, policy: str | None) -> None:
    """Cut where no event ends, at every eleventh byte."""
    async with stand(policy=policy, **SETTINGS) as s:
        for name, events in spelled(api.stream).items():
            raw = b"".join(events)
            s.upstream.reply = replies.sse(pieces(raw, 11))
            direct, through = await both(s, api, body_of(api, stream=True))
            assert direct == through, name
            assert through[3] == raw, name


ODD_JSON: dict[str, bytes] = {
    "numbers": b'"a":123456789012345678901234567890,"b":1.0000000000000000000001,"c":1E40,"d":-0,"e":0.1e-7',
    "keys that look alike": b'"K":1,"k":2,"k ":3,"\\u006b2":4,"":5,"modell":"other","\xce\xba":6',
    "escapes": b'"x":"\\u0000\\u001f\\/\\ud83d\\ude00\\uffff\xef\xbf\xbe\xe2\x80\xa8"',
    "nothing in it": b'"x":[],"y":{},"z":[[],[{}]],"w":null,"v":""',
    "blanks": b'\r\n\t "x" :\t[ 1 ,\n2 ] , "y" : { }\r\n',
    "depth": b'"x":' + b"[" * 200 + b"]" * 200,
}


@pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())
async def test_json_however_it_is_spelled(stand: Make, api: Api) -> None:
    """In requests and in answers."""
    async with stand(**SETTINGS) as s:
        for name, odd in ODD_JSON.items():
            body, raw = [json.dumps(tree).encode()[:-1] + b"," + odd + b"}\n" for tree in (api.ask, api.whole)]
            s.upstream.reply = replies.json(raw)
            direct, through = await both(s, api, body)
            assert direct == through, name
            assert through[3] == raw, name
            assert [request.body for request in s.upstream.requests[-2:]] == [body, body], name


@pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())
async def test_errors(stand: Make, api: Api) -> None:
    """Those that come instead of a stream, too."""
    async with stand(**SETTINGS) as s:
        for status in (400, 401, 404, 413, 429, 500, 503, 529):
            s.upstream.reply = reworded(replies.error(status, "No, not now.", headers=LIMITS), b"Not now %d" % status)
            for stream in {False, bool(api.stream)}:
                direct, through = await both(s, api, body_of(api, stream=stream))
                assert direct == through, status


@pytest.mark.parametrize("api", STREAMED.values(), ids=STREAMED.keys())
async def test_what_may_leave_leaves_before_the_next_event_comes(stand: Make, api: Api) -> None:
    """Under a policy that only logs, each event when it comes."""
    async with stand(policy=OBSERVE) as s:
        go = asyncio.Event()
        s.upstream.reply = replies.sse([*api.stream[:1], go, *api.stream[1:]])
        body = body_of(api, stream=True)
        async with s.client.stream("POST", api.path, content=body, headers=SENT) as response:
            chunks = response.aiter_raw()
            first = await asyncio.wait_for(anext(chunks), 30)
            assert api.stream[0] in first
            go.set()
            assert first + b"".join([chunk async for chunk in chunks]) == b"".join(api.stream)


@pytest.mark.parametrize("api", STREAMED.values(), ids=STREAMED.keys())
async def test_who_leaves_is_followed(stand: Make, api: Api) -> None:
    """A client that hangs up midway stops the model; a model that hangs up never makes a stream that looks whole."""
    async with stand(**SETTINGS) as s:
        half = api.stream[: len(api.stream) // 2]
        s.upstream.reply = replies.keepalive(half)
        async with s.client.stream("POST", api.path, content=body_of(api, stream=True), headers=SENT) as response:
            await anext(response.aiter_raw())
        await asyncio.wait_for(s.upstream.requests[-1].gone.wait(), 30)
        s.upstream.reply = replies.sse([*half, 0.05, End.RESET])
        told = (await s.client.post(api.path, content=body_of(api, stream=True), headers=SENT)).text
        assert "error" in told.rstrip().rpartition("\n\n")[2]
        assert not any(end in told for end in ("[DONE]", "message_stop", "response.completed"))
