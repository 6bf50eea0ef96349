"""A name that hangs keeps only those waiting who need it, and the process not from its end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from classifiers.lookup import Lookup

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 80))]


class Resolver:
    """Counts what it is asked; `slow.example` waits until it is let go, `none.example` is not known."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.free = threading.Event()

    def __call__(self, host: str, *more: Any) -> Any:
        self.asked.append(host)
        if host == "slow.example":
            self.free.wait(60)
        if host == "none.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return FOUND


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.free.set()


async def test_many_wait_for_one_lookup_and_no_other_name_does(resolver: Resolver) -> None:
    lookup = Lookup()
    waiting = [asyncio.create_task(lookup.ask("slow.example", 80)) for _ in range(100)]
    for _ in range(3):
        assert await lookup.ask("fast.example", 80) == FOUND
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    resolver.free.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [FOUND] * 99
    assert resolver.asked.count("slow.example") == 1
    assert await lookup.ask("slow.example", 80) == FOUND
    assert resolver.asked.count("slow.example") == 2


async def test_a_name_that_is_not_known_is_told_to_each_and_asked_again(resolver: Resolver) -> None:
    lookup = Lookup()
    for _ in range(2):
        found = await asyncio.gather(*[lookup.ask("none.example", 80) for _ in range(3)], return_exceptions=True)
        assert [type(each) for each in found] == [socket.gaierror] * 3
    assert resolver.asked.count("none.example") == 2


async def test_no_thread_is_left(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lookup = Lookup()
    with monkeypatch.context() as low:
        low.setattr(threading.Thread, "start", full)
        with pytest.raises(OSError, match="no thread"):
            await lookup.ask("fast.example", 80)
    assert await lookup.ask("fast.example", 80) == FOUND


ENDS = """
import asyncio, socket, threading, uvloop
from classifiers.lookup import Lookup
begun = threading.Event()
def hangs(*question): begun.set(); threading.Event().wait()
socket.getaddrinfo = hangs
async def main():
    task = asyncio.create_task(Lookup().ask("slow.example", 80))
    await asyncio.to_thread(begun.wait)
    task.cancel()
for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
print("ended")
"""


def test_the_process_ends_while_a_name_hangs() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")
