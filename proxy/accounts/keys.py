"""The keys as a serving process knows them: looked up by their keyed hash, looked after each second.

INVARIANT: a key that either file says is revoked is not accepted for longer than LOOK seconds, nor ever again by this
process; one that has expired is not accepted at all. Where the keys cannot be read those that were read last stay in
force, and what can still be read of revocations ends them.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable

from ..logs import get_logger
from .file import KeyFile, KeysUnavailable, Stamp
from .record import KeyRecord
from .secret import LENGTH, well_formed

log = get_logger("penstock.keys")

LOOK = 1.0
"""Seconds between two looks at the files."""


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
        self._any = False
        self.version = 0
        self.fault = ""
        self._timer: asyncio.TimerHandle | None = None
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

    def watch(self) -> None:
        """Look after the files from now on, until `close`."""
        self.refresh()
        self._timer = asyncio.get_running_loop().call_later(LOOK, self.watch)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def refresh(self) -> None:
        """Read the files again where they changed."""
        try:
            # The stamp is taken before anything is read: a change in between is seen at the next look.
            stamp = self._file.stamp()
            if stamp == self._stamp and not self.fault:
                return
            self._put(self._file.read())
            self._stamp, self.fault = stamp, ""
            log.info("keys loaded", keys=len(self._known))
            self._keep()
        except KeysUnavailable as error:
            self.fault = str(error)
            if any(id not in self._ended for id in error.ended):
                self._put(self._known.values(), error.ended)

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
