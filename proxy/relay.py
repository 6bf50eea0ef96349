"""What passes unjudged: routes that an operator opened, and the names of models.

INVARIANT: what passes on an open route is counted as unscanned and its record is durable before the answer leaves: the
outcome of one that is gathered, the intent of one that passes on as it comes.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from typing import Any, Protocol
from urllib.parse import quote, unquote

import orjson

from policies.model import Stage

from .accounts.heard import Heard
from .accounts.holder import Holder, Unwritten, noted
from .accounts.identity import Identity
from .accounts.mentioned import check, models
from .answers import UPSTREAM_STATUS, Answer, called, ids, problem, relayed
from .audit import Audit
from .dialects.base import BadRequest, NotFound, Speaker
from .flight import fate
from .listener import Caller
from .logs import get_logger
from .metrics import Metrics
from .models import listed, renamed
from .paging import own_page, page_of
from .problems import UNRECORDED
from .record import Notes
from .routing import Backend, Patterns, Routing, no_model
from .strict import Malformed
from .surface import plain
from .telling import recorded
from .upstream import Headers, Response, UpstreamError

log = get_logger("penstock.relay")

MODELS = b"/v1/models"
RELAYED: tuple[bytes, ...] = (MODELS,)
"""GET on these and on one name below them passes unjudged: lists of models hold nothing that a caller wrote."""
_DOWNLOAD = re.compile(rb"/(?:content|results)$")
"""Paths of what somebody wrote into a file."""
SMALL = 64 * 1024
"""Bytes of an answer on an open route up to which it is gathered before it leaves."""


def relays(path: bytes) -> bool:
    """Whether GET on `path` is answered by the upstreams. A slash in a model's name is escaped."""
    for base in RELAYED:
        if path == base:
            return True
        name = path.removeprefix(base + b"/")
        if name != path and b"/" not in name and plain(path) is not None:
            return True
    return False


class Head(Protocol):
    """What follows from a request's head (`known`): who asks, and what an upstream gets of it."""

    speaker: Speaker
    identity: Identity
    family: str
    holder: Holder | None
    asked: tuple[bytes, bytes, Headers]

    def head(self, backend: Backend, method: bytes = ..., target: bytes = ...) -> bytes: ...


class Relay:
    """Passes requests on. Its methods answer, whatever happens; they raise only when they are cancelled."""

    def __init__(self, routing: Routing, audit: Audit, metrics: Metrics, max_answer: int) -> None:
        self._routing, self._audit, self._metrics, self._most = routing, audit, metrics, max_answer

    async def unjudged(self, known: Head, method: bytes, body: bytes, caller: Caller, notes: Notes) -> None:
        """Pass a request to a route that the operator opened, and its answer: what passes is counted and recorded."""
        if not self._audit.healthy:
            notes.ended("refused", "audit_unavailable")
            notes.outcome()  # counts it: the audit takes nothing
            caller.answer(self._problem(known.speaker, 503, "audit_unavailable", UNRECORDED))
            return
        for stage in Stage:
            self._metrics.unscanned.inc("open", stage, "route")
        backend = self._routing.default
        assert backend is not None  # the settings say so where a route is open
        bodiless = not body and method in {b"GET", b"DELETE"}
        try:
            path, _, query = known.asked[1].partition(b"?")
            self._allow(known, path, query, body)
            kind = next((value for name, value in known.asked[2] if name.lower() == b"content-type"), b"")
            listing = known.holder is not None and check(known.holder, query, body, kind) and method == b"GET"
            response = await self._sent(backend, known.head(backend), None if bodiless else body, notes)
            # A file that somebody stored is bytes, and says nothing about whose anything is.
            holder = None if not listing and _DOWNLOAD.search(path) and method == b"GET" else known.holder
            if not _gathered(response, owned=holder is not None, listing=listing):
                heard = Heard(holder) if holder is not None and _tells(response) else None
                await self._stream(known, response, caller, notes, heard)
                return
            whole = await response.read(self._most)
            own = whole if holder is None else await self._owned(known, holder, backend, response, whole, listing)
            answer = Answer(response.status, relayed(response, keep_length=own is whole), own, response.reason)
            notes.ended("relayed", "unjudged")
        except BadRequest as error:
            answer = self._not_found(known, error, notes)
        except Unwritten as error:
            notes.ended("refused", error.code)
            self._metrics.refused.inc(error.code)
            answer = problem(known.speaker, 503, error.code, str(error), notes.id)
        except UpstreamError as error:
            answer = self._failed(known, error, notes)
        except Malformed as error:
            self._metrics.faults.inc(notes.upstream, "unreadable")
            notes.ended("upstream_fault", "unreadable")
            text = f"The upstream's answer cannot be read: {error}."
            answer = problem(known.speaker, 502, "upstream_unreadable", text, notes.id)
        except asyncio.CancelledError:
            self._cancelled(caller, notes)
            raise
        try:
            await recorded(self._audit, notes, caller)
        except Exception as error:
            log.error("decision not recorded", decision=notes.id, problem=str(error))
            answer = self._problem(known.speaker, 503, "audit_unavailable", UNRECORDED)
        caller.answer(answer)

    def _allow(self, known: Head, path: bytes, query: bytes, body: bytes) -> None:
        """Raises BadRequest where an unjudged request names a model that is not for its key, or not the default's."""
        may = known.identity.models
        if may is None and not self._routing.parted:
            return
        named = models(plain(path) or path, query, body)
        if may is not None and any(name not in may for name in named):
            raise no_model()
        for name in named:
            self._routing.settle(known.family, name)

    async def _owned(
        self, known: Head, holder: Holder, backend: Backend, response: Response, whole: bytes, listing: bool
    ) -> bytes:
        """`whole`, once it is noted whose are the ids in it; of a list only what is this account's. Raises Unwritten,
        Malformed where that cannot be told, and UpstreamError."""
        if not listing and _tells(response):
            Heard(holder).feed(whole)
        if response.status >= 400 or response.status in {204, 304} or not (listing or _is_json(response)):
            return whole
        own = functools.partial(holder.answered, kept=True, all_of_them=listing, must=True)
        if not listing:
            await noted(own, _leniently(whole))
            return whole

        async def page(target: bytes) -> bytes:
            return await page_of(backend, known.head(backend, b"GET", target), self._most)

        kept, tree = await own_page(own, whole, known.asked[1], known.family, page)
        return orjson.dumps(tree) if kept is None else kept

    async def _stream(self, known: Head, response: Response, caller: Caller, notes: Notes, heard: Heard | None) -> None:
        """Pass an answer on as it comes, once its intent is durable. Where it breaks off, so does what the caller gets,
        as it would without us."""
        try:
            await self._audit.durable(notes.intent())
        except Exception as error:
            log.error("decision not recorded", decision=notes.id, problem=str(error))
            response.abort()
            notes.ended("refused", "audit_unavailable")
            self._audit.append(notes.outcome())
            caller.answer(self._problem(known.speaker, 503, "audit_unavailable", UNRECORDED))
            return
        caller.start(response.status, relayed(response), response.reason)
        caller.flush()
        try:
            while (piece := await response.next()) is not None:
                if heard is not None:
                    heard.feed(piece)
                caller.send(piece)
                if caller.drained is not None:
                    await caller.drained
            notes.ended("relayed", "unjudged")
            caller.finish()
        except UpstreamError as error:
            self._failed(known, error, notes)
        except asyncio.CancelledError:
            response.abort()
            raise
        self._audit.append(notes.outcome())

    async def models(self, known: Head, path: bytes, may: Patterns | None, caller: Caller, notes: Notes) -> None:
        """Answer a GET of the models, or of one. `may` are those that the caller may use; None is all."""
        try:
            if path == MODELS:
                answer = await self._list(known, may, notes)
            else:
                name = unquote(path.removeprefix(MODELS + b"/").decode("ascii"))
                answer = await self._one(known, name, may, notes)
            notes.ended("relayed")
        except NotFound as error:
            answer = self._not_found(known, error, notes)
        except UpstreamError as error:
            answer = self._failed(known, error, notes)
        except asyncio.CancelledError:
            self._cancelled(caller, notes)
            raise
        self._audit.append(notes.outcome())
        caller.answer(answer)

    async def _list(self, known: Head, may: Patterns | None, notes: Notes) -> Answer:
        single = self._routing.single
        if single is not None and may is None:
            response, body = await self._ask(single.backend, known.head(single.backend), None, notes)
            return Answer(response.status, relayed(response, keep_length=True), body, response.reason)

        async def fetch(backend: Backend, target: bytes) -> tuple[int, bytes]:
            try:
                response, body = await self._ask(backend, known.head(backend, b"GET", target), None, notes)
            except UpstreamError as error:
                self._metrics.faults.inc(backend.name, error.fault)
                raise
            return response.status, body

        page = await listed(self._routing, known.family, may, fetch)
        if page is None:
            text = "No upstream gave a list of its models."
            return problem(known.speaker, 502, "upstream_error", text, notes.id)
        return Answer(200, [(b"content-type", b"application/json"), *ids(notes.id)], page)

    async def _one(self, known: Head, name: str, may: Patterns | None, notes: Notes) -> Answer:
        if may is not None and name not in may:
            raise no_model()
        way = self._routing.way(known.family, name)
        target = () if way.model is None else (b"GET", MODELS + b"/" + quote(way.model, safe=":@").encode())
        response, body = await self._ask(way.backend, known.head(way.backend, *target), None, notes)
        if way.model is None or response.status != 200:
            return Answer(response.status, relayed(response, keep_length=True), body, response.reason)
        return Answer(200, relayed(response), renamed(body, name), response.reason)

    async def _ask(self, backend: Backend, head: bytes, body: bytes | None, notes: Notes) -> tuple[Response, bytes]:
        """An answer with its whole body. Raises UpstreamError."""
        response = await self._sent(backend, head, body, notes)
        return response, await response.read(self._most)

    async def _sent(self, backend: Backend, head: bytes, body: bytes | None, notes: Notes) -> Response:
        head = notes.sent(backend.name, head)
        response = await backend.send(head, body)
        notes.answered(response.status, called(response))
        return response

    def _failed(self, known: Head, error: UpstreamError, notes: Notes) -> Answer:
        self._metrics.faults.inc(notes.upstream, error.fault)
        notes.ended("upstream_fault", error.fault)
        status = UPSTREAM_STATUS.get(error.fault, 502)
        return problem(known.speaker, status, f"upstream_{error.fault}", f"{error}.", notes.id)

    def _not_found(self, known: Head, error: BadRequest, notes: Notes) -> Answer:
        notes.ended("refused", error.code)
        self._metrics.refused.inc(error.code)
        return problem(known.speaker, error.status, error.code, str(error), notes.id, param=error.param)

    def _cancelled(self, caller: Caller, notes: Notes) -> None:
        notes.ended(fate(caller))
        self._audit.append(notes.outcome())

    def _problem(self, speaker: Speaker, status: int, code: str, message: str) -> Answer:
        self._metrics.refused.inc(code)
        return problem(speaker, status, code, message, "")


def _leniently(whole: bytes) -> Any:
    """An answer that is passed on as it is: the ids in one with what Python's servers write (`NaN`), or that was cut
    within a letter, are its caller's as well. Raises Malformed where it is no JSON at all."""
    try:
        return json.loads(whole)
    except (ValueError, RecursionError):
        raise Malformed("it is no JSON, though it says so") from None


def _kind(response: Response) -> bytes:
    """The media type that an answer says it is of."""
    return (response.header(b"content-type") or b"").partition(b";")[0].strip().lower()


def _is_json(response: Response) -> bool:
    """Whether an answer says that it is one JSON text."""
    return _kind(response).endswith((b"/json", b"+json"))


def _tells(response: Response) -> bool:
    """Whether an answer is a stream of events about what came to be."""
    return response.status < 400 and _kind(response) == b"text/event-stream"


def _gathered(response: Response, *, owned: bool, listing: bool) -> bool:
    """Whether an answer on an open route is worth no stream. `owned`: the ids in its JSON are looked at; `listing`: it
    must be a list."""
    if response.status in {204, 304} or listing or (owned and _is_json(response)):
        return True
    size = response.header(b"content-length")
    return size is not None and size.isdigit() and int(size) <= SMALL
