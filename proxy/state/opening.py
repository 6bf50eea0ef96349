"""From settings to what is shared, in a process that serves or in a command that looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifiers.cache import Cache
from classifiers.panel import Panel

from ..audit import Key
from ..config import Settings
from ..metrics import Metrics
from ..parts import Parts
from .base import Fault, StateUnavailable
from .local import Local
from .shared import State

if TYPE_CHECKING:
    from .redis_store import RedisStore


PATIENCE = 2.0
"""Seconds that a command waits, whom nobody waits for."""


async def opened(settings: Settings, metrics: Metrics, parts: Parts) -> State:
    """What this process knows of accounts, from now on. Raises StateUnavailable where nothing can be known."""
    state = State(Local(settings.state_path), metrics, parts)
    redis = store_of(settings)
    if redis is not None:
        await state.beside(redis)
    await state.begin()
    return state


def share_findings(state: State, panel: Panel, settings: Settings, metrics: Metrics) -> None:
    """Have the panel remember what is found on other machines. Raises AuditUnavailable where the secret cannot be
    read."""
    if state.line is not None:
        from .verdicts import Verdicts

        secret = Key.load(settings.keys_secret_path).shared
        panel.cache = Cache(beyond=Verdicts(state.line, secret, metrics))


def store_of(settings: Settings, *, patient: bool = False) -> RedisStore | None:
    """The store of all machines, where one is set; with `patient` it may take its time. Raises StateUnavailable where
    its client is not installed."""
    if settings.state is None:
        return None
    try:
        from .line import Line
        from .redis_store import RedisStore
    except ImportError:
        mend = "pip install 'penstock[redis]', or leave `state` out"
        raise StateUnavailable(Fault.AWAY, "`state` needs the client of Redis", mend) from None
    try:
        return RedisStore(Line(settings.state.get_secret_value(), PATIENCE if patient else settings.state_timeout))
    except (ValueError, TypeError):  # whose message may hold what stands there, a password too
        mend = "write redis://USER:PASSWORD@HOST:6379/0, with %-escapes for signs in the password"
        raise StateUnavailable(Fault.AWAY, "`state` is no address of Redis", mend) from None
