"""The admin listener's application: health and metrics, on a port of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from .answers import Answer
from .listener import Caller, Incoming
from .metrics import Metrics


class Admin:
    """GET /livez, /readyz and /metrics. `readiness` names what is not ready, and why; `upstreams` what became of the
    last request to each upstream (readiness does not depend on that); `refresh` updates the gauges."""

    def __init__(
        self,
        readiness: Callable[[], Awaitable[dict[str, str]]],
        upstreams: Callable[[], dict[str, str]],
        metrics: Metrics,
        refresh: Callable[[], None],
    ) -> None:
        self._readiness, self._upstreams, self._metrics, self._refresh = readiness, upstreams, metrics, refresh
        self._pages = {b"/livez": self._live, b"/readyz": self._ready, b"/metrics": self._scrape}

    def opened(self, incoming: Incoming) -> Answer | None:
        if incoming.path not in self._pages:
            return self.refused(incoming, 404, "unknown_url", "There are /livez, /readyz and /metrics here.")
        if incoming.method not in {b"GET", b"HEAD"}:
            answer = self.refused(incoming, 405, "method_not_allowed", "This path takes GET only.")
            answer.headers.append((b"allow", b"GET, HEAD"))
            return answer
        return None

    def refused(self, incoming: Incoming | None, status: int, code: str, message: str) -> Answer:
        answer = _json(status, {"error": {"code": code, "message": message}})
        answer.headers.append((b"connection", b"close"))
        return answer

    async def serve(self, incoming: Incoming, body: bytes, caller: Caller) -> None:
        try:
            caller.answer(await self._pages[incoming.path](incoming))
        except asyncio.CancelledError:
            pass  # the client hung up, or this process ends
        finally:
            caller.over()

    async def _live(self, _: Incoming) -> Answer:
        return _json(200, {"status": "alive"})

    async def _ready(self, _: Incoming) -> Answer:
        missing = await self._readiness()
        status = "not ready" if missing else "ready"
        return _json(503 if missing else 200, {"status": status, "checks": missing, "upstreams": self._upstreams()})

    async def _scrape(self, incoming: Incoming) -> Answer:
        self._refresh()
        accept = b",".join(value for name, value in incoming.headers if name == b"accept")
        kind, page = self._metrics.page(accept)
        return Answer(200, [(b"content-type", kind.encode())], page)


def _json(status: int, tree: object) -> Answer:
    return Answer(status, [(b"content-type", b"application/json")], orjson.dumps(tree))
