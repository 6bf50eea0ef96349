"""What a database must do to hold kept content, and the keys of its subjects. Times are unix seconds.

Methods block, are called from one thread at a time, and raise ContentUnavailable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One exchange: the sealed content, and the numbers of the keys that seal it. `body` is None once one of them was
    destroyed at a subject's request, `at` is when it ended."""

    id: str
    at: float
    keys: tuple[int, ...]
    body: bytes | None


class SubjectKey(NamedTuple):
    """A key of a subject. `wrapped` is None once it was destroyed."""

    number: int
    subject: str
    wrapped: bytes | None
    made: float


class Keys(ABC):
    """The wrapped keys of subjects. INVARIANT: no number is ever given twice, and what was destroyed stays so."""

    @abstractmethod
    def begin(self, fingerprint: str) -> str:
        """The fingerprint of the master key that these keys are under; this one's from now on, where there is none."""

    @abstractmethod
    def master(self) -> str:
        """The fingerprint of the master key that these keys are under."""

    @abstractmethod
    def rewrap(self, fingerprint: str, wrapped: Callable[[SubjectKey], bytes]) -> int:
        """Put each key that is not destroyed as `wrapped` has it, under the master key of this fingerprint; how many.
        All or none. What `wrapped` raises is raised."""

    @abstractmethod
    def newest(self, subject: str, since: float) -> SubjectKey | None:
        """The newest key of a subject that was made since and is not destroyed."""

    @abstractmethod
    def add(self, fresh: Sequence[tuple[str, bytes]], made: float) -> list[int]:
        """The numbers of these new keys, each a subject and the key wrapped. Durable when it returns."""

    @abstractmethod
    def find(self, numbers: Collection[int]) -> list[SubjectKey]:
        """Those that are there, in no order."""

    @abstractmethod
    def of(self, subject: str) -> list[SubjectKey]:
        """All keys of a subject, the destroyed ones too."""

    @abstractmethod
    def destroy(self, subject: str, before: float) -> int:
        """Make the keys of a subject unreadable that were made before; how many were readable. Durable when it
        returns."""

    @abstractmethod
    def expire(self, before: float) -> None:
        """Remove all keys that were made before."""

    def has_room(self) -> bool:
        """False where it was full, and has hardly more room now than it takes to write once."""
        return True

    @abstractmethod
    def close(self) -> None: ...


class Contents(ABC):
    """The sealed rows."""

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """All of them, or none and it raises. A row that is there already stays as it is."""

    @abstractmethod
    def read(self, id: str) -> Row | None: ...

    @abstractmethod
    def since(self, at: float) -> Iterator[Row]:
        """Those that ended since, oldest first."""

    @abstractmethod
    def empty(self, keys: Collection[int]) -> int:
        """Drop the bodies of the rows that these keys seal; how many had one."""

    @abstractmethod
    def erase(self, subject: str, at: float) -> None:
        """Note that a subject was to be forgotten."""

    @abstractmethod
    def erased(self) -> list[tuple[str, float]]:
        """What was noted, and not removed by `expire`."""

    @abstractmethod
    def expire(self, before: float, most: int) -> int:
        """Remove notes of before, and at most so many rows that ended before; how many were removed."""

    def has_room(self) -> bool:
        """False where it was full, and has hardly more room now than it takes to write once."""
        return True

    @abstractmethod
    def close(self) -> None: ...
