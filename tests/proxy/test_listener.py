"""The client's side: connections that are kept, that are slow, that end early, and what a client reads of a refusal."""

from __future__ import annotations

import asyncio

import pytest

from proxy import listener as module
from proxy.logs import captured
from tests.proxy.conftest import Make
from tests.proxy.test_app import CLEAN, JSON, MARKED, post, statuses
from tests.upstream import replies, shapes

LONG = "word " * 400


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one answer with a length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def test_a_kept_connection_judges_each_request_by_its_own_head_and_body(stand: Make) -> None:
    """The head of a request is remembered on its connection: another head must not be taken for it."""
    async with stand() as s:
        reader, writer = await asyncio.open_connection(*s.running.address)
        for number in range(3):
            for body, expected in ((CLEAN, 200), (MARKED, 400), (CLEAN, 200)):
                key = b"authorization: Bearer key-%d\r\n" % number
                writer.write(post(body, head=JSON + key))
                assert statuses((await answer(reader))[0]) == [expected]
        writer.write(post(CLEAN, head=b"content-type: text/plain\r\n"))
        assert statuses((await answer(reader))[0]) == [415]
        writer.close()
        keys = [dict(request.headers).get(b"authorization") for request in s.upstream.requests]
        assert keys == [b"Bearer key-%d" % (n // 2) for n in range(6)]
        accounts = [row["account"] for row in await s.rows() if row["status"] == "released"]
        assert len(set(accounts)) == 3


async def test_a_refused_upload_is_answered_while_it_is_still_sent(stand: Make) -> None:
    """To close with unread bytes would reset the connection before the client has read why."""
    async with stand(settings={"max_request_bytes": 2000}) as s:
        reader, writer = await asyncio.open_connection(*s.running.address)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + JSON + b"content-length: 4000000\r\n\r\n"
        writer.write(head + b" " * 4_000_000)
        said, body = await answer(reader)
        assert statuses(said) == [413]
        assert b"larger than 2000 bytes" in body
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()


@pytest.mark.parametrize("long", [b"x-a: %b\r\n" % (b"a" * 70_000), b"x: 1\r\n" * 12_000])
async def test_a_head_that_is_too_large_is_refused_however_it_comes(stand: Make, long: bytes) -> None:
    async with stand() as s:
        for pieces in ((post(CLEAN, head=JSON + long),), (post(CLEAN), post(CLEAN, head=JSON + long))):
            reader, writer = await asyncio.open_connection(*s.running.address)
            writer.write(b"".join(pieces))
            said = [statuses((await answer(reader))[0]) for _ in pieces[1:]]
            assert said == [[200]] * len(said)
            if not said:  # behind an answer in flight it is not said, and the connection ends
                assert statuses((await answer(reader))[0]) == [431]
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
        reader, writer = await asyncio.open_connection(*s.running.address)
        head = post(CLEAN, head=JSON + long)
        writer.write(head[:40_000])
        await asyncio.sleep(0.05)
        writer.write(head[40_000:])
        assert statuses((await answer(reader))[0]) == [431]
        writer.close()
        assert len(s.upstream.requests) == 1


CHUNKED = post(b"", head=JSON + b"transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")


@pytest.mark.parametrize(
    "endless",
    [b"1\r\n{\r\n0\r\nx-t: %b", b"1\r\n{\r\n0\r\n%b: x", b"1\r\n{\r\n1;x=%b", b"0;x=%b"],
    ids=["trailer", "trailer's name", "extension", "extension of the last"],
)
async def test_what_is_neither_head_nor_body_has_an_end(stand: Make, endless: bytes) -> None:
    """The parser gathers a trailer in memory, and copies it with each piece that comes: its sender had held up all."""
    async with stand() as s:
        start, _, _ = (CHUNKED + endless).partition(b"%b")
        reader, writer = await asyncio.open_connection(*s.running.address)
        writer.write(start)
        for _ in range(20):
            writer.write(b"a" * 10_000)
            await asyncio.sleep(0)
        head, body = await answer(reader)
        assert statuses(head) == [431]
        assert b"trailer" in body
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        assert s.upstream.requests == []


async def test_a_body_in_many_small_chunks_is_read(stand: Make) -> None:
    """More bytes are said of its chunks than a head may have, but never many at a time, and a trailer may be long."""
    async with stand() as s:
        reader, writer = await asyncio.open_connection(*s.running.address)
        text = CLEAN + b" " * 15_000
        chunks = [b"1;x=1\r\n%c\r\n" % letter for letter in text]
        assert sum(map(len, chunks)) - len(text) > module.MAX_HEAD
        for start in range(0, len(chunks), 500):
            writer.write((b"" if start else CHUNKED) + b"".join(chunks[start : start + 500]))
            await writer.drain()
        writer.write(b"0\r\nx-t: %b\r\n\r\n" % (b"a" * 10_000))
        assert statuses((await answer(reader))[0]) == [200]
        writer.close()
        assert s.upstream.requests[0].body == text


async def test_who_reads_nothing_is_let_go(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HIGH_WATER", 1024)
    piece = shapes.event({"choices": [{"index": 0, "delta": {"content": "x " * 4000}, "finish_reason": None}]})
    async with stand(settings={"send_timeout": 0.3}) as s:
        s.upstream.reply = replies.Forever(replies.sse([piece])[:-1], [replies.chunk(piece)])
        _, writer = await asyncio.open_connection(*s.running.address)
        body = b'{"model":"m","messages":[],"stream":true}'
        writer.write(post(body))
        request = await s.upstream.arrived()
        await asyncio.wait_for(request.gone.wait(), 20)
        writer.close()
        while s.running.plane.in_flight:
            await asyncio.sleep(0.01)
        assert [row["status"] for row in await s.rows()] == ["client_gone"]


async def test_a_request_that_does_not_come_to_its_end_is_told_so(stand: Make) -> None:
    async with stand(settings={"receive_timeout": 0.2}) as s:
        for start in (b"POST /v1/ch", post(CLEAN)[:-5]):
            reader, writer = await asyncio.open_connection(*s.running.address)
            writer.write(start)
            assert statuses((await answer(reader))[0]) == [408]
            writer.close()
        assert s.upstream.requests == []


async def test_the_end_of_the_process_is_told_to_a_stream(stand: Make) -> None:
    """P11: an error event, and a row."""
    async with stand(settings={"drain_timeout": 0.1}) as s:
        s.upstream.reply = replies.sse([*shapes.stream(LONG)[:-2], asyncio.Event()])
        reader, writer = await asyncio.open_connection(*s.running.address)
        writer.write(post(b'{"model":"m","messages":[],"stream":true}'))
        await s.upstream.arrived()
        await reader.readuntil(b"word")
    rest = await asyncio.wait_for(reader.read(), 30)
    assert b'"code":"server_shutdown"' in rest
    assert rest.endswith(b"0\r\n\r\n")
    writer.close()


async def test_the_end_of_the_process_is_told_to_who_waits(stand: Make) -> None:
    async with stand(settings={"drain_timeout": 0.1}) as s:
        s.upstream.reply = [asyncio.Event()]
        reader, writer = await asyncio.open_connection(*s.running.address)
        writer.write(post(CLEAN))
        await s.upstream.arrived()
    assert statuses(await asyncio.wait_for(reader.read(), 30)) == [503]
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"PUT /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"not HTTP\r\n\r\n",
    ],
)
async def test_a_refusal_says_once_that_the_connection_ends(stand: Make, sent: bytes) -> None:
    async with stand() as s:
        for address in (s.running.address, s.running.admin_address):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            head, _ = await answer(reader)
            assert [line for line in head.lower().split(b"\r\n") if line.startswith(b"connection:")] == [
                b"connection: close"
            ]
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()


async def test_a_fault_of_ours_in_a_head_is_not_called_the_clients(
    stand: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError

    async with stand() as s:
        monkeypatch.setattr(s.running.plane, "opened", fault)
        with captured() as logs:
            refused = await s.client.post("/v1/chat/completions", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "internal_error")
        assert [entry["event"] for entry in logs] == ["internal fault"]
        monkeypatch.undo()
        assert (await s.chat("Hello")).status_code == 200
