"""Write, read and forget: the envelope over the two stores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import orjson

from .seal import Broken, ContentUnavailable, Master, seal, unseal
from .store import Contents, Keys, Row, SubjectKey

DAY = 86_400.0
"""Seconds that a subject's key seals new rows; then the next one is made."""
EXPIRED = 1000
"""Most rows that are removed in one transaction."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is to be kept of one exchange. `subjects` are the account and the end users that it claims."""

    id: str
    at: float
    subjects: tuple[str, ...]
    content: dict[str, Any]


class Gone(Exception):
    """The content of a decision cannot be read. The message says why, for an operator."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What `forget` did: `keys` destroyed now, `rows` that nobody can read any more, `known` keys of the subject in
    all."""

    keys: int
    rows: int
    known: int


class Vault:
    """The kept content. Without the master key it can forget, expire, and nothing else. Methods block and raise
    ContentUnavailable."""

    def __init__(
        self, keys: Keys, contents: Contents, master: Master | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys, self._contents, self._master, self._clock = keys, contents, master, clock
        if master is not None and keys.begin(master.fingerprint) != master.fingerprint:
            raise _other()

    def follow(self, clock: Callable[[], float]) -> None:
        """Go by another clock than the system's."""
        self._clock = clock

    def write(self, items: Sequence[Item]) -> None:
        """Seal and store all of them, or none."""
        keys = self._ready({subject: None for item in items for subject in item.subjects})
        rows = []
        for item in items:
            numbers = tuple([keys[subject][0] for subject in item.subjects])
            body = seal([keys[subject][1] for subject in item.subjects], item.id, orjson.dumps(item.content))
            rows.append(Row(item.id, item.at, numbers, body))
        self._contents.write(rows)

    def read(self, id: str) -> dict[str, Any]:
        """The content of one decision. Raises Gone."""
        row = self._contents.read(id)
        if row is None:
            raise Gone("nothing is kept of it: it was not to be, it has expired, or it was lost on its way")
        return self._opened(row)

    def since(self, at: float) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """(id, when it ended, content) of all that can be read and ended since, oldest first."""
        for row in self._contents.since(at):
            try:
                yield row.id, row.at, self._opened(row)
            except Gone:
                continue

    def forget(self, subject: str) -> Forgotten:
        """Destroy the keys of a subject: what they sealed cannot be read any more, wherever a copy of it lies."""
        self._contents.erase(subject, self._clock())
        destroyed = self._keys.destroy(subject, inf)  # also those that a clock that ran ahead has made
        numbers = [key.number for key in self._keys.of(subject) if key.wrapped is None]
        return Forgotten(destroyed, self._contents.empty(numbers), len(numbers))

    def expire(self, before: float) -> bool:
        """Remove what ended before, and the keys that sealed nothing later; forget again whom somebody put back with an
        older copy of the keys. False where there may be more."""
        for subject, at in self._contents.erased():
            self._keys.destroy(subject, at)
        if self._contents.expire(before, EXPIRED) == EXPIRED:
            return False
        self._keys.expire(before - DAY)
        return True

    def has_room(self) -> bool:
        """False where a disk was full, and the next row may find no room."""
        return self._keys.has_room() and self._contents.has_room()

    def rekey(self, master: Master) -> int:
        """Put all keys under another master key; how many. Whoever still has the old one can keep and read nothing."""
        old = self._opening()

        def wrapped(key: SubjectKey) -> bytes:
            return master.wrap(key.subject, self._unwrapped(key.subject, key.wrapped or b""))

        if self._keys.master() != old.fingerprint:
            raise _other()
        count = self._keys.rewrap(master.fingerprint, wrapped)
        self._master = master
        return count

    def close(self) -> None:
        self._keys.close()
        self._contents.close()

    def _ready(self, subjects: Iterable[str]) -> dict[str, tuple[int, bytes]]:
        """Number and key that seal what is of each subject now."""
        master, now = self._opening(), self._clock()
        if self._keys.master() != master.fingerprint:
            raise _other()
        ready: dict[str, tuple[int, bytes]] = {}
        fresh: list[tuple[str, bytes, bytes]] = []
        for subject in subjects:
            known = self._keys.newest(subject, now - DAY)
            if known is not None and known.wrapped is not None:
                ready[subject] = known.number, self._unwrapped(subject, known.wrapped)
            else:
                fresh.append((subject, *master.fresh(subject)))
        if fresh:
            numbers = self._keys.add([(subject, wrapped) for subject, _, wrapped in fresh], now)
            ready |= {subject: (number, key) for (subject, key, _), number in zip(fresh, numbers, strict=True)}
        return ready

    def _opened(self, row: Row) -> dict[str, Any]:
        """Raises Gone."""
        if self._keys.master() != self._opening().fingerprint:
            raise _other()
        known = {key.number: key for key in self._keys.find(row.keys)}
        keys = []
        for number in row.keys:
            key = known.get(number)
            if key is None:
                raise Gone("it has expired: the key that sealed it was destroyed")
            if key.wrapped is None:
                raise Gone(f"it was forgotten: the key of {key.subject} was destroyed")
            keys.append(self._unwrapped(key.subject, key.wrapped))
        if row.body is None:
            raise Gone("it was forgotten")
        try:
            content: dict[str, Any] = orjson.loads(unseal(keys, row.id, row.body))
        except (Broken, ValueError):
            raise Gone("it is damaged, or was put in the place of another") from None
        return content

    def _unwrapped(self, subject: str, wrapped: bytes) -> bytes:
        try:
            return self._opening().unwrap(subject, wrapped)
        except Broken:
            mend = "put the file of keys back as it was"
            raise ContentUnavailable(f"a key of {subject} is damaged, or of another subject", mend) from None

    def _opening(self) -> Master:
        if self._master is None:
            mend = "set content_key_file, or PENSTOCK_CONTENT_KEY_FILE"
            raise ContentUnavailable("it opens with the master key only", mend)
        return self._master


def _other() -> ContentUnavailable:
    mend = "name the one that it is under, and start again; or begin anew in another directory"
    return ContentUnavailable("it is under another master key", mend)
