"""One report in the making: what is put to the workers, in which order, and what became of it.

Decision: many texts are put to a worker in lots, those first that can stop something; what was read in time counts
and is remembered, and a failure names the roles of what was not. Why: the tools of a coding agent take seconds to read,
no rule of most policies stops anything by them, and to read them must neither refuse the user's words nor begin anew
with each request. Cost: a few more questions, and short texts of different lots share no pass.

Decision: a deadline is for `FEW` characters; more that is not remembered has as much more, up to `MOST` times. Why: a
long file would never be read in time. Cost: whoever sends one waits, for as long.

Decision: texts that say the same are read once, and what is found in them is one finding (`Finding.twins`). Why: ten
thousand copies of a short text held the event loop for two seconds. Cost: who needs each place asks for `places`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from .asked import FEW, INLINE_LIMIT, Asked, chosen, unread
from .base import Failure, Finding, Message, Report, Role, Silence
from .cache import Cache
from .cascade import After, doubtful
from .workers import Work, take

if TYPE_CHECKING:
    from .panel import Panel

LOT = 4_000
"""Characters that are put to a worker together, or one message where it is longer."""
MOST = 10


@dataclass(slots=True)
class _Line:
    """What one classifier is asked. Each lot holds places of messages; `end`: when its last answer is due. `fresh` is
    what is to be remembered: the message at each place, by its name in the cache. `twins` are messages that say the
    same as another one, and were not put: by the place of that one. `chosen` counts all messages that it is to read,
    `unread` are those without an answer."""

    lots: deque[list[int]]
    end: float
    fresh: Mapping[int, bytes]
    twins: Mapping[int, Sequence[int]]
    chosen: int
    running: int = 0
    unread: list[int] = field(default_factory=list)
    failure: Failure | None = None


class _Waiting(NamedTuple):
    """A question under way: the place of the one asked, when it began, and the messages."""

    place: int
    began: float
    lot: list[int]


class Asking:
    """One report in the making. Answers are kept by the place of the one asked, so that their order is always one."""

    def __init__(
        self, panel: Panel, messages: Sequence[Message], asked: Sequence[Asked], scope: str, memory: Cache | None
    ) -> None:
        self._panel, self._messages, self._asked = panel, messages, asked
        self._scope, self._memory = scope, memory
        self._began = time.perf_counter()
        self._short = sum([len(message.text) for message in messages]) <= INLINE_LIMIT
        self._findings: list[list[Finding]] = [[] for _ in asked]
        self._failures: list[list[Failure]] = [[] for _ in asked]
        self._queued = 0.0
        self._pending: dict[asyncio.Future[Work], _Waiting] = {}
        self._lines: dict[int, _Line] = {}
        self._here: list[tuple[int, Sequence[Message], Sequence[int] | None]] = []
        self._gates = {item.classifier.name: place for place, item in enumerate(asked)}
        self._done: set[int] = set()
        self._behind = _behind(asked)

    async def report(self) -> Report:
        try:
            for place, item in enumerate(self._asked):
                # A gate that is not asked has no answer: nothing is spared.
                if (item.after is None or item.after.classifier not in self._gates) and place not in self._behind:
                    self._start(place)
            self._work_here()
            while self._pending or len(self._done) < len(self._asked):
                if self._pending:
                    await self._next()
                else:
                    stuck = min(set(range(len(self._asked))) - self._done)
                    self._fail(stuck, Silence.UNAVAILABLE, "asked after itself")
                self._work_here()
        finally:
            for future in self._pending:
                future.cancel()
        return Report(
            tuple([finding for found in self._findings for finding in found]),
            tuple([failure for failed in self._failures for failure in failed]),
            unread(self._messages, self._asked),
            time.perf_counter() - self._began,
            self._queued,
        )

    def _start(self, place: int) -> None:
        """Put the question, or answer it where nobody need be asked. Inline work is left for `_work_here`, so that
        the workers begin first."""
        item, panel = self._asked[place], self._panel
        texts, indices = chosen(self._messages, item.roles)
        if item.after is not None and item.after.classifier in self._gates:
            texts, indices = self._doubtful(item.after, texts, indices)
        if not texts:
            self._finish(place)
        elif item.classifier.inline and self._short:
            self._here.append((place, texts, indices))
        elif not item.classifier.inline and panel.breakers.refuses(item.classifier, item.deadline):
            panel.counts.refused += len(texts)
            self._fail(place, Silence.UNAVAILABLE, "breaker open")
        else:
            self._submit(place, texts, indices)

    def _doubtful(
        self, after: After, texts: Sequence[Message], indices: Sequence[int] | None
    ) -> tuple[Sequence[Message], Sequence[int]]:
        """What is left to read after the gate's answer."""
        gate = self._gates[after.classifier]
        _, seen = chosen(self._messages, self._asked[gate].roles)
        every = range(len(self._messages))
        places = doubtful(
            after,
            every if indices is None else indices,
            every if seen is None else set(seen),
            self._findings[gate],
            bool(self._failures[gate]),
        )
        self._panel.counts.spared += len(texts) - len(places)
        return [self._messages[place] for place in places], places

    def _submit(self, place: int, texts: Sequence[Message], indices: Sequence[int] | None) -> None:
        item, panel = self._asked[place], self._panel
        fresh: dict[int, bytes] = {}
        twins: dict[int, list[int]] = {}
        places: Sequence[int] = range(len(texts)) if indices is None else indices
        if self._memory is not None and not item.classifier.inline:
            fresh, twins = self._unknown(self._memory, place, places)
            places = list(fresh)
            if not places:
                self._share(place, twins)
                self._finish(place)
                return
        panel.counts.read += len(places)
        lots = [
            lot
            for late in (False, True)
            for lot in self._lots([each for each in places if (self._messages[each].role in item.last) is late], item)
        ]
        long = sum(len(self._messages[each].text) for each in places if self._messages[each].role not in item.last)
        end = time.perf_counter() + item.deadline * min(max(1.0, long / FEW), MOST)
        self._lines[place] = _Line(deque(lots), end, fresh, twins, len(texts))
        self._put(place)

    def _lots(self, places: list[int], item: Asked) -> Iterator[list[int]]:
        """`places` in lots. Where other machines do the work, or it is little, there is one."""
        whole = item.classifier.inline or getattr(item.classifier, "waits", False)
        lot: list[int] = []
        size = 0
        for place in places:
            length = len(self._messages[place].text)
            if lot and size + length > LOT and not whole:
                yield lot
                lot, size = [], 0
            lot.append(place)
            size += length
        if lot:
            yield lot

    def _put(self, place: int) -> None:
        """As many lots of the one at `place` as there are workers; when none is left, it is done."""
        line, item = self._lines[place], self._asked[place]
        workers = self._panel.workers_for(item.classifier)
        while line.lots and line.running < self._panel.workers:
            lot = line.lots[0]
            future = workers.submit(item.classifier, [self._messages[each] for each in lot], lot)
            if future is None:
                if not line.running:
                    self._give_up(place, Silence.QUEUE_FULL, "too many texts are waiting")
                return
            line.running += 1
            line.lots.popleft()
            self._pending[future] = _Waiting(place, time.perf_counter(), lot)
        if not line.running:
            self._close(place)

    def _give_up(self, place: int, reason: Silence, detail: str) -> None:
        """No more lots are put, and answers to those under way are not waited for."""
        line = self._lines[place]
        for future in [each for each, waiting in self._pending.items() if waiting.place == place]:
            future.cancel()
            line.unread += self._pending.pop(future).lot
        for lot in line.lots:
            line.unread += lot
        line.lots.clear()
        line.failure = line.failure or Failure(self._asked[place].classifier.name, reason, detail)
        self._close(place)

    def _close(self, place: int) -> None:
        """All answers are there that will be."""
        line = self._lines[place]
        self._share(place, line.twins)
        if line.failure is not None:
            some = len(line.unread) < line.chosen
            left = frozenset([self._messages[each].role for each in line.unread]) if some else None
            self._failures[place].append(replace(line.failure, roles=left))
        self._finish(place)

    def _unknown(
        self, memory: Cache, place: int, places: Iterable[int]
    ) -> tuple[dict[int, bytes], dict[int, list[int]]]:
        """Those of `places` whose messages were not judged before, with their names in the memory, each only once, and
        the places where one of them comes again; what was found in the others is taken over."""
        classifier, counts, now = self._asked[place].classifier, self._panel.counts, time.monotonic()
        digest = classifier.digest
        fresh: dict[int, bytes] = {}
        first: dict[tuple[Role, str, str], int] = {}
        twins: dict[int, list[int]] = {}
        for each in places:
            message = self._messages[each]
            known = first.setdefault((message.role, message.text, message.context), each)
            if known != each:
                counts.known += 1
                twins.setdefault(known, []).append(each)
                continue
            name = memory.name(self._scope, digest, message)
            seen = memory.get(name, now)
            if seen is None:
                fresh[each] = name
                continue
            counts.known += 1
            self._findings[place] += [Finding(classifier.name, label, score, each, at) for label, score, at in seen]
        return fresh, twins

    def _share(self, place: int, twins: Mapping[int, Sequence[int]]) -> None:
        """What was found in one of `twins` was found in all of them. Findings are put in the order of messages."""
        found = self._findings[place]
        if twins:
            kinds = {each: self._alike(each, others) for each, others in twins.items()}
            for at, one in enumerate(found):
                if one.message in kinds:
                    own, other = kinds[one.message]
                    found[at] = Finding(one.classifier, one.label, one.score, one.message, one.span, one.view, own)
                    if other:
                        found.append(
                            Finding(one.classifier, one.label, one.score, other[0], one.span, one.view, other[1:])
                        )
        found.sort(key=lambda each: each.message)

    def _alike(self, one: int, others: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those of `others` that are derived texts as `one` is, or are none as it is none; and the rest."""
        derived = "#" in self._messages[one].origin
        kinds: tuple[list[int], list[int]] = ([], [])
        for each in others:
            kinds[("#" in self._messages[each].origin) is not derived].append(each)
        return tuple(kinds[0]), tuple(kinds[1])

    def _work_here(self) -> None:
        while self._here:
            place, texts, indices = self._here.pop()
            take(self._asked[place].classifier, texts, indices, self._findings[place], self._failures[place])
            self._finish(place)

    async def _next(self) -> None:
        """Wait for the next answer or the next deadline, whichever comes first."""
        end = min(self._lines[waiting.place].end for waiting in self._pending.values())
        done, _ = await asyncio.wait(
            self._pending, timeout=max(end - time.perf_counter(), 0), return_when=asyncio.FIRST_COMPLETED
        )
        now = time.perf_counter()
        for future in done:
            if future in self._pending:
                self._answered(self._pending.pop(future), future)
        late = {waiting.place for waiting in self._pending.values() if self._lines[waiting.place].end <= now}
        for place in sorted(late):
            item = self._asked[place]
            self._panel.breakers.heard(item.classifier, False)
            self._give_up(place, Silence.TIMEOUT, f"no answer within {item.deadline:g} s")

    def _answered(self, waiting: _Waiting, future: asyncio.Future[Work]) -> None:
        place, item, line = waiting.place, self._asked[waiting.place], self._lines[waiting.place]
        line.running -= 1
        if future.cancelled():
            line.unread += waiting.lot
            self._give_up(place, Silence.UNAVAILABLE, "the workers have ended")
            return
        made = future.result()
        self._queued = max(self._queued, made.started - waiting.began)
        if not item.classifier.inline:
            self._panel.breakers.heard(item.classifier, not made.failures)
        self._findings[place] += made.findings
        if made.failures:
            line.unread += waiting.lot
            line.failure = line.failure or made.failures[0]
        elif self._memory is not None and line.fresh:
            self._remember(self._memory, {each: line.fresh[each] for each in waiting.lot}, made.findings)
        self._put(place)

    def _remember(self, memory: Cache, fresh: Mapping[int, bytes], findings: Iterable[Finding]) -> None:
        found: dict[int, list[Finding]] = {each: [] for each in fresh}
        for finding in findings:
            found[finding.message].append(finding)
        now = time.monotonic()
        for each, name in fresh.items():
            memory.put(name, found[each], now)

    def _fail(self, place: int, reason: Silence, detail: str) -> None:
        self._failures[place].append(Failure(self._asked[place].classifier.name, reason, detail))
        self._finish(place)

    def _finish(self, place: int) -> None:
        """The one at `place` is done: those that wait for it may begin."""
        self._done.add(place)
        for other, first in self._behind.items():
            if first == place:
                self._start(other)
        name = self._asked[place].classifier.name
        if self._gates[name] != place:
            return
        for other, item in enumerate(self._asked):
            if item.after is not None and item.after.classifier == name and other not in self._done:
                self._start(other)


def _behind(asked: Sequence[Asked]) -> dict[int, int]:
    """Places of classifiers on one `engine`, each with the first of them: they begin when it is done, and find its work
    done for them. Begun together, they would keep workers waiting for it."""
    first: dict[int, int] = {}
    behind = {}
    for place, item in enumerate(asked):
        engine = getattr(item.classifier, "engine", None)
        if engine is not None and item.after is None and first.setdefault(id(engine), place) != place:
            behind[place] = first[id(engine)]
    return behind
