"""One connection to an upstream: HTTP/1.1 on httptools and asyncio, at most one exchange at a time.

What cannot be read in one way (a transfer coding other than chunked, bytes behind a whole answer, endless 1xx) is a
fault, and the connection is never used again.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, cast

import httptools

from .gathering import Beat, Gathering
from .headers import Names, names_of
from .starred import Starred

Headers = list[tuple[bytes, bytes]]
Taste = Callable[[bytes], int]

MAX_HEAD = 64 * 1024
MAX_INFORMATIONAL = 8
WAKE = -1
"""What a taste answers when the task that pumps must go on."""
HIGH_WATER = 256 * 1024
"""Bytes of one answer that are kept unread before the upstream is told to wait."""
STEADY = 4
"""The share of the pace of the last pieces in what is taken for a stream's pace is one in so many."""
MARGIN = 1.0
"""Seconds by which a connection is given up before the upstream would close it."""
_LIMIT = re.compile(rb"(?:^|[,;\s])(timeout|max)\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)


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
    """An answer whose head has arrived: the status and its words (`reason`), the headers' names and their `values`.

    Read the body with `next` until None, or leave it with `abort`; one of the two must happen. After either the
    connection may already serve another exchange, so both are then without effect.
    """

    __slots__ = ("_connection", "_starred", "names", "reason", "status", "values")

    def __init__(
        self, connection: Connection, status: int, names: Names, values: list[bytes], reason: bytes = b""
    ) -> None:
        self._connection: Connection | None = connection
        self._starred: Starred | None = None
        self.status, self.names, self.values, self.reason = status, names, values, reason

    def hide(self, secret: bytes) -> None:
        """Put stars where `secret` stands in headers or body: some servers repeat the key that they were sent."""
        self._starred = Starred(secret)
        stars = b"*" * len(secret)
        if any(secret in value for value in self.values):
            self.values = [value.replace(secret, stars) for value in self.values]
        self.reason = self.reason.replace(secret, stars)

    def header(self, name: bytes) -> bytes | None:
        """The first header called `name` (in lower case), or None."""
        places = self.names.at.get(name)
        return self.values[places[0]] if places else None

    def all(self, name: bytes) -> list[bytes]:
        """The values of all headers called `name` (in lower case)."""
        return [self.values[place] for place in self.names.at.get(name, ())]

    async def next(self) -> bytes | None:
        """The bytes that have arrived since the last call, at least one; None at the end. Raises UpstreamError."""
        while self._connection is not None:
            data = await self._connection.next()
            if data is None:
                self._connection = None
                return (self._starred.rest() if self._starred is not None else b"") or None
            if self._starred is not None:
                data = self._starred.shown(data)
            if data:
                return data
        return None

    async def pump(self, taste: Taste) -> bool:
        """Give what arrives to `taste`, where it arrives, until it says WAKE; False at the end. Raises UpstreamError.

        Most pieces of a stream change nothing that anybody waits for: they need not wake a task each, nor be looked at
        one by one. So `taste` answers how many bytes it would like to get at once the next time; it gets them, or
        what there is when the stream pauses (`gathering`)."""
        if self._connection is None:
            return False
        starred = self._starred
        if await self._connection.pump(taste if starred is None else lambda piece: taste(starred.shown(piece))):
            return True
        self._connection = None
        if starred is not None and (rest := starred.rest()):
            taste(rest)
        return False

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamError, also where it is larger than `limit` bytes."""
        if self._connection is not None and (body := self._connection.rest(limit)) is not None:
            self._connection = None
            return body if self._starred is None else self._starred.shown(body) + self._starred.rest()
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


class Pool(Protocol):
    """What a connection tells its pool."""

    beat: Beat

    def release(self, connection: Connection) -> None: ...
    def forget(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One connection: at most one exchange at a time."""

    __slots__ = (
        "_appetite", "_asked", "_bare", "_body", "_buffered", "_chunked", "_complete", "_deadline", "_error", "_gap",
        "_gathering", "_hasty", "_head", "_head_done", "_informational", "_keep_alive", "_loop",
        "_names", "_parser", "_paused", "_poll", "_pool", "_pulse", "_reason", "_sated", "_seen", "_sized", "_taste",
        "_transport", "_usual", "_values", "_waiter", "chunked", "kept", "rested", "usable",
    )  # fmt: skip

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop, gap: float) -> None:
        self._pool, self._loop, self._gap = pool, loop, gap
        self._transport: asyncio.Transport | None = None
        self.rested = 0.0
        self.kept = float("inf")  # seconds that the upstream keeps it, as far as it says so
        self.chunked = False  # the last answer
        self.usable = False
        self._poll = select.poll()
        self._gathering: Gathering | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._reason = b""
        self._bare = 0  # bytes since the last of a head or a body, which belong to neither as yet
        self._informational = 0
        self._head: Response | None = None  # until it is asked for
        self._head_done = False
        self._sized = False  # the length of the body is known to the parser
        self._chunked = False
        self._keep_alive = False
        self._body: list[bytes] = []
        self._buffered = 0
        self._complete = False
        self._asked = False
        self._paused = False
        self._taste: Taste | None = None
        self._sated = self._hasty = False
        self._appetite = self._usual = 0
        self._seen = 0.0  # when (loop time) the last piece came
        self._pulse = 0.0  # seconds between two of the pieces that came last, about; 0 where that is not known
        self._error: UpstreamError | None = None

    # -- for Upstream and Response

    @property
    def stale(self) -> bool:
        """Whether the upstream has closed a connection that rests, or written to it: the event loop may not have seen
        that yet. (With TLS it may be a word between the two ends: to begin a new connection is right all the same.)"""
        return self._transport is None or bool(self._poll.poll(0))

    async def ask(self, data: bytes, deadline: float) -> Response:
        """Write a request and wait for the head of its answer until `deadline` (loop time)."""
        if self._transport is None:
            raise UpstreamError(Fault.RESET, "the upstream closed the connection before it was asked")
        self._asked = True
        self._deadline = deadline
        self._transport.write(data)
        while self._head is None:
            if self._error:
                raise self._error
            await self._wait()
        self._deadline = self._loop.time() + self._gap
        head, self._head = self._head, None  # it knows us
        self._names, self._values = [], []
        return head

    def rest(self, limit: int) -> bytes | None:
        """The rest of the body, where all of it is here already and no larger than `limit`."""
        if not self._complete or self._error or self._buffered > limit:
            return None
        data = self._taken()
        self._finish()
        return data

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

    async def pump(self, taste: Taste) -> bool:
        while True:
            if self._body:
                self._appetite = taste(self._taken())
                if self._appetite == WAKE:
                    break
                continue
            if self._complete:
                self._finish()
                return False
            if self._error:
                self.abandon()
                raise self._error
            self._deadline = self._loop.time() + self._gap
            self._taste = taste
            self._gather()
            try:
                await self._wait()
            finally:
                self._taste = None
                if self._gathering is not None:
                    self._gathering.stop()
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
        self._ungather()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            self.usable = False  # nobody asked for these bytes
            self.abandon()
            return
        self._bare += len(data)
        before = len(self._body)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Fault.PROTOCOL, "the upstream wants to change the protocol")
        except httptools.HttpParserError:
            self._fail(Fault.PROTOCOL, "the upstream's answer is not valid HTTP/1.1")
        if self._bare > MAX_HEAD and not self._complete:  # the parser would gather a trailer without end
            self._fail(Fault.PROTOCOL, f"the upstream's header or trailer is larger than {MAX_HEAD} bytes")
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._taste is not None and self._body and not self._complete and not self._error:
            # Its reader waits: a reader that does not is given nothing, and the upstream is told to wait in time.
            now = self._loop.time()
            if self._seen:
                gap = (now - self._seen) / (len(self._body) - before or 1)
                # A pause is no pace: it counts for little.
                self._pulse += (min(gap, STEADY * self._pulse) - self._pulse) / STEADY if self._pulse else gap
            self._seen = now
            # A piece that is larger than they were may hold more text than was expected.
            if self._buffered >= self._appetite or len(data) > self._usual or not self._gather():
                self._usual = 2 * len(data)
                self._feed()
            return
        self._wake()

    def _gather(self) -> bool:
        """Leave what comes next with the kernel until there is as much as is wanted. False where none is."""
        if self._appetite <= self._buffered or self._hasty or not self._pulse or self._transport is None:
            return False
        if self._gathering is None:
            self._gathering = Gathering(self._transport.get_extra_info("socket"), self._pool.beat, self._due)
        return self._gathering.wait(self._appetite - self._buffered, self._buffered, self._pulse, self._loop.time())

    def _ungather(self) -> None:
        """The socket is about to be closed, and its number may soon be another's."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    def _due(self, more: bool) -> None:
        """The stream pauses, or there is enough: it is read at once. `more` is still with the kernel."""
        self._hasty = more
        if not more:
            self._feed()

    def _feed(self) -> None:
        """Give what there is to whoever waits for it."""
        if self._taste is None or not self._body:
            return
        if self._gathering is not None:
            self._gathering.cancel()
        self._hasty = False
        self._deadline = self._loop.time() + self._gap
        self._appetite = self._taste(self._taken())
        if self._appetite == WAKE:
            self._sated, self._taste = True, None
            self._wake()
        elif not self._gather() and self._gathering is not None:
            self._gathering.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._ungather()
        if self._transport is not None:  # not by us
            self._transport = None
            self._pool.lost(self)
        if self._asked and not self._complete and self._error is None:
            if self._head_done and not self._sized and exc is None:
                self._complete = True  # a body that ends with the connection
            else:
                self._fail(Fault.RESET, "the upstream closed the connection before its answer was whole")
        del self._parser  # it knows us: else both would lie about until the collector comes
        self._wake()

    # -- httptools

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # trailers are no headers
            self._names.append(name)
            self._values.append(value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._informational += 1
            if status == 101 or self._informational > MAX_INFORMATIONAL:
                self._fail(Fault.PROTOCOL, "the upstream sends 1xx answers without end")
            return
        if self._error:
            return
        names = names_of(self._names)
        head = Response(self, status, names, self._values, self._reason)
        if b"transfer-encoding" in names.at:
            self._chunked = True
            if any(value.strip().lower() != b"chunked" for value in head.all(b"transfer-encoding")):
                self._fail(Fault.PROTOCOL, "the upstream uses an unknown transfer coding")
                return
        self._sized = self._chunked or b"content-length" in names.at or status in {204, 304}
        if b"keep-alive" in names.at:
            for value in head.all(b"keep-alive"):
                self._limit(value)
        # Asked now: once the message is complete, the parser has forgotten it.
        self._keep_alive = self._parser.should_keep_alive()
        self._head, self._head_done, self._bare = head, True, 0

    def _limit(self, value: bytes) -> None:
        """What the upstream says of how long, and for how many more requests, it keeps this connection."""
        for name, number in _LIMIT.findall(value):
            if name.lower() == b"timeout":
                self.kept = max(int(number) - MARGIN, int(number) / 2)
            elif not int(number):
                self.usable = False

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._fail(Fault.PROTOCOL, "the upstream sends bytes behind its answer")
            return
        self._bare = 0
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True

    def on_message_begin(self) -> None:
        if self._complete:
            self._fail(Fault.PROTOCOL, "the upstream sends bytes behind its answer")
        elif not self._head_done:
            self._names, self._values, self._reason = [], [], b""

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
        if self._complete or self._error or self._waiter is None or self._body or now < self._deadline:
            return
        if self._gathering is not None and self._gathering.at:
            return  # what has come is with the kernel
        what = "began no answer" if not self._head_done else f"sent nothing for {self._gap:g} s"
        self._fail(Fault.TIMEOUT, f"the upstream {what} in time")
        self._wake()

    def _fail(self, fault: Fault, message: str) -> None:
        self.usable = False
        if self._error is None:
            self._error = UpstreamError(fault, message)
        self._ungather()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _finish(self) -> None:
        """The answer is read to its end: back into the pool, where both sides want that."""
        keep = self.usable and self._error is None and self._sized and self._keep_alive
        if not keep:
            self.abandon()
            return
        self.chunked = self._chunked
        self._reset()
        self.rested = self._loop.time()
        self._pool.release(self)
