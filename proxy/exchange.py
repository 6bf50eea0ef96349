"""The way of one exchange: read, judge, ask the model, judge, relay or refuse, and write down what was done.

    body -> strict.parse -> dialect.read_request -> guard.check(input) -> upstream
         -> dialect.read_response, or sse -> reader -> gate -> guard.check(output) -> relay, mask or refuse

INVARIANT: the first byte of an answer leaves after the intent (the decision on the input) is durable, and no byte
leaves before a decision covers it. After a block nothing of the upstream leaves.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Iterator
from typing import Any, Protocol
from urllib.parse import unquote_plus

import structlog

from classifiers.base import Message, Role
from policies.engine import Decision
from policies.model import Action, OnBlock, Stage

from .answers import Answer, Caller, problem, relayed
from .dialects.base import BadRequest, Body, Dialect, Refusal, Request, StreamReader, decoded, replaced
from .gate import Gate, Mask, Part, Question, Release
from .guard import Guard
from .metrics import Metrics
from .record import Notes
from .sse import Decoder, Event, Undecodable
from .strict import Malformed, parse
from .upstream import Headers, Response, Upstream, UpstreamError

log = structlog.get_logger("penstock.exchange")

DRAIN = 1.0
"""Seconds that an upstream has to end its connection after its stream said that it is over."""


class Journal(Protocol):
    """Where records go (`audit.Audit`)."""

    @property
    def healthy(self) -> bool: ...
    def durable(self, record: Any) -> Awaitable[None]: ...
    def submit(self, record: Any) -> asyncio.Future[None]: ...
    def append(self, record: Any) -> bool: ...


class Blocked(Exception):
    """A decision that stops the output, on its way to whoever ends the answer."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.rule)
        self.decision = decision


class Unrecorded(Exception):
    """The intent could not be made durable: nothing may leave."""


class Exchange:
    """One request in flight. `run` answers it, whatever happens; it raises only when it is cancelled."""

    def __init__(
        self,
        dialect: Dialect,
        guard: Guard,
        upstream: Upstream,
        journal: Journal,
        metrics: Metrics,
        caller: Caller,
        notes: Notes,
        max_answer: int,
    ) -> None:
        self._dialect, self._guard, self._upstream = dialect, guard, upstream
        self._journal, self._metrics, self._caller, self._notes = journal, metrics, caller, notes
        self._max_answer = max_answer
        self._intent: asyncio.Future[None] | None = None
        self._opaque: set[tuple[str, str]] = set()

    async def run(self, target: bytes, headers: Headers, body: bytes) -> None:
        """Judge `body`, forward it, judge the answer. `headers` are those that the upstream may see."""
        notes = self._notes
        try:
            request = self._read(body)
        except Malformed as error:
            await self._refuse_early(400, "invalid_json", f"The body was refused: {error}.")
            return
        except BadRequest as error:
            await self._refuse_early(400, "invalid_request", str(error), error.param)
            return
        notes.asked(request)
        if b"?" in target:
            query = target.partition(b"?")[2].decode("ascii", "replace")
            request.add(Role.SETTING, unquote_plus(query), "#query")
        if not self._journal.healthy:
            await self._refuse_early(503, "audit_unavailable", "Decisions cannot be recorded at the moment.")
            return
        places = [(Message(Role.USER, "", origin), kind) for origin, kind in request.unscannable]
        try:
            decision = await self._guard.check(Stage.INPUT, self._dialect.name, request.messages, places)
        except asyncio.CancelledError:
            self._cancelled()
            self._journal.append(notes.outcome())
            raise
        notes.decided(decision)
        if decision.action is Action.BLOCK:
            await self._refuse_input(decision, request)
            return
        if decision.action is Action.MASK:
            body = _masked(body, request, decision)
        try:
            self._intent = self._journal.submit(notes.intent())
        except Exception as error:
            await self._journal_failed(error)
            return
        try:
            await self._forward(request, target, headers, body)
        except asyncio.CancelledError:
            self._cancelled()
            raise
        finally:
            if not self._intent.done():
                self._intent.cancel()
            elif not self._intent.cancelled():
                self._intent.exception()  # seen: it was answered where it mattered
            self._journal.append(notes.outcome())

    def _read(self, body: bytes) -> Request:
        if not body:
            raise Malformed("the body is empty: send a JSON object")
        return self._dialect.read_request(parse(body))

    async def _forward(self, request: Request, target: bytes, headers: Headers, body: bytes) -> None:
        notes = self._notes
        notes.sent()
        try:
            response = await self._upstream.send(b"POST", target, headers, body)
        except UpstreamError as error:
            await self._upstream_failed(error)
            return
        notes.answered(response.status)
        try:
            await self._answer(request, response)
        except UpstreamError as error:
            await self._upstream_failed(error)
        except Blocked as block:
            response.abort()
            await self._refuse_output(block.decision, request)
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
        self._notes.ended("client_gone" if self._caller.gone else "cancelled")

    async def _answer(self, request: Request, response: Response) -> None:
        kind = (response.header(b"content-type") or b"").partition(b";")[0].strip().lower()
        coding = (response.header(b"content-encoding") or b"identity").strip().lower()
        if 300 <= response.status < 400:
            raise Malformed("it redirects, and redirects are not followed: mend the upstream's URL")
        if coding != b"identity":
            raise Malformed("it is compressed although nobody asked for that")
        if kind == b"text/event-stream" and response.status == 200:
            await self._stream(request, response)
        elif kind == b"application/json":
            await self._whole(request, response)
        elif response.status >= 400:
            # A gateway's HTML page, say. Its status says enough; its text was not meant for this client.
            response.abort()
            self._notes.ended("upstream_error")
            text = f"The upstream answered with status {response.status} and no JSON body."
            await self._send(
                problem(self._dialect, response.status, "upstream_error", text, self._notes.id, relayed(response))
            )
        else:
            raise Malformed(f"its content type is {kind.decode('ascii', 'replace') or 'missing'}, not JSON or SSE")

    async def _whole(self, request: Request, response: Response) -> None:
        """A JSON answer, of whatever status."""
        raw = await response.read(self._max_answer)
        tree = parse(raw)
        body = self._dialect.read_response(tree)
        if response.status >= 400:
            body.messages = [Message(Role.ERROR, m.text, m.origin) for m in body.messages]
        self._notes.usage(tree)
        decision = await self._check_output(body)
        headers = relayed(response, keep_length=decision.action is not Action.MASK)
        if decision.action is Action.MASK:
            raw = _masked(raw, body, decision)
            headers.append((b"content-length", b"%d" % len(raw)))
        self._notes.ended("released" if response.status < 400 else "upstream_error")
        await self._send(Answer(response.status, headers, raw))

    async def _check_output(self, body: Body) -> Decision:
        places = [(Message(Role.ASSISTANT, "", origin), kind) for origin, kind in body.unscannable]
        began = time.perf_counter()
        decision = await self._guard.check(Stage.OUTPUT, self._dialect.name, body.messages, places)
        self._notes.judged(time.perf_counter() - began)
        self._notes.decided(decision)
        if decision.action is Action.BLOCK:
            raise Blocked(decision)
        return decision

    async def _stream(self, request: Request, response: Response) -> None:
        reader, decoder = self._dialect.reader(request), Decoder()
        gate = Gate(self._guard.hold_back, enforcing=self._guard.enforcing)
        head = Answer(response.status, relayed(response), b"")
        try:
            while not reader.complete and (chunk := await response.next()) is not None:
                await self._take(gate, reader, decoder.feed(chunk))
                if gate.due():
                    await self._judge(gate, gate.question())
                await self._release(gate, reader, head)
                if gate.size > self._max_answer:
                    raise Malformed(f"more than {self._max_answer} bytes of its stream would have to be kept")
            await self._take(gate, reader, decoder.finish())
            gate.finish(clean=reader.complete or reader.finished)
            await self._last_words(gate, reader, head)
        except Blocked as block:
            response.abort()
            await self._end(reader, self._refusal_bytes(reader, block.decision, request), head)
            return
        except asyncio.CancelledError:
            response.abort()
            await self._for_the_record(gate)
            raise
        except (UpstreamError, Malformed, Undecodable) as error:
            response.abort()
            if not self._caller.started:
                raise
            await self._for_the_record(gate)
            self._fault(error)
            await self._end(reader, reader.broken(_words(error), "upstream_error"), head)
            return
        self._notes.ended("released" if reader.complete or reader.finished else "upstream_truncated")
        if self._caller.started:
            await self._caller.finish()
        else:
            await self._send(head)
        # What the upstream still has to say concerns the connection, not this exchange.
        rest = asyncio.ensure_future(_drain(response))
        _DRAINS.add(rest)
        rest.add_done_callback(_DRAINS.discard)

    async def _for_the_record(self, gate: Gate) -> None:
        """A stream was cut before its end. Where nothing could be stopped nothing was judged yet, and what has left
        must not go unseen: else hanging up would be a way around the log."""
        if self._guard.enforcing:
            return
        question = gate.question(everything=True)
        if question.messages:
            await self._judge(gate, question)

    async def _last_words(self, gate: Gate, reader: StreamReader, head: Answer) -> None:
        """The stream has ended: judge what was held back and let it go. Raises Blocked and Malformed."""
        if not self._guard.enforcing:
            # Nothing can be stopped: the reader has it all before it is judged, for the record.
            await self._release(gate, reader, head)
        question = gate.question(everything=not self._guard.enforcing)
        if question.messages:
            await self._judge(gate, question)
        await self._release(gate, reader, head)
        if gate.held:
            raise Malformed("a part of its stream was left without a verdict")

    async def _take(self, gate: Gate, reader: StreamReader, events: list[Event]) -> None:
        """Put events into the gate, up to the one that says the stream is over. Raises Blocked and Malformed."""
        for event in events:
            if reader.complete:
                return
            part = reader.read(event)
            if part.unscannable:
                await self._judge_opaque(part)
            gate.push(part)

    async def _judge(self, gate: Gate, question: Question) -> None:
        """Answer the gate's question, or raise Blocked."""
        messages = [*question.messages, *_unescaped(question)]
        began = time.perf_counter()
        decision = await self._guard.check(Stage.OUTPUT, self._dialect.name, messages)
        self._notes.judged(time.perf_counter() - began)
        self._notes.decided(decision)
        if decision.action is Action.BLOCK:
            raise Blocked(decision)
        gate.answer(question, [(m.message, Mask(m.start, m.end, m.replacement)) for m in decision.masks])

    async def _judge_opaque(self, part: Part) -> None:
        """Judge what in `part` is no text, or raise Blocked: it is whole where it stands, so it need not wait."""
        fresh = [item for item in part.unscannable if item not in self._opaque]
        if not fresh:
            return
        self._opaque.update(fresh)
        places = [(Message(Role.ASSISTANT, "", origin), kind) for origin, kind in fresh]
        decision = await self._guard.check(Stage.OUTPUT, self._dialect.name, [], places)
        self._notes.decided(decision)
        if decision.action is Action.BLOCK:
            raise Blocked(decision)

    async def _release(self, gate: Gate, reader: StreamReader, head: Answer) -> None:
        releases = gate.release()
        if not releases:
            return
        if not self._caller.started:
            await self._durable()
            self._notes.first_token()
            await self._caller.start(head.status, head.headers)
        for release in releases:
            reader.released(release.part)
        await self._caller.send(b"".join([_bytes(reader, release) for release in releases]))

    async def _end(self, reader: StreamReader, ending: bytes, head: Answer) -> None:
        """The last bytes of a stream that does not end by itself."""
        if not self._caller.started:
            await self._durable()
            await self._caller.start(head.status, head.headers)
        await self._caller.send(ending)
        await self._caller.finish()

    def _refusal_bytes(self, reader: StreamReader, decision: Decision, request: Request) -> bytes:
        self._notes.ended("blocked")
        if decision.fired[0].not_evaluated:
            return reader.broken(_UNAVAILABLE, "guard_unavailable")
        return reader.ending(self._refusal(decision))

    def _refusal(self, decision: Decision) -> Refusal:
        return Refusal(
            decision.refusal(self._notes.id),
            decision.reason or "",
            decision.policy or "",
            decision.stage,
            self._notes.id,
        )

    async def _refuse_input(self, decision: Decision, request: Request) -> None:
        notes, dialect = self._notes, self._dialect
        notes.ended("blocked")
        try:
            await self._journal.durable(notes.outcome())
        except Exception as error:
            await self._journal_failed(error)
            return
        await self._caller.answer(self._refusal_answer(decision, request, dialect))

    def _refusal_answer(self, decision: Decision, request: Request, dialect: Dialect) -> Answer:
        if decision.fired[0].not_evaluated:
            return problem(dialect, 503, "guard_unavailable", _UNAVAILABLE, self._notes.id, retry=False)
        refusal = self._refusal(decision)
        id_header = (b"x-request-id", self._notes.id.encode())
        if decision.stage is Stage.INPUT and decision.on_block is OnBlock.ERROR:
            return Answer(400, [(b"content-type", b"application/json"), id_header], dialect.refused(refusal))
        if request.stream:
            kind = (b"content-type", b"text/event-stream; charset=utf-8")
            return Answer(200, [kind, id_header], dialect.streamed(refusal, request))
        return Answer(200, [(b"content-type", b"application/json"), id_header], dialect.answered(refusal, request))

    async def _refuse_output(self, decision: Decision, request: Request) -> None:
        """A whole answer was judged and may not leave."""
        self._notes.ended("blocked")
        await self._send(self._refusal_answer(decision, request, self._dialect))

    async def _refuse_early(self, status: int, code: str, message: str, param: str | None = None) -> None:
        """Refused before it was judged."""
        self._metrics.refused.inc(code)
        self._notes.ended("refused", code)
        answer = problem(self._dialect, status, code, message, self._notes.id, param=param)
        if code != "audit_unavailable":
            try:
                await self._journal.durable(self._notes.outcome())
            except Exception as error:
                await self._journal_failed(error)
                return
        await self._caller.answer(answer)

    async def _upstream_failed(self, error: UpstreamError) -> None:
        self._fault(error)
        status = 504 if error.fault == "timeout" else 503 if error.fault == "saturated" else 502
        await self._send(problem(self._dialect, status, f"upstream_{error.fault}", _words(error), self._notes.id))

    async def _unreadable(self, problem_text: str) -> None:
        self._fault(Malformed(problem_text))
        text = f"The upstream's answer cannot be read: {problem_text}."
        await self._send(problem(self._dialect, 502, "upstream_unreadable", text, self._notes.id))

    def _fault(self, error: Exception) -> None:
        fault = error.fault if isinstance(error, UpstreamError) else "unreadable"
        self._metrics.faults.inc(fault)
        self._notes.ended("upstream_fault", fault)
        log.warning("upstream failed", decision=self._notes.id, fault=str(fault), problem=str(error))

    async def _send(self, answer: Answer) -> None:
        """An answer in one piece, once the intent is durable."""
        try:
            await self._durable()
        except Unrecorded as error:
            await self._journal_failed(error)
            return
        await self._caller.answer(answer)

    async def _durable(self) -> None:
        """Wait until the intent is on disk. Raises Unrecorded."""
        if self._intent is None:
            return
        if self._intent.done() and self._intent.exception() is None:
            return
        began = time.perf_counter()
        try:
            await self._intent
        except Exception as error:
            raise Unrecorded(str(error)) from None
        self._notes.waited(time.perf_counter() - began)

    async def _journal_failed(self, error: Exception) -> None:
        log.error("decision not recorded", decision=self._notes.id, problem=str(error))
        self._notes.ended("refused", "audit_unavailable")
        if not self._caller.started:
            text = "Decisions cannot be recorded at the moment."
            await self._caller.answer(problem(self._dialect, 503, "audit_unavailable", text, self._notes.id))


_UNAVAILABLE = "This request could not be checked, so it was not answered. Please tell the operator."


def _words(error: Exception) -> str:
    if isinstance(error, UpstreamError):
        text = str(error)
        return text[:1].upper() + text[1:] + "."
    return f"The upstream's answer cannot be read: {error}."


def _bytes(reader: StreamReader, release: Release) -> bytes:
    return reader.rewritten(release.part, release.edits) if release.edits else release.part.raw


def _masked(raw: bytes, body: Body, decision: Decision) -> bytes:
    """`raw` with the decision's masks applied. Whole numbers of any size survive; the rest means the same."""
    tree = json.loads(raw)
    texts: dict[int, list[str]] = {}
    position: dict[int, int] = {}
    for mask in decision.masks:
        text = body.messages[mask.message].text
        texts.setdefault(mask.message, []).extend((text[position.get(mask.message, 0) : mask.start], mask.replacement))
        position[mask.message] = mask.end
    for index, pieces in texts.items():
        message = body.messages[index]
        replaced(tree, message.origin, "".join(pieces) + message.text[position[index] :])
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()


def _unescaped(question: Question) -> Iterator[Message]:
    """A tool call's text as the client will read it, where JSON's escapes hide it."""
    for message in question.messages:
        if message.role is Role.TOOL_CALL and "\\" in message.text and (text := "\n".join(decoded(message.text))):
            yield Message(Role.TOOL_CALL, text, message.origin + "#decoded")


_DRAINS: set[asyncio.Future[None]] = set()


async def _drain(response: Response) -> None:
    """Read what follows the end of a stream, so that the connection can be used again; nothing of it is relayed."""
    try:
        async with asyncio.timeout(DRAIN):
            while await response.next() is not None:
                pass
    except (TimeoutError, UpstreamError):
        response.abort()
