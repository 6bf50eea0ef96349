"""The policies of one process while it serves: put in force, loaded again, watched, told of."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from policies.ready import PolicySet

from .config import Settings, is_url
from .keeper import Keeper, Refused
from .logs import get_logger
from .metrics import Metrics
from .policy_store import Store
from .routing import unserved

if TYPE_CHECKING:
    from .server import Running

log = get_logger("penstock.server")

_UNDER_WAY: set[asyncio.Future[bool]] = set()


def keepers_of(settings: Settings) -> dict[str, Keeper]:
    """The default policy's, and that of each named one, which is kept beside it."""
    keepers = {}
    for name, source in settings.all_policies.items():
        home = settings.data_dir / "policies"
        home = home / "named" / name if name else home
        fetched = None
        if is_url(source):
            from .policy_fetch import Fetched

            fetched = Fetched(home / "fetched", source, settings.policy_public_key, settings.policy_poll)
        last_good = settings.on_broken_policy == "last_good"
        keepers[name] = Keeper(Store(home), source, settings.watch_policy, fetched, last_good=last_good)
    return keepers


async def enforced(
    keepers: dict[str, Keeper], sets: dict[str, PolicySet], metrics: Metrics, stack: contextlib.AsyncExitStack
) -> None:
    """Tell what this process enforces, until it ends."""
    metrics.enforce(*(policy_set.revision for policy_set in sets.values()))
    for name, keeper in keepers.items():
        await keeper.enforced(sets[name])
        if keeper.state["last_failure"] is not None:
            _counted(metrics)
        stack.callback(keeper.store.ended)


async def reload(running: Running, only: str | None = None) -> bool:
    """Load every policy again, or only the one called so; where one has an error, its old one stays in force."""
    names = list(running.keepers) if only is None else [only]
    return all([await _reload(running, name) for name in names])


def reload_soon(running: Running) -> None:
    """Have every policy loaded again: a signal says so."""
    task = asyncio.ensure_future(reload(running))
    _UNDER_WAY.add(task)
    task.add_done_callback(_UNDER_WAY.discard)


async def follow(running: Running, revisions: dict[str, str]) -> bool:
    """Put exactly these revisions in force, by the policy's name: those of the other workers."""
    return all([await _reload(running, name, at) for name, at in revisions.items() if name in running.keepers])


async def _reload(running: Running, name: str, at: str = "") -> bool:
    plane, keeper = running.plane, running.keepers[name]
    told = {"policy": name} if name else {}
    async with keeper.lock:
        guard = plane.guards[name]
        try:
            policy_set = await keeper.load(at)
            if wrong := unserved(policy_set, plane.routing):
                raise Refused("\n".join(wrong))
        except Refused as error:
            _counted(running.metrics)
            await keeper.refused(str(error))
            revision = guard.policies.revision
            log.error("policy not loaded, the old one stays", revision=revision, problem=str(error), **told)
            return False
        await asyncio.to_thread(guard.prepare, policy_set)
        plane.guards[name] = guard.of(policy_set)
        running.metrics.enforce(*(each.policies.revision for each in plane.guards.values()))
        running.metrics.reloads.inc("loaded")
        await keeper.enforced(policy_set)
        log.info("policy loaded", revision=policy_set.revision, source=policy_set.source, **told)
        return True


def _counted(metrics: Metrics) -> None:
    metrics.reloads.inc("refused")
    metrics.reload_failed.set(time.time())


async def reload_told(running: Running) -> tuple[bool, dict[str, Any]]:
    """For the admin listener: whether all were loaded, and what is in force."""
    well = await reload(running)
    states = {name: keeper.state for name, keeper in running.keepers.items()}
    default = states.pop("")
    return well, {**default, "policies": states} if states else default


def watching(running: Running) -> Callable[[], None]:
    """Look for changes of each policy; what is answered ends that."""
    tasks = [
        asyncio.create_task(keeper.watch(functools.partial(reload, running, name)))
        for name, keeper in running.keepers.items()
    ]

    def end() -> None:
        for task in tasks:
            task.cancel()

    return end
