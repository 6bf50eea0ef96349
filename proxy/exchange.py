"""The way of one exchange: read, judge, ask the model, judge, relay or refuse, and write down what was done.

    body -> strict.parse -> dialect.read_request -> guard.check(input) -> upstream
         -> dialect.read_response, or sse -> reader -> gate -> guard.check(output) -> relay, mask or refuse

INVARIANT: the first byte of an answer leaves after a record of its decision is durable, and no byte leaves before a
decision covers it. After a block nothing of the upstream leaves.

What is written of it, and when, is in `telling`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from classifiers.base import Message, Role, said_before
from classifiers.cache import Cache
from policies.engine import Decision
from policies.in_json import Texts, placed
from policies.model import NUMBER, Action, OnBlock, Stage
from policies.tokens import Restoring, Tokens

from .answers import UPSTREAM_STATUS, Answer, called, ids, problem, relayed, unchecked
from .begun import Begun, Joint, begun
from .changes import changed, masked
from .detour import detour
from .dialects.base import BadRequest, Body, Dialect, Refusal, Request, TooMany
from .dialects.errors import read_error
from .dialects.names import one_spelling
from .flight import fate
from .guard import Guard
from .headers import kind_of
from .later import Later
from .listener import Caller
from .logs import get_logger
from .metrics import Metrics
from .problems import UNRECORDED, Blocked, Unrecorded, words
from .record import Notes
from .reviews import Reviews, reviewed
from .routing import Way
from .sse import Undecodable
from .stream import Streamed
from .strict import Malformed, parse
from .telling import Journal, Telling, recorded
from .upstream import Response, UpstreamError

log = get_logger("penstock.exchange")

SAID = 512
"""How much of what was found in one answer is remembered, counted as in `classifiers.cache`: some 50 kB at most."""

Elsewhere = Callable[[str], tuple[Way, bytes] | None]
"""Where a request goes that asks for this model; None where nobody serves it."""
Lead = Callable[[Request], tuple[Way, bytes]]
"""Where a request goes, and what the upstream gets of its head. Raises NotFound."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all exchanges of a process share. `later` is the clock of intents, INTENT_AFTER slow."""

    journal: Journal
    metrics: Metrics
    later: Later
    max_answer: int
    max_texts: int
    reviews: Reviews


class Exchange:
    """One request in flight. `run` answers it, whatever happens; it raises only when it is cancelled. `one_request`:
    its facts are those of all that is judged."""

    one_request = True

    def __init__(self, dialect: Dialect, guard: Guard, shared: Shared, caller: Caller, notes: Notes) -> None:
        self.dialect, self.guard, self.caller, self.notes = dialect, guard, caller, notes
        self.max_answer, self._max_texts = shared.max_answer, shared.max_texts
        self._journal, self._metrics = shared.journal, shared.metrics
        self._telling = Telling(shared.journal, shared.later, notes)
        self._asked: list[Message] = []
        self._before = ""  # what the answer answers, once a classifier wants to know
        self._said: Cache | None = None  # what slow classifiers found in the answer so far, once one was asked
        self._tokens: Tokens | None = None  # names of what was masked, once a mask has a number
        self.reviews = shared.reviews
        self.approved: set[tuple[str, str, str]] | None = None  # stage, policy and rule of what a person let pass
        self.elsewhere: Elsewhere | None = None
        self.begun: Begun | None = None  # what the answer goes on from

    async def run(self, lead: Lead, query: bytes, body: bytes | None) -> None:
        """Judge `body` (None: there is none), forward it where `lead` says, judge the answer."""
        notes = self.notes
        try:
            request = self.read(body)
            notes.asked(request)
            way, head = lead(request)
        except Malformed as error:
            await self._refuse_early(400, "invalid_json", f"The body was refused: {error}.")
            return
        except BadRequest as error:
            await self._refuse_early(error.status, error.code, str(error), error.param)
            return
        self._asks(request, query)
        if not self._journal.healthy:
            await self._refuse_early(503, "audit_unavailable", UNRECORDED)
            return
        try:
            self._alike(request)
            decision = await self.judge(request)
            if decision.fired and decision.way is not None:
                decision, way, head = await detour(self, request, decision, way, head)
        except Blocked as block:
            await self._refuse_input(block.decision, request)
            return
        except asyncio.CancelledError:
            self._cancelled()
            self._journal.append(notes.outcome())
            raise
        except BadRequest as error:
            await self._refuse_early(error.status, error.code, str(error), error.param)
            return
        if body is not None:
            body = self.forwarded(body, request, decision, way)
        self._telling.begins(stream=request.stream)
        forwarding = self._forward(request, way, head, body)
        del body
        try:
            await forwarding
        except asyncio.CancelledError:
            self._cancelled()
            raise
        finally:
            self._telling.over()

    def _asks(self, request: Request, query: bytes) -> None:
        """The request is known: what it asks is to be judged, by the policies that are for it."""
        self._asked = request.messages
        self.begun = begun(request, self.dialect.name) if self.one_request else None
        if self.guard.asks and self.one_request:
            self.guard = self.guard.facing(request, self.dialect.name)
        if self.notes.kept is not None and self.one_request:
            self.notes.kept.request = request
        if query:
            request.add(Role.SETTING, unquote_plus(query.decode("ascii", "replace")), "#query")

    def _alike(self, request: Request) -> None:
        """Raises BadRequest where a model that may answer instead is another policy's: the answer would be judged by
        the wrong one."""
        for model in request.others() if self.one_request else ():
            other = self.guard.asked_of(model)
            if other is not None and _ids(other) != _ids(self.guard):
                raise BadRequest("A model that may answer instead is judged by other policies: ask it by itself.")

    async def decide(
        self,
        stage: Stage,
        messages: list[Message],
        unscannable: Sequence[tuple[Message, str]] = (),
        joints: Sequence[Joint] = (),
        texts: Texts | None = None,
    ) -> Decision:
        """Ask the guard, and note the decision. `texts` are the messages where JSON, for who knows it better than they
        show."""
        decision = self.decide_now(stage, messages, unscannable, joints, texts)
        if decision is None:
            if self._said is None and stage is Stage.OUTPUT:
                self._before, self._said = self._before or said_before(self._asked), Cache(SAID)
            # Turns of a conversation come again with the next one. What the model says now comes again in this answer
            # alone, if at all: a stream of Responses says each text up to five times.
            scope, memory = (self.notes.account, None) if stage is Stage.INPUT else (None, self._said)
            decision = await self.guard.check(
                stage, self.dialect.name, messages, unscannable, self._before, scope, memory, joints
            )
            if decision.masks:
                decision = self._named(decision, texts or Texts(messages))
            self.notes.decided(decision, messages, unscannable)
        return decision

    def decide_now(
        self,
        stage: Stage,
        messages: list[Message],
        unscannable: Sequence[tuple[Message, str]] = (),
        joints: Sequence[Joint] = (),
        texts: Texts | None = None,
    ) -> Decision | None:
        """As `decide`, where nobody must be waited for; else None."""
        decision = self.guard.check_now(stage, self.dialect.name, messages, unscannable, joints)
        if decision is not None:
            if decision.masks:
                decision = self._named(decision, texts or Texts(messages))
            self.notes.decided(decision, messages, unscannable)
        return decision

    def _named(self, decision: Decision, texts: Texts) -> Decision:
        """The decision with its masks in their places and a name for each value that it masks. Rows of a file are a
        conversation each, and nothing is put back into them."""
        masks = placed(texts, decision.masks)
        if any(NUMBER in mask.replacement for mask in masks):
            if self._tokens is None or not self.one_request:
                self._tokens = Tokens(self._asked if self.one_request else ())
            masks = self._tokens.numbered(texts.messages, masks, texts)
        return replace(decision, masks=masks)

    def restoring(self) -> Restoring | None:
        """What puts back into the answer what was masked in the request, where that is wanted."""
        return Restoring(self._tokens) if self._tokens is not None and self._tokens.values else None

    def read(self, body: bytes | None) -> Request:
        """What is asked. Raises Malformed and BadRequest."""
        if not body:
            raise Malformed("the body is empty: send a JSON object")
        return self.dialect.read_request(one_spelling(parse(body)))

    async def judge(self, request: Request) -> Decision:
        """The decision on what is asked. Raises BadRequest where it cannot be read to its end."""
        self.bounded(request)
        places = [(Message(Role.USER, "", origin), kind) for origin, kind in request.unscannable]
        return await self.decide(Stage.INPUT, request.messages, places)

    def bounded(self, said: Body) -> None:
        """Raises TooMany."""
        if len(said.messages) > self._max_texts:
            raise TooMany(self._max_texts)

    def forwarded(self, body: bytes, request: Request, decision: Decision, way: Way) -> bytes:
        """`body` as it goes upstream."""
        if decision.fired or way.model is not None:
            return changed(body, request, decision, way.model, self.dialect.name)
        return body

    async def _forward(self, request: Request, way: Way, head: bytes, body: bytes | None) -> None:
        notes = self.notes
        head = notes.sent(way.backend.name, head)
        sending = way.backend.send(head, body)
        del body
        try:
            response = await sending
        except UpstreamError as error:
            await self._upstream_failed(error)
            return
        notes.answered(response.status, called(response))
        try:
            await self.answer(request, response)
        except UpstreamError as error:
            await self._upstream_failed(error)
        except Blocked as block:
            response.abort()
            await self.refuse_output(block.decision, request)
        except (Malformed, Undecodable) as error:
            response.abort()
            await self._unreadable(str(error))
        except Unrecorded as error:
            response.abort()
            await self._journal_failed(error)
        except asyncio.CancelledError:
            response.abort()
            raise

    def _cancelled(self) -> None:
        say = self.notes.ended if self.caller.started else self.notes.undone
        say(fate(self.caller))

    async def answer(self, request: Request, response: Response) -> None:
        """Judge and relay an answer whose head is here. Raises what `_forward` tells the caller of."""
        kind, doubt = kind_of(response.all(b"content-type"))
        coding = b", ".join(response.all(b"content-encoding")).strip().lower() or b"identity"
        if 300 <= response.status < 400:
            raise Malformed("it redirects, and redirects are not followed: mend the upstream's URL")
        if response.status >= 400:
            await self._failed(response, coded=coding != b"identity" or bool(doubt))
        elif coding != b"identity":
            raise Malformed("it is compressed although nobody asked for that")
        elif doubt:
            raise Malformed(doubt)
        elif kind == b"text/event-stream" and response.status == 200:
            streamed = Streamed(self, request, response)
            self._let_go(request)
            await streamed.run()
        elif kind == b"application/json" or kind.endswith(b"+json"):
            await self.whole(request, response)
        else:
            raise Malformed(f"its content type is {kind.decode('ascii', 'replace') or 'missing'}, not JSON or SSE")

    async def _failed(self, response: Response, *, coded: bool) -> None:
        with contextlib.suppress(UpstreamError, Malformed):
            raw = await response.read(self.max_answer)
            found = None if coded else read_error(self.dialect, raw, response.header(b"content-type") or b"")
            if found is not None:
                await self.release(response, raw, *found)
                return
        # A gateway's HTML page, say. Its status says enough; its text was not meant for this client.
        response.abort()
        self.notes.ended("upstream_error")
        text = f"The upstream answered with status {response.status} and no body that can be read."
        await self.send(
            problem(self.dialect, response.status, "upstream_error", text, self.notes.id, relayed(response))
        )

    def _let_go(self, request: Request) -> None:
        """What was asked is judged and sent, and a stream may last: keep of it what the answer is judged with, and all
        only where it is kept anyway, or where names of what is masked must differ from words in it."""
        if self.notes.kept is None and self._tokens is None and not self.guard.numbers:
            self._before = said_before(self._asked)
            request.tree = None
            request.messages.clear()

    async def whole(self, request: Request, response: Response) -> None:
        """A JSON answer."""
        raw = await response.read(self.max_answer)
        tree = parse(raw)
        if request.own is not None:
            request.own(tree)
        await self.release(response, raw, tree)

    async def release(
        self, response: Response, raw: bytes, tree: Any, body: Body | None = None, *, altered: bool = False
    ) -> None:
        """Judge `tree` (it holds `body`), and send `raw`, which spells it; `altered`: not as the upstream wrote it."""
        body = body or self.dialect.read_response(tree)
        self.notes.usage(tree)
        if self.guard.asks:
            self.guard = self.guard.answering(tree)
        decision = await self._check_output(body)
        if self._tokens is not None and (restoring := self.restoring()) is not None:
            decision = replace(decision, masks=restoring.also(body.messages, decision.masks))
        if decision.masks and isinstance(tree, str):
            raise Malformed("a text by itself cannot be masked")
        altered = altered or bool(decision.masks)
        headers = relayed(response, keep_length=not altered)
        if decision.masks:
            raw = masked(raw, body, decision)
        if altered:
            headers.append((b"content-length", b"%d" % len(raw)))
        self.notes.ended("released" if response.status < 400 else "upstream_error")
        await self.send(Answer(response.status, headers, raw, response.reason))

    async def _check_output(self, body: Body) -> Decision:
        places = [(Message(Role.ASSISTANT, "", origin), kind) for origin, kind in body.unscannable]
        began = time.perf_counter()
        joints = self.begun.joints(body.messages) if self.begun is not None else ()
        decision = await self.decide(Stage.OUTPUT, body.messages, places, joints)
        self.notes.judged(time.perf_counter() - began)
        return await self.resolved(decision) if decision.fired else decision

    async def resolved(self, decision: Decision) -> Decision:
        """The decision once whoever is to be asked was asked. Raises Blocked where no model answers."""
        if decision.action is Action.REVIEW:
            decision = await reviewed(self, decision)
        if (stopped := decision.stopped()) is not None:
            raise Blocked(stopped)
        return decision

    def refusal(self, decision: Decision) -> Refusal:
        """The words for a decision whose first rule answers in the model's place."""
        complete = decision.fired[0].action is Action.REWRITE
        return Refusal(
            decision.refusal(self.notes.id),
            decision.reason or "",
            decision.policy or "",
            decision.stage,
            self.notes.id,
            complete=complete,
            usage=self.notes.tokens if complete else {},
        )

    def stopped(self, decision: Decision) -> None:
        """Note how an exchange ended in which such a rule answered."""
        self.notes.ended("rewritten" if decision.fired[0].action is Action.REWRITE else "blocked")

    async def _refuse_input(self, decision: Decision, request: Request) -> None:
        self.stopped(decision)
        try:
            await recorded(self._journal, self.notes, self.caller)
        except Exception as error:
            await self._journal_failed(error)
            return
        self.caller.answer(self._refusal_answer(decision, request, self.dialect))

    def _refusal_answer(self, decision: Decision, request: Request, dialect: Dialect) -> Answer:
        if decision.fired[0].not_evaluated:
            return unchecked(dialect, self.notes.id)
        refusal = self.refusal(decision)
        named = ids(self.notes.id)
        plain = (b"content-type", b"application/json")
        wordless = decision.stage is Stage.INPUT or request.structured
        if wordless and decision.on_block is OnBlock.ERROR and not refusal.complete:
            return Answer(400, [plain, *named], dialect.refused(refusal))
        if request.stream:
            kind = (b"content-type", b"text/event-stream; charset=utf-8")
            return Answer(200, [kind, *named], dialect.streamed(refusal, request))
        words = dialect.answered(refusal, request)
        if words is None:
            return Answer(400, [plain, *named], dialect.refused(refusal))
        return Answer(200, [plain, *named], words)

    async def refuse_output(self, decision: Decision, request: Request) -> None:
        """A whole answer was judged and may not leave."""
        self.stopped(decision)
        await self.send(self._refusal_answer(decision, request, self.dialect))

    async def _refuse_early(self, status: int, code: str, message: str, param: str | None = None) -> None:
        """Refused before it was judged."""
        self._metrics.refused.inc(code)
        self.notes.ended("refused", code)
        answer = problem(self.dialect, status, code, message, self.notes.id, param=param)
        if code == "audit_unavailable":
            self.notes.outcome()  # counts it: the audit takes nothing
        else:
            try:
                await recorded(self._journal, self.notes, self.caller)
            except Exception as error:
                await self._journal_failed(error)
                return
        self.caller.answer(answer)

    async def _upstream_failed(self, error: UpstreamError) -> None:
        self.fault(error)
        status = UPSTREAM_STATUS.get(error.fault, 502)
        await self.send(problem(self.dialect, status, f"upstream_{error.fault}", words(error), self.notes.id))

    async def _unreadable(self, problem_text: str) -> None:
        self.fault(Malformed(problem_text))
        text = f"The upstream's answer cannot be read: {problem_text}."
        await self.send(problem(self.dialect, 502, "upstream_unreadable", text, self.notes.id))

    def fault(self, error: Exception) -> None:
        fault = error.fault if isinstance(error, UpstreamError) else "unreadable"
        self._metrics.faults.inc(self.notes.upstream, fault)
        self.notes.ended("upstream_fault", fault)
        log.warning("upstream failed", decision=self.notes.id, fault=str(fault), problem=str(error))

    async def send(self, answer: Answer) -> None:
        """An answer in one piece, once a record of it is durable."""
        try:
            await self._telling.before(whole=True)
        except Exception as error:
            await self._journal_failed(error)
            return
        self.caller.answer(answer)

    async def durable(self) -> None:
        """Wait until the intent is on disk. Raises Unrecorded."""
        await self._telling.before(whole=False)

    async def _journal_failed(self, error: Exception) -> None:
        log.error("decision not recorded", decision=self.notes.id, problem=str(error))
        if not self.caller.started:
            self.notes.undone("refused", "audit_unavailable")
            self.caller.answer(problem(self.dialect, 503, "audit_unavailable", UNRECORDED, self.notes.id))


def _ids(guard: Guard) -> list[str]:
    return [policy.id for policy in guard.policies.policies]
