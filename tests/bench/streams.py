"""A client that keeps many streams open and counts what comes: `python -m tests.bench.streams`, run by `load`.

Its own process, so that its CPU is not the proxy's. It reads the CPU and memory of the proxy itself, at the very
beginning and end of the counted time. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import cast

import httptools
import orjson
import uvloop

from tests.bench import usage
from tests.bench.scenarios import CHUNKS

WORD = b'"content":"'
EMPTY = b'"content":""'


@dataclass(slots=True)
class Count:
    """What was seen in the counted time. Times are seconds from the request's last byte."""

    events: int = 0
    streams: int = 0
    failed: int = 0
    first_event: list[float] = field(default_factory=list)
    first_text: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    resident_mib: float = 0.0


class Stream(asyncio.Protocol):
    """One connection, one stream after another."""

    def __init__(self, next_request: Callable[[], bytes], count: Count, open_streams: set[Stream]) -> None:
        self._next_request = next_request
        self._count = count
        self._open = open_streams
        self._parser = httptools.HttpResponseParser(self)
        self._tail = b""
        self._asked = 0.0
        self._ended = False
        self._seen_event = self._seen_text = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open.add(self)
        self.ask()

    def ask(self) -> None:
        """Send the next request."""
        self._seen_event = self._seen_text = self._ended = False
        self._tail = b""
        self._transport.write(self._next_request())
        self._asked = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._count.failed += 1
            self._transport.abort()

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._count.failed += 1

    def on_body(self, body: bytes) -> None:
        """Count events by their first bytes; `tail` keeps what a cut may have left of one."""
        text = self._tail + body
        self._count.events += text.count(b"data: {") - self._tail.count(b"data: {")
        if not self._seen_event:
            self._seen_event = True
            self._count.first_event.append(time.perf_counter() - self._asked)
        if not self._seen_text and text.count(WORD) > text.count(EMPTY):
            self._seen_text = True
            self._count.first_text.append(time.perf_counter() - self._asked)
        self._tail = text[-11:]
        self._ended = self._ended or b"[DONE]" in text

    def on_message_complete(self) -> None:
        self._count.streams += 1
        if not self._ended:
            self._count.failed += 1
        # The parser is still inside its callback: ask when it has returned.
        asyncio.get_running_loop().call_soon(self._again)

    def _again(self) -> None:
        if not self._transport.is_closing():
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def leave(self) -> None:
        """Go, in the middle of a stream."""
        self._transport.abort()


def requests(gap: float, seed: int) -> Callable[[], bytes]:
    """A maker of requests, no two of them equal."""
    serial = itertools.count(seed * 1_000_000)

    def make() -> bytes:
        question = f"Tell me story number {next(serial)} of the harbour town, please, and take your time over it."
        body = orjson.dumps(
            {
                "model": f"sim?chunks={CHUNKS}&gap={gap}",
                "stream": True,
                "messages": [{"role": "user", "content": question}],
            }
        )
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer sk-bench\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    return make


async def measure(port: int, connections: int, gap: float, ramp: float, seconds: float, watch: int, seed: int) -> Count:
    """Open the streams over `ramp` seconds, count for `seconds`, leave. `watch` is a process id, or 0."""
    loop = asyncio.get_running_loop()
    count, open_streams, make = Count(), set[Stream](), requests(gap, seed)
    for _ in range(connections):
        await loop.create_connection(lambda: Stream(make, count, open_streams), "127.0.0.1", port)
        await asyncio.sleep(ramp / connections)
    # Streams under way go on; their first events belong to the ramp, when the machine was not yet loaded fully,
    # unless a stream outlasts the counted time: then there are no others.
    count.events = count.streams = 0
    if gap * CHUNKS < seconds / 2:
        count.first_event, count.first_text = [], []
    before = usage.cpu_seconds(watch) if watch else 0.0
    await asyncio.sleep(seconds)
    if watch:
        count.cpu_seconds = usage.cpu_seconds(watch) - before
        count.resident_mib = usage.resident_mib(watch)
    if len(open_streams) < connections:
        count.failed += connections - len(open_streams)
    for stream in tuple(open_streams):
        stream.leave()
    await asyncio.sleep(0.05)
    return count


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser()
    for name in ("port", "connections", "watch", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("gap", "ramp", "seconds"):
        parser.add_argument(f"--{name}", type=float, required=True)
    print(json.dumps(asdict(uvloop.run(measure(**vars(parser.parse_args()))))))


if __name__ == "__main__":
    main()
