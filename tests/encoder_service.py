"""The encoder behind the Open Inference Protocol, in this process: what deploy/ray serves, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import orjson
from penstock_ray.engine import Engine
from penstock_ray.protocol import Protocol

from tests.upstream import Reply, Request, Step
from tests.upstream.replies import content

Change = Callable[[dict[str, Any]], object]
"""Changes an answer before it leaves."""


@lru_cache(1)
def _engine() -> Engine:
    return Engine()


class EncoderService:
    """A script for `Upstream`. `reply` stands in the place of every answer where it is set; `change` is let loose on
    the answers to questions about token ids."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.reply: Reply | None = None
        self.change: Change = lambda answer: None
        self.asked = 0
        self._protocol = Protocol(engine or _engine())
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, request: Request) -> Reply:
        self.asked += request.path.endswith("/infer")
        if self.reply is not None:
            return self.reply
        done = asyncio.Event()
        found: list[tuple[int, bytes]] = []

        async def work() -> None:
            found.append(await self._protocol.answer(request.method, request.path, request.body))
            done.set()

        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self._steps(request, done, found)

    def _steps(self, request: Request, done: asyncio.Event, found: list[tuple[int, bytes]]) -> Iterator[Step]:
        yield done
        [(status, raw)] = found
        if status == 200 and request.path.endswith("/infer"):
            answer = orjson.loads(raw)
            self.change(answer)
            raw = orjson.dumps(answer)
        yield from content(raw, status=status)
