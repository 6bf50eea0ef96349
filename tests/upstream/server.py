"""The socket side: reads requests as they arrive, plays replies as they are written, and sees the caller
leave."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import httptools
import orjson

from tests.upstream import api
from tests.upstream.replies import End, Reply, Step, head

Script = Reply | Callable[["Request"], Reply]


@dataclass(slots=True, eq=False)
class Request:
    """One request as it arrived, and what became of its answer.

    `target` is the raw request target, `headers` the raw names and values in order. `sent` counts the bytes
    of the answer that the kernel took, as known after the last write. `finished` is set when the whole
    reply was written, `gone` when the connection was lost before that: the caller left, or the reply was an
    `End.RESET`.
    """

    connection: int
    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    sent: int = 0
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        """The target without its query, escapes as they came."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def header(self, name: str) -> str | None:
        """The first header of that name, whatever its case."""
        wanted = name.lower().encode()
        found = (value for key, value in self.headers if key.lower() == wanted)
        value = next(found, None)
        return None if value is None else value.decode("latin-1")

    def json(self) -> Any:
        """The body as JSON; ValueError where it is not."""
        return orjson.loads(self.body)


class Upstream:
    """A server on a loopback port of its own, for use as an async context manager.

    `reply` is a reply for every request, or a callable that is given each `Request` and returns one; set it
    at any time. `requests` holds every request that arrived whole, in order. `connections` counts those
    accepted so far, `open` holds those open now. An exception in a script closes its connection, and
    leaving the context raises it.
    """

    def __init__(
        self, reply: Script = api.answer, *, host: str = "127.0.0.1", port: int = 0, keep: bool = True
    ) -> None:
        """`port` 0 takes a free one. `keep` False records no requests: for long runs under load."""
        self.reply: Script = reply
        self.requests: list[Request] = []
        self.errors: list[Exception] = []
        self.connections = 0
        self.open: set[Connection] = set()
        self._host = host
        self._port = port
        self._keep = keep
        self._server: asyncio.Server | None = None
        self._arrival = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), self._host, self._port, backlog=2048)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in tuple(self.open):
            connection.abort()
        while self.open:
            await asyncio.sleep(0)
        await self._server.wait_closed()
        if self.errors and error is None:
            raise ExceptionGroup("the script of the simulated upstream failed", self.errors)

    @property
    def port(self) -> int:
        """The port in use."""
        return self._port

    @property
    def url(self) -> str:
        """Scheme, host and port; no path."""
        return f"http://{self._host}:{self._port}"

    async def arrived(self, count: int = 1, *, timeout: float = 10.0) -> Request:
        """Wait until `count` requests have arrived in all, and return the last of those."""
        async with asyncio.timeout(timeout):
            while len(self.requests) < count:
                self._arrival.clear()
                await self._arrival.wait()
        return self.requests[count - 1]

    def record(self, request: Request) -> None:
        """Note that a request arrived whole."""
        if self._keep:
            self.requests.append(request)
            self._arrival.set()

    def choose(self, request: Request) -> Reply:
        """The reply for a request whose turn has come."""
        script = self.reply
        return script(request) if callable(script) else script


class Connection(asyncio.Protocol):
    """One connection. Requests are answered one after another in order of arrival; a reply is played by
    `_advance`, which goes on until a step makes it wait and is called again when the waiting is over."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._waiting: deque[Request] = deque()
        self._steps: Iterator[Step] | None = None
        self._given = 0
        self._pause: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._full = False
        self._transport: asyncio.Transport

    def shut(self) -> None:
        """Close both ways at once, while no event loop looks on."""
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        plain = self._transport.get_extra_info("socket")
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstream.connections += 1
        self._number = self._upstream.connections
        self._upstream.open.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._transport.close()
        except httptools.HttpParserError:
            self._transport.write(head(400, [("Connection", "close"), ("Content-Length", "0")]))
            self._transport.close()

    def eof_received(self) -> bool:
        return False  # a caller that closes its side has left: OpenAI's edge stops generating then

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.open.discard(self)
        if self._pause is not None:
            self._pause.cancel()
        self._steps = None
        for request in self._waiting:
            request.gone.set()
        self._waiting.clear()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._pause is None and self._waiting:
            self._advance()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", [], []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if any(name.lower() == b"expect" for name, _ in self._headers):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        request = Request(self._number, method, self._target, self._headers, b"".join(self._body))
        self._upstream.record(request)
        self._waiting.append(request)
        if len(self._waiting) == 1:
            self._advance()

    # playing replies

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def _advance(self) -> None:
        self._pause = None
        try:
            while self._waiting:
                request = self._waiting[0]
                if self._steps is None:
                    self._steps, self._given = iter(self._upstream.choose(request)), 0
                if not self._play(request, self._steps):
                    return
                self._steps = None
                self._waiting.popleft()
        except Exception as error:  # a script is test code: its failure is reported when the context is left
            self._upstream.errors.append(error)
            self._transport.abort()

    def _play(self, request: Request, steps: Iterator[Step]) -> bool:
        """Take steps until one makes us wait; True when the reply has ended and the connection lives on."""
        while not self._full:
            step = next(steps, None)
            if step is None:
                request.finished.set()
                return True
            if isinstance(step, bytes):
                self._transport.write(step)
                self._given += len(step)
                request.sent = self._given - self._transport.get_write_buffer_size()
            elif isinstance(step, End):
                return self._end(step, request)
            else:
                self._wait(step)
                return False
        return False

    def _wait(self, step: float | asyncio.Event) -> None:
        if isinstance(step, asyncio.Event):
            self._pause = self._loop.create_task(self._wait_for(step))
        else:
            self._pause = self._loop.call_later(step, self._advance)

    async def _wait_for(self, event: asyncio.Event) -> None:
        await event.wait()
        self._advance()

    def _end(self, how: End, request: Request) -> bool:
        if how is End.RESET:
            # A linger time of zero makes close() send RST; what we still hold is lost, as in a crash.
            plain = self._transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            return False
        request.finished.set()
        if how is End.HALF_CLOSE:
            self._transport.write_eof()
            return True
        self._transport.close()
        return False
