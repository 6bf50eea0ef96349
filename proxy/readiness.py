"""Is this process ready: can it judge and record? And how does what lies outside of it stand?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from classifiers.asked import Asked
from classifiers.base import Message, Role
from classifiers.panel import Panel

from .app import DataPlane
from .audit import Audit, AuditUnavailable
from .guard import Guard
from .parts import Parts
from .routing import Routing

CANARY = Message(Role.USER, "penstock readiness canary", "")


class Readiness:
    """What is not ready, and why: nothing when all is well."""

    def __init__(self, plane: DataPlane, panel: Panel, audit: Audit, parts: Parts) -> None:
        self._plane, self._panel, self._audit, self._parts = plane, panel, audit, parts

    async def __call__(self) -> dict[str, str]:
        missing: dict[str, str] = {}
        if self._plane.draining:
            missing["drain"] = "this process is about to end"
        for guard in list(self._plane.guards.values()):
            for failure in await _silent(guard, self._panel):
                missing[f"classifier {failure[0]}"] = failure[1]
        try:
            async with asyncio.timeout(2):
                await self._audit.probe()
        except TimeoutError:
            missing["audit"] = "the disk does not answer"
        except AuditUnavailable as error:
            missing["audit"] = str(error)
        return missing | self._parts.missing()


async def _silent(guard: Guard, panel: Panel) -> list[tuple[str, str]]:
    """The classifiers that do not answer a canary, and why."""
    asked = [Asked(item, frozenset(Role), 2.0) for item in guard.classifiers.values()]
    report = await panel.report([CANARY], asked)
    return [(failure.classifier, f"{failure.reason}: {failure.detail}") for failure in report.failures]


def states(routing: Routing, parts: Parts) -> Callable[[], dict[str, dict[str, str]]]:
    """What says how it stands with upstreams and other parts."""
    return lambda: {"upstreams": routing.states(), "parts": parts.states()}
