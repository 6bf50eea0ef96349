"""The decoder reads what the official client reads, however a stream is cut, and gives every byte back."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.sse import Decoder, Event, Undecodable, framed

MARK = b"\xef\xbb\xbf"
# (stream, [(data, name, id, comment, plain)])
TABLE: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "plain": (b"data: a\n\n", [("a", None, None, None, True)]),
    "no space": (b"data:a\n\n", [("a", None, None, None, True)]),
    "two spaces": (b"data:  a\n\n", [(" a", None, None, None, True)]),
    "crlf": (b"data: a\r\n\r\n", [("a", None, None, None, True)]),
    "cr": (b"data: a\r\rdata: b\r\r\n", [("a", None, None, None, False), ("b", None, None, None, False)]),
    "mixed ends": (b"data: a\r\ndata: b\n\r\n", [("a\nb", None, None, None, True)]),
    "many lines": (b"data: a\ndata: b\ndata\n\n", [("a\nb\n", None, None, None, True)]),
    "name and id": (b"event: e\nid: 7\ndata: a\n\n", [("a", "e", "7", None, True)]),
    "id with NUL": (b"id: a\0\ndata: x\n\n", [("x", None, "a\0", None, False)]),
    "retry": (b"retry: 10\ndata: a\n\n", [("a", None, None, None, True)]),
    "retry, no number": (b"retry: now\ndata: a\n\n", [("a", None, None, None, False)]),
    "unknown field": (b"dada: x\ndata: a\n\n", [("a", None, None, None, False)]),
    "field with a blank": (b"data : x\ndata: a\n\n", [("a", None, None, None, False)]),
    "comment": (b": ping\n\n", [(None, None, None, "ping", True)]),
    "comments": (b":a\n:b\n\n", [(None, None, None, "a\nb", True)]),
    "no data": (b"event: e\n\n", [(None, "e", None, None, True)]),
    "blank lines": (b"\n\r\n", [(None, None, None, None, True), (None, None, None, None, True)]),
    "other line ends are text": (
        "data: a\u2028b\u0085c\u2029d\x0b\x0c\x1c\n\n".encode(),
        [("a\u2028b\u0085c\u2029d\x0b\x0c\x1c", None, None, None, True)],
    ),
    "unfinished": (b"data: a\n\ndata: b\n", [("a", None, None, None, True)]),
    "mark at the start": (MARK + b"data: a\n\n", [("a", None, None, None, True)]),
    "mark later": (b"data: a\n\n" + MARK + b"data: b\n\n", [("a",) + (None,) * 3 + (True,), (None,) * 4 + (False,)]),
}


def seen(event: Event) -> tuple[Any, ...]:
    return event.data, event.name, event.id, event.comment, event.plain


def decode(*pieces: bytes) -> tuple[list[Event], bytes]:
    """All events of a stream, and the bytes that were left."""
    decoder = Decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.finish(), decoder.pending()


@pytest.mark.parametrize(("stream", "expected"), TABLE.values(), ids=TABLE.keys())
def test_table(stream: bytes, expected: list[tuple[Any, ...]]) -> None:
    assert [seen(event) for event in decode(stream)[0]] == expected
    assert [seen(event) for event in decode(*(bytes([byte]) for byte in stream))[0]] == expected


alphabet = [
    *(
        b"data: ",
        b"data",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"event: e",
        b"id: 1",
        b"id: 2",
        b"id",
        b"retry: 5",
    ),
    *(b"x", b"{}", b"\0", b": c", MARK, *(letter.encode() for letter in "\u2028\u0085\u00e9\U0001f600")),
]
streams = st.lists(st.sampled_from(alphabet), max_size=30).map(b"".join)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({at % (len(stream) + 1) for at in cuts})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


@given(streams, st.lists(st.integers(0, 1000), max_size=8))
@example(b"data: a\r\n\r\ndata: b\r\r\n\n", [8, 9, 10])
@example(MARK + b"data: a\n\n", [1, 2])
@example(b"\n\n\ndata: \n\n", [2])
def test_cuts_change_nothing(stream: bytes, cuts: list[int]) -> None:
    assert decode(*cut(stream, cuts)) == decode(stream)


@given(streams | st.binary(max_size=60), st.lists(st.integers(0, 1000), max_size=8))
def test_every_byte_comes_back(stream: bytes, cuts: list[int]) -> None:
    decoder = Decoder()
    try:
        raw = b"".join(event.raw for piece in cut(stream, cuts) for event in decoder.feed(piece))
    except Undecodable:
        return
    assert raw + decoder.pending() == stream.removeprefix(MARK)


@given(streams, st.lists(st.integers(0, 1000), max_size=4))
def test_reads_what_the_official_client_reads(stream: bytes, cuts: list[int]) -> None:
    streaming = pytest.importorskip("openai._streaming", reason="the official client comes with the demo extra")
    while stream.startswith(MARK):
        stream = stream.removeprefix(MARK)  # the client strips no mark; the specification does
    theirs = [event.data for event in streaming.SSEDecoder().iter_bytes(iter(cut(stream, cuts))) if event.data]
    ours = [event.data for event in decode(stream)[0] if event.data]
    assert ours == theirs


@given(streams)
def test_framed_says_the_same_in_plain_form(stream: bytes) -> None:
    for event in decode(stream)[0]:
        if event.data is not None:
            name = event.name or None
            again, left = decode(framed(event.data, name))
            assert [(item.data, item.name, item.plain) for item in again] == [(event.data, name, True)]
            assert left == b""


@pytest.mark.parametrize("line", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xe2\x82"])
def test_what_is_not_utf8_is_no_event(line: bytes) -> None:
    with pytest.raises(Undecodable, match="UTF-8"):
        Decoder().feed(b"data: " + line + b"\n\n")


def test_an_event_has_a_limit() -> None:
    decoder = Decoder(max_event=100)
    assert len(decoder.feed(b"data: x\n\n" * 100)) == 100
    with pytest.raises(Undecodable, match="100"):
        decoder.feed(b"data: " + b"x" * 101)


@pytest.mark.parametrize("piece", [b"a", b"\r", b"data: x\n", b":\n", b"\n", b"a\r\n"])
def test_linear_in_small_pieces(piece: bytes) -> None:
    """Four times the bytes may not cost much more than four times the work."""

    def cost(count: int) -> float:
        decoder = Decoder()
        began = time.thread_time()
        for _ in range(count):
            decoder.feed(piece)
        return time.thread_time() - began

    cost(1000)
    assert min(cost(80_000) for _ in range(3)) < 16 * min(cost(20_000) for _ in range(3)) + 0.05
