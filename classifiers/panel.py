"""Many classifiers asked at once, under deadlines. It never raises: every fault is a Failure in the report.

Decision: inline classifiers (microseconds per kB) run where they are called; the others run in a few worker threads,
since their engines release the interpreter's lock, and those that wait for other machines (`waits`) in threads apart.
Why: a task switch costs more than a pattern scan, and a slow endpoint must not keep the cores idle.
Cost: a long text keeps the event loop busy for a moment, so texts over INLINE_LIMIT go to a worker as well.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .asked import INLINE_LIMIT, Asked, chosen, unread
from .asking import Asking
from .base import Classifier, Failure, Finding, Message, Report
from .breaker import Breakers
from .cache import Cache
from .workers import Workers, take

if TYPE_CHECKING:
    from .elsewhere import Elsewhere

QUEUE_LIMIT = 256
"""Questions that may wait for a worker. More would only wait past their deadlines."""
WAITING = 32
"""Threads for classifiers that wait for other machines."""

_NONE = Report()


@dataclass(slots=True)
class Counts:
    """What became of the messages that were to be read by classifiers that are not `at_once`."""

    read: int = 0
    """Put to the classifier."""
    known: int = 0
    """Answered from what was found in them before."""
    spared: int = 0
    """Not read, since the classifier before was sure of them."""
    refused: int = 0
    """Not read, since a breaker was open."""


class Panel:
    """Worker threads shared by all who ask. `report` belongs to one event loop; `close` ends the workers.

    `counts`, `cache` and `breakers` are for reading.
    """

    def __init__(
        self, workers: int | None = None, queue_limit: int = QUEUE_LIMIT, elsewhere: Elsewhere | None = None
    ) -> None:
        """`elsewhere`: the server that makes the encoders' passes."""
        self._elsewhere = elsewhere
        self.workers = workers or max(1, len(os.sched_getaffinity(0)))
        self.counts = Counts()
        self.cache = Cache()
        self.breakers = Breakers()
        self._working = Workers(self.workers, queue_limit, "classifier")
        self._waiting = Workers(WAITING, queue_limit, "waiting")

    def prepare(self, classifiers: Iterable[Classifier]) -> None:
        """Get to know classifiers that are about to be asked. May block for seconds where a server makes passes."""
        if self._elsewhere is not None:
            self._elsewhere.prepare(classifiers)

    def placed(self, classifiers: Mapping[str, Classifier]) -> Mapping[str, Classifier]:
        """The same classifiers, each where its work is done."""
        return classifiers if self._elsewhere is None else self._elsewhere.placed(classifiers)

    def apart(self) -> Panel:
        """The same workers and breakers with counts and a memory of its own: for what must not show in the figures of
        traffic. Only the first one is to be closed."""
        other = copy.copy(self)
        other.counts, other.cache = Counts(), Cache()
        return other

    def close(self) -> None:
        """End the workers; those that hang are left behind."""
        self._working.close()
        self._waiting.close()

    def report_now(self, messages: Sequence[Message], asked: Sequence[Asked]) -> Report | None:
        """The report, at once, where all that is asked is inline and short; else None."""
        if not messages:
            return _NONE
        for item in asked:
            if not item.at_once:
                return None
        if sum([len(message.text) for message in messages]) > INLINE_LIMIT:
            return None
        began = time.perf_counter()
        findings: list[Finding] = []
        failures: list[Failure] = []
        for item in asked:
            texts, indices = chosen(messages, item.roles)
            if texts:
                take(item.classifier, texts, indices, findings, failures)
        return Report(tuple(findings), tuple(failures), unread(messages, asked), time.perf_counter() - began)

    async def report(
        self, messages: Sequence[Message], asked: Sequence[Asked], scope: str | None = None, memory: Cache | None = None
    ) -> Report:
        """What the classifiers see in `messages`. Takes no longer than the longest deadline; those of classifiers
        that are asked after each other add up. Within a `scope`, say one tenant, what was judged is not judged
        again; with None nothing is remembered, unless a `memory` is given, which is then used instead of our own."""
        at_once = self.report_now(messages, asked)
        if at_once is not None:
            return at_once
        if memory is None and scope is not None:
            memory = self.cache
            if memory.asks:
                await memory.ask(_names(memory, scope, messages, asked))
        return await Asking(self, messages, asked, scope or "", memory).report()

    def workers_for(self, classifier: Classifier) -> Workers:
        """The threads in which `classifier` works."""
        return self._waiting if getattr(classifier, "waits", False) else self._working


def _names(memory: Cache, scope: str, messages: Sequence[Message], asked: Sequence[Asked]) -> Iterator[bytes]:
    """What the questions are called, whose answers are remembered."""
    for item in asked:
        if not item.classifier.inline:
            for message in chosen(messages, item.roles)[0]:
                yield memory.name(scope, item.classifier.digest, message)
