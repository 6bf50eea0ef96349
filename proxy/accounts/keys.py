"""The keys as a serving process knows them: looked up by their keyed hash, looked after each second.

INVARIANT: a key that either file says is revoked is not accepted for longer than LOOK seconds, nor ever again by this
process; one that has expired is not accepted at all. Where the keys cannot be read those that were read last stay in
force, and what can still be read of revocations ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import threading
import time
from collections.abc import Callable, Iterable

from ..logs import get_logger
from .file import KeyFile, KeysUnavailable, Stamp
from .record import KeyRecord
from .secret import LENGTH, well_formed

log = get_logger("penstock.keys")

_Read = tuple[Stamp, list[KeyRecord]] | KeysUnavailable | None

LOOK = 1.0
"""Seconds between two looks at the files."""
LATE = 5.0
"""Seconds after which a look is late: a file server hangs, mostly."""


class Keys:
    """`digest` is the keyed hash that keys are kept by. `version` changes with every change of what is in force;
    `fault` says what is wrong with the files. What was read last is kept in `last`, where there are other workers; one
    that comes `again` begins with that where the keys cannot be read, as the others go on with it."""

    def __init__(
        self, file: KeyFile, digest: Callable[[bytes], str], last: KeyFile | None = None, *, again: bool = False
    ) -> None:
        """Raises KeysUnavailable."""
        self._file, self._digest, self._last = file, digest, last
        self._stamp: Stamp | None = None
        self._known: dict[str, KeyRecord] = {}
        self._ended: dict[str, float] = {}
        self._any = self._closed = False
        self.version = 0
        self.fault = ""
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0  # when the look began that is under way
        try:
            stamp = file.stamp()
            self._put(file.read())
            self._stamp = stamp
            self._keep()
        except KeysUnavailable as error:
            if last is None or not again:
                raise
            self._put(last.read(), error.ended)
            self.fault = str(error)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def missing(self) -> bool:
        """Whether there is no file any more: who takes it away takes the keys away."""
        return self._any and not self.fault and self._stamp is not None and self._stamp.keys is None

    def find(self, presented: bytes) -> KeyRecord | None:
        """The record of a key, whatever its state; None where it is none of ours."""
        if len(presented) != LENGTH or not well_formed(presented.decode("ascii", "replace")):
            return None
        digest = self._digest(presented)
        record = self._known.get(digest)
        # The lookup tells a stranger nothing: he cannot compute the hash. What was found is compared in constant time.
        return record if record is not None and hmac.compare_digest(record.digest, digest) else None

    @property
    def late(self) -> float:
        """For how many seconds the files have not been heard of, where that is too long."""
        silent = time.monotonic() - self._since if self._since else 0.0
        return silent if silent > LATE else 0.0

    def watch(self) -> None:
        """Look after the files from now on, until `close`; in a thread, for a file server may hang."""
        loop, known = asyncio.get_running_loop(), None if self.fault else self._stamp
        self._since = time.monotonic()
        threading.Thread(target=self._look, args=(loop, known), name="keys", daemon=True).start()

    def _look(self, loop: asyncio.AbstractEventLoop, known: Stamp | None) -> None:
        found = self._read(known)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody looks any more
            loop.call_soon_threadsafe(self._heard, loop, found)

    def _heard(self, loop: asyncio.AbstractEventLoop, found: _Read) -> None:
        self._since = 0.0
        if not self._closed:
            self._timer = loop.call_later(LOOK, self.watch)
            self._take(found)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def refresh(self) -> None:
        """Read the files again where they changed."""
        self._take(self._read(None if self.fault else self._stamp))

    def _read(self, known: Stamp | None) -> _Read:
        """The keys, where the files are others than `known`. For any thread."""
        try:
            # The stamp is taken before anything is read: a change in between is seen at the next look.
            stamp = self._file.stamp()
            return None if stamp == known else (stamp, self._file.read())
        except KeysUnavailable as error:
            return error
        except Exception as error:  # a fault of ours must not end the watch
            log.exception("keys not looked at")
            return KeysUnavailable(f"{self._file.path}: a fault of ours: {type(error).__name__} (the log has more)")

    def _take(self, found: _Read) -> None:
        if isinstance(found, KeysUnavailable):
            self.fault = str(found)
            if any(id not in self._ended for id in found.ended):
                self._put(self._known.values(), found.ended)
        elif found is not None:
            self._stamp, records = found
            self._put(records)
            self.fault = ""
            log.info("keys loaded", keys=len(self._known))
            self._keep()

    def _keep(self) -> None:
        if self._last is not None:
            try:
                self._last.hold(list(self._known.values()))
            except KeysUnavailable as error:
                log.warning("keys not kept for workers that start again", problem=str(error))

    def _put(self, records: Iterable[KeyRecord], ended: Iterable[str] = ()) -> None:
        """These are in force, without what was ever revoked: a key does not come back with an older copy of a file."""
        now = time.time()
        records = list(records)
        for record in records:
            if record.revoked is not None:
                self._ended.setdefault(record.id, record.revoked)
        for id in ended:
            self._ended.setdefault(id, now)
        self._known = {
            each.digest: each.model_copy(update={"revoked": self._ended[each.id]}) if each.id in self._ended else each
            for each in records
        }
        self._any = self._any or bool(records)
        self.version += 1
