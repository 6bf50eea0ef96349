"""The process that writes the log, started by `process` with a socket to the proxy.

It waits for what the proxy sends, writes it in one commit, and answers. When the socket ends without a farewell (the
proxy was killed) it writes what it has received, marks what is open as aborted, and ends.

Decision: a process, where a thread would do.
Why: a thread's commit hands the interpreter lock over a dozen times, and each time waits for the event loop: it cost
four times the CPU, and milliseconds of every exchange.
Cost: some 12 MiB of memory, a protocol (`wire`), and a writer that can die alone (`log` starts another). It imports as
little as it can.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from contextlib import suppress

from .. import whole
from .entry import AuditUnavailable, Entry
from .seal import Sealer
from .store import SqliteStore, Store
from .wire import Frames, Opened, Opening, pack

try:
    from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

BACKOFF = (0.05, 0.5)
"""Seconds before the first and between the later attempts on a failing disk."""
_BUFFER = 1 << 18
"""Most bytes that are read at once."""


def serve(fd: int, open_store: Callable[[Opening], tuple[Store, Opened]]) -> None:
    """Open the log that the proxy names and write what it sends, to the end. Closes the socket `fd`."""
    try:
        _serve(_Proxy(fd), open_store)
    finally:
        os.close(fd)


def _serve(proxy: _Proxy, open_store: Callable[[Opening], tuple[Store, Opened]]) -> None:
    while not (messages := proxy.hear()):
        if messages is None:
            return
    opening: Opening = messages[0]
    try:
        store, (token, writer, head, kept) = open_store(opening)
    except AuditUnavailable as error:
        proxy.tell("failed", error.problem, error.mend, error.state)
        return
    proxy.tell("opened", token, writer, tuple(head), kept)
    asked = _write_all(proxy, store, patience=opening[2])
    store.close("the proxy stopped before it ended" if asked else "its process ended")
    proxy.tell("closed")


class _Proxy:
    """The other end of the socket."""

    def __init__(self, fd: int) -> None:
        self._fd, self._frames, self._buffer = fd, Frames(), bytearray(_BUFFER)
        self._gone = select.poll()
        self._gone.register(fd, 0)

    def hear(self) -> list[Any] | None:
        """The next messages, none where none came for a while, None when the proxy is gone."""
        while True:
            try:
                size = os.readv(self._fd, [self._buffer])
            except BlockingIOError:  # the socket's own limit: see `process`
                return []
            except ConnectionResetError:
                return None
            if not size:
                return None
            messages = self._frames.feed(memoryview(self._buffer)[:size])
            if messages:
                return messages

    def tell(self, *message: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody is left to tell
            whole.write(self._fd, pack(message))

    def gone(self, within: float) -> bool:
        """Wait for so many seconds, or until the proxy is gone."""
        return bool(self._gone.poll(within * 1000))


def _write_all(proxy: _Proxy, store: Store, patience: float) -> bool:
    """True where the proxy asked for the end, False where it is gone."""
    while (messages := proxy.hear()) is not None:
        for entries in messages:
            if entries is None:
                return True
            if not _commit(proxy, store, entries, patience):
                return False
        store.tidy()
    return False


def _commit(proxy: _Proxy, store: Store, entries: Sequence[Entry], patience: float) -> bool:
    """Try until they are written. False where the proxy is gone and its patience over."""
    pause, most = BACKOFF
    until = 0.0
    while True:
        try:
            head = store.write(entries)
        except AuditUnavailable as error:
            proxy.tell("fault", error.problem, error.mend, error.state)
        except Exception as error:  # whatever it is, they are kept and the proxy hears of it
            proxy.tell("fault", f"cannot write: {type(error).__name__}", "restart the proxy")
        else:
            proxy.tell("written", *head, store.has_room())
            return True
        if proxy.gone(pause):
            until = until or time.monotonic() + patience
            if time.monotonic() > until:
                return False
            time.sleep(pause)
        pause = min(2 * pause, most)


def _open(opening: Opening) -> tuple[Store, Opened]:
    path, key, patience, place, keep, head = opening
    if "://" in path:
        from .postgres import PostgresStore

        there = PostgresStore.open(path, Sealer(key, sha256), patience=patience, place=place, keep=keep, head=head)
        return there, there.opened
    store = SqliteStore.open(path, Sealer(key, sha256), patience=patience, place=place, keep=keep)
    return store, store.opened


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("the proxy starts this process by itself, with a socket")
    gc.disable()  # nothing here forms circles, and looking for them is a tenth of the work
    serve(int(sys.argv[1]), _open)


if __name__ == "__main__":
    main()
