"""What the supervisor and a worker say to each other over a pair of sockets: questions, answers and news.

Frames are those of the audit's writer (`audit.wire`): both ends are one program. A frame is (number, word, value): a
question has a number above 0 and its answer the same below, news has 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Self, cast

from ..audit.wire import Frames, pack

Answer = Callable[[str, Any], Awaitable[Any]]
"""What to say to a question: its word and value, plain values only."""


class Line(asyncio.Protocol):
    """One end. `news` is called with what the other end tells unasked, `lost` when it is gone."""

    def __init__(self, answer: Answer | None, news: Callable[[str, Any], None], lost: Callable[[], None]) -> None:
        self._answer, self._news, self._lost = answer, news, lost
        self._frames = Frames()
        self._asking: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._transport: asyncio.Transport | None = None
        self._over = asyncio.Event()

    async def over(self, sock: socket.socket) -> Self:
        """Speak over `sock` from now on."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)
        return self

    @property
    def open(self) -> bool:
        return self._transport is not None

    async def ask(self, word: str, value: Any = None, within: float = 5.0) -> Any:
        """The other end's answer. Raises TimeoutError after so many seconds, ConnectionError where it is gone."""
        if self._transport is None:
            raise ConnectionError("the other end is gone")
        self._asked += 1
        number = self._asked
        answer = self._asking[number] = asyncio.get_running_loop().create_future()
        self._transport.write(pack((number, word, value)))
        try:
            async with asyncio.timeout(within):
                return await answer
        finally:
            del self._asking[number]

    def tell(self, word: str, value: Any = None) -> None:
        """Tell the other end, if it is there."""
        if self._transport is not None:
            self._transport.write(pack((0, word, value)))

    async def close(self) -> None:
        """Let what was said last leave, for a second at most, and hang up."""
        if self._transport is not None:
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 1)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for number, word, value in self._frames.feed(data):
            if not number:
                self._news(word, value)
            elif number < 0:
                answer = self._asking.get(-number)
                if answer is not None and not answer.done():
                    answer.set_result(value)
            elif self._answer is not None:
                task = asyncio.get_running_loop().create_task(self._reply(self._answer, number, word, value))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._over.set()
        for answer in self._asking.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the other end is gone"))
        self._lost()

    async def _reply(self, answer: Answer, number: int, word: str, value: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            said = await answer(word, value)
            if self._transport is not None:
                self._transport.write(pack((-number, "", said)))
