"""A classifier that keeps failing is left alone for a while, and asked again with a text of our own.

INVARIANT: only a text of our own opens or closes a breaker. What callers send can make a classifier fail, and must
not be able to silence it for others, nor be spent on finding out whether it is well again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

from .base import Classifier, Failure, Message, Role, Silence
from .workers import work

FAULTS = 5
"""Failures in a row after which a text of our own is asked."""
PAUSE, LONGEST = 5.0, 60.0
"""Seconds that an open breaker waits for the next try; doubled each time up to the longest."""
PROBE = Message(Role.USER, "penstock readiness canary", "")
"""The text of our own."""


class Breaker:
    """The state for one classifier: told what happened and when, in seconds of a steady clock. `open`: nobody is to
    ask it."""

    __slots__ = ("_faults", "_pause", "_retry", "_trying", "open")

    def __init__(self) -> None:
        self.open = False
        self._trying = False
        self._faults = 0
        self._pause = PAUSE
        self._retry = 0.0

    @property
    def idle(self) -> bool:
        """Nothing is known against the classifier."""
        return not (self.open or self._trying or self._faults)

    def heard(self, well: bool) -> None:
        """A caller's question was answered, or not."""
        self._faults = 0 if well else self._faults + 1

    def try_now(self, now: float) -> bool:
        """Whether to ask a text of our own now; then not again until `tried`."""
        due = now >= self._retry if self.open else self._faults >= FAULTS
        if self._trying or not due:
            return False
        self._trying = True
        return True

    def late(self, now: float) -> None:
        """Our text was not answered in time. It is waited for all the same: nothing piles up behind what hangs."""
        self._pause = min(2 * self._pause, LONGEST) if self.open else PAUSE
        self.open, self._retry = True, now + self._pause

    def tried(self, well: bool, now: float) -> None:
        """Our text was answered in time, or it was not and the classifier has let go of it now."""
        self._trying = False
        if well:
            self.open, self._faults = False, 0
        elif not self.open or now >= self._retry:
            self.late(now)


class Breakers:
    """The breakers of one panel: of the classifiers that failed lately. For one event loop."""

    def __init__(self) -> None:
        self.opened = 0
        """How often a breaker opened."""
        self._known: dict[tuple[str, str], Breaker] = {}
        self._why: dict[tuple[str, str], Failure] = {}

    def refuses(self, classifier: Classifier, deadline: float) -> bool:
        """Whether nobody is to ask `classifier`. Starts a try where one is due, which has `deadline` seconds."""
        breaker = self._known.get((classifier.name, classifier.digest))
        if breaker is None:
            return False
        if breaker.try_now(time.monotonic()):
            self._try(classifier, deadline, breaker)
        return breaker.open

    def heard(self, classifier: Classifier, well: bool) -> None:
        """A caller's question was answered, or not."""
        name = classifier.name, classifier.digest
        if not well:
            self._known.setdefault(name, Breaker()).heard(False)
        elif (breaker := self._known.get(name)) is not None:
            breaker.heard(True)
            if breaker.idle:
                del self._known[name]

    def why(self, classifier: Classifier) -> Failure | None:
        """What came of our own text, where nobody is to ask `classifier` for that."""
        name = classifier.name, classifier.digest
        breaker = self._known.get(name)
        return self._why.get(name) if breaker is not None and breaker.open else None

    def forget(self, names: Iterable[tuple[str, str]]) -> None:
        """What is known against classifiers of these names and digests: texts of our own were answered elsewhere."""
        for name in names:
            self._known.pop(name, None)
            self._why.pop(name, None)

    def _try(self, classifier: Classifier, deadline: float, breaker: Breaker) -> None:
        """Ask our own text in a thread apart: full queues and hanging workers say nothing about the classifier."""
        loop = asyncio.get_running_loop()
        in_time = True
        name = classifier.name, classifier.digest

        def told(tell: Callable[[float], None]) -> None:
            was = breaker.open
            tell(time.monotonic())
            self.opened += breaker.open and not was

        def late() -> None:
            nonlocal in_time
            in_time = False
            self._why[name] = Failure(classifier.name, Silence.TIMEOUT, f"no answer within {deadline:g} s")
            told(breaker.late)

        def done(failure: Failure | None) -> None:
            timer.cancel()
            if failure is not None and in_time:
                self._why[name] = failure
            told(lambda now: breaker.tried(failure is None and in_time, now))

        def ask() -> None:
            failure = next(iter(work(classifier, [PROBE], None).failures), None)
            try:
                loop.call_soon_threadsafe(done, failure)
            except RuntimeError:  # the loop is closed: nobody asks any more
                return

        timer = loop.call_later(deadline, late)
        threading.Thread(target=ask, name="probe", daemon=True).start()
