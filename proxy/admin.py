"""The admin listener's application: health, metrics and the policy, on a port of their own."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from .answers import Answer
from .listener import Caller, Incoming

Reload = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]
"""Loads the policy again: whether that went well, and what is in force."""

ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", "/livez", "Whether this process lives."),
    ("GET", "/readyz", "Whether it can judge and record."),
    ("GET", "/metrics", "What was counted and measured."),
    ("POST", "/policy/reload", "Load the policy again."),
    ("GET", "/reviews", "What waits for a person."),
    ("POST", "/reviews/approve", "Let one that waits pass."),
    ("POST", "/reviews/deny", "Let one that waits not pass."),
    ("GET", "/openapi.json", "What Penstock serves, as an OpenAPI document."),
)
"""Method, path, and what is there. GET is HEAD as well."""

_NEAR = re.compile(rb"(localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]*)?", re.IGNORECASE)
"""An address of this machine, as a Host header names it: no name that anybody could have."""
_WORDS = {b"/reviews/approve": True, b"/reviews/deny": False}
_CHANGING = frozenset({b"/policy/reload", *_WORDS})


class Word(BaseModel):
    """What a reviewer sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1, max_length=64)]
    by: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$", description="Who says so, for the audit.")]


class Desk(Protocol):
    """Where exchanges wait for a person (`reviews`)."""

    async def listed(self) -> list[dict[str, Any]]:
        """What waits, the longest first."""
        ...

    async def told(self, id: str, *, passed: bool, by: str) -> bool:
        """A person's word. False where nothing of this id waits any more."""
        ...


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
            b"/reviews": self._waiting,
        }
        self._reviews: Desk | None = None
        self._reloading: Reload | None = None
        self._token: SecretStr | None = None
        self._local = False

    def let(self, reload: Reload, reviews: Desk, token: SecretStr | None, local: bool) -> None:
        """Let callers load the policy again, and answer `reviews`, who bring `token`; without one, all where the
        listener is `local`."""
        self._reloading, self._reviews, self._token, self._local = reload, reviews, token, local

    def opened(self, incoming: Incoming) -> Answer | None:
        if incoming.path in _CHANGING:
            return self._unfit(incoming)
        if incoming.path not in self._pages:
            text = f"There are here: {', '.join(path for _, path, _ in ROUTES)}."
            return self.refused(incoming, 404, "unknown_url", text)
        if incoming.method not in {b"GET", b"HEAD"}:
            answer = self.refused(incoming, 405, "method_not_allowed", "This path takes GET only.")
            answer.headers.append((b"allow", b"GET, HEAD"))
            return answer
        return self._barred(incoming) if incoming.path == b"/reviews" else None

    def _unfit(self, incoming: Incoming) -> Answer | None:
        """Why this caller may not change anything here."""
        if incoming.method != b"POST":
            answer = self.refused(incoming, 405, "method_not_allowed", "This path takes POST only.")
            answer.headers.append((b"allow", b"POST"))
            return answer
        return self._barred(incoming)

    def _barred(self, incoming: Incoming) -> Answer | None:
        """Why this caller is no operator."""
        headers = dict(incoming.headers)
        if self._token is None:
            # A page in a browser on this machine can reach a local port, but not without saying where it comes from, or
            # by which name it found us, which it can have lead here.
            if self._local and b"origin" not in headers and _NEAR.fullmatch(headers.get(b"host", b"localhost")):
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
            if incoming.path in _WORDS:
                caller.answer(await self._answered(body, passed=_WORDS[incoming.path]))
            else:
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

    async def _waiting(self, _: Incoming) -> Answer:
        assert self._reviews is not None  # set before the listener starts
        return _json(200, {"reviews": await self._reviews.listed()})

    async def _answered(self, body: bytes, *, passed: bool) -> Answer:
        """A person's word."""
        assert self._reviews is not None
        try:
            told = Word.model_validate_json(body)
        except ValidationError:
            return self.refused(None, 400, "invalid_request", 'Send {"id": "the exchange", "by": "your name"}.')
        if not await self._reviews.told(told.id, passed=passed, by=told.by):
            return self.refused(None, 404, "not_waiting", "No exchange of this id waits here, or not any more.")
        return _json(200, {"id": told.id, "status": "approved" if passed else "denied", "by": told.by})

    async def _described(self, _: Incoming) -> Answer:
        from .openapi import document

        return _json(200, document())

    async def _scrape(self, incoming: Incoming) -> Answer:
        accept = b",".join(value for name, value in incoming.headers if name == b"accept")
        kind, page = await self._page(accept)
        return Answer(200, [(b"content-type", kind.encode())], page)


def _json(status: int, tree: object) -> Answer:
    return Answer(status, [(b"content-type", b"application/json")], orjson.dumps(tree))
