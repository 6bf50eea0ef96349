"""Many classifiers asked at once, under deadlines. It never raises: every fault is a Failure in the report.

Decision: inline classifiers (microseconds per kB) run where they are called; the others run in a few worker threads,
since their engines release the interpreter's lock. Why: a task switch costs more than a pattern scan.
Cost: a long text keeps the event loop busy for a moment, so texts over INLINE_LIMIT go to a worker as well.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .base import Classifier, Failure, Finding, Message, NoAnswer, Report, Role, Silence

INLINE_LIMIT = 100_000
"""Characters that are judged on the event loop; RE2 reads so many in about a millisecond."""
QUEUE_LIMIT = 256
"""Questions that may wait for a worker. More would only wait past their deadlines."""

_NONE = Report()


@dataclass(frozen=True, slots=True)
class Asked:
    """One classifier, the roles that it is to read, and its deadline in seconds."""

    classifier: Classifier
    roles: frozenset[Role]
    deadline: float


class Panel:
    """Worker threads shared by all who ask. `report` belongs to one event loop; `close` ends the workers."""

    def __init__(self, workers: int | None = None, queue_limit: int = QUEUE_LIMIT) -> None:
        self.workers = workers or max(1, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="classifier")
        self._limit = self.workers + queue_limit
        self._pending = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the workers; those that hang are left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def report_now(self, messages: Sequence[Message], asked: Sequence[Asked]) -> Report | None:
        """The report, at once, where all that is asked is inline and short; else None."""
        if not messages:
            return _NONE
        for item in asked:
            if not item.classifier.inline:
                return None
        if sum([len(message.text) for message in messages]) > INLINE_LIMIT:
            return None
        began = time.perf_counter()
        findings: list[Finding] = []
        failures: list[Failure] = []
        for item in asked:
            chosen, indices = _chosen(messages, item.roles)
            if chosen:
                _take(item.classifier, chosen, indices, findings, failures)
        return Report(tuple(findings), tuple(failures), unread(messages, asked), time.perf_counter() - began)

    async def report(self, messages: Sequence[Message], asked: Sequence[Asked]) -> Report:
        """What the classifiers see in `messages`. Takes no longer than the longest deadline."""
        at_once = self.report_now(messages, asked)
        if at_once is not None:
            return at_once
        began = time.perf_counter()
        work: dict[asyncio.Future[_Work], Asked] = {}
        findings: list[Finding] = []
        failures: list[Failure] = []
        for item in asked:
            chosen, indices = _chosen(messages, item.roles)
            if chosen:
                future = self._submit(item.classifier, chosen, indices)
                if future is None:
                    failures.append(Failure(item.classifier.name, Silence.QUEUE_FULL, "too many texts are waiting"))
                else:
                    work[future] = item
        queued = 0.0
        for future, item in sorted(work.items(), key=lambda pair: pair[1].deadline):
            left = began + item.deadline - time.perf_counter()
            done, _ = await asyncio.wait({future}, timeout=max(left, 0))
            if not done:
                future.cancel()
                failures.append(Failure(item.classifier.name, Silence.TIMEOUT, f"no answer within {item.deadline:g} s"))
                continue
            if future.cancelled():
                failures.append(Failure(item.classifier.name, Silence.UNAVAILABLE, "the workers have ended"))
                continue
            result = future.result()
            findings.extend(result.findings)
            failures.extend(result.failures)
            queued = max(queued, result.started - began)
        seconds = time.perf_counter() - began
        return Report(tuple(findings), tuple(failures), unread(messages, asked), seconds, queued)

    def _submit(
        self, classifier: Classifier, chosen: Sequence[Message], indices: Sequence[int] | None
    ) -> asyncio.Future[_Work] | None:
        with self._lock:
            if self._pending >= self._limit:
                return None
            self._pending += 1
        try:
            job = self._pool.submit(_work, classifier, chosen, indices)
        except RuntimeError:  # closed
            self._finished(None)
            gone: asyncio.Future[_Work] = asyncio.get_running_loop().create_future()
            gone.cancel()
            return gone
        job.add_done_callback(self._finished)
        return asyncio.wrap_future(job)

    def _finished(self, _: object) -> None:
        with self._lock:
            self._pending -= 1


@dataclass(frozen=True, slots=True)
class _Work:
    findings: list[Finding]
    failures: list[Failure]
    started: float


def _work(classifier: Classifier, chosen: Sequence[Message], indices: Sequence[int] | None) -> _Work:
    result = _Work([], [], time.perf_counter())
    _take(classifier, chosen, indices, result.findings, result.failures)
    return result


def _chosen(messages: Sequence[Message], roles: frozenset[Role]) -> tuple[Sequence[Message], Sequence[int] | None]:
    """The messages of these roles, and their places in `messages` (None where all are chosen)."""
    if len(roles) == len(Role):
        return messages, None
    indices = [index for index, message in enumerate(messages) if message.role in roles]
    return [messages[index] for index in indices], indices


def _take(
    classifier: Classifier,
    chosen: Sequence[Message],
    indices: Sequence[int] | None,
    findings: list[Finding],
    failures: list[Failure],
) -> None:
    """Ask one classifier; add what it found, or why it has no answer that can be believed."""
    try:
        found = classifier.classify(chosen)
    except NoAnswer as silence:
        failures.append(Failure(classifier.name, silence.reason, silence.detail))
        found = silence.findings
    except Exception as error:
        # The type alone: a message could quote the judged text.
        failures.append(Failure(classifier.name, Silence.CRASH, type(error).__name__))
        return
    try:
        found = found if type(found) is list else list(found or ())
        good = all(_believable(finding, classifier.name, len(chosen)) for finding in found)
    except Exception:  # whatever was returned is no list of findings
        good = False
    if not good:
        failures.append(Failure(classifier.name, Silence.BAD_ANSWER, "no list of findings with scores and places"))
        return
    if indices is None:
        findings.extend(found)
    else:
        findings.extend(Finding(f.classifier, f.label, f.score, indices[f.message], f.span) for f in found)


def _believable(finding: Finding, name: str, count: int) -> bool:
    """Whether a finding can be: its own classifier's, its score in [0, 1] and no NaN, its message one of `count`."""
    place = finding.message
    return finding.classifier == name and 0 <= finding.score <= 1 and 0 <= place < count and int(place) == place


def unread(messages: Sequence[Message], asked: Iterable[Asked]) -> tuple[int, ...]:
    """The places of messages whose role nobody reads."""
    roles: frozenset[Role] = frozenset()
    for item in asked:
        roles |= item.roles
    if len(roles) == len(Role):
        return ()
    return tuple([index for index, message in enumerate(messages) if message.role not in roles])


def asked_of(
    classifiers: Mapping[str, Classifier], readings: Iterable[tuple[str, frozenset[Role], float]]
) -> list[Asked]:
    """From (name, roles, deadline in seconds) to what `report` takes, inline classifiers first."""
    asked = [Asked(classifiers[name], roles, deadline) for name, roles, deadline in readings]
    return sorted(asked, key=lambda item: not item.classifier.inline)
