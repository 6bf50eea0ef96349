"""What is allowed passes as if Penstock were not there: every byte of body, every header, both ways."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.sse import Decoder
from tests.proxy.conftest import Make, Stand
from tests.upstream import End, Request, replies, shapes

FOLDER = Path(__file__).parent.parent / "fixtures" / "openai_chat"
HOP = {"connection", "keep-alive", "transfer-encoding"}
"""Headers of one connection: each hop has its own."""
# Law 1: what clients could read in two ways is re-framed, and what clients drop does not leave.
REFRAMED = {
    "streams/cr.sse",
    "streams/bom.sse",
    "streams/double_done.sse",
    "streams/after_finish.sse",
    "streams/unterminated.sse",
}
OBSERVE = """
id: observe
version: 1
owner: tests
description: Writes down and changes nothing.
classifiers: {canary: {kind: canary, inline: true}}
rules:
  - id: seen
    description: The word MARK is written down.
    stages: [input, output]
    when: {finding: canary.mark, at_least: 0.5}
    action: log
"""
POLICIES = {"observe": {"policy": OBSERVE}, "hold back": {}, "whole": {"stream": "whole"}}
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
HEADERS = {
    "authorization": "Bearer sk-secret",
    "openai-organization": "org-1",
    "openai-beta": "x=v1",
    "idempotency-key": "k-1",
    "x-stainless-lang": "python",
    "user-agent": "test/1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "cookie": "a=b",
    "x-empty": "",
}


async def exchange(
    url: str, body: bytes, path: str = "/v1/chat/completions", **headers: str
) -> tuple[tuple[int, bytes], list[tuple[str, str]], bytes]:
    """The status and its words, headers as they came, and the raw body."""
    sent = {**HEADERS, "content-type": "application/json", **headers}
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=20) as client,
        client.stream("POST", url + path, content=body, headers=sent) as response,
    ):
        raw = b"".join([piece async for piece in response.aiter_raw()])
        names = [(name.decode(), value.decode("latin-1")) for name, value in response.headers.raw]
        return (response.status_code, response.extensions["reason_phrase"]), names, raw


async def both(s: Stand, body: bytes, **headers: str) -> tuple[Any, Any]:
    """The same exchange directly and through Penstock, hop-by-hop headers left out."""
    found = []
    for url in (s.upstream.url, s.url):
        status, names, raw = await exchange(url, body, **headers)
        found.append((status, [pair for pair in names if pair[0].lower() not in HOP], raw))
    return found[0], found[1]


def data(raw: bytes) -> list[str]:
    """The data of a stream's events up to its end."""
    decoder = Decoder()
    events = [event.data for event in (*decoder.feed(raw), *decoder.finish()) if event.data]
    return events[: events.index("[DONE]") + 1] if "[DONE]" in events else events


def fixtures(kind: str) -> list[str]:
    return sorted(path.relative_to(FOLDER).as_posix() for path in (FOLDER / kind).iterdir())


def pieces(raw: bytes, size: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


@pytest.mark.parametrize("rule", POLICIES.values(), ids=POLICIES.keys())
async def test_streams(stand: Make, rule: Any) -> None:
    async with stand(**rule) as s:
        for file in fixtures("streams"):
            raw = (FOLDER / file).read_bytes()
            for size in (len(raw), 61):
                s.upstream.reply = replies.sse(pieces(raw, size))
                direct, through = await both(s, json.dumps({**ASK, "stream": True}).encode())
                assert direct[:2] == through[:2], file
                if file in REFRAMED:
                    assert data(through[2]) == data(raw), file
                else:
                    assert through[2] == raw, file


@pytest.mark.parametrize("rule", POLICIES.values(), ids=POLICIES.keys())
async def test_completions(stand: Make, rule: Any) -> None:
    async with stand(**rule) as s:
        for file in fixtures("completions"):
            raw = (FOLDER / file).read_bytes()
            s.upstream.reply = replies.json(raw)
            direct, through = await both(s, json.dumps(ASK).encode())
            assert direct == through, file
            assert through[2] == raw, file


ODD_STREAMS: dict[str, list[bytes]] = {
    "padding": shapes.stream("A long and honest answer.", obfuscation=True, include_usage=True),
    "unknown fields": [b'data: {"choices":[],"x":{"y":[1.50,1e3,-0.0,12345678901234567890123]}}\n\n', shapes.DONE],
    "blanks in the JSON": [b'data: {"choices" : [ ] , "a":1.0}\n\n', shapes.DONE],
    "escapes": [b'data: {"choices":[{"index":0,"delta":{"content":"\\u0041\\/\\ud83d\\ude00"}}]}\n\n', shapes.DONE],
    "comments and names": [b": ping\n\n", b"event: x\ndata: {}\n\n", b"id: 3\nretry: 9\ndata: {}\n\n", shapes.DONE],
    "error inside": [*shapes.stream("Hi")[:2], shapes.stream_error(), shapes.DONE],
    "only done": [shapes.DONE],
    "nothing": [],
    "no done": shapes.stream("Hello, this is all there is.", done=False),
    "exactly one stride": shapes.stream("x" * 32),
    "tool calls": shapes.stream(tool_calls=[shapes.ToolCall(), shapes.ToolCall(id="call_2")]),
}


@pytest.mark.parametrize("rule", POLICIES.values(), ids=POLICIES.keys())
async def test_odd_streams(stand: Make, rule: Any) -> None:
    async with stand(**rule) as s:
        for name, events in ODD_STREAMS.items():
            for chunked in (True, False):
                s.upstream.reply = replies.sse(events, chunked=chunked)
                direct, through = await both(s, json.dumps({**ASK, "stream": True}).encode())
                if not events:  # nothing ever left: it is answered in one piece
                    through[1].remove(("content-length", "0"))
                assert direct == through, name


async def test_every_length_of_text_arrives_whole(stand: Make) -> None:
    """Lengths around the gate's strides, in streams that end with and without [DONE]."""
    async with stand() as s:
        for size in range(1, 70):
            events = shapes.stream("x" * size, size=1 + size % 9, done=bool(size % 3))
            s.upstream.reply = replies.sse(events)
            assert (await s.chat("Hi", stream=True)).content == b"".join(events), size


ERRORS: dict[str, Any] = {
    "429 with retry-after": replies.too_many(3),
    "500": replies.error(500, "The server had an error.", kind="server_error"),
    "503": replies.error(503, "Overloaded", headers=[("retry-after", "7"), ("x-should-retry", "true")]),
    "401": replies.error(401, "Incorrect API key provided.", code="invalid_api_key"),
    "404": replies.error(404, "The model `x` does not exist", code="model_not_found"),
    "400 with a strange body": replies.json(
        b'["not","the","usual",{"shape":null}]'.replace(b"[", b'{"e":[').replace(b"]", b"]}"), status=400
    ),
    "418": replies.json({"error": "teapot"}, status=418),
    "200 with numbers": replies.json(b'{"choices":[],"a":1.0,"b":1E5,"c":123456789012345678901234567890,"d":0.1000}'),
    "200 with blanks": replies.json(b' {\n "choices" : [ ]\r\n}\t'),
    "a problem": replies.content(b'{"title":"x","status":400}', status=400, content_type="application/problem+json"),
    "JSON that calls itself text": replies.content(b'{"error": "x" }\n', status=503, content_type="text/plain"),
    "JSON of another kind": replies.content(b'{"choices":[]}', content_type="application/vnd.x+json; charset=utf-8"),
    "a list, as Gemini's": replies.content(
        b'[{"error":{"code":429,"message":"Slow down.","status":"RESOURCE_EXHAUSTED"}}]\n', status=429
    ),
    "a line, as Starlette's": replies.content(
        b"Internal Server Error", status=500, content_type="text/plain; charset=utf-8"
    ),
    "a line, as Envoy's": replies.content(
        "upstream connect error \u2013 timeout\n".encode(), status=503, content_type="text/plain"
    ),
    "a JSON string": replies.content(b'"no such \\u006dodel"', status=404),
    "no words": replies.content(b"", status=503, content_type="text/plain"),
    "no words of JSON": replies.content(b"", status=404),
    "no words and no type": [replies.head(502, [("Content-Length", "0"), ("Retry-After", "2")])],
    "201": replies.json({"choices": []}, status=201),
    "many cookies": replies.json(
        {}, headers=[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-many", "1"), ("x-many", "2")]
    ),
    "strange header values": replies.json({}, headers=[("x-a", ""), ("x-b", 'a,b;c="d"'), ("x-latin", "gr\u00fcn")]),
    "JSON in chunks": replies.sse([b'{"choices":', b"[]}"], content_type="application/json"),
    "JSON until the end": replies.sse([b'{"choices":[]}'], content_type="application/json", chunked=False),
}


async def test_answers_of_every_status(stand: Make) -> None:
    async with stand() as s:
        for name, reply in ERRORS.items():
            for stream in (False, True):
                s.upstream.reply = reply
                direct, through = await both(s, json.dumps({**ASK, "stream": stream}).encode())
                if not any(pair[0] == "Content-Length" for pair in direct[1]):
                    through = (through[0], [pair for pair in through[1] if pair[0] != "content-length"], through[2])
                assert direct == through, name


async def test_errors_that_are_no_objects_are_masked(stand: Make) -> None:
    async with stand() as s:
        s.upstream.reply = replies.content(b'[ {"error":{"message":"a SECRET"}} ]', status=429)
        answer = await s.chat("Hi")
        assert (answer.status_code, answer.json()) == (429, [{"error": {"message": "a [VEILED]"}}])


BODIES: dict[str, bytes] = {
    file: (FOLDER / file).read_bytes()
    for file in (
        "requests/text.json",
        "requests/options.json",
        "requests/parts.json",
        "requests/tools.json",
        "requests/schema.json",
    )
} | {
    "odd spacing": b' { "model" :\t"m","messages":[ ] ,"a":1.50,"b":1e2,"c":12345678901234567890123,"d":-0.0}\n',
    "escapes": b'{"model":"\\u006d","messages":[{"role":"user","content":"\\ud83d\\ude00 \\/ \\u00e9 \xc3\xa9"}]}',
    "unknown fields": b'{"model":"m","messages":[],"x":{"y":[null,true,[[]]]},"z":""}',
}


def seen(request: Request) -> tuple[Any, ...]:
    """All of a request but for what is of one connection, and which codings are taken."""
    left_out = {b"host", b"connection", b"content-length"}
    headers = [pair for pair in request.headers if pair[0].lower() not in left_out]
    headers = [(name, b"" if name.lower() == b"accept-encoding" else value) for name, value in headers]
    return request.method, request.target, headers, request.body


async def test_requests_arrive_as_they_were_sent(stand: Make) -> None:
    async with stand() as s:
        s.upstream.reply = replies.json({"choices": []})
        for name, body in BODIES.items():
            await both(s, body)
            direct, through = s.upstream.requests[-2:]
            assert seen(direct) == seen(through), name
            assert through.header("accept-encoding") == "identity"
            assert through.header("host") == f"127.0.0.1:{s.upstream.port}"


async def test_queries_arrive_as_they_were_sent(stand: Make) -> None:
    async with stand() as s:
        for query in ("?", "??", "?api-version=2024-10-21", "?a=%20b+c&&d", "?%C3%A9=1", "?a=/../b"):
            for url in (s.upstream.url, s.url):
                await exchange(url, b'{"model":"m","messages":[]}', path="/v1/chat/completions" + query)
            assert s.upstream.requests[-1].target == s.upstream.requests[-2].target


NOT_FORWARDED = {
    "connection": "x-mine, close",
    "x-mine": "1",
    "te": "trailers",
    "proxy-authorization": "Basic x",
    "x-forwarded-for": "1.2.3.4",
    "x_under_score": "1",
    "x-penstock-policy": "none",
    "forwarded": "for=1.2.3.4",
    "via": "1.1 me",
}


async def test_headers_of_one_hop_stay_there(stand: Make) -> None:
    async with stand() as s:
        await exchange(s.url, json.dumps(ASK).encode(), **NOT_FORWARDED)
        await exchange(
            s.url, json.dumps(ASK).encode(), **{name.title(): value for name, value in NOT_FORWARDED.items()}
        )
        for request in s.upstream.requests:
            assert not {name.lower().decode() for name, _ in request.headers} & set(NOT_FORWARDED)
        s.upstream.reply = replies.json({}, headers=[("Connection", "X-Hop"), ("X-Hop", "1"), ("Alt-Svc", 'h3=":443"')])
        _, headers, _ = await exchange(s.url, json.dumps(ASK).encode())
        assert not {name.lower() for name, _ in headers} & {"x-hop", "alt-svc"}


async def test_lists_of_models_pass(stand: Make) -> None:
    async with stand() as s, httpx2.AsyncClient(trust_env=False) as client:
        for path in ("/v1/models", "/v1/models/gpt-4o-mini", "/v1/models/none", "/v1/models?limit=2"):
            direct, through = [await client.get(url + path, headers=HEADERS) for url in (s.upstream.url, s.url)]
            assert (direct.status_code, direct.content) == (through.status_code, through.content)
            assert s.upstream.requests[-1].target == s.upstream.requests[-2].target
        assert [row["status"] for row in await s.rows()] == ["relayed"] * 4


async def test_chunks_are_not_collected(stand: Make) -> None:
    """A chunk that may leave leaves before the next one comes."""
    wait = asyncio.Event()
    events = shapes.stream("x" * 200, size=50)
    async with stand() as s:
        s.upstream.reply = replies.sse([*events[:3], wait, *events[3:]])
        async with s.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response:
            chunks = response.aiter_raw()
            first = await asyncio.wait_for(anext(chunks), 30)
            assert events[0] in first
            wait.set()
            rest = b"".join([chunk async for chunk in chunks])
            assert first + rest == b"".join(events)


async def test_a_cut_stream_is_told_and_never_looks_whole(stand: Make) -> None:
    async with stand() as s:
        for how in (End.RESET, End.CLOSE):
            whole = replies.sse(shapes.stream("A rather long text that is cut somewhere in its middle."))
            s.upstream.reply = replies.cut(whole, 2500, how)
            _, _, raw = await exchange(s.url, json.dumps({**ASK, "stream": True}).encode())
            assert "[DONE]" not in data(raw)
            last = json.loads(data(raw)[-1])
            assert last["error"]["code"] == "upstream_error"
