"""Threads in which classifiers work, how many questions may wait for one, and which answers can be believed.

Decision: who works long looks now and then whether anybody still waits, and lets go (`Unwanted`). Why: a deadline, or a
caller who hangs up, ends the waiting and not the thread; a few long texts would keep all others waiting for minutes.
Cost: what was read of such a text by then is lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .base import Classifier, Failure, Finding, Message, NoAnswer, Silence


@dataclass(frozen=True, slots=True)
class Work:
    """What one classifier saw. `started` is when a worker began (perf_counter)."""

    findings: list[Finding]
    failures: list[Failure]
    started: float


_here = threading.local()


class Unwanted(NoAnswer):
    """Nobody waits any more for what this thread works at."""


def look_up() -> None:
    """Raises Unwanted where nobody waits any more for what this thread works at."""
    gone: threading.Event | None = getattr(_here, "gone", None)
    if gone is not None and gone.is_set():
        raise Unwanted(Silence.TIMEOUT, "nobody waits for it any more")


class Workers:
    """A pool of threads, started as they are needed."""

    def __init__(self, threads: int, queue_limit: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.limit = threads + queue_limit
        self._lock = threading.Lock()
        self.pending = 0

    def close(self) -> None:
        """End the threads; those that hang are left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(
        self, classifier: Classifier, chosen: Sequence[Message], indices: Sequence[int] | None
    ) -> asyncio.Future[Work] | None:
        """The work under way; None where too much waits; a cancelled future where the workers have ended."""
        with self._lock:
            if self.pending >= self.limit:
                return None
            self.pending += 1
        gone_away = threading.Event()
        try:
            job = self._pool.submit(_work, gone_away, classifier, chosen, indices)
        except RuntimeError:  # closed
            self._finished(None)
            gone: asyncio.Future[Work] = asyncio.get_running_loop().create_future()
            gone.cancel()
            return gone
        job.add_done_callback(self._finished)
        waiting = asyncio.wrap_future(job)
        waiting.add_done_callback(lambda _: gone_away.set())
        return waiting

    def _finished(self, _: object) -> None:
        with self._lock:
            self.pending -= 1


def _work(
    gone: threading.Event, classifier: Classifier, chosen: Sequence[Message], indices: Sequence[int] | None
) -> Work:
    _here.gone = gone
    try:
        return work(classifier, chosen, indices)
    finally:
        _here.gone = None


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
