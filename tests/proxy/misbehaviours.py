"""Answers of upstreams that misbehave, by the names that misbehaviours.yaml gives them."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from tests.upstream import End, Reply, Step, replies, shapes
from tests.upstream.shapes import DONE, event

TEXT = "An honest answer."
WHOLE = replies.json(shapes.completion(TEXT))
EVENTS = shapes.stream(TEXT)
STREAM = replies.sse(EVENTS)


def sizes(reply: list[Step]) -> tuple[int, int]:
    """Bytes of the head, and of all."""
    raw = b"".join(step for step in reply if isinstance(step, bytes))
    return raw.index(b"\r\n\r\n") + 4, len(raw)


def broken_at(reply: list[Step], place: str, how: End) -> list[Step]:
    """The reply up to a byte that is given by words."""
    head, whole = sizes(reply)
    at = {
        "nothing": 0,
        "one byte": 1,
        "the status line": 12,
        "a header": head // 2,
        "the head but one byte": head - 1,
        "the head": head,
        "one byte of the body": head + 1,
        "half of the body": (head + whole) // 2,
        "all but one byte": whole - 1,
    }[place]
    return replies.cut(reply, at, how, of_body=False)


def extra(*more: bytes) -> list[Step]:
    """A stream with something behind its finish."""
    return replies.sse([*EVENTS, *more])


def late(text: str) -> bytes:
    """A delta that comes too late."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return event(shapes.chunk_body([choice], id="chatcmpl-late"))


def raw(head: bytes, body: bytes = b"", *more: Step) -> list[Step]:
    return [b"HTTP/1.1 " + head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body, *more]


def compressed_stream() -> list[Step]:
    pieces = gzip.compress(b"".join(EVENTS))
    return replies.sse([pieces], headers=[("Content-Encoding", "gzip")])


PAGE = replies.html("Sign in")
BIG = b"X-Pad: " + b"a" * 4000 + b"\r\n"

REPLIES: dict[str, Callable[[], Reply]] = {
    "a page instead of an answer": lambda: PAGE,
    "a page as a stream": lambda: replies.sse([b"<html><body>Sign in</body></html>"]),
    "an empty body": lambda: raw(b"200 OK\nContent-Type: application/json\nContent-Length: 0"),
    "an empty stream": lambda: replies.sse([]),
    "no content": lambda: raw(b"204 No Content"),
    "no content type": lambda: raw(b"200 OK\nContent-Length: 2", b"{}"),
    "compressed, unasked": lambda: replies.json(shapes.completion(TEXT), gzip=True),
    "a compressed stream": compressed_stream,
    "a short length": lambda: replies.json(shapes.completion(TEXT), length=40),
    "a long length": lambda: [*replies.json(shapes.completion(TEXT), length=9999), End.CLOSE],
    "a long length, and silence": lambda: [*replies.json(shapes.completion(TEXT), length=9999), 30.0],
    "some interim answers": lambda: replies.informational(WHOLE, times=3),
    "a flood of interim answers": lambda: replies.informational(WHOLE, times=5000),
    "interim answers before a stream": lambda: replies.informational(STREAM, times=3),
    "another protocol": lambda: raw(b"101 Switching Protocols\nConnection: upgrade\nUpgrade: x"),
    "huge headers": lambda: [b"HTTP/1.1 200 OK\r\n", *[BIG] * 40, 0.05, b"\r\n"],
    "endless headers": lambda: replies.Forever([b"HTTP/1.1 200 OK\r\n"], [BIG, 0.0]),
    "many headers": lambda: raw(
        b"200 OK\nContent-Type: application/json\nContent-Length: 2" + b"\nX-A: b" * 4000, b"{}"
    ),
    "a redirect": lambda: replies.redirect("http://127.0.0.1:1/v1/chat/completions"),
    "a redirect of a method": lambda: replies.redirect("http://127.0.0.1:1/", 303),
    "no more requests": lambda: replies.too_many(7),
    "a fault of its own": lambda: replies.error(500, "The server had an error"),
    "half a connection, behind the answer": lambda: [*WHOLE, End.HALF_CLOSE],
    "half a connection, in the answer": lambda: [*replies.cut(WHOLE, 60, End.HALF_CLOSE)],
    "half a connection, in a stream": lambda: [*replies.cut(STREAM, 400, End.HALF_CLOSE)],
    "the end twice": lambda: extra(DONE),
    "a delta behind the end": lambda: extra(late("MARK, too late")),
    "a delta behind the finish": lambda: replies.sse([*EVENTS[:-1], late(" And MARK."), DONE]),
    "an honest delta behind the finish": lambda: replies.sse([*EVENTS[:-1], late(" And more."), DONE]),
    "an error behind the end": lambda: extra(shapes.stream_error()),
    "an error in the stream": lambda: replies.sse([*EVENTS[:3], shapes.stream_error()]),
    "two framings": lambda: raw(b"200 OK\nContent-Length: 2\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n"),
    "two lengths": lambda: raw(b"200 OK\nContent-Length: 2\nContent-Length: 3", b"{} "),
    "a chunk that is none": lambda: raw(b"200 OK\nTransfer-Encoding: chunked", b"zz\r\n{}\r\n"),
    "a line end in a header": lambda: raw(b"200 OK\nX-A: b\rc\nContent-Length: 2", b"{}"),
    "no HTTP": lambda: [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", End.CLOSE],
    "silence": lambda: [30.0],
    "silence in a stream": lambda: [*replies.sse(EVENTS[:4])[:-1], 30.0],
    "a head that drips": lambda: replies.drip(WHOLE, size=1, rate=40),
}
for _name, _reply in (("answer", WHOLE), ("stream", STREAM)):
    for _how in (End.RESET, End.CLOSE):
        for _place in (
            "nothing", "one byte", "the status line", "a header", "the head but one byte", "the head",
            "one byte of the body", "half of the body", "all but one byte",
        ):  # fmt: skip
            REPLIES[f"{_how.value} in the {_name} after {_place}"] = lambda r=_reply, p=_place, h=_how: broken_at(
                r, p, h
            )  # type: ignore[misc]
