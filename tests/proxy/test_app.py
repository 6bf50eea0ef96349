"""The surface as those meet it who speak HTTP by hand: targets, framing, headers, upgrades, the admin listener."""

from __future__ import annotations

import asyncio
import re

import httpx2
import pytest

from tests.proxy.conftest import Make, Stand
from tests.upstream import replies, shapes

CLEAN = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
MARKED = b'{"model":"m","messages":[{"role":"user","content":"MARK"}]}'
JSON = b"content-type: application/json\r\n"


def post(body: bytes, *, target: bytes = b"/v1/chat/completions", head: bytes = JSON, host: bytes = b"x") -> bytes:
    start = b"POST %b HTTP/1.1\r\nhost: %b\r\n" % (target, host)
    return start + head + b"content-length: %d\r\n\r\n" % len(body) + body


async def talk(s: Stand, *data: bytes) -> bytes:
    """What the server says to these bytes, sent one after another, until it closes, or has said something and has
    nothing more to do; it may also say nothing at all."""
    reader, writer = await asyncio.open_connection(*s.running.address)
    out = b""
    try:
        for piece in data:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        silent = 0
        while not reader.at_eof() and silent < (5 if out else 40):
            try:
                out += await asyncio.wait_for(reader.read(65_536), 0.005)
                silent = 0
            except TimeoutError:
                silent = 0 if await _busy(s) else silent + 1
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return out


async def _busy(s: Stand) -> bool:
    """Whether it has something to do. It runs in this loop: a step of it takes a turn, however slow the machine is."""
    for _ in range(20):
        if s.running.plane.in_flight:
            return True
        await asyncio.sleep(0)
    return False


def statuses(raw: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", raw)]


# T6, T7: two readings of one connection. What Penstock does not refuse, it judges.
START = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
LENGTH = b"content-length: %d\r\n" % len(MARKED)
CHUNKED = b"transfer-encoding: chunked\r\n"
SIZE = b"%x" % len(MARKED)
FRAMINGS: dict[str, list[bytes]] = {
    "length and chunks": [START + JSON + b"content-length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + post(MARKED)],
    "two lengths": [START + JSON + b"content-length: 2\r\n" + LENGTH + b"\r\n" + MARKED],
    "a length with a sign": [START + JSON + LENGTH.replace(b": ", b": +") + b"\r\n" + MARKED],
    "two codings": [START + JSON + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
    "unknown coding": [START + JSON + b"transfer-encoding: xchunked\r\n" + LENGTH + b"\r\n" + MARKED],
    "a header that goes on": [START + b"x-a: b\r\n MARK: c\r\n" + JSON + LENGTH + b"\r\n" + MARKED],
    "a blank before the colon": [START + LENGTH.replace(b":", b" :") + JSON + b"\r\n" + MARKED],
    "bare line feeds": [post(MARKED).replace(b"\r\n", b"\n")],
    "a NUL in a header": [post(MARKED, head=JSON + b"x-a: \0\r\n")],
    "absolute target": [post(MARKED, target=b"http://evil.example/v1/chat/completions")],
    "a fragment": [post(MARKED, target=b"/v1/chat/completions#x")],
    "another host": [post(MARKED, host=b"evil.example")],
    "two hosts": [post(MARKED, head=JSON + b"host: y\r\n")],
    "two types": [post(MARKED, head=JSON + b"content-type: text/plain\r\n")],
    "two keys": [post(MARKED, head=JSON + b"authorization: Bearer a\r\nauthorization: Bearer b\r\n")],
    "http 1.0": [post(MARKED).replace(b"HTTP/1.1", b"HTTP/1.0")],
    "http 0.9": [b"POST /v1/chat/completions\r\n\r\n" + MARKED],
    "http 2": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    "clean, then pipelined": [post(CLEAN) + post(MARKED)],
    "in two writes": [post(MARKED)[:-20], post(MARKED)[-20:]],
    "byte by byte": [bytes([byte]) for byte in post(MARKED)],
    "chunk by chunk": [
        START + JSON + CHUNKED + b"\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in MARKED) + b"0\r\n\r\n"
    ],
    "a chunk's extension": [START + JSON + CHUNKED + b"\r\n" + SIZE + b';x="MARK"\r\n' + MARKED + b"\r\n0\r\n\r\n"],
    "a trailer": [START + JSON + CHUNKED + b"\r\n" + SIZE + b"\r\n" + MARKED + b"\r\n0\r\nx-late: MARK\r\n\r\n"],
    "more than it said": [post(CLEAN) + MARKED],
    "no host": [b"POST /v1/chat/completions HTTP/1.1\r\n" + JSON + LENGTH + b"\r\n" + MARKED],
    "expect": [post(MARKED, head=JSON + b"expect: 100-continue\r\n")],
    "lower-case method": [post(MARKED).replace(b"POST", b"post")],
    "websocket": [
        b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ],
    "upgrade on a judged path": [post(MARKED, head=JSON + b"connection: upgrade\r\nupgrade: h2c\r\n")],
    "a huge header": [post(MARKED, head=JSON + b"x-a: " + b"a" * 200_000 + b"\r\n")],
}


@pytest.mark.parametrize("data", FRAMINGS.values(), ids=FRAMINGS.keys())
async def test_no_framing_gets_past(stand: Make, data: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    async with stand() as s:
        answer = await talk(s, *data)
        for request in s.upstream.requests:
            assert b"MARK" not in request.target + request.body + b"".join(
                name + value for name, value in request.headers
            )
        assert set(statuses(answer)) <= {100, 200, 400, 404, 405, 415, 426, 431}, answer
        assert (await s.chat("Hi")).status_code == 200  # alive and well
    assert not [record for record in caplog.records if record.exc_info]


async def test_pipelined_requests_are_judged_each(stand: Make) -> None:
    async with stand() as s:
        answer = await talk(s, post(CLEAN) + post(MARKED) + post(CLEAN))
        assert statuses(answer) == [200, 400, 200]
        assert len(s.upstream.requests) == 2
        assert [row["status"] for row in await s.rows()].count("blocked") == 1


async def test_a_refused_body_is_not_the_next_request(stand: Make) -> None:
    """The body of what was refused early is never read as a request of its own."""
    inner = post(MARKED)
    async with stand() as s:
        for outer in (post(inner, target=b"/v1/none"), post(inner, head=b"content-type: text/plain\r\n")):
            assert len(statuses(await talk(s, outer))) == 1
        assert s.upstream.requests == []


async def test_head_has_no_body(stand: Make) -> None:
    async with stand() as s:
        answer = await talk(s, b"HEAD /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n")
        assert statuses(answer) == [405]
        assert answer.endswith(b"\r\n\r\n")


async def test_refusals_name_the_mend(stand: Make) -> None:
    async with stand() as s:
        wrong_method = await s.client.get("/v1/chat/completions")
        assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
        unknown = await s.client.post("/v1/none", json={})
        assert "location" not in unknown.headers
        for response in (wrong_method, unknown):
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == "invalid_request_error"
            assert response.headers["x-request-id"] in {row.id for row in await s.rows()}


async def test_broken_requests_say_where(stand: Make) -> None:
    async with stand() as s:
        headers = {"content-type": "application/json"}
        broken = await s.client.post("/v1/chat/completions", content=b'{"model": SECRET}', headers=headers)
        assert "line 1 column 11" in broken.json()["error"]["message"]
        assert "SECRET" not in broken.text
        wrong = await s.client.post("/v1/chat/completions", json={"model": "m", "messages": ["x"]})
        assert wrong.json()["error"]["param"] == "messages[0]"


KEYS = {
    "passed through": (None, {"authorization": "Bearer caller"}, {"authorization": "Bearer caller"}),
    "passed through, api-key": (None, {"api-key": "caller"}, {"api-key": "caller"}),
    "replaced": ("ours", {"authorization": "Bearer caller"}, {"authorization": "Bearer ours"}),
    "replaced, all of them": ("ours", {"x-api-key": "caller", "api-key": "caller"}, {"authorization": "Bearer ours"}),
    "added": ("ours", {}, {"authorization": "Bearer ours"}),
}


@pytest.mark.parametrize(("key", "sent", "seen"), KEYS.values(), ids=KEYS.keys())
async def test_keys(stand: Make, key: str | None, sent: dict[str, str], seen: dict[str, str]) -> None:
    """T45: whose key the upstream sees, and that none is ever written down."""
    async with stand(settings={"upstream_key": key}) as s:
        for path in ("/v1/chat/completions", "/v1/models"):
            method = "GET" if path.endswith("models") else "POST"
            body = {"json": {"model": "m", "messages": []}} if method == "POST" else {}
            await s.client.request(method, path, headers=sent, **body)  # type: ignore[arg-type]
            names = ("authorization", "x-api-key", "api-key")
            found = {name: value for name in names if (value := s.upstream.requests[-1].header(name))}
            assert found == seen
        rows = await s.rows()
        assert len({row["account"] for row in rows}) == 1
        raw = b"".join(path.read_bytes() for path in s.data.rglob("*") if path.is_file())
        assert b"caller" not in raw
        assert b"ours" not in raw


async def test_accounts_are_told_apart_by_their_key(stand: Make) -> None:
    async with stand() as s:
        for key in ("a", "b", "a"):
            await s.client.post(
                "/v1/chat/completions",
                json={"model": "m", "messages": [], "user": "x"},
                headers={"authorization": f"Bearer {key}"},
            )
        first, second, third = (row["account"] for row in await s.rows())
        assert first == third != second


async def test_the_admin_listener_is_another(stand: Make) -> None:
    async with stand() as s, httpx2.AsyncClient(trust_env=False) as client:
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
            assert (await client.get(s.admin_url + path)).status_code == 200
            assert (await client.get(s.url + path)).status_code == 404
        assert (await client.post(s.admin_url + "/v1/chat/completions", json={})).status_code == 404
        for path in ("/docs", "/redoc"):
            assert (await client.get(s.admin_url + path)).status_code == 404


async def test_labels_are_bounded(stand: Make) -> None:
    """T46: random models, paths and methods make no new series."""
    async with stand(settings={"metrics_models": ["known"]}) as s:

        async def series() -> set[str]:
            page = (await s.client.get(s.admin_url + "/metrics")).text
            told = {line.rpartition(" ")[0] for line in page.splitlines() if line.startswith("penstock_")}
            # Parts are the operator's, and told once they were looked at.
            return {line for line in told if not line.startswith("penstock_part_up")}

        async def traffic(number: int) -> None:
            await s.client.post(
                "/v1/chat/completions", json={"model": f"m{number}", "messages": [], "user": f"u{number}"}
            )
            await s.client.get(f"/v1/p{number}")
            await s.client.request(f"M{number}", "/v1/chat/completions")

        await s.client.post("/v1/chat/completions", json={"model": "known", "messages": []})
        await traffic(0)
        before = await series()
        for number in range(1, 20):
            await traffic(number)
        assert await series() == before
        assert any('model="known"' in line for line in before)
        assert not any("m0" in line or "p0" in line or "u0" in line for line in before)


async def test_decisions_are_counted(stand: Make) -> None:
    async with stand() as s:
        s.upstream.reply = replies.json(shapes.completion("the SECRET word"))
        await s.chat("Hi")
        await s.chat("MARK")
        page = (await s.client.get(s.admin_url + "/metrics")).text
        for labels in (
            'action="pass",dialect="chat",mode="enforce",policy="",rule="",stage="input"',
            'action="mask",dialect="chat",mode="enforce",policy="test",rule="veil-secret",stage="output"',
            'action="block",dialect="chat",mode="enforce",policy="test",rule="no-mark",stage="input"',
        ):
            wanted = set(labels.split(","))
            lines = [line for line in page.splitlines() if line.startswith("penstock_decisions_total{")]
            assert any(wanted == set(line.partition("{")[2].partition("}")[0].split(",")) for line in lines), lines
