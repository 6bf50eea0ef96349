"""The client's side: HTTP/1.1 on httptools and asyncio, one object a connection, one task an exchange.

Decision: our own protocol on the data path, no ASGI server. Why: scope, receive, send and their timers cost more than
the parsing and as much as all judging (tests/bench). Cost: HTTP/1.1 only, and this file to keep.

INVARIANT: one exchange at a time a connection, answers in the order of requests; what follows a refused head or bytes
that are no HTTP is never read as a request; an answer that did not end is never followed by another.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from .answers import Answer, status_line
from .headers import plain
from .logs import get_logger
from .offers import Offer
from .targets import Misdirected, path_of
from .upstream import Headers

log = get_logger("penstock.listener")

MAX_HEAD = 64 * 1024
TOO_LARGE = 431, "headers_too_large", f"The request's head, or a trailer of it, is larger than {MAX_HEAD} bytes."
KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept."""
LINGER = 2.0
"""Seconds in which a client that was refused early may go on sending what nobody reads."""
HIGH_WATER = 64 * 1024
"""Bytes that wait for a slow reader before its exchange waits, too."""

_BODILESS = frozenset({204, 304})


class Incoming:
    """The head of a request: `target` as it came, cut into `path` and `query`; its headers as they came (`raw`), and
    with names in lower case (`headers`). `Content-Length`, which differs from request to request, is not among them:
    the listener heeds it alone.

    `memo` is the application's: on one connection the same head brings it back, so that what follows from a head
    alone need not be worked out for each request of a client that keeps its connection.
    """

    __slots__ = ("headers", "keep_alive", "memo", "method", "path", "query", "raw", "target", "waits")

    def __init__(self, method: bytes, target: bytes, raw: Headers, keep_alive: bool) -> None:
        self.method, self.target, self.raw, self.keep_alive = method, target, raw, keep_alive
        self.headers: Headers = [(name.lower(), value) for name, value in raw]
        path, _, query = target.partition(b"?")
        self.path, self.query = path, query.partition(b"#")[0]
        self.waits = any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers)
        self.memo: object = None


class Application(Protocol):
    """What a listener serves."""

    def opened(self, incoming: Incoming) -> Answer | None:
        """A head has come. An answer refuses the request: its body is not read and the connection is closed."""
        ...

    def refused(self, incoming: Incoming | None, status: int, code: str, message: str) -> Answer:
        """The request broke a rule of HTTP or a limit of this listener (None: before its head was whole)."""
        ...

    async def serve(self, incoming: Incoming, body: bytes, caller: Caller) -> None:
        """Answer a whole request, by `caller`."""
        ...


class Caller:
    """The client, as one exchange sees it. `started`: the status line has left. `done`: so has the last byte. `gone`:
    the client hung up before that. `late`: it took too long. `stamp` holds headers that every answer gets; `origins`
    those of `cors`, which then says alone who may read an answer."""

    __slots__ = (
        "_chunked", "_connection", "_head", "_incoming", "done", "gone", "late", "origins", "sent", "stamp", "started",
        "task",
    )  # fmt: skip

    def __init__(self, connection: Connection, incoming: Incoming) -> None:
        self._connection, self._incoming = connection, incoming
        self.started = self.done = self.gone = self.late = False
        self.sent = 0
        self.stamp: Headers = []
        self.origins: Headers | None = None
        self._head = b""
        self._chunked = incoming.keep_alive or not connection.old
        self.task: asyncio.Task[None] | None = None

    def start(self, status: int, headers: Headers, reason: bytes | None = None) -> None:
        """The head of an answer whose length is not known. It travels with the first piece of the body."""
        self.started = True
        self._chunked = not self._connection.old
        coding: Headers = [(b"transfer-encoding", b"chunked")] if self._chunked else []
        self._connection.last = self._connection.last or not self._chunked
        self._head = self._compose(status, headers + coding, reason)

    def flush(self) -> None:
        """Let the head leave alone: the first piece may be long in coming."""
        self._connection.write(self._head)
        self._head = b""

    def send(self, body: bytes) -> None:
        """A piece of the body. Wait for `drained` before the next one."""
        if body:
            self.sent += len(body)
            self._connection.write(self._head + (b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body))
            self._head = b""

    @property
    def drained(self) -> asyncio.Future[None] | None:
        """Something to wait for while the client reads too slowly; else None."""
        return self._connection.drained

    def finish(self) -> None:
        """The body is complete."""
        self.done = True
        self._connection.write(self._head + (b"0\r\n\r\n" if self._chunked else b""))

    def cut(self, ending: bytes) -> None:
        """Last words and the end, at once, whoever reads how slowly."""
        if self.started and not self.done and not self.gone:
            self._connection.write(self._head + (b"%x\r\n%b\r\n" % (len(ending), ending) if self._chunked else ending))
            self._head = b""
            self.finish()

    def answer(self, answer: Answer) -> None:
        """The whole answer at once."""
        self.started = self.done = True
        self.sent += len(answer.body)
        self._connection.write(self.bytes_of(answer))

    def bytes_of(self, answer: Answer) -> bytes:
        """The answer as it travels."""
        headers, body = answer.headers, answer.body
        for name, _ in headers:
            if len(name) == 14 and name.lower() == b"content-length":
                break
        else:
            if answer.status not in _BODILESS:
                headers = [*headers, (b"content-length", b"%d" % len(body))]
        head = self._compose(answer.status, headers, answer.reason)
        return head if self._incoming.method == b"HEAD" or answer.status in _BODILESS else head + body

    def over(self) -> None:
        """The exchange has ended: the connection may serve the next one, if this one was answered to its end."""
        self._connection.over(self)

    def _compose(self, status: int, headers: Headers, reason: bytes | None) -> bytes:
        if self.origins is not None:
            headers = [pair for pair in headers if not pair[0].lower().startswith(b"access-control-")] + self.origins
        lines = [status_line(status, reason), *[b"%b: %b\r\n" % pair for pair in headers]]
        lines += [b"%b: %b\r\n" % pair for pair in self.stamp]
        if self._connection.last:
            lines.append(b"connection: close\r\n")
        elif self._connection.old:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)


class Connection(asyncio.Protocol):
    """One client. `last`: it is closed behind the answer in flight. `old`: it speaks HTTP/1.0. `drained`: what a
    sender waits for while the client reads too slowly. `since`: when (loop time) what it does now began. `_bare`: bytes
    that came since the last of a head or a body, and belong to neither as yet."""

    __slots__ = (
        "_bare",
        "_body",
        "_caller",
        "_headers",
        "_incoming",
        "_length",
        "_listener",
        "_offer",
        "_parser",
        "_seen",
        "_size",
        "_target",
        "_transport",
        "_waiting",
        "deaf",
        "drained",
        "last",
        "old",
        "since",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Headers = []
        self._bare = self._length = 0
        self._incoming: Incoming | None = None
        self._seen: Incoming | None = None
        self._offer: Offer | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._caller: Caller | None = None
        self._waiting: list[tuple[Incoming, bytes]] = []  # hardly ever more than one
        self.deaf = self.last = self.old = False
        self.drained: asyncio.Future[None] | None = None
        self.since = listener.loop.time()

    # -- for Listener and Caller

    @property
    def idle(self) -> bool:
        """Nothing of a request has come, and none is being answered."""
        return self._caller is None and not self._bare and self._incoming is None

    @property
    def answering(self) -> bool:
        return self._caller is not None

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def over(self, caller: Caller) -> None:
        self._caller = None
        transport = self._transport
        if transport is None:
            return
        self.since = self._listener.loop.time()
        if not caller.done:
            transport.abort()
        elif self.last:
            transport.close()
        elif self._waiting:
            self._begin(*self._waiting.pop(0))
            if not self._waiting:
                transport.resume_reading()

    def late(self) -> None:
        """The request did not arrive in time."""
        self._refuse(408, "request_timeout", "The request did not arrive in time.")

    def close(self) -> None:
        """Close, now or behind the answer in flight."""
        self.last = self.deaf = True
        if self._caller is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        # Else the kernel takes megabytes for a reader that does not read, and the upstream is not held back.
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, HIGH_WATER)
        self._listener.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if self._incoming is None and not self._bare:
            self.since = self._listener.loop.time()
        self._bare += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            if not self.deaf and self._offer is not None:  # else it was refused when the head was complete
                self._parser, declined = httptools.HttpRequestParser(self), self._offer.declined()
                self._offer = None
                self.data_received(declined + data[stopped.args[0] :])
        except httptools.HttpParserCallbackError:
            log.exception("internal fault")  # ours, not the client's
            self._refuse(500, "internal_error", "Penstock failed to handle this request.")
        except httptools.HttpParserInvalidMethodError:
            self._refuse(400, "unknown_method", "Penstock knows no such method: send POST or GET, in capital letters.")
        except httptools.HttpParserError:
            self._refuse(400, "invalid_http", "This is not valid HTTP/1.1.")
        if self._bare > MAX_HEAD and not self.deaf:  # the parser would gather a trailer without end
            self._refuse(*TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.deaf = True
        self._waiting.clear()
        self._listener.connections.discard(self)
        del self._parser  # it knows us: else both would lie about until the collector comes
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)
        caller = self._caller
        # Once an answer is complete what is left to do is ours.
        if caller is not None and not caller.done and caller.task is not None:
            caller.gone = True
            caller.task.cancel()

    def pause_writing(self) -> None:
        self.drained = self._listener.loop.create_future()
        self.since = self._listener.loop.time()

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- httptools

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is None:  # trailers are no headers
            # The parser has seen to it that it is one number, and there once.
            if len(name) == 14 and name.lower() == b"content-length":
                self._length = int(value)
            else:
                self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        method, headers, target = parser.get_method(), self._headers, self._target
        if parser.should_upgrade():
            self._offer = Offer(method, target, headers, self._length)
            if self._offer.needless:
                self._headers, self._target = [], b""
                return  # the parser stops here, and reads it again without the offer
        seen, lost = self._seen, None
        keep_alive = parser.should_keep_alive()
        if (
            seen is not None
            and seen.raw == headers
            and seen.target == target
            and seen.method == method
            and seen.keep_alive == keep_alive
        ):
            incoming = seen
        else:
            try:
                target, lost = path_of(method, target), None
            except Misdirected as error:
                lost = error
            incoming = self._seen = Incoming(method, target, headers, keep_alive)
            self.old = parser.get_http_version() == "1.0"
        self._incoming, self._headers, self._target, self._bare = incoming, [], b"", 0
        if self.deaf:
            return
        wrong = None if incoming is seen else self._wrong(incoming, lost)
        if wrong is None and parser.should_upgrade():
            wrong = 426, "upgrade_refused", "Penstock does not change protocols: send it without Upgrade."
        if wrong is not None:
            self._refuse(*wrong)
            return
        answer = self._listener.application.opened(incoming)
        if answer is not None:
            self._say(answer)
            return
        if self._length > self._listener.max_body:
            self._too_large()
        elif incoming.waits and self._caller is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _wrong(self, incoming: Incoming, lost: Misdirected | None) -> tuple[int, str, str] | None:
        """What is wrong with a head that was not seen before."""
        if not plain(incoming.headers, self._parser.get_http_version()):
            return 400, "invalid_http", "This is not HTTP/1.1, or in another transfer coding than chunked."
        if len(incoming.target) + sum([len(name) + len(value) + 4 for name, value in incoming.raw]) > MAX_HEAD:
            return TOO_LARGE  # it came all at once
        return (lost.status, lost.code, str(lost)) if lost is not None else None

    def on_body(self, body: bytes) -> None:
        if self.deaf:
            return
        self._bare = 0
        self._size += len(body)
        if self._size > self._listener.max_body:
            self._too_large()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        incoming, pieces = self._incoming, self._body
        self._incoming = None
        self._bare = self._size = self._length = 0
        if self.deaf or incoming is None:
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if pieces:
            self._body = []
        if self._caller is None:
            self._begin(incoming, body)
        else:
            self._waiting.append((incoming, body))
            if self._transport is not None:
                self._transport.pause_reading()

    # -- within

    def _begin(self, incoming: Incoming, body: bytes) -> None:
        self.last = self.last or not incoming.keep_alive
        caller = self._caller = Caller(self, incoming)
        caller.task = self._listener.loop.create_task(self._listener.application.serve(incoming, body, caller))

    def _too_large(self) -> None:
        limit = self._listener.max_body
        self._refuse(413, "request_too_large", f"The body is larger than {limit} bytes.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        if not self.deaf:
            self._say(self._listener.application.refused(self._incoming, status, code, message))

    def _say(self, answer: Answer) -> None:
        """Answer without an exchange and close: what is left of the request is not read."""
        self.deaf = self.last = True
        self._body = []
        if self._caller is not None:
            return  # an answer is in flight: it ends, and the connection behind it
        incoming = self._incoming or Incoming(b"GET", b"/", [], False)
        self.write(Caller(self, incoming).bytes_of(answer))
        if self._transport is not None:
            # To close with unread bytes would reset the connection, and the client might never read the answer.
            self._transport.write_eof()
        self.since = self._listener.loop.time()


class Closes(Protocol):
    """What accepts connections until it is closed."""

    def close(self) -> None: ...


Accept = Callable[[Callable[[], Connection], set[Connection]], Closes]
"""Begins to accept connections, by what makes one and by those that are open."""


class Listener:
    """Serves `application` on a bound socket. Times are in seconds: `receive` for a whole request to arrive, `send`
    for a client to read anything of what waits for it."""

    def __init__(self, application: Application, *, max_body: int, receive: float, send: float) -> None:
        self.application, self.max_body = application, max_body
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self._receive, self._send = receive, send
        self._server: Closes | None = None
        self._turn = min(1.0, receive / 2, send / 2)
        self._sweep = self.loop.call_later(self._turn, self._look)

    async def start(self, sock: socket.socket, accepting: Accept | None = None) -> None:
        """Accept connections from now on; by `accepting` where other processes accept on this socket, too."""
        if accepting is not None:
            self._server = accepting(lambda: Connection(self), self.connections)
            return
        self._server = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=2048)

    def idle(self) -> None:
        """Accept no more connections, close those without an exchange, and the others behind theirs."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()

    async def close(self) -> None:
        """End, whatever is still in flight."""
        self.idle()
        self._sweep.cancel()
        # What was written last (an error event, say) gets a moment to leave.
        for _ in range(10):
            if not self.connections:
                return
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()

    def _look(self) -> None:
        """One timer for all connections: a timer for each request would cost as much as its parsing."""
        now = self.loop.time()
        for connection in list(self.connections):
            age = now - connection.since
            if connection.idle and not connection.deaf:
                if age > KEEP_ALIVE:
                    connection.close()
            elif connection.drained is not None:
                if age > self._send:
                    connection.abort()
            elif connection.answering:
                continue
            elif connection.deaf:
                if age > LINGER:
                    connection.abort()
            elif age > self._receive:
                connection.late()
        self._sweep = self.loop.call_later(self._turn, self._look)
