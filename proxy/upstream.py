"""The only place that talks to the model: a small pool of HTTP/1.1 connections on httptools and asyncio.

It sends each request once. Nothing is retried, no redirect is followed, no environment variable names a proxy,
certificates are always verified. What cannot be read in one way (a transfer coding other than chunked, bytes behind a
whole answer, endless 1xx) is a fault, and the connection is never used again.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import cast
from urllib.parse import urlsplit

import certifi
import httptools

Headers = list[tuple[bytes, bytes]]

MAX_HEAD = 64 * 1024
MAX_INFORMATIONAL = 8
LOOK = 0.05
"""Seconds between two looks at who is late."""
HIGH_WATER = 256 * 1024
"""Bytes of one answer that are kept unread before the upstream is told to wait."""


class Fault(StrEnum):
    """What went wrong upstream; a label of metrics and audit rows."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    RESET = "reset"
    PROTOCOL = "protocol"
    SATURATED = "saturated"


class UpstreamError(Exception):
    """The upstream could not be asked, or its answer not be read. The message is fit for operators and callers."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Response:
    """An answer whose head has arrived. `headers` are in the order they came, names in lower case.

    Read the body with `next` until None, or leave it with `abort`; one of the two must happen. After either the
    connection may already serve another exchange, so both are then without effect.
    """

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: _Connection, status: int, headers: Headers) -> None:
        self._connection: _Connection | None = connection
        self.status, self.headers = status, headers

    def header(self, name: bytes) -> bytes | None:
        """The first header called `name`, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def next(self) -> bytes | None:
        """The bytes that have arrived since the last call, at least one; None at the end. Raises UpstreamError."""
        if self._connection is None:
            return None
        data = await self._connection.next()
        if data is None:
            self._connection = None
        return data

    async def pump(self, taste: Callable[[bytes], bool]) -> bool:
        """Give what arrives to `taste`, where it arrives, until it says True; False at the end. Raises UpstreamError.

        Most pieces of a stream change nothing that anybody waits for: they need not wake a task each."""
        if self._connection is None:
            return False
        if await self._connection.pump(taste):
            return True
        self._connection = None
        return False

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamError, also where it is larger than `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        while (piece := await self.next()) is not None:
            size += len(piece)
            if size > limit:
                self.abort()
                raise UpstreamError(Fault.PROTOCOL, f"the upstream's answer is larger than {limit} bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def abort(self) -> None:
        """Stop reading and close the connection: the model stops writing."""
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None


class Upstream:
    """One named upstream. `url` is its base, with or without a trailing ``/v1``: the caller's path follows it.

    Times are in seconds. `first_byte` bounds connection and head together, `gap` the silence between two pieces of a
    body, and `keep` the age of an idle connection (below the idle limits that servers commonly have, so that a
    request is hardly ever written to a connection that is being closed).
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 2048,
        connect: float = 10.0,
        first_byte: float = 600.0,
        gap: float = 120.0,
        keep: float = 4.0,
    ) -> None:
        self._host, self._port, self._tls, self._prefix, self._authority = _address(url)
        self._connect, self._first_byte, self._gap, self._keep = connect, first_byte, gap, keep
        self._max = max_connections
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._opening = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._context = _tls_context() if self._tls else None

    def head(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """A request's head for `send`, without its end. `target` is path and query as the caller wrote them."""
        lines = [b"%b %b%b HTTP/1.1\r\nhost: %b\r\n" % (method, self._prefix, target, self._authority)]
        lines.extend(b"%b: %b\r\n" % pair for pair in headers)
        return b"".join(lines)

    async def send(self, head: bytes, body: bytes | None) -> Response:
        """Send one request; return when the answer's head is in. None is no body at all.

        Raises UpstreamError. Cancelling closes the connection.
        """
        end = b"\r\n" if body is None else b"content-length: %d\r\n\r\n%b" % (len(body), body)
        connection = self._rested() or await self._open()
        try:
            return await connection.ask(head + end, asyncio.get_running_loop().time() + self._first_byte)
        except BaseException:
            connection.abandon()
            raise

    async def close(self) -> None:
        """Close every connection."""
        for connection in [*self._idle, *self._busy]:
            connection.abandon()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()

    def _rested(self) -> _Connection | None:
        """The connection that was used last, if it may be used again."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.rested < self._keep:
                self._engage(connection)
                return connection
            connection.abandon()
        return None

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        if len(self._busy) + self._opening >= self._max:
            raise UpstreamError(Fault.SATURATED, f"all {self._max} connections to the upstream are in use")
        self._opening += 1
        try:
            async with asyncio.timeout(self._connect):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop, self._gap),
                    self._host,
                    self._port,
                    ssl=self._context,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            raise UpstreamError(Fault.CONNECT, f"no connection to the upstream within {self._connect:g} s") from None
        except ssl.SSLError as error:
            raise UpstreamError(Fault.CONNECT, f"no trusted connection to the upstream: {error.reason}") from None
        except OSError as error:
            # asyncio writes the address into the error's text, and callers read ours.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else "no address answers"
            raise UpstreamError(Fault.CONNECT, f"no connection to the upstream: {why}") from None
        finally:
            self._opening -= 1
        self._engage(connection)
        return connection

    def _engage(self, connection: _Connection) -> None:
        self._busy.add(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        """One timer for all connections: a timer for each would cost as much as the parsing."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._busy):
            connection.look(now)
        for connection in [c for c in self._idle if now - c.rested > self._keep]:
            connection.abandon()
        self._sweep = loop.call_later(LOOK, self._look) if self._busy or self._idle else None

    def release(self, connection: _Connection, *, reuse: bool) -> None:
        """A connection has finished its exchange."""
        self._busy.discard(connection)
        if reuse:
            self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection has been lost."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _address(url: str) -> tuple[str, int, bool, bytes, bytes]:
    """Host, port, whether with TLS, the path before /v1, and what the Host header says. Raises ValueError, whose
    message never quotes the URL: it may hold a credential."""
    parts = urlsplit(url)
    if any(letter.isspace() or not letter.isprintable() for letter in url) or not parts.path.isascii():
        raise ValueError("the upstream's URL holds a blank or a letter that must be percent-encoded")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the upstream's URL may not hold credentials, a query or a fragment")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("this is no upstream: write it like https://api.example.com/v1")
    name, tls = parts.hostname, parts.scheme == "https"
    default = 443 if tls else 80
    port = parts.port or default
    try:
        host = f"[{name}]".encode("ascii") if ":" in name else name.encode("idna")
    except UnicodeError:
        raise ValueError("the upstream's URL holds no valid host name") from None
    prefix = parts.path.rstrip("/").removesuffix("/v1").encode("ascii")
    return name, port, tls, prefix, host if port == default else host + b":%d" % port


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Connection(asyncio.Protocol):
    """One connection: at most one exchange at a time."""

    def __init__(self, pool: Upstream, loop: asyncio.AbstractEventLoop, gap: float) -> None:
        self._pool, self._loop, self._gap = pool, loop, gap
        self._transport: asyncio.Transport | None = None
        self.rested = 0.0
        self.usable = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._head_size = 0
        self._informational = 0
        self._head_done = False
        self._sized = False  # the length of the body is known to the parser
        self._keep_alive = False
        self._body: list[bytes] = []
        self._buffered = 0
        self._complete = False
        self._asked = False
        self._paused = False
        self._taste: Callable[[bytes], bool] | None = None
        self._sated = False
        self._error: UpstreamError | None = None

    # -- for Upstream and Response

    async def ask(self, data: bytes, deadline: float) -> Response:
        """Write a request and wait for the head of its answer until `deadline` (loop time)."""
        if self._transport is None:
            raise UpstreamError(Fault.RESET, "the upstream closed the connection before it was asked")
        self._asked = True
        self._deadline = deadline
        self._transport.write(data)
        while not self._head_done:
            if self._error:
                raise self._error
            await self._wait()
        self._deadline = self._loop.time() + self._gap
        return Response(self, self._parser.get_status_code(), self._headers)

    async def next(self) -> bytes | None:
        while not self._body:
            if self._complete:
                self._finish()
                return None
            if self._error:
                self.abandon()
                raise self._error
            self._deadline = self._loop.time() + self._gap
            await self._wait()
        return self._taken()

    async def pump(self, taste: Callable[[bytes], bool]) -> bool:
        while not (self._body and taste(self._taken())):
            if self._body:
                continue
            if self._complete:
                self._finish()
                return False
            if self._error:
                self.abandon()
                raise self._error
            self._deadline = self._loop.time() + self._gap
            self._taste = taste
            try:
                await self._wait()
            finally:
                self._taste = None
            if self._sated:
                self._sated = False
                break
        return True

    def _taken(self) -> bytes:
        """What has arrived; from now on there is room for more."""
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def abandon(self) -> None:
        """Close, whatever state this is in."""
        self.usable = False
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            self.usable = False  # nobody asked for these bytes
            self.abandon()
            return
        if not self._head_done:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Fault.PROTOCOL, "the upstream wants to change the protocol")
        except httptools.HttpParserError:
            self._fail(Fault.PROTOCOL, "the upstream's answer is not valid HTTP/1.1")
        if not self._head_done and self._head_size > MAX_HEAD:
            self._fail(Fault.PROTOCOL, f"the upstream's header is larger than {MAX_HEAD} bytes")
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._taste is not None and self._body:
            # Its reader waits: a reader that does not is given nothing, and the upstream is told to wait in time.
            self._deadline = self._loop.time() + self._gap
            self._sated = self._taste(self._taken())
            if not (self._sated or self._complete or self._error):
                return
            self._taste = None
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._transport = None
        self._pool.forget(self)
        if self._asked and not self._complete and self._error is None:
            if self._head_done and not self._sized and exc is None:
                self._complete = True  # a body that ends with the connection
            else:
                self._fail(Fault.RESET, "the upstream closed the connection before its answer was whole")
        self._wake()

    # -- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # trailers are no headers
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._informational += 1
            if status == 101 or self._informational > MAX_INFORMATIONAL:
                self._fail(Fault.PROTOCOL, "the upstream sends 1xx answers without end")
            return
        if self._error:
            return
        for name, value in self._headers:
            if name == b"transfer-encoding":
                self._sized = True
                if value.strip().lower() != b"chunked":
                    self._fail(Fault.PROTOCOL, "the upstream uses an unknown transfer coding")
                    return
            elif name == b"content-length":
                self._sized = True
        self._sized = self._sized or status in {204, 304}
        # Asked now: once the message is complete, the parser has forgotten it.
        self._keep_alive = self._parser.should_keep_alive()
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._fail(Fault.PROTOCOL, "the upstream sends bytes behind its answer")
            return
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True

    def on_message_begin(self) -> None:
        if self._complete:
            self._fail(Fault.PROTOCOL, "the upstream sends bytes behind its answer")
        elif not self._head_done:
            self._headers = []

    # -- waiting

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def look(self, now: float) -> None:
        """Fail where the upstream is late at `now` (loop time)."""
        # Nobody waits: the reader is slow, not the upstream; its next wait begins with a new deadline.
        if self._complete or self._error or self._waiter is None or now < self._deadline:
            return
        what = "began no answer" if not self._head_done else f"sent nothing for {self._gap:g} s"
        self._fail(Fault.TIMEOUT, f"the upstream {what} in time")
        self._wake()

    def _fail(self, fault: Fault, message: str) -> None:
        self.usable = False
        if self._error is None:
            self._error = UpstreamError(fault, message)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _finish(self) -> None:
        """The answer is read to its end: back into the pool, where both sides want that."""
        keep = self.usable and self._error is None and self._sized and self._keep_alive
        if not keep:
            self.abandon()
            return
        self._reset()
        self.rested = self._loop.time()
        self._pool.release(self, reuse=True)
