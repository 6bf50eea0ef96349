"""Can what is known of accounts be kept, and shared with other machines?"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from policies.marks import memory_of

from ..config import Settings
from .base import Finding, Place, State

if TYPE_CHECKING:
    from ..state.line import Line

NAME = "state"
ASKED = 9
"""Questions by which Redis' pace is told."""
KEEPS = frozenset({"noeviction", "volatile-ttl"})
"""Policies by which Redis, when it is full, forgets no flag, and findings before strikes."""
ALMOST = 0.9
"""Of its memory, when it is said that little is left."""


def check_state(place: Place) -> Iterator[Finding]:
    settings = place.settings
    if settings.credentials != "keys":
        yield _unknown(place)
        return
    from ..state.base import StateUnavailable
    from ..state.local import Local
    from ..state.opening import store_of

    path = settings.state_path
    if os.path.exists(path):
        local = Local(path)
        try:
            flags, waiting = len(local.marked()), local.waiting()
        except StateUnavailable as error:
            yield Finding(NAME, State.WRONG, error.problem, error.mend)
        else:
            untold = f", {waiting} not told to Redis yet" if settings.state is not None else ""
            yield Finding(NAME, State.WELL, f"{path} holds {flags} flags{untold}")
        finally:
            local.close()
    else:
        yield Finding(NAME, State.WELL, f"{path} does not exist and will be made")
    if settings.state is None:
        detail = "the processes of this data directory count together, other machines by themselves"
        yield Finding(NAME, State.WELL, detail)
        return
    try:
        store = store_of(settings, patient=True)
    except StateUnavailable as error:
        yield Finding(NAME, State.WRONG, error.problem, error.mend)
        return
    assert store is not None  # it is set
    yield from asyncio.run(_looked_at(place, store.line))


def _unknown(place: Place) -> Finding:
    """Nobody is known who could be remembered."""
    policy = place.policy.policy if place.policy is not None else None
    memory = memory_of(policy.policies) if policy is not None else None
    mend = "set `credentials: keys`"
    if memory is not None and (memory.left or memory.read):
        detail = "the policy strikes, flags or asks for strikes and flags, and no account is known"
        return Finding(NAME, State.WARNING, detail, mend)
    if place.settings.state is not None:
        return Finding(NAME, State.WARNING, "`state` is set, and no account is known: nothing is shared", mend)
    return Finding(NAME, State.WELL, "no account is known, and nothing is remembered")


async def _looked_at(place: Place, line: Line) -> list[Finding]:
    from ..state.base import StateUnavailable

    try:
        await line.begin()
        if line.fault is not None:
            return [Finding(NAME, State.WRONG, line.fault.problem, line.fault.mend)]
        return await _kept(place, line)
    except StateUnavailable as error:
        return [Finding(NAME, State.WRONG, error.problem, error.mend)]
    finally:
        await line.close()


async def _kept(place: Place, line: Line) -> list[Finding]:
    """Of a Redis that answers and takes what is written."""
    from ..state.base import StateUnavailable

    times = []
    for _ in range(ASKED):
        began = time.perf_counter()
        ((seconds, microseconds),) = await line.ask(("TIME",))
        times.append(time.perf_counter() - began)
        skew = time.time() - (int(seconds) + int(microseconds) / 1e6)
    place.skews.append(("Redis", skew))
    found = [_pace(place.settings, times)]
    try:
        (memory,) = await line.ask(("INFO", "memory"))
    except StateUnavailable:
        found.append(Finding(NAME, State.SKIPPED, "Redis does not tell us of its memory (INFO)"))
        return found
    found += _memory(memory)
    return found


def _pace(settings: Settings, times: list[float]) -> Finding:
    median, longest, limit = statistics.median(times), max(times), settings.state_timeout
    detail = f"Redis answers after {median * 1000:.1f} ms (longest {longest * 1000:.1f})"
    if longest < limit / 2:
        return Finding(NAME, State.WELL, detail)
    mend = "put it nearer, or raise state_timeout: what is later is decided by what this machine knows"
    state = State.WRONG if median > limit else State.WARNING
    return Finding(NAME, state, f"{detail}; state_timeout is {limit * 1000:.0f} ms", mend)


def _memory(told: dict[str, Any]) -> Iterator[Finding]:
    most, used = int(told.get("maxmemory", 0)), int(told.get("used_memory", 0))
    policy = str(told.get("maxmemory_policy", "noeviction"))
    if most and policy not in KEEPS:
        detail = f"when it is full, Redis forgets what it likes (maxmemory-policy {policy}), flags too"
        yield Finding(NAME, State.WARNING, detail, "CONFIG SET maxmemory-policy noeviction, or volatile-ttl")
    if most and used > ALMOST * most:
        detail = f"Redis has {used / most:.0%} of its memory in use"
        yield Finding(NAME, State.WARNING, detail, "raise maxmemory: once it is full nothing is shared")
