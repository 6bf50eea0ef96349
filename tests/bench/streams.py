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
from functools import partial
from typing import cast

import httptools
import orjson
import uvloop

from tests.bench import usage
from tests.bench.scenarios import CHUNKS

WORD = b'"content":"'
EMPTY = b'"content":""'
SETTLE_SECONDS = 6.0


@dataclass(slots=True)
class Count:
    """What was seen in the counted time. Times are seconds from when the request is written."""

    events: int = 0
    streams: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    first_event: list[float] = field(default_factory=list)
    first_text: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    resident_mib: float = 0.0

    def fail(self, why: str) -> None:
        """One more stream that went wrong for that reason."""
        self.failed[why] = self.failed.get(why, 0) + 1


class Stream(asyncio.Protocol):
    """One connection, one stream after another. The first is as far on as if `ahead` of its chunks had come long
    ago; so streams begin and end all the time and not all at once, as they do in a service that has run for a while.
    """

    def __init__(self, request: Callable[[int], bytes], ahead: int, count: Count, open_streams: set[Stream]) -> None:
        self._request, self._ahead = request, ahead
        self._count = count
        self._open = open_streams
        self._parser = httptools.HttpResponseParser(self)
        self._tail = b""
        self._last = b""
        self._status = 0
        self._asked = 0.0
        self._ended = self._seen_event = self._seen_text = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open.add(self)
        self.ask()

    def ask(self) -> None:
        """Send the next request."""
        self._seen_event = self._seen_text = self._ended = False
        self._tail = self._last = b""
        request = self._request(self._ahead)
        self._ahead = 0
        # Before it is written: who is woken by that may well run first, on this very core.
        self._asked = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._count.fail("broken HTTP")
            self._transport.abort()

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

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
        self._last = (self._last + body)[-1000:]
        self._ended = self._ended or b"[DONE]" in text

    def on_message_complete(self) -> None:
        self._count.streams += 1
        if self._status != 200:
            self._count.fail(f"status {self._status}")
        elif not self._ended:
            self._count.fail("no [DONE]")
        elif b'"content_filter"' in self._last:
            self._count.fail("blocked")
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


def requests(gap: float, seed: int) -> Callable[[int], bytes]:
    """A maker of requests, no two of them equal. It is given how many chunks are to come at once."""
    serial = itertools.count(seed * 1_000_000)

    def make(ahead: int) -> bytes:
        question = f"Tell me story number {next(serial)} of the harbour town, please, and take your time over it."
        body = orjson.dumps(
            {
                "model": f"sim?chunks={CHUNKS}&gap={gap}&ahead={ahead}",
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
    """Open the streams within `ramp` seconds, count for `seconds`, leave. `watch` is a process id, or 0."""
    loop = asyncio.get_running_loop()
    count, open_streams, make = Count(), set[Stream](), requests(gap, seed)
    for number in range(connections):
        # The golden ratio spreads them evenly, in an order that no proxy can profit from.
        ahead = int(number * 0.618 % 1 * CHUNKS)
        await loop.create_connection(partial(Stream, make, ahead, count, open_streams), "127.0.0.1", port)
        await asyncio.sleep(ramp / connections)
    # What was sent at once has to be through before we count; a slow proxy needs a while for it.
    until, pace = loop.time() + SETTLE_SECONDS, connections / gap
    rate = 0.0
    while loop.time() < until and not 0.7 * pace <= rate <= 1.15 * pace:
        before = count.events
        await asyncio.sleep(0.25)
        rate = (count.events - before) / 0.25
    count.events = count.streams = 0
    count.first_event, count.first_text = [], []
    spent = usage.cpu_seconds(watch) if watch else 0.0
    await asyncio.sleep(seconds)
    if watch:
        count.cpu_seconds = usage.cpu_seconds(watch) - spent
        count.resident_mib = usage.resident_mib(watch)
    if len(open_streams) < connections:
        count.failed["connection lost"] = connections - len(open_streams)
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
