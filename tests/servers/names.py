"""A resolver for tests: one name hangs until it is let go."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.state.base import Fault
from proxy.state.line import Line


@contextlib.contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, slow: str, *others: str) -> Iterator[list[str]]:
    """`slow` is not answered within this; after it, and `others` at once, each is this machine. Gives what was asked
    for `slow`; the resolver stays until the test ends."""
    asked, real, comes = list[str](), socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: Any, *more: Any, **rest: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name == slow:
            asked.append(name)
            comes.wait(60)
        return real("127.0.0.1" if name in {slow, *others} else host, *more, **rest)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        yield asked
    finally:
        comes.set()


async def begin_and_ask_once(line: Line, fault: Fault, asked: list[str], times: int) -> None:
    """Each of so many beginnings of `line` ends in `fault`, and all of them look the name up once."""
    for _ in range(times):
        await line.begin()
        assert line.fault is not None
        assert line.fault.fault is fault
    assert len(asked) == 1
