"""The way of a streamed answer: events into the gate, judged, released, and ended in the dialect's own words.

    upstream -> sse.frames -> reader -> gate -> exchange.decide -> caller

INVARIANT: bytes leave only by `_release`, after the gate was told that a decision covers them, or by `_end`, which
says nothing of the upstream. After a block nothing of the upstream leaves. Where no rule could stop or change anything,
most events leave by `_passes` before they are read; all are read and judged before the exchange ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from classifiers.base import Message, Role
from policies.engine import Decision
from policies.in_json import Growing, spelled
from policies.model import Action, Stage

from .answers import Answer, relayed
from .begun import Joint
from .dialects.base import Request, StreamReader
from .dialects.escapes import decoded
from .dialects.structured import FRAMES
from .flight import ending
from .gate import Gate, Kind, Mask, Part, Question, Release
from .problems import Blocked, unavailable, words
from .sse import Decoder, Undecodable, read
from .strict import Malformed
from .upstream import WAKE, Response, UpstreamError
from .windows import Windows

if TYPE_CHECKING:
    from .exchange import Exchange

MOST_WANTED = 16 * 1024
"""Bytes of a stream that are gathered at most before they are read."""
FINE, COARSE, FAR = 4, 2, 64
"""Most parts that events become which came together, by how many characters are held back. A part leaves whole, so each
holds back a little more than it had to; and it costs as much memory and time as an event would alone."""
LATER = 8 * 1024
"""Bytes that have left unread, where nothing can be stopped, before they are read: many events together cost a fraction
of what they cost one by one."""
ALIKE = 48
"""Bytes in which an event begins like the one before it, and is like it as far as a reader of a stream can tell."""
FEW = 8
"""Events that came together and are looked at one by one, though the first ones were alike."""
SPELLED = 6
"""Letters that JSON takes for one at most, where it is one of a name."""
DRAIN = 1.0
"""Seconds that an upstream has to end its connection after its stream said that it is over."""


class Streamed:
    """One streamed answer of an exchange. `run` raises UpstreamError, Malformed and Undecodable only while nothing has
    left yet."""

    def __init__(self, exchange: Exchange, request: Request, response: Response) -> None:
        self._exchange, self._request, self._response = exchange, request, response
        self._guard, self._caller, self._notes = exchange.guard, exchange.caller, exchange.notes
        self._reader: StreamReader = exchange.dialect.reader(request)
        self._enforcing, hold_back = self._guard.enforcing, self._guard.hold_back
        self._restoring = exchange.restoring()
        if self._restoring is not None:  # a name must be seen whole before its first letter leaves
            self._enforcing = True
            longest = self._restoring.longest * (SPELLED if request.structured else 1)
            hold_back = None if hold_back is None else max(hold_back, longest)
        self._growing: dict[str, Growing] | None = {} if request.structured else None
        self._gate = Gate(hold_back, enforcing=self._enforcing, sequel=self._reader.sequel)
        self._runs = FINE if hold_back is not None and hold_back < FAR else COARSE
        self._head = Answer(response.status, relayed(response), b"", response.reason)
        response.values.clear()
        self._decoder = Decoder()
        self._most = exchange.max_answer
        self._problem: Exception | None = None
        self._bytes = 0  # of the stream since its first text
        self._alike = b""  # how an event begins that leaves unread; empty where none does
        self._left: list[bytes] = []  # events that have left and were not read
        self._left_size = 0
        self._waiting: tuple[Question, Decision, float] | None = None  # for a person
        self._unjudged: list[Part] = []  # parts that hold something that is no text
        self._opaque: set[tuple[str, str]] | None = None  # what was judged of such parts, once there were any
        # What could leave and waits for the first text, where a refusal must be an error.
        self._frames: list[Release] | None = [] if request.structured and self._enforcing else None
        if self._notes.kept is not None:
            self._notes.kept.streams = True

    async def run(self) -> None:
        response, reader = self._response, self._reader
        try:
            await self._relay()
        except Blocked as block:
            response.abort()
            if self._request.structured and not self._caller.started:
                await self._exchange.refuse_output(block.decision, self._request)
            else:
                await self._end(self._refusal(block.decision))
            return
        except asyncio.CancelledError:
            response.abort()
            self._caught_up()
            why = ending(self._caller)
            self._caller.cut(reader.broken(f"{why.words}: the answer is not complete.", why.code))
            await self._for_the_record()
            raise
        except (UpstreamError, Malformed, Undecodable) as error:
            response.abort()
            if not self._caller.started:
                raise
            self._caught_up()
            await self._for_the_record()
            self._exchange.fault(error)
            await self._end(reader.broken(words(error), "upstream_error"))
            return
        self._notes.ended("released" if reader.complete or reader.finished else "upstream_truncated")
        if self._caller.started:
            self._caller.finish()
        else:
            await self._exchange.send(self._head)
        # What the upstream still has to say concerns the connection, not this exchange.
        rest = asyncio.ensure_future(_drain(response))
        _DRAINS.add(rest)
        rest.add_done_callback(_DRAINS.discard)

    async def _relay(self) -> None:
        """All of the stream, to its end. Raises Blocked, UpstreamError, Malformed and Undecodable."""
        response, reader, gate = self._response, self._reader, self._gate
        while not reader.complete and await response.pump(self._taste):
            if self._problem is not None:
                raise self._problem
            if self._caller.drained is not None:
                await self._caller.drained
            if self._waiting is not None:
                await self._review(*self._waiting)
            if self._unjudged:
                await self._judge_opaque()
            if gate.due():
                await self._judge(gate.question())
            await self._release(gate.release())  # no name for it: this frame lives as long as the stream
            self._bounded()
        self._catch_up()
        self._take(self._decoder.last_frames())
        await self._judge_opaque()
        gate.finish(clean=reader.complete or reader.finished)
        await self._last_words()

    def _taste(self, chunk: bytes) -> int:
        """Put a piece of the stream into the gate, and do what can be done at once. Answers what `pump` wants."""
        gate = self._gate
        try:
            if self._alike and chunk.startswith(self._alike) and self._passes(chunk):
                return 0 if self._caller.drained is None and not self._unjudged else WAKE
            self._catch_up()
            flowed = gate.flowed
            self._put(chunk)
            if gate.flowed:
                self._bytes += len(chunk)
            if not self._advance():
                return WAKE
            if not self._enforcing and gate.flowed > flowed and self._decoder.whole:
                self._alike = chunk[:ALIKE]
        except Exception as error:  # raised where the exchange is, not where the bytes arrive
            self._problem = error
            return WAKE
        # What is held back leaves with the next verdict, and that needs some more text: read on when it may be there.
        wanted = gate.wanted()
        if not wanted or not gate.flowed:
            return 0
        # A little more: where a few letters are missing, all that came is put into the gate and looked at in vain.
        return min(MOST_WANTED, (wanted + wanted // 8 + 4) * self._bytes // gate.flowed)

    def _passes(self, chunk: bytes) -> bool:
        """Whether it is one whole event. Nothing can be stopped, so it has left then, and is read with others later."""
        if chunk.find(b"\n\n") != len(chunk) - 2 or not self._decoder.whole or self._caller.drained is not None:
            return False
        self._caller.send(chunk)
        self._left.append(chunk)
        self._left_size += len(chunk)
        if self._left_size >= LATER:
            self._catch_up()
        return True

    def _catch_up(self) -> None:
        """Read what has left unread. Raises Malformed and Undecodable."""
        if not self._left:
            return
        left, self._left, self._left_size = b"".join(self._left), [], 0
        self._put(left)
        for release in self._gate.release():
            self._reader.released(release.part)
        self._bounded()

    def _bounded(self) -> None:
        """Raises Malformed where more of the stream is kept than may be."""
        if self._gate.size > self._most:
            raise Malformed(f"more than {self._most} bytes of its stream would have to be kept")

    def _caught_up(self) -> None:
        """Read what has left unread, as far as it can be read: the stream is cut."""
        with contextlib.suppress(Malformed, Undecodable):
            self._catch_up()

    def _put(self, chunk: bytes) -> None:
        """Put what has arrived into the gate. Raises Malformed and Undecodable."""
        reader, decoder = self._reader, self._decoder
        while chunk and decoder.whole and not reader.complete and (parts := reader.runs(chunk, self._runs)):
            for part in parts:
                self._gate.push(part)
            chunk = chunk[sum([part.extent[1] for part in parts]) :]
        if chunk:
            self._take(decoder.frames(chunk))

    def _advance(self) -> bool:
        """Judge and release without waiting for anybody. False where somebody must be waited for. Raises Blocked."""
        gate, caller = self._gate, self._caller
        if not gate.ready():
            return not (self._unjudged or self._reader.complete or gate.size > self._most)
        if not caller.started or caller.drained is not None or self._unjudged or self._reader.complete:
            return False
        if gate.due():
            question = gate.question()
            began = time.perf_counter()
            messages = [*question.messages, *_unescaped(question)]
            decision = self._exchange.decide_now(
                Stage.OUTPUT, messages, (), self._joints(question), self._windows(question)
            )
            if decision is None:
                return False
            if decision.action is Action.REVIEW:
                self._waiting = question, decision, began
                return False
            self._judged(question, decision, began)
        releases = gate.release()
        if releases:
            self._send(releases)
        return caller.drained is None and gate.size <= self._most

    def _take(self, frames: list[bytes]) -> None:
        """Put events into the gate, up to the one that says the stream is over. Raises Malformed and Undecodable."""
        reader, gate = self._reader, self._gate
        position, count = 0, len(frames)
        hopeful = count > FEW
        while position < count and not reader.complete:
            raw = frames[position]
            position += 1
            part = reader.repeat(raw)
            known = part is not None
            if part is None:
                part = reader.read(read(raw))
                if part.unscannable:
                    self._unjudged.append(part)
            gate.push(part)
            if known and hopeful:  # those behind it may be like it
                hopeful = False
                for part in reader.runs(b"".join(frames[position:]), self._runs):
                    gate.push(part)
                    position += part.extent[0]

    async def _last_words(self) -> None:
        """The stream has ended: judge what was held back and let it go. Raises Blocked and Malformed."""
        gate = self._gate
        if not self._enforcing:
            # Nothing can be stopped: the reader has it all before it is judged, for the record.
            await self._release(gate.release())
        question = gate.question(everything=not self._enforcing)
        if question.messages:
            await self._judge(question)
        await self._release(gate.release(), over=not gate.held)
        if gate.held:
            raise Malformed("a part of its stream was left without a verdict")

    async def _for_the_record(self) -> None:
        """A stream was cut before its end. Where nothing could be stopped nothing was judged yet, and what has left
        must not go unseen: else hanging up would be a way around the log."""
        if self._enforcing:
            return
        question = self._gate.question(everything=True)
        if question.messages:
            await self._judge(question)

    async def _judge(self, question: Question) -> None:
        """Answer the gate's question, or raise Blocked."""
        messages = [*question.messages, *_unescaped(question)]
        began = time.perf_counter()
        decision = await self._exchange.decide(
            Stage.OUTPUT, messages, (), self._joints(question), self._windows(question)
        )
        if decision.action is Action.REVIEW:
            decision = await self._exchange.resolved(decision)
        self._judged(question, decision, began)

    def _windows(self, question: Question) -> Windows:
        return Windows(question, self._gate, self._growing)

    def _joints(self, question: Question) -> Sequence[Joint]:
        """Where the answer goes on from what the request began."""
        begun = self._exchange.begun
        return begun.joints(question.messages, question.starts) if begun is not None else ()

    async def _review(self, question: Question, decision: Decision, began: float) -> None:
        """As `_judge`, once a person was asked."""
        self._waiting = None
        self._judged(question, await self._exchange.resolved(decision), began)

    def _judged(self, question: Question, decision: Decision, began: float) -> None:
        """Tell the gate, or raise Blocked."""
        self._notes.judged(time.perf_counter() - began)
        if self._notes.kept is not None:
            self._notes.kept.window(question, decision)
        if decision.fired and (stopped := decision.stopped()) is not None:
            raise Blocked(stopped)
        masks, windows = decision.masks, self._windows(question)
        if self._restoring is not None:
            masks = self._restoring.also(question.messages, masks, windows)
        if masks:
            masks = spelled(windows, masks)
        self._gate.answer(question, [(m.message, Mask(m.start, m.end, m.replacement)) for m in masks])

    async def _judge_opaque(self) -> None:
        """Judge what came and is no text, or raise Blocked: it is whole where it stands, so it need not wait."""
        if not self._unjudged:
            return
        parts, self._unjudged = self._unjudged, []
        known = self._opaque = self._opaque or set()
        fresh = [item for part in parts for item in part.unscannable if item not in known]
        if not fresh:
            return
        known.update(fresh)
        places = [(Message(Role.ASSISTANT, "", origin), kind) for origin, kind in dict.fromkeys(fresh)]
        decision = await self._exchange.decide(Stage.OUTPUT, [], places)
        if decision.fired:
            await self._exchange.resolved(decision)

    async def _release(self, releases: list[Release], *, over: bool = False) -> None:
        if self._frames is not None:
            self._frames += releases
            if not over and len(self._frames) <= FRAMES and all(_frame(release.part) for release in releases):
                return
            releases, self._frames = self._frames, None
        if not releases:
            return
        await self._begin(self._notes.first_token)
        self._send(releases)
        if self._caller.drained is not None:
            await self._caller.drained

    def _send(self, releases: list[Release]) -> None:
        reader = self._reader
        for release in releases:
            reader.released(release.part)
        if len(releases) == 1:
            self._caller.send(_bytes(reader, releases[0]))
        else:
            self._caller.send(b"".join([_bytes(reader, release) for release in releases]))

    async def _end(self, ending: bytes) -> None:
        """The last bytes of a stream that does not end by itself."""
        await self._begin(None)
        self._caller.send(ending)
        self._caller.finish()

    async def _begin(self, tell: Callable[[], None] | None) -> None:
        """The status line leaves, once the intent is durable."""
        if self._caller.started:
            return
        await self._exchange.durable()
        if tell is not None:
            tell()
        self._caller.start(self._head.status, self._head.headers, self._head.reason)
        self._head.headers.clear()  # they have left

    def _refusal(self, decision: Decision) -> bytes:
        self._exchange.stopped(decision)
        if decision.fired[0].not_evaluated:
            id = self._exchange.notes.id
            return self._reader.broken(unavailable(id), "guard_unavailable", id)
        return self._reader.ending(self._exchange.refusal(decision))


def _bytes(reader: StreamReader, release: Release) -> bytes:
    return reader.rewritten(release.part, release.edits) if release.edits else release.part.whole


def _frame(part: Part) -> bool:
    """Whether it says nothing that a reader would miss: an error can stand in its place."""
    return all(piece.kind is Kind.ATOM for piece in part.pieces)


def _unescaped(question: Question) -> Iterator[Message]:
    """A tool call's text as the client will read it, where JSON's escapes hide it."""
    for message in question.messages:
        if message.role is Role.TOOL_CALL and "\\" in message.text and (text := decoded(message.text)):
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
