"""A resolver for tests: one name hangs until it is let go."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest


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
