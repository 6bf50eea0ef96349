"""The life of one worker: it serves as a single Penstock does, and the supervisor asks it how it is."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

from ..config import Settings
from ..logs import get_logger
from ..reloading import follow, reload_told
from ..server import CannotServe, Running, Seat, serving, settle
from .line import Line

log = get_logger("penstock.worker")

WELL, CANNOT_SERVE = 0, 3
"""Exit codes."""


async def work(settings: Settings, seat: Seat, sock: socket.socket) -> int:
    """Serve until SIGTERM, or until the supervisor at the other end of `sock` is gone. The exit code."""
    loop = asyncio.get_running_loop()
    serves: asyncio.Future[Running] = loop.create_future()

    def alone() -> None:
        if serves.done() and not serves.cancelled() and not serves.result().stopped.done():
            log.error("the supervisor is gone", mend="start Penstock again; this worker ends what it has begun")
            serves.result().stop()

    async def answer(word: str, value: Any) -> Any:
        return await _answered(await asyncio.shield(serves), word, value)

    line = await Line(answer, lambda word, value: None, alone).over(sock)
    try:
        async with serving(settings, seat) as running:
            settle()
            loop.add_signal_handler(signal.SIGTERM, running.stop)
            serves.set_result(running)
            if not line.open:
                alone()
            line.tell("serving", report(running))
            await running.stopped
    except CannotServe as error:
        line.tell("failed", str(error))
        return CANNOT_SERVE
    else:
        line.tell("ended", report(running))
        return WELL
    finally:
        serves.cancel()
        await line.close()


def report(running: Running) -> dict[str, Any]:
    """What the supervisor needs to know each second, as plain values."""
    running.refresh()
    return {
        "figures": {name: series.dump() for name, series in running.metrics.series().items()},
        "revisions": {name: guard.policies.revision for name, guard in running.plane.guards.items()},
        "states": running.states(),
    }


async def _answered(running: Running, word: str, value: Any) -> Any:
    if word == "report":
        return report(running)
    if word == "ready":
        return await running.ready()
    if word == "reload":
        return await reload_told(running)
    if word == "reviews":
        return await running.plane.reviews.listed()
    if word == "review":
        return await running.plane.reviews.told(**value)
    if word == "follow":
        return await follow(running, value)
    raise ValueError(f"a worker is not asked {word!r}")
