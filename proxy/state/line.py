"""The way to Redis: one connection, whose round trips many share, and the knowledge whether it is of use.

INVARIANT: nobody waits longer than the deadline, and while the line is down nobody waits at all: a task of its own
looks whether Redis answers, in time, and takes what is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from classifiers.lookup import Lookup

from ..state_settings import FILES, OF_SENTINELS, sentinels_of
from .base import Fault, StateUnavailable
from .faults import KINDS, LEAST, fault_of, unavailable

Command = tuple[str | bytes | int | float, ...]
_Question = tuple[Sequence[Command], asyncio.Future[list[Any]]]
BATCH = 512
"""Questions that go together in one round trip."""
GRACE = 0.005
"""Seconds that are given on top: where our own loop was late, the answer is here already."""
PAUSE = (0.1, 5.0)
"""Seconds before it is looked at again: the first time, and at most."""
CHOSEN = (0.1, 0.5)
"""The same where Sentinels choose another primary meanwhile."""
PATIENCE = 5.0
"""Seconds for what nobody waits for."""
PROBE = 2.0
"""Seconds that a look may take, a new connection and its TLS included."""
ASKED = 0.4
"""Seconds that one Sentinel may take, to be reached and to answer: the next one is to have its turn within PROBE."""
KEY = "penstock:probe:"


class Line:
    """The Redis at `url`, or the primary that the Sentinels there name. `deadline` in seconds. For one event loop.
    Raises ValueError for what is no such URL."""

    def __init__(self, url: str, deadline: float) -> None:
        self.deadline = deadline
        self._changed: Callable[[StateUnavailable | None], None] = lambda fault: None
        self._client, self._sentinels = _client(url)
        self._all = list(self._sentinels.sentinels) if self._sentinels is not None else []
        self._lookup = Lookup()
        self._queue: list[_Question] = []
        self._pump: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self.fault: StateUnavailable | None = unavailable(Fault.AWAY, "Redis was not asked yet")

    def tell(self, changed: Callable[[StateUnavailable | None], None]) -> None:
        """Have `changed` told of each fault, and of None when it is well again."""
        self._changed = changed

    @property
    def up(self) -> bool:
        return self.fault is None

    @property
    def primary(self) -> str:
        """The address that the Sentinels named last; nothing where none are asked."""
        return str(getattr(self._client.connection_pool, "master_address", None) or "")

    async def begin(self) -> None:
        """The first look; what goes wrong is in `fault`."""
        fault = await self._look()
        if fault is None:
            self._well()
        else:
            self.down(fault)

    async def ask(self, *commands: Command) -> list[Any]:
        """The answers to commands, in their order. Raises StateUnavailable."""
        if self.fault is not None:
            raise self.fault.again()
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._queue.append((commands, future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._send())
        for patience in (self.deadline, GRACE):
            done, _ = await asyncio.wait({future}, timeout=patience)
            if done:
                return future.result()
        fault = unavailable(Fault.SLOW, f"Redis does not answer within {self.deadline * 1000:.0f} ms")
        self.down(fault)
        raise fault.again()

    async def ask_behind(self, *commands: Command) -> list[Any]:
        """As `ask`, for what nobody waits for: on a connection of its own, with patience."""
        if self.fault is not None:
            raise self.fault.again()
        try:
            async with asyncio.timeout(PATIENCE):
                answers = await self._together(commands)
            wrong = next((each for each in answers if isinstance(each, Exception)), None)
            if wrong is not None:
                raise wrong
        except Exception as error:
            fault = fault_of(error)
            self.down(fault)
            raise fault.again() from None
        return answers

    async def _send(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
            try:
                answers = await self._together([command for commands, _ in batch for command in commands])
            except asyncio.CancelledError:
                self._refuse(batch, self.fault or unavailable(Fault.AWAY, "the connection was given up"))
                raise
            except Exception as error:
                fault = fault_of(error)
                self._refuse(batch, fault)
                self.down(fault)
                return
            at = 0
            for question in batch:
                commands, future = question
                own, at = answers[at : at + len(commands)], at + len(commands)
                wrong = next((each for each in own if isinstance(each, Exception)), None)
                if wrong is not None:
                    fault = fault_of(wrong)
                    self._refuse([question], fault)
                    self.down(fault)
                elif not future.done():
                    future.set_result(own)

    async def _together(self, commands: Sequence[Command]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    @staticmethod
    def _refuse(batch: Sequence[_Question], fault: StateUnavailable) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(fault.again())
                future.exception()  # whoever gave up on it need not hear of it

    # ---- down, and up again

    def down(self, fault: StateUnavailable) -> None:
        """It is of no use now: those who wait are told, and it is looked at until it is."""
        news = self.fault is None or self.fault.fault is not fault.fault or self._looking is None
        self.fault = fault
        waiting, self._queue = self._queue, []
        self._refuse(waiting, fault)
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()
        if news:
            self._changed(fault)
        if self._looking is None:
            self._looking = asyncio.create_task(self._until_well())

    async def _until_well(self) -> None:
        pause, most = PAUSE if self._sentinels is None else CHOSEN
        while True:
            await asyncio.sleep(pause)
            fault = await self._look()
            if fault is None:
                self._looking = None
                self._well()
                return
            if self.fault is None or fault.fault is not self.fault.fault:
                self._changed(fault)
            self.fault = fault
            pause = min(2 * pause, most)

    def _well(self) -> None:
        self.fault = None
        self._changed(None)

    async def _look(self) -> StateUnavailable | None:
        """What is wrong with it, on a new connection where there was none."""
        try:
            async with asyncio.timeout(PROBE):
                await self._known()
                await self._client.ping()
                return await look(self._client, self.deadline)
        except Exception as error:  # whatever the client makes of what is no Redis
            return fault_of(error)

    async def _known(self) -> None:
        """Its name has been found. The client's own lookups would queue up in the loop's few threads, one more with
        each look, and the end of the process wait for all of them."""
        if self._sentinels is None:
            await self._found(self._client)
            return
        found = await asyncio.gather(*[self._is_found(each) for each in self._all])
        well = {each for each, known in zip(self._all, found, strict=True) if known}
        last = [each for each in self._sentinels.sentinels if each in well]  # who answered last is asked first
        self._sentinels.sentinels = [*last, *(each for each in self._all if each in well and each not in last)]
        if not well:
            raise MasterNotFoundError("no Sentinel's name is found")
        pool = cast("SentinelConnectionPool", self._client.connection_pool)
        host, port = await pool.get_master_address()  # type: ignore[no-untyped-call]
        await self._lookup.ask(host, port, 0, socket.SOCK_STREAM)

    async def _found(self, client: Redis) -> None:
        there = client.connection_pool.connection_kwargs
        if "host" in there:
            await self._lookup.ask(there["host"], there.get("port"), 0, socket.SOCK_STREAM)

    async def _is_found(self, client: Redis) -> bool:
        """Whether the name of a Sentinel is found in time. One that is not is not asked meanwhile."""
        try:
            async with asyncio.timeout(ASKED):
                await self._found(client)
        except (TimeoutError, OSError):
            return False
        return True

    async def close(self) -> None:
        for task in (self._looking, self._pump):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for each in (self._client, *self._all):
            with contextlib.suppress(RedisError, OSError):
                await each.aclose()


def _client(url: str) -> tuple[Redis, Sentinel | None]:
    """The client, and what asks the Sentinels for it. Raises ValueError."""
    # What was not answered is asked again by whoever wanted to know, not behind its back.
    once: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
    ours: dict[str, Any] = {**once, "max_connections": 4, "socket_connect_timeout": PROBE, "socket_timeout": None}
    named = sentinels_of(url)
    if named is None:
        return Redis.from_url(url, **ours), None
    if named.tls:
        tls = {"ssl": True, **{name: named.more[name] for name in FILES if name in named.more}}
        once, ours = {**once, **tls}, {**ours, **tls}
    who = {name.removeprefix("sentinel_"): named.more[name] for name in OF_SENTINELS if name in named.more}
    asked = {**once, **who, "socket_connect_timeout": ASKED, "socket_timeout": ASKED}
    sentinels = Sentinel(named.hosts, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    ours |= {"db": named.db, "username": named.user or None, "password": named.password or None}
    return sentinels.master_for(named.name, **ours), sentinels


async def look(client: Redis, deadline: float) -> StateUnavailable | None:
    """What is wrong with a Redis that answers: its version, whether it takes writes, how long one takes. Raises what
    the client does."""
    try:
        told_of = await client.info("server")
    except NoPermissionError:
        told_of = {}  # it need not be told to us
    version = str(told_of.get("redis_version", ""))
    if problem := KINDS.get(told_of.get("redis_mode", "")):
        return unavailable(Fault.CLUSTER, problem)
    told = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if told and told < LEAST:
        return unavailable(Fault.VERSION, f"this is Redis {version}")
    began = time.perf_counter()
    await client.set(key := KEY + secrets.token_hex(8), "1", ex=60)
    took = time.perf_counter() - began
    if await client.get(key) != b"1":
        return unavailable(Fault.STRANGE, "what answers there does not keep what it is told")
    if took > deadline + GRACE:
        return unavailable(Fault.SLOW, f"Redis takes {took * 1000:.0f} ms for one write")
    return None
