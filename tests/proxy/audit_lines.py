"""A writer of the audit in a thread, and waiting for what it does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

from proxy.audit.store import Store
from proxy.audit.wire import Opened, Opening
from proxy.audit.writer import serve


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


class Thread:
    """A writer in a thread of ours, so that its disk does what we want."""

    def __init__(self, open_store: Callable[[Opening], tuple[Store, Opened]]) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        self._thread = threading.Thread(target=_serve, args=(theirs.detach(), open_store), daemon=True)
        self._thread.start()

    def end(self, *, kill: bool) -> None:
        self.sock.close()
        self._thread.join(0.2 if kill else 10)


def _serve(fd: int, open_store: Callable[[Opening], tuple[Store, Opened]]) -> None:
    with contextlib.suppress(SystemExit):  # how a store makes its writer die
        serve(fd, open_store)
