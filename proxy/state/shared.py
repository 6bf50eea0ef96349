"""What a serving process knows of accounts: flags at once, counts by asking, and what its own rules leave."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from policies.facts import Account
from policies.marks import Marks, Memory

from ..logs import get_logger
from ..metrics import Metrics
from ..parts import Parts
from .base import RULE, Flag, StateUnavailable, Strike
from .local import Local

if TYPE_CHECKING:
    from .line import Line
    from .redis_store import RedisStore

log = get_logger("penstock.state")

LOOK = 1.0
"""Seconds between two looks at what others changed."""
TIDY = 60
"""Looks between two times of tidying up."""
HEARD = 10_000
"""Accounts whose last counts are remembered."""
UNWRITTEN = 10_000
"""Strikes that are kept in memory while the file cannot be written."""
NONE: frozenset[str] = frozenset()
_NOTHING = Marks()


class State:
    """`local` is this machine's file. `begin`, then `close`."""

    def __init__(self, local: Local, metrics: Metrics, parts: Parts) -> None:
        self._local, self._metrics, self._parts = local, metrics, parts
        self._redis: RedisStore | None = None
        self._behind: RedisStore | None = None
        self._flags: dict[str, dict[str, float]] = {}
        self._heard: OrderedDict[str, dict[tuple[str, int], int]] = OrderedDict()  # by name and time counted over
        self._unwritten: tuple[list[Strike], list[Flag]] = [], []
        self._resets: Mapping[str, float] = {}
        self._version: object = None
        self._version_there: object = ()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looks = 0
        self.waited = 0
        """How many exchanges have waited for Redis."""

    async def beside(self, redis: RedisStore) -> None:
        """Share with other machines, now or once their store is there. Call it before `begin`."""
        from .redis_store import RedisStore

        self._redis, self._behind = redis, RedisStore(redis.line, behind=True)
        redis.line.tell(self._line_changed)
        await redis.line.begin()

    @property
    def line(self) -> Line | None:
        """The way to what all machines share."""
        return None if self._redis is None else self._redis.line

    async def begin(self) -> None:
        """Read what is known, and keep looking. Raises StateUnavailable where the file cannot be used."""
        self._know(self._local.marked())
        await self._turn()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Tell what was not told yet, and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            with contextlib.suppress(StateUnavailable):
                await self._tell()
        if self._redis is not None:
            await self._redis.line.close()
        self._local.close()

    # ---- what is asked of it

    def flags_of(self, account: str) -> frozenset[str]:
        """The marks of an account that have not ended."""
        known = self._flags.get(account)
        if known is None:
            return NONE
        now = self._local.clock.now()  # a ban outlasts a clock that jumps
        return frozenset(name for name, until in known.items() if until > now)

    async def recall(self, account: Account, memory: Memory) -> Account:
        """The account with its flags, and with the strikes that `memory` reads."""
        history = await self._counts(account.id, memory.counted) if memory.counted else {}
        return replace(account, flags=self.flags_of(account.id), history=history)

    async def _counts(self, account: str, windows: Mapping[str, int]) -> dict[str, int]:
        now = self._local.clock.now()
        since = {name: now - within for name, within in windows.items()}
        redis = self._redis
        if redis is not None and redis.line.up:
            self.waited += 1
            try:
                fresh = self._local.unsent(account, since)
                counts = await redis.counts(account, since, fresh)
                self._local.sent(fresh)
            except StateUnavailable:
                pass  # the line has told of it
            else:
                heard = self._heard.setdefault(account, {})  # what other policies asked for stays
                heard.update({(name, within): counts.get(name, 0) for name, within in windows.items()})
                self._heard.move_to_end(account)
                if len(self._heard) > HEARD:
                    self._heard.popitem(last=False)
                return counts
        if redis is not None:
            self._metrics.counts_alone.inc()
        return self._alone(account, since, windows)

    def _alone(self, account: str, since: Mapping[str, float], windows: Mapping[str, int]) -> dict[str, int]:
        """The counts by what is known here."""
        try:
            own = self._local.counted(account, since)
        except StateUnavailable as error:
            self._unwell(error)
            own = {}
        held = [each for each in self._unwritten[0] if each.account == account]
        heard = self._heard.get(account, {})  # with what fell here since
        counts = {
            name: max(
                own.get(name, 0) + sum(each.name == name and each.at > at for each in held),
                heard.get((name, windows[name]), 0),
            )
            for name, at in since.items()
        }
        return {name: count for name, count in counts.items() if count}

    def leave(self, account: str, memory: Memory, decision: str, fired: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """The exchange `decision` of `account` has ended, in which these rules (policy, id) fired: keep what `memory`
        says that they leave. Answers what of that is to stand in the record."""
        now = self._local.clock.now()
        strikes: dict[str, Strike] = {}
        flags: dict[str, Flag] = {}
        for policy, rule in fired:
            marks = memory.left.get((policy, rule), _NOTHING)
            if marks.strike is not None:
                name = marks.strike.name
                strikes[name] = Strike(account, name, decision, now)
            if marks.flag is not None:
                name = marks.flag.name
                flag = Flag(
                    account, name, inf if marks.flag.lasts is None else now + marks.flag.lasts, now, f"{RULE}{rule}"
                )
                known = flags[name].until if name in flags else self._flags.get(account, {}).get(name, 0.0)
                if flag.until > known:  # a flag that stands is never shortened; of what others do now the stores know
                    flags[name] = flag
        self._keep(list(strikes.values()), list(flags.values()))
        told: dict[str, Any] = {}
        if strikes:
            told["strikes"] = sorted(strikes)
        if flags:
            told["flags"] = sorted(flags)
        return told

    def _keep(self, strikes: Sequence[Strike], flags: Sequence[Flag]) -> None:
        for strike in strikes:
            self._metrics.strikes.inc(strike.name)
            heard = self._heard.get(strike.account, {})
            for asked in heard:
                if asked[0] == strike.name:
                    heard[asked] += 1
        for flag in flags:
            self._flags.setdefault(flag.account, {})[flag.name] = flag.until
            log.info("account flagged", account=flag.account, flag=flag.name, by=flag.by)
        self._metrics.flagged.set(len(self._flags))
        try:
            self._local.put(strikes)
            if flags:
                self._local.mark(flags)
        except StateUnavailable as error:
            self._unwell(error)
            self._unwritten[0].extend(strikes[: UNWRITTEN - len(self._unwritten[0])])
            self._unwritten[1].extend(flags)
        if self._redis is not None and (strikes or flags):
            self._wake.set()

    # ---- what others do

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._turn()
            except Exception:  # a fault of ours must not end the look-out
                log.exception("shared state not looked at")

    async def _turn(self) -> None:
        """Hear what others changed, tell what fell here."""
        try:
            strikes, flags = self._unwritten
            if strikes or flags:
                self._local.put(strikes)
                self._local.mark(flags)
                self._unwritten = [], []
            redis = self._behind
            if redis is not None and redis.line.up:
                try:
                    # In this order: what was forgotten there must not be told anew.
                    await self._hear(redis)
                    await self._tell(within=LOOK)  # a year of strikes must not keep us from hearing of a ban
                except StateUnavailable as error:
                    if redis.line.up:  # else the line has told of it
                        self._line_changed(error)
                else:
                    self._parts.well("redis")
            changed = self._local.changes()
            if changed != self._version:
                self._know(self._local.marked())
                self._version = changed
            self._looks += 1
            if self._looks % TIDY == 1:
                await asyncio.to_thread(self._local.tidy)
            if redis is not None:
                self._metrics.state_waiting.set(self._local.waiting())
        except StateUnavailable as error:
            self._unwell(error)
        else:
            if self._local.has_room():
                self._parts.well("state")

    async def _tell(self, within: float = inf) -> None:
        """Redis gets what it was not told of; what is left after so many seconds, at the next turn."""
        redis = self._behind
        if redis is None or not redis.line.up:
            return
        flags = self._local.marked(unsent=True)
        if flags:
            await redis.flag(flags)
            self._local.sent_flags(flags)
        end = time.monotonic() + within
        while strikes := self._local.some_unsent():
            await redis.strike(strikes)
            self._local.sent(strikes)
            if time.monotonic() > end:
                self._wake.set()
                return

    async def _hear(self, redis: RedisStore) -> None:
        version = await redis.version()
        if version != self._version_there:
            born = await redis.born()
            if not self._local.knows(born):
                await self._anew(born)
                log.info("redis is told all that is known here")
            told = self._local.told()  # a mark that another process tells meanwhile may be missing from what is read
            flags, resets = await redis.all()
            self._local.mirror(flags, resets, told)
            for account, at in resets.items():
                if self._resets.get(account) != at:
                    self._heard.pop(account, None)
            self._resets = resets
            self._version_there = version

    async def _anew(self, born: str) -> None:
        """Redis is another memory than was told: it is to be told everything. Where that is cut short, or another
        process is at it, it begins again: what is told twice counts once."""
        last = await asyncio.to_thread(self._local.untell, None)
        while last is not None:
            last = await asyncio.to_thread(self._local.untell, last)
        self._local.telling(born)

    def _know(self, flags: Iterable[Flag]) -> None:
        known: dict[str, dict[str, float]] = {}
        for flag in flags:
            known.setdefault(flag.account, {})[flag.name] = flag.until
        self._flags = known
        self._metrics.flagged.set(len(known))

    def _line_changed(self, fault: StateUnavailable | None) -> None:
        if fault is None:
            self._parts.well("redis")
            self._wake.set()
        else:
            meanwhile = "flags hold as they were last known, counts are this machine's own"
            self._parts.ill("redis", fault.fault, fault.problem, mend=fault.mend, meanwhile=meanwhile)

    def _unwell(self, error: StateUnavailable) -> None:
        meanwhile = "strikes and flags that fall now are kept in memory"
        self._parts.ill("state", error.fault, error.problem, mend=error.mend, meanwhile=meanwhile)
