"""The keys as a serving process knows them: looked up by their keyed hash, looked after each second.

INVARIANT: a key that the file says is revoked or expired is not accepted for longer than LOOK seconds; where the file
cannot be read the last keys that were read stay in force, and the process says that it is not ready.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable

from ..logs import get_logger
from .file import KeyFile, KeysUnavailable, Stamp
from .record import KeyRecord
from .secret import LENGTH, well_formed

log = get_logger("penstock.keys")

LOOK = 1.0
"""Seconds between two looks at the file."""


class Keys:
    """`digest` is the keyed hash that keys are kept by. `version` changes with every change of the file; `fault` says
    what is wrong with it."""

    def __init__(self, file: KeyFile, digest: Callable[[bytes], str]) -> None:
        """Raises KeysUnavailable."""
        self._file, self._digest = file, digest
        self._stamp: Stamp | None = None
        self._known: dict[str, KeyRecord] = {}
        self.version = 0
        self.fault = ""
        self._timer: asyncio.TimerHandle | None = None
        self._load(file.stamp())

    def __len__(self) -> int:
        return len(self._known)

    def find(self, presented: bytes) -> KeyRecord | None:
        """The record of a key, whatever its state; None where it is none of ours."""
        if len(presented) != LENGTH or not well_formed(presented.decode("ascii", "replace")):
            return None
        digest = self._digest(presented)
        record = self._known.get(digest)
        # The lookup tells a stranger nothing: he cannot compute the hash. What was found is compared in constant time.
        return record if record is not None and hmac.compare_digest(record.digest, digest) else None

    def watch(self) -> None:
        """Look after the file from now on, until `close`."""
        self.refresh()
        self._timer = asyncio.get_running_loop().call_later(LOOK, self.watch)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def refresh(self) -> None:
        """Read the file again where it changed."""
        try:
            stamp = self._file.stamp()
            if stamp == self._stamp and not self.fault:
                return
            self._load(stamp)
            log.info("keys loaded", keys=len(self._known))
        except KeysUnavailable as error:
            if str(error) != self.fault:
                self.fault = str(error)
                log.error("keys not loaded, the old ones stay", keys=len(self._known), problem=self.fault)

    def _load(self, stamp: Stamp | None) -> None:
        # The stamp was taken before the file is read: a change in between is seen at the next look.
        self._known = {record.digest: record for record in self._file.read()}
        self._stamp, self.fault = stamp, ""
        self.version += 1
