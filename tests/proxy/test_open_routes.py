"""What an opened route relays arrives as it was sent, both ways: any method, any body, streams as they come."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.proxy.conftest import Make, Stand
from tests.proxy.test_transparency import HOP, seen
from tests.upstream import End, replies, shapes

OPEN: dict[str, Any] = {"open_routes": ["/v1"]}
BINARY = bytes(range(256)) * 5
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a b.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + BINARY + b"\r\n--x--\r\n"
)
SENT: dict[str, tuple[str, str, dict[str, str], bytes | None]] = {
    "a form with a file": ("POST", "/v1/files", {"content-type": "multipart/form-data; boundary=x"}, FORM),
    "an unusual type": ("PUT", "/v1/uploads/u_1/parts", {"content-type": "application/octet-stream"}, BINARY),
    "a body compressed": ("POST", "/v1/files", {"content-encoding": "gzip", "content-type": "a/b"}, b"\x1f\x8b\x00"),
    "no body": ("POST", "/v1/batches/b_1/cancel", {}, b""),
    "DELETE": ("DELETE", "/v1/files/file-1", {}, None),
    "PATCH": ("PATCH", "/v1/vector_stores/vs_1", {"content-type": "application/json"}, b'{ "a" : 1.50 }'),
    "a query": ("GET", "/v1/files?after=a%20b%2Fc&limit=2&x[]=1&x[]=2&&e=", {}, None),
    "many headers": ("GET", "/v1/files", {"openai-beta": "a=1", "x-custom": "", "accept": "*/*;q=0.1"}, None),
}
SAID: dict[str, replies.Reply] = {
    "a file": replies.content(BINARY, content_type="application/octet-stream"),
    "a large file": replies.content(BINARY * 300, content_type="video/mp4", headers=[("etag", '"x"')]),
    "a file without a length": replies.sse([BINARY, b"more"], content_type="audio/mpeg"),
    "a file until the end": replies.sse([BINARY, b"more"], content_type="audio/mpeg", chunked=False),
    "nothing": [replies.head(204, [("x-request-id", "req_1")])],
    "an empty body": replies.content(b"", status=202),
    "a redirect": replies.redirect("https://files.example.com/x", 302),
    "an error": replies.error(404, "No such File object: x", code=None),
    "too many": replies.too_many(2),
    "a page": replies.html("Bad gateway", status=502),
    "cookies": replies.json({}, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "gr\u00fcn")]),
    "events": replies.sse(shapes.stream("Hello", obfuscation=True)),
    "no events": replies.sse([]),
    "compressed": replies.json({"a": 1}, gzip=True),
}


async def both(s: Stand, method: str, path: str, headers: dict[str, str], body: bytes | None) -> list[Any]:
    """What came back directly and through Penstock: status, headers in order, body as it travelled."""
    found: list[Any] = []
    sent = {"authorization": "Bearer sk-secret", "user-agent": "test/1", **headers}
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        for url in (s.upstream.url, s.url):
            async with client.stream(method, url + path, headers=sent, content=body) as response:
                raw = b"".join([piece async for piece in response.aiter_raw()])
            pairs = [(name.lower(), value) for name, value in response.headers.raw]
            found.append((response.status_code, [pair for pair in pairs if pair[0].decode() not in HOP], raw))
    return found


@pytest.mark.parametrize("case", SENT.values(), ids=SENT.keys())
async def test_requests_arrive_as_they_were_sent(stand: Make, case: Any) -> None:
    async with stand(settings=OPEN) as s:
        s.upstream.reply = replies.json({}, headers=[("x-request-id", "req_1")])
        direct, through = await both(s, *case)
        assert direct == through
        first, second = s.upstream.requests
        assert seen(first) == seen(second)
        assert second.header("transfer-encoding") is None
        assert second.header("content-length") == first.header("content-length")


@pytest.mark.parametrize("name", SAID)
async def test_answers_arrive_as_they_were_sent(stand: Make, name: str) -> None:
    async with stand(settings=OPEN) as s:
        s.upstream.reply = SAID[name]
        direct, through = await both(s, "GET", "/v1/files/file-1/content", {}, None)
        for found in (direct, through):  # how a body is framed is each hop's own affair
            found[1][:] = [pair for pair in found[1] if pair[0] != b"content-length"]
        assert direct == through


async def test_a_stream_passes_on_as_it_comes_once_its_intent_is_on_disk(stand: Make) -> None:
    async with stand(settings=OPEN) as s, httpx2.AsyncClient(base_url=s.url, trust_env=False) as client:
        go = [asyncio.Event(), asyncio.Event()]
        s.upstream.reply = replies.sse([go[0], b"data: 1\n\n", go[1], b"data: 2\n\n"])
        async with client.stream("GET", "/v1/threads/t/runs", timeout=20) as response:
            (row,) = await s.rows()
            assert row.intent is not None
            assert row.outcome is None
            pieces = response.aiter_raw()
            for number, event in enumerate(go, 1):
                event.set()
                assert await anext(pieces) == b"data: %d\n\n" % number
        assert (await s.rows())[0]["status"] == "relayed"


async def test_a_client_that_leaves_ends_the_upstreams_work(stand: Make) -> None:
    async with stand(settings=OPEN) as s, httpx2.AsyncClient(base_url=s.url, trust_env=False) as client:
        s.upstream.reply = replies.keepalive([b"data: 1\n\n"])
        async with client.stream("GET", "/v1/threads/t/runs", timeout=20) as response:
            await anext(response.aiter_raw())
        async with asyncio.timeout(30):
            await s.upstream.requests[0].gone.wait()
            while (row := (await s.rows())[0]).outcome is None:
                await asyncio.sleep(0.01)
        assert row["status"] == "client_gone"


@pytest.mark.parametrize("end", [End.RESET, End.CLOSE])
async def test_a_stream_that_breaks_off_breaks_off(stand: Make, end: End) -> None:
    async with stand(settings=OPEN) as s, httpx2.AsyncClient(base_url=s.url, trust_env=False) as client:
        s.upstream.reply = replies.sse([b"data: 1\n\n", 0.05, end])
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/v1/threads/t/runs", timeout=20)
        assert (await s.rows())[0]["status"] == "upstream_fault"
