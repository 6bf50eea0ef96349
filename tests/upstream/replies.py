"""Replies: what goes out on the socket, step by step. Nothing here does I/O.

A step is bytes to send, a float of seconds to wait, an asyncio.Event to wait for, or an `End`. A reply
without an `End` leaves the connection open for the next request. A reply can be given many times, so it
must be re-iterable: a list, or for endless ones a `Forever`.
"""

from __future__ import annotations

import asyncio
import gzip as gzip_module
import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus

import orjson


class End(Enum):
    """How a reply leaves the connection."""

    CLOSE = "close"
    """Send what is buffered, then FIN."""
    RESET = "reset"
    """RST at once: the other side may lose bytes that it has not read yet."""
    HALF_CLOSE = "half_close"
    """FIN of our direction only; we go on reading."""


Step = bytes | float | asyncio.Event | End
Reply = Iterable[Step]
Headers = Sequence[tuple[str, str]]

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Forever:
    """`first` once, then `again` without end."""

    first: Sequence[Step]
    again: Sequence[Step]

    def __iter__(self) -> Iterator[Step]:
        return itertools.chain(self.first, itertools.cycle(self.again))


def openai_headers(content_type: str = JSON_TYPE, request_id: str | None = None) -> list[tuple[str, str]]:
    """The headers that OpenAI sends with an answer, in its order; a fresh x-request-id unless one is
    given."""
    return [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", content_type),
        ("Connection", "keep-alive"),
        ("access-control-expose-headers", "X-Request-ID"),
        ("openai-organization", "penstock-tests"),
        ("openai-processing-ms", "187"),
        ("openai-project", "proj_simulated"),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "200000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-remaining-tokens", "199984"),
        ("x-ratelimit-reset-requests", "8.64s"),
        ("x-ratelimit-reset-tokens", "4ms"),
        ("x-request-id", request_id or f"req_{uuid.uuid4().hex}"),
        ("Server", "cloudflare"),
    ]


def head(status: int, headers: Headers) -> bytes:
    """Status line and headers, blank line included."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def content(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = JSON_TYPE,
    headers: Headers = (),
    length: int | None = None,
    gzip: bool = False,
) -> list[Step]:
    """A whole body. `headers` come after OpenAI's own; `length` overrides Content-Length, to lie about it:
    fewer leaves bytes over that belong to no answer, more lets the caller wait, so add an `End`."""
    if gzip:
        body = gzip_module.compress(body)
        headers = [*headers, ("Content-Encoding", "gzip")]
    size = len(body) if length is None else length
    all_headers = [*openai_headers(content_type), ("Content-Length", str(size)), *headers]
    return [head(status, all_headers) + body]


def json(
    value: object,
    *,
    status: int = 200,
    headers: Headers = (),
    length: int | None = None,
    gzip: bool = False,
) -> list[Step]:
    """`value` as JSON; bytes are sent as they are."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return content(body, status=status, headers=headers, length=length, gzip=gzip)


def html(text: str, *, status: int = 200) -> list[Step]:
    """A page, as gateways in front of a model send it."""
    body = f"<html><head><title>{status}</title></head><body><h1>{text}</h1></body></html>".encode()
    return content(body, status=status, content_type="text/html; charset=UTF-8")


def error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    headers: Headers = (),
) -> list[Step]:
    """OpenAI's error shape."""
    fields = {"message": message, "type": kind, "param": None, "code": code}
    return json({"error": fields}, status=status, headers=headers)


def too_many(retry_after: float = 1) -> list[Step]:
    """429 with both of OpenAI's retry headers; `retry_after` in seconds."""
    wait = [("retry-after", f"{retry_after:g}"), ("retry-after-ms", f"{retry_after * 1000:.0f}")]
    message = "Rate limit reached for requests"
    return error(429, message, kind="requests", code="rate_limit_exceeded", headers=wait)


def redirect(location: str, status: int = 307) -> list[Step]:
    """A redirect that a proxy with credentials in hand had better not follow."""
    return content(b"", status=status, headers=[("Location", location)])


def sse(
    pieces: Iterable[Step],
    *,
    gap: float = 0.0,
    wait: float = 0.0,
    status: int = 200,
    content_type: str = SSE_TYPE,
    headers: Headers = (),
    chunked: bool = True,
) -> list[Step]:
    """An event stream. Each bytes piece is one HTTP chunk (and one write), `gap` seconds after the one
    before; the first comes `wait` seconds after the head. Other steps stand as they are. With `chunked`
    False the end of the connection is the end of the stream. A piece need not be an event: cut where you
    like. An `End` among the pieces ends the stream there, without the closing chunk."""
    framing = [("Transfer-Encoding", "chunked")] if chunked else [("Connection", "close")]
    base = [pair for pair in openai_headers(content_type) if chunked or pair[0] != "Connection"]
    steps: list[Step] = [head(status, [*base, ("Cache-Control", "no-cache"), *headers, *framing])]
    pause = wait
    for piece in pieces:
        if not isinstance(piece, bytes):
            steps.append(piece)
            if isinstance(piece, End):
                return steps
            continue
        if pause:
            steps.append(pause)
        steps.append(chunk(piece) if chunked else piece)
        pause = gap
    steps.append(b"0\r\n\r\n" if chunked else End.CLOSE)
    return steps


def halted(pieces: Sequence[bytes], until: asyncio.Event, part: float = 0.4) -> list[Step]:
    """`pieces` for `sse`, with a wait for `until` behind that part of them: for what must have left before the rest."""
    at = int(len(pieces) * part)
    return [*pieces[:at], until, *pieces[at:]]


def chunk(data: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def keepalive(first: Sequence[bytes] = (), *, every: float = 0.01, comment: bytes = b": ping\n\n") -> Forever:
    """A stream that sends `first` and then only comments, for ever."""
    opening = sse(first)[:-1]
    return Forever(opening, [every, chunk(comment)])


def endless_line(*, size: int = 1024, every: float = 0.0005) -> Forever:
    """A stream whose one line never ends: `size` bytes, then as many again, for ever."""
    return Forever([*sse([b'data: {"a":"'])[:-1]], [every, chunk(b"a" * size)])


def informational(reply: Reply, *, times: int = 1, status: int = 103) -> list[Step]:
    """`times` interim answers before `reply`."""
    return [head(status, [("Link", "</x>; rel=preload")]) * times, *reply]


def cut(reply: Reply, at: int, how: End = End.RESET, *, of_body: bool = True) -> list[Step]:
    """The first `at` bytes of a reply, then `how`. With `of_body` bytes count from the end of the head (chunk
    framing included), else from the status line."""
    steps: list[Step] = []
    left = at
    in_head = of_body
    for step in reply:
        if isinstance(step, End):
            break
        if not isinstance(step, bytes):
            steps.append(step)
            continue
        data = step
        if in_head:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                raise ValueError("the first bytes of the reply must hold its whole head")
            steps.append(data[:end])
            data = data[end:]
            in_head = False
        if data[:left]:
            steps.append(data[:left])
        left -= len(data)
        if left <= 0:
            break
    return [*steps, how]


def drip(reply: Reply, *, size: int = 1, rate: float = 1.0) -> list[Step]:
    """The same bytes in pieces of `size`, `rate` bytes a second. The steps in between stay."""
    steps: list[Step] = []
    for step in reply:
        if not isinstance(step, bytes):
            steps.append(step)
            continue
        for start in range(0, len(step), size):
            steps += [step[start : start + size], size / rate]
    return steps


def in_turn(*replies: Reply) -> InTurn:
    """A script: the first reply for the first request and so on; the last one from then on."""
    return InTurn(list(replies))


@dataclass(slots=True)
class InTurn:
    """Replies one after another; see `in_turn`."""

    replies: list[Reply]
    served: int = 0

    def __call__(self, _request: object) -> Reply:
        reply = self.replies[min(self.served, len(self.replies) - 1)]
        self.served += 1
        return reply
