"""The data plane: one raw ASGI application with a closed surface, and the admin listener's FastAPI application.

The table below is all there is. A method, an exact path and a content type lead to an exchange or to a plain relay;
everything else is refused in OpenAI's error shape, and never redirected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .answers import Answer, Caller, forwarded, problem, relayed
from .audit import Audit, Key
from .config import Settings
from .dialects.base import Dialect
from .dialects.chat import Chat
from .exchange import Exchange
from .guard import Guard
from .metrics import Metrics
from .record import Notes
from .upstream import Headers, Upstream, UpstreamError

log = structlog.get_logger("penstock.app")

DIALECTS: tuple[tuple[bytes, Dialect], ...] = ((b"/v1/chat/completions", Chat()),)
"""Every path whose requests and answers are judged."""

RELAYED: tuple[bytes, ...] = (b"/v1/models",)
"""GET on these and on one name below them passes unjudged: lists of models hold nothing that a caller wrote."""

_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:@")
WATCH_AFTER = 0.05
"""Seconds after which an exchange begins to watch whether its client hangs up."""

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class DataPlane:
    """The ASGI application that callers talk to. `guard` may be replaced at any time: an exchange keeps its own."""

    def __init__(
        self, settings: Settings, guard: Guard, upstream: Upstream, audit: Audit, key: Key, metrics: Metrics
    ) -> None:
        self.guard, self.draining = guard, False
        self.in_flight: set[asyncio.Task[Any]] = set()
        self._settings, self._upstream, self._audit, self._key = settings, upstream, audit, key
        self._metrics = metrics
        self._judged = dict(DIALECTS)
        self._shape = DIALECTS[0][1]  # how errors are said where no dialect is known yet
        secret = settings.upstream_key
        self._credentials: Headers | None = (
            [(b"authorization", b"Bearer " + secret.get_secret_value().encode())] if secret else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # Before the handshake is accepted this makes the server answer 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        caller = Caller(send)
        task = asyncio.current_task()
        assert task is not None
        if len(self.in_flight) >= self._settings.max_in_flight or self.draining:
            answer = self._problem(503, "overloaded", "Penstock has no room for another request at the moment.")
            answer.headers.append((b"retry-after", b"1"))
            await caller.answer(answer)
            return
        self.in_flight.add(task)
        try:
            await self._serve(scope, receive, caller, task)
        except Exception:
            # A fault of ours: the client learns no more than that, the operator's log has the rest.
            log.exception("internal fault")
            if not caller.started:
                await caller.answer(self._problem(500, "internal_error", "Penstock failed to handle this request."))
            else:
                raise
        finally:
            self.in_flight.discard(task)

    async def _serve(self, scope: Scope, receive: Receive, caller: Caller, task: asyncio.Task[Any]) -> None:
        method: str = scope["method"]
        path: bytes = scope["raw_path"]
        headers: Headers = scope["headers"]
        dialect = self._judged.get(path)
        refusal = self._closed(method, path, headers, dialect)
        if refusal is not None:
            await self._refuse(caller, scope, *refusal)
            return
        if dialect is None:
            await self._relay(scope, caller, forwarded(headers, self._credentials))
            return
        body = await self._body(receive, caller, scope)
        if body is None:
            return
        watch = _Watch(receive, caller, task)
        notes = self._notes(scope, dialect.name)
        if self._settings.decision_headers:
            caller.stamp.append((b"x-penstock-decision", notes.id.encode()))
        exchange = Exchange(
            dialect,
            self.guard,
            self._upstream,
            self._audit,
            self._metrics,
            caller,
            notes,
            self._settings.max_answer_bytes,
        )
        try:
            await exchange.run(_target(scope), forwarded(headers, self._credentials), body)
        except asyncio.CancelledError:
            if not caller.gone:
                raise
            task.uncancel()
        finally:
            watch.stop()

    def _closed(
        self, method: str, path: bytes, headers: Headers, dialect: Dialect | None
    ) -> tuple[int, str, str, Headers] | None:
        """Why this request is not on the surface (status, code, message, headers), or None where it is."""
        if dialect is None and not _relays(path):
            return (
                404,
                "unknown_url",
                "Penstock does not serve this path: it is not on the list of judged endpoints.",
                [],
            )
        allowed = "POST" if dialect is not None else "GET"
        if method != allowed:
            text = f"This path takes {allowed} only."
            return 405, "method_not_allowed", text, [(b"allow", allowed.encode())]
        seen: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _SINGLE and name in seen:
                text = f"The header {name.decode()} is there twice."
                return 400, "duplicate_header", text, []
            seen[name] = value
        if dialect is not None:
            if not _is_json(seen.get(b"content-type", b"")):
                return 415, "unsupported_media_type", "Send the body as application/json in UTF-8.", []
            if seen.get(b"content-encoding", b"identity").strip().lower() not in {b"identity", b""}:
                return (
                    415,
                    "unsupported_encoding",
                    "Send the body uncompressed: a compressed body cannot be judged.",
                    [],
                )
        return None

    async def _refuse(
        self, caller: Caller, scope: Scope, status: int, code: str, message: str, extra: Headers | None = None
    ) -> None:
        notes = self._notes(scope, "none")
        notes.ended("refused", code)
        self._metrics.refused.inc(code)
        self._audit.append(notes.outcome())
        answer = problem(self._shape, status, code, message, notes.id, extra or ())
        # What is left of the request's body is not read: the connection cannot be used again.
        answer.headers.append((b"connection", b"close"))
        await caller.answer(answer)

    async def _body(self, receive: Receive, caller: Caller, scope: Scope) -> bytes | None:
        """The request's body, or None where it did not come whole (then the caller was answered)."""
        limit = self._settings.max_request_bytes
        pieces: list[bytes] = []
        size = 0
        late = _Late(self._settings.receive_timeout)
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit:
                    text = f"The body is larger than {limit} bytes."
                    await self._refuse(caller, scope, 413, "request_too_large", text)
                    return None
                pieces.append(piece)
                if not message.get("more_body"):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except asyncio.CancelledError:
            if not late.rang:
                raise
            late.task.uncancel()
            await self._refuse(caller, scope, 408, "request_timeout", "The body did not arrive in time.")
            return None
        finally:
            late.timer.cancel()

    async def _relay(self, scope: Scope, caller: Caller, headers: Headers) -> None:
        """Pass a GET and its answer, unjudged."""
        notes = self._notes(scope, "models")
        try:
            response = await self._upstream.send(b"GET", _target(scope), headers, b"")
            body = await response.read(self._settings.max_answer_bytes)
            notes.ended("relayed")
            answer = Answer(response.status, relayed(response, keep_length=True), body)
        except UpstreamError as error:
            self._metrics.faults.inc(error.fault)
            notes.ended("upstream_fault", error.fault)
            answer = problem(self._shape, 502, f"upstream_{error.fault}", f"{error}.", notes.id)
        self._audit.append(notes.outcome())
        await caller.answer(answer)

    def _notes(self, scope: Scope, dialect: str) -> Notes:
        path = scope["raw_path"].decode("ascii", "replace")[:200]
        revision = self.guard.policies.revision
        return Notes(self._metrics, dialect, scope["method"][:16], path, self._account(scope["headers"]), revision)

    def _account(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Who asks: a keyed hash of the credential, which is all that is ever kept of it."""
        for name, value in headers:
            if name in {b"authorization", b"x-api-key", b"api-key"}:
                return self._key.keyed_hash(value)
        return "anonymous"

    def _problem(self, status: int, code: str, message: str) -> Answer:
        self._metrics.refused.inc(code)
        return problem(self._shape, status, code, message, "")


def admin(readiness: Callable[[], Awaitable[dict[str, str]]], metrics: Metrics, refresh: Callable[[], None]) -> FastAPI:
    """Health and metrics. `readiness` names what is not ready, and why; `refresh` updates the gauges."""
    app = FastAPI(title="Penstock admin", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        missing = await readiness()
        return JSONResponse(
            {"status": "not ready" if missing else "ready", "checks": missing}, status_code=503 if missing else 200
        )

    @app.get("/metrics")
    async def scrape() -> Response:
        refresh()
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


_SINGLE = frozenset({b"authorization", b"content-type", b"content-length", b"host", b"x-api-key", b"api-key"})


class _Late:
    """Cancels the current task after some seconds; asyncio.timeout does the same at five times the price."""

    __slots__ = ("rang", "task", "timer")

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task, self.rang = task, False
        self.timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self.rang = True
        self.task.cancel()


class _Watch:
    """Cancels an exchange when its client hangs up. It begins late: most exchanges with a fast upstream end before,
    and a task for each would cost more than it saves."""

    def __init__(self, receive: Receive, caller: Caller, task: asyncio.Task[Any]) -> None:
        self._receive, self._caller, self._task = receive, caller, task
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin)

    def stop(self) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # To the server an answer that is complete is a disconnect, too: what is left to do then is ours.
        if not self._task.done() and not self._caller.done:
            self._caller.gone = True
            self._task.cancel()


def _relays(path: bytes) -> bool:
    for base in RELAYED:
        if path == base:
            return True
        name = path.removeprefix(base + b"/")
        if name != path and name and _NAME.issuperset(name) and name not in {b".", b".."}:
            return True
    return False


def _is_json(value: bytes) -> bool:
    kind, _, rest = value.partition(b";")
    if kind.strip().lower() != b"application/json":
        return False
    charset = rest.strip().lower().replace(b'"', b"")
    return charset in {b"", b"charset=utf-8", b"charset=utf8"}


def _target(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path
