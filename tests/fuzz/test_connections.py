"""T6, by a machine: connections that say clean, marked, half, pipelined and broken requests in any order.

What comes back is an answer for each request in its turn, and the upstream never sees the word."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from tests.proxy.conftest import Stand, _canary, standing  # noqa: F401 - pytest finds fixtures by name
from tests.proxy.test_app import CLEAN, MARKED, post, statuses

GARBAGE = (
    b"\0\0\r\n\r\n",
    b"NOPE / HTTP/9.9\r\n\r\n",
    b"POST /v1/chat/completions\n\n",
    b"POST  / HTTP/1.1\r\n\r\n",
    b"{}\r\n",
)
CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
)


class Server(threading.Thread):
    """A stand on a loop of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.ready, self.stop = folder, threading.Event(), asyncio.Event()
        self.loop: asyncio.AbstractEventLoop
        self.stand: Stand

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with standing(self.folder) as self.stand:
            self.ready.set()
            await self.stop.wait()


class Line:
    """One connection: what was asked on it, and what is still to be sent of a request."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.plain = socket.create_connection(address, timeout=30)
        self.wanted: list[int] = []
        self.rest = b""
        self.broken = False

    def say(self, data: bytes) -> None:
        try:
            self.plain.sendall(data)
        except OSError:
            assert self.broken, "the connection was closed although all was well"

    def heard(self) -> list[int]:
        """The statuses of all answers, once no more can come."""
        said = b""
        try:
            while len(statuses(said)) < len(self.wanted) or self.broken:
                piece = self.plain.recv(65_536)
                if not piece:
                    break
                said += piece
        except OSError:
            assert self.broken, "an answer is missing"
        finally:
            self.plain.close()
        assert b"MARK" not in said
        return statuses(said)


class Wire(RuleBasedStateMachine):
    """Lines to one server. `server` is set by the test."""

    server: Server
    lines = Bundle("lines")

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Line] = []

    @rule(target=lines)
    def connect(self) -> Line:
        self.made.append(Line(self.server.stand.running.address))
        return self.made[-1]

    @rule(line=lines, marked=st.booleans(), split=st.integers(0, 200), coded=st.booleans())
    def ask(self, line: Line, marked: bool, split: int, coded: bool) -> None:
        """A request, in two writes."""
        if line.broken or line.rest:
            return
        body = MARKED if marked else CLEAN
        whole = CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if coded else post(body)
        line.say(whole[:split])
        line.say(whole[split:])
        line.wanted.append(400 if marked else 200)

    @rule(line=lines, marked=st.booleans(), split=st.integers(1, 150))
    def begin(self, line: Line, marked: bool, split: int) -> None:
        if line.broken or line.rest:
            return
        whole = post(MARKED if marked else CLEAN)
        line.say(whole[:split])
        line.rest = whole[split:]
        line.wanted.append(400 if marked else 200)

    @rule(line=lines)
    def go_on(self, line: Line) -> None:
        line.say(line.rest)
        line.rest = b""

    @rule(line=lines, garbage=st.sampled_from(GARBAGE))
    def scribble(self, line: Line, garbage: bytes) -> None:
        """What is no request: what was asked before is answered, and nothing after it is read."""
        if line.broken or line.rest:
            return
        line.broken = True
        line.say(garbage + post(MARKED) + post(CLEAN))

    @rule(line=consumes(lines))
    def hang_up(self, line: Line) -> None:
        line.plain.close()

    @rule(line=consumes(lines))
    def listen(self, line: Line) -> None:
        if line.rest:
            line.say(line.rest)
            line.rest = b""
        heard, wanted = line.heard(), line.wanted
        # What is broken is told to who waits for nothing else; an answer in flight is the last one.
        told = heard[:-1] == wanted and heard[-1:] in ([400], [404])
        assert heard == wanted or (line.broken and (told or heard == wanted[: len(heard)])), (heard, wanted)

    @invariant()
    def the_upstream_sees_no_mark(self) -> None:
        assert not [seen for seen in list(self.server.stand.upstream.requests) if b"MARK" in seen.body]

    def teardown(self) -> None:
        for line in self.made:
            line.plain.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    assert made.ready.wait(30)
    yield made
    made.loop.call_soon_threadsafe(made.stop.set)
    made.join(30)


def test_any_order(server: Server) -> None:
    class Machine(Wire):
        pass

    Machine.server = server
    checked = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Machine, settings=checked)
    with socket.create_connection(server.stand.running.address, timeout=30) as plain:  # alive and well
        plain.sendall(post(CLEAN))
        assert statuses(plain.recv(65_536)) == [200]
