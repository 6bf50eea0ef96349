"""Threads in which classifiers work, how many questions may wait for one, and which answers can be believed.

Decision: who works long looks now and then whether anybody still waits, and lets go (`Unwanted`). Why: a deadline, or a
caller who hangs up, ends the waiting and not the thread; a few long texts would keep all others waiting for minutes.
Cost: what was read of such a text by then is lost.

Decision: whoever works at a long text looks after short ones that wait, too (`look_up`). Why: a few long ones would
keep all others waiting past their deadlines. Cost: a long text takes longer while many short ones come.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from .base import Classifier, Failure, Finding, Message, NoAnswer, Silence


@dataclass(frozen=True, slots=True)
class Work:
    """What one classifier saw. `started` is when a worker began (perf_counter)."""

    findings: list[Finding]
    failures: list[Failure]
    started: float


SHORT = 20_000
"""Characters of a question that is not made to wait for longer ones."""
LENT = 0.5
"""Seconds that a longer one then waits at a time."""

_here = threading.local()


class Unwanted(NoAnswer):
    """Nobody waits any more for what this thread works at."""


def look_up(*, lend: bool = True) -> None:
    """For who works long: answer short questions that wait (not with `lend` False: for who holds what one of them may
    wait for). Raises Unwanted where nobody waits any more for what this thread works at."""
    job: _Job | None = getattr(_here, "job", None)
    if job is None:
        return
    if job.gone.is_set():
        raise Unwanted(Silence.TIMEOUT, "nobody waits for it any more")
    if lend:
        job.workers.lend(job)


@dataclass(slots=True, eq=False)
class _Job:
    """A question that waits, or is worked at. `gone`: nobody waits for the answer any more."""

    workers: Workers
    classifier: Classifier
    chosen: Sequence[Message]
    indices: Sequence[int] | None
    short: bool
    future: Future[Work] = field(default_factory=Future)
    gone: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        before, _here.job = getattr(_here, "job", None), self
        try:
            self.future.set_result(work(self.classifier, self.chosen, self.indices))
        except BaseException as error:
            self.future.set_exception(error)
        finally:
            _here.job = before


class Workers:
    """A pool of threads, started as they are needed."""

    def __init__(self, threads: int, queue_limit: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.limit = threads + queue_limit
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self.pending = 0

    def close(self) -> None:
        """End the threads; those that hang are left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left, self._jobs = self._jobs, deque()
        for job in left:
            job.future.cancel()

    def submit(
        self, classifier: Classifier, chosen: Sequence[Message], indices: Sequence[int] | None
    ) -> asyncio.Future[Work] | None:
        """The work under way; None where too much waits; a cancelled future where the workers have ended."""
        job = _Job(self, classifier, chosen, indices, sum([len(each.text) for each in chosen]) <= SHORT)
        with self._lock:
            if self.pending >= self.limit:
                return None
            self.pending += 1
            self._jobs.append(job)
        job.future.add_done_callback(self._finished)
        waiting = asyncio.wrap_future(job.future)
        waiting.add_done_callback(lambda _: job.gone.set())
        try:
            self._pool.submit(self._next)
        except RuntimeError:  # closed
            with self._lock, contextlib.suppress(ValueError):
                self._jobs.remove(job)
            waiting.cancel()
        return waiting

    def _next(self) -> None:
        with self._lock:
            job = self._jobs.popleft() if self._jobs else None
        if job is not None:
            job.run()

    def lend(self, job: _Job) -> None:
        """Let the thread that works at `job`, a long one, answer short ones that wait, for `LENT` seconds."""
        until = time.perf_counter() + LENT
        while not job.short and time.perf_counter() < until:
            with self._lock:
                other = next((each for each in self._jobs if each.short), None)
                if other is None:
                    return
                self._jobs.remove(other)
            other.run()

    def _finished(self, _: object) -> None:
        with self._lock:
            self.pending -= 1


def work(classifier: Classifier, chosen: Sequence[Message], indices: Sequence[int] | None) -> Work:
    """Ask one classifier about `chosen`, whose places are `indices` (None where they are all)."""
    result = Work([], [], time.perf_counter())
    take(classifier, chosen, indices, result.findings, result.failures)
    return result


def take(
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
        findings.extend(Finding(f.classifier, f.label, f.score, indices[f.message], f.span, f.view) for f in found)


def _believable(finding: Finding, name: str, count: int) -> bool:
    """Whether a finding can be: its own classifier's, its score in [0, 1] and no NaN, its message one of `count`."""
    place = finding.message
    return finding.classifier == name and 0 <= finding.score <= 1 and 0 <= place < count and int(place) == place
