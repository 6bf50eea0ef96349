"""The process that writes the log: `python -m proxy.audit.writer FD`, where FD is a socket to the proxy.

It waits for what the proxy sends, writes all that has come in one commit, and answers. What comes meanwhile goes into
the next commit, so that many exchanges share one sync. When the socket ends without a farewell (the proxy was killed)
it writes what it has received, marks what is open as aborted, and ends.

Decision: a process, where a thread would do.
Why: a thread's commit hands the interpreter lock over a dozen times, and each time waits for the event loop: it cost
four times the CPU, and milliseconds of every exchange.
Cost: some 12 MiB of memory, a protocol (`wire`), and a writer that can die alone (`log` starts another). It imports as
little as it can.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .entry import AuditUnavailable, Entry
from .seal import Sealer
from .store import SqliteStore, Store
from .wire import Frames, Opened, Opening, Place, pack

try:
    from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from hashlib import sha256

BACKOFF = (0.05, 0.5)
"""Seconds before the first and between the later attempts on a failing disk."""
_BUFFER = 1 << 18
"""Most bytes that are read, and so about as many as are written, at once."""
_SHORTEST = 0.0001
"""Seconds: a shorter sleep costs more than it saves."""


def serve(fd: int, open_store: Callable[[Opening], tuple[Store, Opened]]) -> None:
    """Open the log that the proxy names and write what it sends, to the end. Closes the socket `fd`."""
    try:
        _serve(_Proxy(fd), open_store)
    finally:
        os.close(fd)


def _serve(proxy: _Proxy, open_store: Callable[[Opening], tuple[Store, Opened]]) -> None:
    messages = proxy.hear()
    if not messages:
        return
    opening = Opening(*messages[0])
    try:
        store, opened = open_store(opening)
    except AuditUnavailable as error:
        proxy.tell("failed", error.problem, error.mend)
        return
    proxy.tell("opened", opened.token, opened.writer, tuple(opened.head), opened.kept)
    asked = _write_all(proxy, store, opening)
    store.close("the proxy stopped before it ended" if asked else "its process ended")
    proxy.tell("closed")


class _Proxy:
    """The other end of the socket."""

    def __init__(self, fd: int) -> None:
        self._fd, self._frames, self._buffer = fd, Frames(), bytearray(_BUFFER)
        self._gone = select.poll()
        self._gone.register(fd, 0)

    def hear(self) -> list[Any]:
        """The next messages, at least one; none when the proxy is gone."""
        while True:
            try:
                size = os.readv(self._fd, [self._buffer])
            except ConnectionResetError:
                return []
            if not size:
                return []
            messages = self._frames.feed(memoryview(self._buffer)[:size])
            if messages:
                return messages

    def tell(self, *message: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody is left to tell
            os.write(self._fd, pack(message))

    def gone(self, within: float) -> bool:
        """Wait for so many seconds, or until the proxy is gone."""
        return bool(self._gone.poll(within * 1000))


def _write_all(proxy: _Proxy, store: Store, opening: Opening) -> bool:
    """True where the proxy asked for the end, False where it is gone."""
    while True:
        messages = proxy.hear()
        if not messages:
            return False
        asked = messages[-1] is None
        if asked:
            messages.pop()
        entries = messages[0] if len(messages) == 1 else [entry for message in messages for entry in message]
        began = time.monotonic()
        if messages and not _commit(proxy, store, entries, len(messages), opening.patience):
            return False
        if asked:
            return True
        store.tidy()
        pause = min((time.monotonic() - began) / 2, opening.gather)
        if len(entries) > 1 and pause > _SHORTEST:
            time.sleep(pause)


def _commit(proxy: _Proxy, store: Store, entries: Sequence[Entry], count: int, patience: float) -> bool:
    """Try until the entries of `count` messages are written. False where the proxy is gone and its patience over."""
    pause, most = BACKOFF
    until = 0.0
    while True:
        try:
            head = store.write(entries)
        except AuditUnavailable as error:
            proxy.tell("fault", error.problem, error.mend)
        except Exception as error:  # whatever it is, they are kept and the proxy hears of it
            proxy.tell("fault", f"cannot write: {type(error).__name__}", "restart the proxy")
        else:
            proxy.tell("written", count, tuple(head))
            return True
        if proxy.gone(pause):
            until = until or time.monotonic() + patience
            if time.monotonic() > until:
                return False
            time.sleep(pause)
        pause = min(2 * pause, most)


def _open(opening: Opening) -> tuple[Store, Opened]:
    place = opening.place and Place(*opening.place)
    seal = Sealer(opening.key, sha256)
    store = SqliteStore.open(opening.path, seal, patience=opening.patience, place=place)
    return store, store.opened


def main() -> None:
    serve(int(sys.argv[1]), _open)


if __name__ == "__main__":
    main()
