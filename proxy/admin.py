"""The admin listener's application: health, metrics and the policy, on a port of their own."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import SecretStr

from .answers import Answer
from .listener import Caller, Incoming

Reload = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]
"""Loads the policy again: whether that went well, and what is in force."""

ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", "/livez", "Whether this process lives."),
    ("GET", "/readyz", "Whether it can judge and record."),
    ("GET", "/metrics", "What was counted and measured."),
    ("POST", "/policy/reload", "Load the policy again."),
    ("GET", "/openapi.json", "What Penstock serves, as an OpenAPI document."),
)
"""Method, path, and what is there. GET is HEAD as well."""


class Admin:
    """What ROUTES names. `readiness` names what is not ready, and why; `states` says more of what is outside: under
    `upstreams` what became of the last request to each (readiness does not depend on that), under `parts` every part's
    state; `page` is the type and text of the metrics, for a scraper that takes the types given."""

    def __init__(
        self,
        readiness: Callable[[], Awaitable[dict[str, str]]],
        states: Callable[[], dict[str, dict[str, str]]],
        page: Callable[[bytes], Awaitable[tuple[str, bytes]]],
    ) -> None:
        self._readiness, self._states, self._page = readiness, states, page
        self._pages = {
            b"/livez": self._live,
            b"/readyz": self._ready,
            b"/metrics": self._scrape,
            b"/policy/reload": self._reload,
            b"/openapi.json": self._described,
        }
        self._reloading: Reload | None = None
        self._token: SecretStr | None = None
        self._local = False

    def let(self, reload: Reload, token: SecretStr | None, local: bool) -> None:
        """Let callers load the policy again who bring `token`; without one, all where the listener is `local`."""
        self._reloading, self._token, self._local = reload, token, local

    def opened(self, incoming: Incoming) -> Answer | None:
        if incoming.path not in self._pages:
            text = f"There are here: {', '.join(path for _, path, _ in ROUTES)}."
            return self.refused(incoming, 404, "unknown_url", text)
        if incoming.path == b"/policy/reload":
            return self._unfit(incoming)
        if incoming.method not in {b"GET", b"HEAD"}:
            answer = self.refused(incoming, 405, "method_not_allowed", "This path takes GET only.")
            answer.headers.append((b"allow", b"GET, HEAD"))
            return answer
        return None

    def _unfit(self, incoming: Incoming) -> Answer | None:
        """Why this caller may not change anything here."""
        if incoming.method != b"POST":
            answer = self.refused(incoming, 405, "method_not_allowed", "This path takes POST only.")
            answer.headers.append((b"allow", b"POST"))
            return answer
        headers = dict(incoming.headers)
        if self._token is None:
            # A page in a browser on this machine can reach a local port, but not without saying where it comes from.
            if self._local and b"origin" not in headers:
                return None
            text = "Set admin_token, or let the admin listener be on a loopback address."
            return self.refused(incoming, 403, "forbidden", text)
        given = headers.get(b"authorization", b"")
        if hmac.compare_digest(given, b"Bearer " + self._token.get_secret_value().encode()):
            return None
        return self.refused(incoming, 401, "unauthorized", "Send the admin token: Authorization: Bearer ...")

    def refused(self, incoming: Incoming | None, status: int, code: str, message: str) -> Answer:
        return _json(status, {"error": {"code": code, "message": message}})

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
        return _json(503 if missing else 200, {"status": status, "checks": missing, **self._states()})

    async def _reload(self, _: Incoming) -> Answer:
        assert self._reloading is not None  # set before the listener starts
        well, state = await self._reloading()
        return _json(200 if well else 409, {"status": "loaded" if well else "refused", **state})

    async def _described(self, _: Incoming) -> Answer:
        from .openapi import document

        return _json(200, document())

    async def _scrape(self, incoming: Incoming) -> Answer:
        accept = b",".join(value for name, value in incoming.headers if name == b"accept")
        kind, page = await self._page(accept)
        return Answer(200, [(b"content-type", kind.encode())], page)


def _json(status: int, tree: object) -> Answer:
    return Answer(status, [(b"content-type", b"application/json")], orjson.dumps(tree))
