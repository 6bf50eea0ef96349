"""The pool speaks HTTP/1.1 to an upstream that does its worst, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.connection import HIGH_WATER, MAX_HEAD, Connection
from proxy.starred import Starred
from proxy.upstream import Fault, Response, Upstream, UpstreamError, _numeric
from tests.servers.certificates import certificate as new_certificate
from tests.upstream import End, Reply, replies, shapes
from tests.upstream import Upstream as Simulator

BODY = b'{"a":"0123456789"}'
WHOLE = replies.json(BODY)
STREAM = replies.sse([b"data: one\n\n", b"data: two\n\n"])


def raw(text: bytes, *more: Any) -> list[Any]:
    return [text, *more]


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


@contextlib.asynccontextmanager
async def pool(reply: Any, **options: Any) -> AsyncIterator[tuple[Upstream, Simulator]]:
    async with Simulator(reply) as simulator:
        upstream = Upstream(simulator.url, **options)
        try:
            yield upstream, simulator
        finally:
            await upstream.close()


def hang_up(simulator: Simulator) -> None:
    """The upstream closes all connections: the farewells lie in the sockets, and no event loop has seen them."""
    for connection in simulator.open:
        connection.shut()


def rest(upstream: Upstream, seconds: float) -> None:
    """All idle connections have rested so long."""
    for connection in upstream._idle:
        connection.rested -= seconds


async def post(upstream: Upstream, body: bytes = b"{}") -> Response:
    return await upstream.send(upstream.head(b"POST", b"/v1/chat/completions", [(b"authorization", b"Bearer k")]), body)


async def whole(upstream: Upstream) -> bytes:
    return await (await post(upstream)).read(1 << 20)


async def fault(upstream: Upstream) -> str:
    async with asyncio.timeout(30):
        with pytest.raises(UpstreamError) as caught:
            await whole(upstream)
    return str(caught.value.fault)


async def test_a_request_arrives_as_it_was_given() -> None:
    async with pool(WHOLE) as (upstream, simulator):
        head = upstream.head(b"POST", b"/v1/x%2Fy?a=%20b", [(b"x-a", b"1"), (b"x-a", b"2")])
        response = await upstream.send(head, b"\x00\xff")
        assert (response.status, await response.read(100)) == (200, BODY)
        request = simulator.requests[0]
        assert (request.method, request.target, request.body) == ("POST", b"/v1/x%2Fy?a=%20b", b"\x00\xff")
        expected = [
            (b"Host", b"127.0.0.1:%d" % simulator.port),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"Content-Length", b"2"),
        ]
        assert request.headers == expected


@pytest.mark.parametrize("reply", [WHOLE, STREAM], ids=["json", "stream"])
async def test_connections_are_used_again(reply: Reply) -> None:
    async with pool(reply) as (upstream, simulator):
        for _ in range(5):
            await whole(upstream)
        assert simulator.connections == 1


NOT_AGAIN: dict[str, Reply] = {
    "told to close": raw(head(b"Content-Length: 2", b"Connection: close") + b"{}"),
    "http 1.0": raw(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    "until the end": replies.sse([b"data: x\n\n"], chunked=False),
    "bytes behind": raw(head(b"Content-Length: 2") + b"{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"),
    "bytes behind, later": raw(
        head(b"Content-Length: 2") + b"{}", 0.02, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
    ),
    "short length": replies.json(BODY, length=4),
}


@pytest.mark.parametrize("reply", NOT_AGAIN.values(), ids=NOT_AGAIN.keys())
async def test_connections_not_used_again(reply: Reply) -> None:
    async with pool(reply) as (upstream, simulator):
        first = await whole(upstream)
        await asyncio.sleep(0.05)
        assert await whole(upstream) == first
        assert b"EVIL" not in first
        assert simulator.connections == 2


async def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    async with pool(WHOLE) as (upstream, simulator):
        await whole(upstream)
        for connection in tuple(simulator.open):
            connection.abort()
        async with asyncio.timeout(20):
            while upstream._idle:
                await asyncio.sleep(0.005)
        assert await whole(upstream) == BODY
        assert simulator.connections == 2


async def test_an_idle_connection_that_is_old_is_not_used() -> None:
    async with pool(WHOLE, keep=0.01) as (upstream, simulator):
        await whole(upstream)
        await asyncio.sleep(0.05)
        await whole(upstream)
        assert simulator.connections == 2


async def test_a_connection_whose_end_nobody_has_seen_yet_is_not_used() -> None:
    async with pool(WHOLE) as (upstream, simulator):
        await whole(upstream)
        hang_up(simulator)  # nothing is awaited from here until the next request is written
        assert await whole(upstream) == BODY
        assert simulator.connections == 2


LIMITS: dict[str, tuple[list[bytes], float, int]] = {
    "no limit": ([], 50, 1),
    "a timeout that is over": ([b"Keep-Alive: timeout=20, max=100"], 50, 2),
    "a timeout that is nearly over": ([b"Keep-Alive: timeout=51"], 50, 2),
    "a timeout that is not": ([b"Keep-Alive: timeout=60"], 50, 1),
    "in any case and order": ([b'keep-alive: MAX=5 , Timeout="20"'], 50, 2),
    "none left": ([b"Keep-Alive: timeout=60, max=0"], 0, 2),
    "some left": ([b"Keep-Alive: timeout=60, max=1"], 0, 1),
    "something else": ([b"Keep-Alive: minimax=0, untimeout=0, timeout=x"], 50, 1),
}


@pytest.mark.parametrize(("lines", "rested", "expected"), LIMITS.values(), ids=LIMITS.keys())
async def test_the_upstream_says_how_long_it_keeps_a_connection(
    lines: list[bytes], rested: float, expected: int
) -> None:
    async with pool(raw(head(b"Content-Length: 2", *lines) + b"{}"), keep=100) as (upstream, simulator):
        await whole(upstream)
        rest(upstream, rested)
        await whole(upstream)
        assert simulator.connections == expected


async def test_an_upstream_that_closes_behind_its_streams_is_not_met_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once that was seen, a connection rests behind a stream until the farewell must have come."""
    monkeypatch.setattr("proxy.upstream.SETTLE", 60.0)
    async with pool(STREAM, keep=1000) as (upstream, simulator):
        await whole(upstream)
        hang_up(simulator)
        await whole(upstream)
        await whole(upstream)
        assert simulator.connections == 3
        rest(upstream, 61)
        await whole(upstream)  # it has rested, and no farewell came: they are used at once again
        await whole(upstream)
        assert simulator.connections == 3
        simulator.reply = WHOLE
        await whole(upstream)
        hang_up(simulator)
        simulator.reply = STREAM
        await whole(upstream)
        await whole(upstream)
        assert simulator.connections == 4  # what was seen behind whole answers is not held against streams


FAULTS: dict[str, tuple[Reply, str]] = {
    "long length": ([*replies.json(BODY, length=100), End.CLOSE], "reset"),
    "no answer at all": ([End.CLOSE], "reset"),
    "reset at once": ([End.RESET], "reset"),
    "not http": (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "protocol"),
    "tls alert": (raw(b"\x15\x03\x01\x00\x02\x02\x46"), "protocol"),
    "endless 1xx": (replies.informational(WHOLE, times=50), "protocol"),
    "101": (raw(head(b"Connection: upgrade", b"Upgrade: x", status=b"101 Switching Protocols")), "protocol"),
    "huge header": (
        [head(b"X: 1")[:-2], *[b"X-Pad: " + b"a" * 4096 + b"\r\n"] * (MAX_HEAD // 2048), 0.01, b"\r\n"],
        "protocol",
    ),
    "gzip as transfer coding": (raw(head(b"Transfer-Encoding: gzip, chunked") + b"2\r\n{}\r\n0\r\n\r\n"), "protocol"),
    "length and chunks": (
        raw(head(b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"),
        "protocol",
    ),
    "two lengths": (raw(head(b"Content-Length: 2", b"Content-Length: 3") + b"{} "), "protocol"),
    "bad chunk": (raw(head(b"Transfer-Encoding: chunked") + b"zz\r\n{}\r\n"), "protocol"),
    "cut chunk": (raw(head(b"Transfer-Encoding: chunked") + b"5\r\n{}", End.CLOSE), "reset"),
    "cut without an end": (replies.sse([b"data: x\n\n", End.RESET], chunked=False), "reset"),
    "too large": (raw(head(b"Content-Length: 1048577") + b"a" * 1_048_577), "protocol"),
}


@pytest.mark.parametrize(("reply", "expected"), FAULTS.values(), ids=FAULTS.keys())
async def test_faults(reply: Reply, expected: str) -> None:
    async with pool(reply, gap=3) as (upstream, simulator):
        assert await fault(upstream) == expected
        simulator.reply = WHOLE
        assert await whole(upstream) == BODY  # the pool has learnt nothing bad
        assert len(simulator.requests) <= 2  # and has not asked again by itself


@pytest.mark.parametrize("how", [End.RESET, End.CLOSE])
@pytest.mark.parametrize("reply", [WHOLE, STREAM], ids=["json", "stream"])
async def test_cut_at_every_byte(reply: list[Any], how: End) -> None:
    """Wherever an answer is cut, it is a fault, never a shorter answer."""
    length = sum(len(step) for step in reply if isinstance(step, bytes))
    async with pool(reply) as (upstream, simulator):
        for at in range(0, length, 7):
            simulator.reply = replies.cut(reply, at, how, of_body=False)
            assert await fault(upstream) == "reset"


async def test_1xx_before_an_answer_is_no_part_of_it() -> None:
    answers = (WHOLE, raw(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}"))
    for answer in answers:
        async with pool(replies.informational(answer, times=3)) as (upstream, _):
            response = await post(upstream)
            assert response.status == 200
            assert response.header(b"link") is None
            assert response.reason in {b"OK", b""}
            await response.read(100)


async def test_trailers_are_no_headers() -> None:
    text = head(b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\nX-Late: 1\r\n\r\n"
    async with pool(raw(text)) as (upstream, _):
        response = await post(upstream)
        assert await response.read(100) == b"{}"
        assert response.names.came == (b"Transfer-Encoding",)


@pytest.mark.parametrize("endless", [b"2\r\n{}\r\n0\r\nX-Late: ", b"2\r\n{}\r\n1;x="])
async def test_trailers_have_an_end(endless: bytes) -> None:
    """The parser gathers them in memory: an upstream that never ends one is at fault, however fast it sends."""
    start = head(b"Transfer-Encoding: chunked") + endless
    async with pool([start, *([b"a" * 10_000] * 20), 60.0], gap=30) as (upstream, simulator):
        response = await post(upstream)
        with pytest.raises(UpstreamError, match="trailer is larger"):
            await asyncio.wait_for(response.read(100), 20)
        await asyncio.wait_for(simulator.requests[0].gone.wait(), 30)


SLOW: dict[str, tuple[Reply, dict[str, float]]] = {
    "no head": ([60.0], {"first_byte": 0.2, "gap": 30}),
    "half a head": ([head(b"X: 1")[:-2], 60.0], {"first_byte": 0.2, "gap": 30}),
    "head drips": (replies.drip(WHOLE, size=1, rate=20), {"first_byte": 0.3, "gap": 30}),
    "no body": ([head(b"Content-Length: 2"), 60.0], {"first_byte": 30, "gap": 0.2}),
    "half a body": ([head(b"Content-Length: 2") + b"{", 60.0], {"first_byte": 30, "gap": 0.2}),
    "no body after a slow head": ([0.4, head(b"Content-Length: 2"), 60.0], {"first_byte": 30, "gap": 0.2}),
}


@pytest.mark.parametrize(("reply", "times"), SLOW.values(), ids=SLOW.keys())
async def test_silence_ends(reply: Reply, times: dict[str, float]) -> None:
    async with pool(reply, **times) as (upstream, simulator):
        assert await fault(upstream) == "timeout"  # within ten seconds, where a wrong timer takes thirty
        await asyncio.wait_for(simulator.requests[0].gone.wait(), 30)


async def test_steady_drips_are_no_silence() -> None:
    async with pool(replies.sse([b"data: x\n\n"] * 26, gap=0.05), gap=1.0, first_byte=1.0) as (upstream, _):
        assert await whole(upstream) == b"data: x\n\n" * 26


async def test_a_slow_reader_is_no_silence() -> None:
    async with pool(replies.sse([b"data: x\n\n"] * 2, gap=0.01), gap=0.2) as (upstream, _):
        response = await post(upstream)
        await asyncio.sleep(0.6)
        assert await response.read(100) == b"data: x\n\n" * 2


async def test_connection_refused() -> None:
    async with Simulator() as simulator:
        port = simulator.port
    upstream = Upstream(f"http://127.0.0.1:{port}")
    with pytest.raises(UpstreamError) as caught:
        await post(upstream)
    assert caught.value.fault is Fault.CONNECT
    # Callers read this message: it must not tell them where the upstream is.
    assert str(port) not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


async def test_unknown_host() -> None:
    with pytest.raises(UpstreamError) as caught:
        await post(Upstream("http://no-such-host.invalid"))
    assert caught.value.fault is Fault.CONNECT


async def test_a_connection_that_is_gone_before_it_is_used() -> None:
    """With TLS an upstream's farewell can arrive together with the end of the handshake."""
    async with pool(WHOLE) as (upstream, _):
        loop = asyncio.get_running_loop()
        connection = Connection(upstream, loop, 1.0)
        connection.connection_lost(None)
        with pytest.raises(UpstreamError) as caught:
            await connection.ask(b"GET / HTTP/1.1\r\n\r\n", loop.time() + 1)
        assert caught.value.fault is Fault.RESET


async def test_saturation() -> None:
    wait = asyncio.Event()
    async with pool([wait, *WHOLE], max_connections=2) as (upstream, simulator):
        tasks = [asyncio.create_task(whole(upstream)) for _ in range(2)]
        await simulator.arrived(2)
        assert await fault(upstream) == "saturated"
        wait.set()
        assert await asyncio.gather(*tasks) == [BODY, BODY]
        assert await whole(upstream) == BODY


async def test_faults_do_not_use_up_the_pool() -> None:
    async with pool([End.RESET], max_connections=1) as (upstream, simulator):
        for reply in (*(reply for reply, _ in FAULTS.values()), *NOT_AGAIN.values()):
            simulator.reply = reply
            with contextlib.suppress(UpstreamError):
                await whole(upstream)
        simulator.reply = WHOLE
        assert await whole(upstream) == BODY


@pytest.mark.parametrize("reply", [[60.0], [head(b"Content-Length: 2"), 60.0]], ids=["before the head", "in the body"])
async def test_cancelling_closes_the_connection(reply: Reply) -> None:
    async with pool(reply) as (upstream, simulator):
        task = asyncio.create_task(post(upstream))
        request = await simulator.arrived()
        await asyncio.sleep(0.05)
        if task.done():
            task.result().abort()
        task.cancel()
        await asyncio.wait_for(request.gone.wait(), 30)
        assert not upstream._busy
        assert not upstream._idle


async def test_an_answer_that_was_read_is_not_aborted_twice() -> None:
    """After its end an answer has no connection any more: that belongs to the next exchange."""
    async with pool(WHOLE) as (upstream, simulator):
        first = await post(upstream)
        await first.read(100)
        gate = asyncio.Event()
        simulator.reply = [head(b"Content-Length: 2") + b"{", gate, b"}"]
        second = await post(upstream)
        assert simulator.connections == 1
        first.abort()
        gate.set()
        assert await second.read(100) == b"{}"


async def test_an_answer_that_was_read_takes_nothing_from_the_next() -> None:
    async with pool(WHOLE) as (upstream, simulator):
        first = await post(upstream)
        await first.read(100)
        gate = asyncio.Event()
        simulator.reply = [head(b"Content-Length: 2") + b"{", gate, b"}"]
        second = await post(upstream)
        assert await asyncio.wait_for(first.next(), 20) is None
        gate.set()
        assert await second.read(100) == b"{}"


async def test_a_slow_reader_holds_the_upstream_back() -> None:
    piece = b"x" * 65_536
    flood = replies.Forever([replies.head(200, [("Transfer-Encoding", "chunked")])], [replies.chunk(piece)] * 8 + [0.0])
    async with pool(flood) as (upstream, simulator):
        response = await post(upstream)
        request = await simulator.arrived()
        for _ in range(100):
            taken = request.sent
            await asyncio.sleep(0.2)
            if request.sent == taken > 0:
                break
        assert request.sent == taken  # it has stopped: what is on its way fills only the sockets
        (connection,) = upstream._busy
        assert connection._buffered <= HIGH_WATER + 512 * 1024  # one read more
        for _ in range(20):
            assert await asyncio.wait_for(response.next(), 30)
        response.abort()
        await asyncio.wait_for(request.gone.wait(), 30)


async def test_close_closes_all() -> None:
    async with pool(WHOLE) as (upstream, simulator):
        await asyncio.gather(*(whole(upstream) for _ in range(4)))
        simulator.reply = [60.0]
        task = asyncio.create_task(post(upstream))
        await simulator.arrived(5)
        await upstream.close()
        with pytest.raises(UpstreamError):
            await task
        async with asyncio.timeout(20):
            while simulator.open:
                await asyncio.sleep(0.005)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, key and all in one file."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = [tool, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost",
               "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "RANDFILE": str(folder / "rnd")})
    (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return folder / "both.pem"


@contextlib.asynccontextmanager
async def tls(certificate: Path) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A TLS server that answers each request with BODY; its port, and the bytes that it was sent."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(head(b"Content-Length: %d" % len(BODY)) + BODY)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def test_a_trusted_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tls(certificate) as (port, seen):
        monkeypatch.setattr("certifi.where", lambda: str(certificate))
        upstream = Upstream(f"https://localhost:{port}")
        assert await whole(upstream) == BODY
        assert seen[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:%d\r\n" % port)
        await upstream.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_an_untrusted_certificate(certificate: Path, host: str) -> None:
    async with tls(certificate) as (port, seen):
        upstream = Upstream(f"https://{host}:{port}")
        with pytest.raises(UpstreamError, match="trusted") as caught:
            await post(upstream)
        assert caught.value.fault is Fault.CONNECT
        assert seen == []  # not even the caller's key has left


async def test_a_certificate_for_another_name(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tls(certificate) as (port, seen):
        monkeypatch.setattr("certifi.where", lambda: str(certificate))
        with pytest.raises(UpstreamError, match="trusted connection to the upstream: its certificate is for another"):
            await post(Upstream(f"https://127.0.0.1:{port}"))
        assert seen == []


async def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    public, key = new_certificate(tmp_path, ends_in=-1)
    both = tmp_path / "both.pem"
    both.write_bytes(public.read_bytes() + key.read_bytes())
    async with tls(both) as (port, seen):
        with pytest.raises(UpstreamError, match="certificate has expired"):
            await post(Upstream(f"https://127.0.0.1:{port}", ca_file=public))
        assert seen == []


async def test_no_file_is_left_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", full)
    with pytest.raises(UpstreamError, match="no file is left") as caught:
        await post(Upstream("http://127.0.0.1:9"))
    assert caught.value.fault is Fault.SATURATED


async def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*question: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UpstreamError, match="its name is not known"):
        await post(Upstream("http://api.example"))


async def test_of_several_addresses_the_first_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(host: str, port: int, *more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (9, 8, 1)]

    async with Simulator(WHOLE) as simulator:
        monkeypatch.setattr(socket, "getaddrinfo", known)
        upstream = Upstream(f"http://api.example:{simulator.port}")
        assert (await post(upstream)).status == 200
        await upstream.close()
    with pytest.raises(UpstreamError, match="Connection refused"):
        await post(upstream)


def test_an_address_of_one_interface_is_written_with_it() -> None:
    assert _numeric("fe80::1", 443, 0, 2) == "fe80::1%2"
    assert _numeric("2001:db8::1", 443, 0, 0) == "2001:db8::1"


async def test_tls_to_a_plain_port() -> None:
    async with Simulator() as simulator:
        with pytest.raises(UpstreamError) as caught:
            await post(Upstream(f"https://127.0.0.1:{simulator.port}", connect=3))
        assert caught.value.fault is Fault.CONNECT


URLS: dict[str, tuple[bytes, bytes] | None] = {
    "https://api.example.com": (b"api.example.com", b""),
    "https://api.example.com/": (b"api.example.com", b""),
    "https://api.example.com/v1": (b"api.example.com", b""),
    "https://api.example.com/v1/": (b"api.example.com", b""),
    "https://api.example.com:443/v1": (b"api.example.com", b""),
    "https://api.example.com:8443/v1": (b"api.example.com:8443", b""),
    "http://127.0.0.1:8000": (b"127.0.0.1:8000", b""),
    "http://[::1]:8000/v1": (b"[::1]:8000", b""),
    "https://host/openai/deployments/x/v1": (b"host", b"/openai/deployments/x"),
    "https://host/api/v1beta": (b"host", b"/api/v1beta"),
    "https://b\u00fccher.example": (b"xn--bcher-kva.example", b""),
    "HTTPS://Host/V1": (b"host", b"/V1"),
    "": None,
    "api.example.com": None,
    "//api.example.com": None,
    "ftp://api.example.com": None,
    "http://": None,
    "http:///v1": None,
    "https://user:hunter2@api.example.com": None,
    "ftp://user:hunter2@api.example.com": None,
    "https://api.example.com/v1?key=hunter2": None,
    "https://api.example.com/v1#hunter2": None,
    "https://api.example.com:99999": None,
    "https://api.example.com:port": None,
    "https://exa mple.com": None,
    "https://api.example.com/a b": None,
    "https://api.example.com/a\r\nx-evil: hunter2": None,
    "https://api.example.com/\u00e9": None,
    "https://a..b": None,
}


@pytest.mark.parametrize(("url", "expected"), URLS.items())
def test_urls(url: str, expected: tuple[bytes, bytes] | None) -> None:
    if expected is not None:
        upstream = Upstream(url)
        assert (upstream._authority, upstream._prefix) == expected
        return
    with pytest.raises(ValueError, match=r"URL|upstream|[Pp]ort") as caught:
        Upstream(url)
    assert "hunter2" not in str(caught.value)
    assert "codec" not in str(caught.value)


def test_shapes_of_the_simulator_are_what_the_pool_reads() -> None:
    assert shapes.DONE in shapes.stream("x")  # the fixtures above stand for real streams


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_secret_is_starred_however_it_is_cut(size: int) -> None:
    secret = b"sk-sk-secret"
    body = b"a sk-sk-sk-secret\nsk-sk-secretsk-sk-secret sk-sk-secre\nt sk-sk-secr"
    starred = Starred(secret)
    shown = [starred.shown(body[at : at + size]) for at in range(0, len(body), size)]
    assert b"".join(shown) + starred.rest() == body.replace(secret, b"*" * len(secret))
    assert starred.rest() == b""
