"""The two records that tell of an exchange, and when each is written.

The intent is written where a stream was asked for, or once the model has been at work for INTENT_AFTER; the outcome at
the end. An answer in one piece that comes sooner needs no intent: its outcome is durable before it leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Protocol

from .flight import fate
from .later import Later, Pending
from .listener import Caller
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


async def recorded(journal: Journal, notes: Notes, caller: Caller) -> None:
    """Wait until it is durable how an exchange ended that the model was not asked for. Raises what the journal raises:
    the caller is refused then, and that is what a second record says, where the first one may be written yet."""
    taken = False
    try:
        waiter = journal.submit(notes.expected())
        taken = True
        await waiter
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            notes.undone(fate(caller))
        else:
            notes.undone("refused", "audit_unavailable")
        record = notes.outcome()
        if taken:
            journal.append(record)
        raise
    notes.settle()


class Telling:
    """The records of one exchange, of which `notes` is written. `later` is the clock of intents, INTENT_AFTER slow."""

    def __init__(self, journal: Journal, later: Later, notes: Notes) -> None:
        self._journal, self._later, self._notes = journal, later, notes
        self._intent: asyncio.Future[None] | None = None
        self._untold: Pending | None = None  # rings when it is time for the intent

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
                notes, began = self._notes, time.perf_counter()
                await self._journal.durable(notes.expected())
                notes.waited(time.perf_counter() - began)
                notes.settle()
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
        """The exchange has ended: write down how, if that is not on the disk. Where an answer waited for just that, and
        did not leave, the record may be written yet, and this one behind it says what became of it instead."""
        if self._untold is not None:
            self._untold.cancel()
        intent = self._intent
        if intent is not None:
            if not intent.done():
                intent.cancel()
            elif not intent.cancelled():
                intent.exception()  # seen: it was answered where it mattered
        if not self._notes.settled:
            self._journal.append(self._notes.outcome())

    def _declare(self) -> None:
        """Write down what the model is asked, and that it was let through."""
        self._untold = None
        try:
            self._intent = self._journal.submit(self._notes.intent())
        except Exception as error:  # raised where it matters: when something is to leave
            self._intent = asyncio.get_running_loop().create_future()
            self._intent.set_exception(error)
