"""The two records that tell of an exchange, and when each is written.

The intent is written where a stream was asked for, or once the model has been at work for INTENT_AFTER; the outcome at
the end. An answer in one piece that comes sooner needs no intent: its outcome is durable before it leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Protocol

from .later import Later, Pending
from .problems import Unrecorded
from .record import Notes

INTENT_AFTER = 0.02
"""Seconds after which what was sent to the model is written down, whatever becomes of it."""


class Journal(Protocol):
    """Where records go (`audit.Audit`)."""

    @property
    def healthy(self) -> bool: ...
    def durable(self, record: Any) -> Awaitable[None]: ...
    def submit(self, record: Any) -> asyncio.Future[None]: ...
    def append(self, record: Any) -> bool: ...


class Telling:
    """The records of one exchange, of which `notes` is written. `later` is the clock of intents, INTENT_AFTER slow."""

    def __init__(self, journal: Journal, later: Later, notes: Notes) -> None:
        self._journal, self._later, self._notes = journal, later, notes
        self._intent: asyncio.Future[None] | None = None
        self._untold: Pending | None = None  # rings when it is time for the intent
        self._recorded = False  # the outcome is on its way to the disk

    def begins(self, *, stream: bool) -> None:
        """The model is asked now."""
        if stream:
            self._declare()  # it needs one in any case: the disk works while the model begins
        else:
            self._untold = self._later.add(self._declare)

    async def before(self, *, whole: bool) -> None:
        """Wait until something may leave: a `whole` answer, or the first of one. Raises Unrecorded, or what the journal
        raises."""
        if self._intent is None:
            if self._untold is not None:
                self._untold.cancel()
            if whole:
                self._recorded = True
                began = time.perf_counter()
                await self._journal.durable(self._notes.outcome())
                self._notes.waited(time.perf_counter() - began)
                return
            self._declare()
        intent = self._intent
        assert intent is not None
        if intent.done() and intent.exception() is None:
            return
        began = time.perf_counter()
        try:
            await intent
        except Exception as error:
            raise Unrecorded(str(error)) from None
        self._notes.waited(time.perf_counter() - began)

    def over(self) -> None:
        """The exchange has ended: write down how, if that was not done yet."""
        if self._untold is not None:
            self._untold.cancel()
        intent = self._intent
        if intent is not None:
            if not intent.done():
                intent.cancel()
            elif not intent.cancelled():
                intent.exception()  # seen: it was answered where it mattered
        if not self._recorded:
            self._journal.append(self._notes.outcome())

    def _declare(self) -> None:
        """Write down what the model is asked, and that it was let through."""
        self._untold = None
        try:
            self._intent = self._journal.submit(self._notes.intent())
        except Exception as error:  # raised where it matters: when something is to leave
            self._intent = asyncio.get_running_loop().create_future()
            self._intent.set_exception(error)
