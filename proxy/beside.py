"""What a server does beside its traffic where its settings ask for it: traces, kept content, memory of accounts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable

from classifiers.panel import Panel

from .app import DataPlane
from .audit import AuditUnavailable
from .config import Settings
from .logs import get_logger
from .metrics import Metrics
from .parts import Parts

log = get_logger("penstock.server")


class CannotServe(Exception):
    """Penstock cannot start. The message is for the operator: what is wrong and the mend, a line each."""


async def observe(settings: Settings, plane: DataPlane, parts: Parts, stack: contextlib.AsyncExitStack) -> None:
    """Have exchanges traced, and content kept, where it is wanted. Raises CannotServe."""
    _trace(settings, plane, parts, stack)
    if settings.keep_content != "off":
        await _keep(settings, plane, parts, stack)


def _trace(settings: Settings, plane: DataPlane, parts: Parts, stack: contextlib.AsyncExitStack) -> None:
    """Have exchanges traced, where it is wanted."""
    if not settings.traces:
        return
    try:
        from .traces import exporting
    except ImportError:
        raise CannotServe("traces need OpenTelemetry: pip install 'penstock[otel]', or leave traces out") from None

    def tell(well: bool) -> None:
        if well:
            parts.well("traces")
        else:
            mend = "does a collector of OTLP over HTTP answer at OTEL_EXPORTER_OTLP_ENDPOINT?"
            parts.ill("traces", "away", "no batch arrives", mend=mend, meanwhile="traces are lost; exchanges go on")

    told = functools.partial(_later, asyncio.get_running_loop(), tell)
    plane.traces = exporting(settings.trace_content, settings.trace_genai, told)
    stack.push_async_callback(asyncio.to_thread, plane.traces.close)


def _later(loop: asyncio.AbstractEventLoop, tell: Callable[[bool], None], well: bool) -> None:
    """Have `loop` tell it, from another thread; nobody where it is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(tell, well)


async def _keep(settings: Settings, plane: DataPlane, parts: Parts, stack: contextlib.AsyncExitStack) -> None:
    """Have content kept. Raises CannotServe."""
    try:
        from .content.places import keeping
    except ImportError:
        mend = "pip install 'penstock[content]', or leave keep_content out"
        raise CannotServe(f"kept content needs the package cryptography: {mend}") from None
    from .content.seal import ContentUnavailable

    def state(error: ContentUnavailable | None) -> None:
        parts.tell("content", error, "what is to be kept waits, and is lost where it finds no room; exchanges go on")

    loop = asyncio.get_running_loop()
    try:
        kept = await asyncio.to_thread(keeping, settings, lambda error: loop.call_soon_threadsafe(state, error))
    except ContentUnavailable as error:
        raise CannotServe(str(error)) from None
    plane.keeping = kept
    state(None)
    stack.push_async_callback(asyncio.to_thread, kept.close)


async def remember(
    settings: Settings,
    plane: DataPlane,
    panel: Panel,
    metrics: Metrics,
    parts: Parts,
    stack: contextlib.AsyncExitStack,
) -> None:
    """Keep strikes and flags of accounts, and findings with other machines, where accounts are known. Raises
    CannotServe."""
    if settings.credentials != "keys":
        if settings.state or any(guard.memory.left or guard.memory.read for guard in plane.guards.values()):
            log.warning("nothing is remembered of accounts: none is known", mend="set `credentials: keys`")
        return
    from .state.base import StateUnavailable
    from .state.opening import opened, share_findings

    try:
        plane.state = await opened(settings, metrics, parts)
        share_findings(plane.state, panel, settings, metrics)
    except (AuditUnavailable, StateUnavailable) as error:
        raise CannotServe(f"what is known of accounts cannot be used: {error}") from None
    stack.push_async_callback(plane.state.close)
