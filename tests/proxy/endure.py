"""What Penstock must survive, each as a run that answers with figures: a short one for the suite, long ones for
`make soak` (`python -m tests.soak`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from proxy.audit import Exchange, Key, Reader
from tests.conformance.cases import Answer, Send
from tests.conformance.speak import PATHS, reply, request
from tests.proxy.conftest import DEFAULTS, RULES
from tests.proxy.served import Served, served
from tests.upstream import Reply, Request, Upstream, replies, shapes

STREAMED = sorted(name for name in PATHS if name != "embeddings")
_ID = re.compile(rb"x-penstock-decision: (\S+)")
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


@dataclass
class Figures:
    """`seen`: decisions that a client had a byte of. `lost`: those of them that the audit does not know. `broken`: the
    first break of its chain. `open`: intents without an outcome, once all had ended."""

    seen: int = 0
    lost: int = 0
    broken: str = ""
    open: int = 0
    more: dict[str, Any] = field(default_factory=dict)


def address(s: Served) -> tuple[str, int]:
    host, _, port = s.url.removeprefix("http://").partition(":")
    return host, int(port)


def audited(s: Served) -> tuple[dict[str, Exchange], str]:
    """Every exchange by its id, and the first break of the chain."""
    with Reader(s.data / "audit.db") as log:
        verdict = log.verify(Key.load(s.data / "audit.key", create=False))
        return {exchange.id: exchange for exchange in log.latest(10_000_000)}, str(verdict.broken or "")


def figures(s: Served, seen: set[str], **more: Any) -> Figures:
    rows, broken = audited(s)
    still = sum(each.outcome is None for each in rows.values())
    return Figures(len(seen), len(seen - set(rows)), broken, still, {"rows": len(rows), **more})


def post(dialect: str, text: str = "Hi") -> bytes:
    """A streamed request as it travels."""
    _, target, body, _ = request(dialect, Send(text=text), True)
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + (body if isinstance(body, bytes) else body.encode())


async def end(s: Served) -> int:
    """Ask it to end, and wait until nobody writes to the audit any more."""
    if s.process.returncode is None:
        s.process.send_signal(signal.SIGTERM)
    await s.until(lambda: s.process.returncode is not None, 60)
    writers = s.data / "audit.db-writers"
    with contextlib.suppress(AssertionError):
        await s.until(lambda: not any(writers.iterdir()), 20)
    return s.process.returncode or 0


# Workers are killed at any moment


async def kills(folder: Path, kills: int, workers: int = 4, clients: int = 8) -> Figures:
    """P5, T52: `kill -9` of so many workers while streams run, a few at once."""
    seen: set[str] = set()
    over = False
    text = "word " * 40

    def script(asked: Request) -> Reply:
        dialect = next(name for name, path in PATHS.items() if path == asked.path)
        return [*reply(dialect, Answer(text=text, size=20), True)]

    async with Upstream(script, keep=False) as upstream, served(folder, upstream.url, workers=workers) as s:

        async def client(number: int) -> None:
            dialect = STREAMED[number % len(STREAMED)]
            while not over:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    reader, writer = await asyncio.open_connection(*address(s))
                    try:
                        writer.write(post(dialect))
                        head = await reader.readuntil(b"\r\n\r\n")  # the first bytes of an answer
                        if found := _ID.search(head):
                            seen.add(found[1].decode())
                        while await reader.read(65_536):
                            pass
                    finally:
                        writer.transport.abort()

        chance = random.Random(7)

        def ended() -> int:
            return len(s.said("a worker ended, another takes its place"))

        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(client(number))
            while ended() < kills:
                before = len(seen)
                async with asyncio.timeout(60):
                    while len(seen) < before + 4:
                        await asyncio.sleep(0.002)
                await asyncio.sleep(chance.random() * 0.02)
                # Half of them at once, also those that are about to begin.
                alive = s.children()
                for pid in chance.sample(alive, min(len(alive), max(1, workers // 2))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            await s.until(lambda: len(s.children()) == workers, 60)
            over = True
        await end(s)
        return figures(s, seen, kills=ended())


# The policy is loaded again and again

FIRST = RULES.format(**DEFAULTS)
SECOND = FIRST.replace("kind: canary, inline", "kind: canary, word: ODD, inline", 1)
BROKEN = ["", "rules: [", FIRST[: len(FIRST) // 2], FIRST.replace("canary.mark", "canary.none"), "id: 3", "\x00"]


def revisions(metrics: dict[str, float]) -> dict[str, set[str]]:
    """Worker -> what it enforces."""
    found: dict[str, set[str]] = {}
    for name in metrics:
        if name.startswith("penstock_policy_revision{"):
            labels = dict(part.split("=") for part in name.partition("{")[2].rstrip("}").replace('"', "").split(","))
            found.setdefault(labels["worker"], set()).add(labels["revision"])
    return found


async def reloads(folder: Path, loads: int, workers: int = 4) -> Figures:
    """P3, T51: SIGHUP after SIGHUP, most of the files broken, while requests come. `wrong` are decisions that their
    revision does not make; `converged` is how long (seconds) all needed to come to the last one."""
    async with (
        Upstream(keep=False) as upstream,
        served(folder, upstream.url, workers=workers, policy=FIRST) as s,
        httpx2.AsyncClient(base_url=s.url, trust_env=False, timeout=60) as c,
    ):
        words, over = {s.said("serving")[0]["revision"]: "MARK"}, False
        s.policy.write_text(SECOND)
        last = (await c.post(s.admin + "/policy/reload")).json()["revision"]
        words[last] = "ODD"
        answers: dict[str, tuple[str, int]] = {}

        async def ask() -> None:
            while not over:
                for word in ("MARK", "ODD", "plain"):
                    body = {"model": "m", "messages": [{"role": "user", "content": word}]}
                    answer = await c.post("/v1/chat/completions", json=body)
                    answers[answer.headers["x-penstock-decision"]] = word, answer.status_code

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ask())
            for n in range(loads):
                s.policy.write_text((FIRST, SECOND)[n // 10 % 2] if n % 10 == 0 else BROKEN[n % len(BROKEN)])
                s.process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.02)
            s.policy.write_text(SECOND)
            s.process.send_signal(signal.SIGHUP)
            began = time.monotonic()
            async with asyncio.timeout(60):
                while revisions(await s.metrics(c)) != {str(n): {last} for n in range(workers)}:
                    await asyncio.sleep(0.1)
            converged = time.monotonic() - began
            over = True
        assert not s.said("internal fault")
        await end(s)
        rows, _ = audited(s)
        wrong = [
            (id, word, status)
            for id, (word, status) in answers.items()
            if id in rows and status != (400 if words.get(revision_of(rows[id]), "") == word else 200)
        ]
        loaded = Counter(line["event"] for line in s.lines if line["event"].startswith("policy"))
        return figures(s, set(answers), wrong=wrong, converged=round(converged, 1), loads=dict(loaded))


def revision_of(exchange: Exchange) -> str:
    """The one revision that both halves of an exchange name, where they do."""
    parts = [part for part in (exchange.intent, exchange.outcome) if part is not None]
    named = {part["revision"] for part in parts if "revision" in part}
    return named.pop() if len(named) == 1 else ""


# The end, while streams run


async def drained(folder: Path, streams: int, workers: int = 1) -> Figures:
    """P11, T55: SIGTERM with many streams that do not end by themselves. `endings`: how clients saw theirs end."""
    text, hold = "word " * 60, asyncio.Event()

    def script(asked: Request) -> Reply:
        dialect = next(name for name, path in PATHS.items() if path == asked.path)
        steps = list(reply(dialect, Answer(text=text, size=25), True))
        return [*steps[: len(steps) // 2], hold, *steps[len(steps) // 2 :]]

    settings = {"drain_timeout": 0.5}
    async with Upstream(script) as upstream, served(folder, upstream.url, workers=workers, settings=settings) as s:

        async def client(number: int) -> tuple[str, bytes]:
            reader, writer = await asyncio.open_connection(*address(s), limit=1 << 24)
            try:
                writer.write(post(STREAMED[number % len(STREAMED)]))
                head = await reader.readuntil(b"\r\n\r\n")
                begun.append(number)
                found = _ID.search(head)
                return found[1].decode() if found else "", await reader.read()
            finally:
                writer.close()

        begun: list[int] = []
        asking = [asyncio.create_task(client(number)) for number in range(streams)]
        await s.until(lambda: len(begun) == streams, 60)
        began = time.monotonic()
        code = await end(s)
        took = time.monotonic() - began
        said = await asyncio.gather(*asking)
        endings = Counter(ending(rest) for _, rest in said)
        rows, _ = audited(s)
        known = Counter((each.outcome or {}).get("status") for each in rows.values())
        return figures(
            s, {id for id, _ in said}, endings=dict(endings), outcomes=dict(known), code=code, seconds=round(took, 1)
        )


def ending(rest: bytes) -> str:
    """How a stream ended: with an error event in its API's form and the last chunk, or otherwise."""
    if not rest.endswith(b"\r\n0\r\n\r\n"):
        return "cut"
    last = [event for event in re.split(rb"\n\n", rest) if b"data:" in event][-1]
    return "error" if b"server_shutdown" in last and b'"error"' in last else "other"


# Readers that do not read


def resident(pid: int) -> int:
    """Bytes that a process holds."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


WORDS = """
id: words
version: 1
owner: tests
description: Blocks a word. Nothing of the tests is in it that would keep what it has read.
classifiers:
  words: {kind: patterns, patterns: {mark: {words: [MARK]}}}
rules:
  - id: no-mark
    description: The word is blocked.
    stages: [input, output]
    when: {finding: words.mark, at_least: 0.5}
    action: block
    stream: {hold_back: 64}
"""


async def slow_readers(folder: Path, readers: int, seconds: float = 2.0, workers: int = 1) -> Figures:
    """P8, T56: clients that read nothing of answers that do not end; one more than may be is refused. `mib` is what
    Penstock held before, and at the first and the last look of so many seconds in which it did not grow any more."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % (b"word " * 400)
    flood = replies.Forever(replies.sse([event])[:-1], [replies.chunk(event), max(0.02, readers / 20_000)])
    settings = {"max_in_flight": readers // workers, "send_timeout": 600, "connect_timeout": 60}
    async with (
        Upstream(flood, keep=False) as upstream,
        served(folder, upstream.url, workers=workers, settings=settings, policy=WORDS) as s,
    ):
        pids = s.children() if workers > 1 else [s.process.pid]
        before = sum(map(resident, pids))
        pairs = []
        try:
            for _ in range(readers):
                pairs.append(await narrow(address(s)))
                pairs[-1][1].write(post("chat"))
            async with asyncio.timeout(600):
                while len(upstream.open) < readers:
                    await asyncio.sleep(0.5)
                    # One worker may be full a moment before the other: who is refused there asks again.
                    for place in [place for place, (reader, _) in enumerate(pairs) if is_refused(reader)]:
                        pairs[place][1].transport.abort()
                        pairs[place] = await narrow(address(s))
                        pairs[place][1].write(post("chat"))
            held = [before, *await at_rest(pids, seconds)]
            refused = [await one_more(s) for _ in range(3)]
        finally:
            for _, writer in pairs:
                writer.transport.abort()
        async with asyncio.timeout(60):
            while (served_again := (await one_more(s))[0]) == 503:
                await asyncio.sleep(0.1)
        mib = [round(each / 2**20, 1) for each in (held[0], held[-9], held[-1])]
        await end(s)
        each = round((held[-1] - held[0]) / readers / 1024)
        rows, _ = audited(s)
        known = Counter((each.outcome or {}).get("status") for each in rows.values())
        return figures(
            s, set(), mib=mib, kib_each=each, refused=refused, served_again=served_again, outcomes=dict(known)
        )


async def at_rest(pids: list[int], seconds: float) -> list[int]:
    """What some processes hold, a few times a second, until it has not grown by a hundredth for so many seconds."""
    held = [sum(map(resident, pids))]
    async with asyncio.timeout(600):
        while len(held) < 9 or held[-1] - held[-9] > held[-1] / 100:
            await asyncio.sleep(seconds / 8)
            held.append(sum(map(resident, pids)))
    return held


async def narrow(where: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose reader has hardly any room: what it does not take waits at the other end."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, where)
    return await asyncio.open_connection(sock=plain, limit=1024)


def is_refused(reader: asyncio.StreamReader) -> bool:
    """Whether what came so far is a refusal, without reading it."""
    buffer: bytearray = reader._buffer  # type: ignore[attr-defined]
    return buffer.startswith(b"HTTP/1.1 503")


async def one_more(s: Served) -> tuple[int, bool]:
    """The status that another client gets, and whether it is told when to come again."""
    reader, writer = await asyncio.open_connection(*address(s))
    try:
        writer.write(post("chat"))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    finally:
        writer.transport.abort()
    found = _STATUS.match(head)
    assert found is not None
    return int(found[1]), b"retry-after: " in head


# Classifiers that hang, upstreams that drip


async def hanging(folder: Path, requests: int) -> Figures:
    """P10: a classifier that does not come back. `threads` and `files` of the process after the first requests, and
    after all of them."""
    async with (
        Upstream(keep=False) as upstream,
        served(folder, upstream.url, policy=HANGS) as s,
        httpx2.AsyncClient(base_url=s.url, trust_env=False, timeout=60) as c,
    ):
        statuses: Counter[int] = Counter()

        async def ask() -> None:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            statuses[(await c.post("/v1/chat/completions", json=body)).status_code] += 1

        counts = []
        for _ in range(2):
            for _ in range(requests // 20):
                await asyncio.gather(*(ask() for _ in range(10)))
            counts.append([len(os.listdir(f"/proc/{s.process.pid}/{what}")) for what in ("task", "fd")])
        threads, files = zip(*counts, strict=True)
        began = time.monotonic()
        await end(s)
        took = round(time.monotonic() - began, 1)
        return figures(s, set(), statuses=dict(statuses), threads=threads, files=files, seconds=took)


HANGS = RULES.format(**{**DEFAULTS, "options": "deadline_ms: 50, fault: hang"})


async def late(folder: Path, exchanges: int, limit: float = 1.0) -> Figures:
    """P9: streams that drip for ever. `overrun_ms`: by how much the exchanges were longer than they may be, the
    shortest, the median and the 99th percentile, as the client saw it."""

    def script(_: Request) -> Reply:
        return replies.keepalive(shapes.stream("Well, ")[:3], every=0.2)

    settings = {"exchange_timeout": limit}
    async with Upstream(script, keep=False) as upstream, served(folder, upstream.url, settings=settings) as s:

        async def client() -> tuple[str, float, str]:
            reader, writer = await asyncio.open_connection(*address(s))
            try:
                began = time.monotonic()
                writer.write(post("chat"))
                head = await reader.readuntil(b"\r\n\r\n")
                rest = await reader.read()
                took = time.monotonic() - began
            finally:
                writer.close()
            found = _ID.search(head)
            return found[1].decode() if found else "", took, "late" if b"exchange_timeout" in rest else "other"

        said = []
        for _ in range(max(1, exchanges // 20)):
            said += await asyncio.gather(*(client() for _ in range(min(20, exchanges))))
        over = sorted(1000 * (took - limit) for _, took, _ in said)
        await end(s)
        middle, last = over[len(over) // 2], over[min(len(over) - 1, len(over) * 99 // 100)]
        return figures(
            s,
            {id for id, _, _ in said},
            endings=dict(Counter(how for _, _, how in said)),
            overrun_ms=[round(over[0], 1), round(middle, 1), round(last, 1)],
        )
