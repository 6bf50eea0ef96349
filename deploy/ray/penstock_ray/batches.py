"""Which of the waiting rows go into the next pass. No I/O, no threads.

INVARIANT: the rows of a batch are equally long and want the same outputs; no batch has more tokens than the budget,
unless one job alone has; the job that has waited longest is in the next batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """Rows that want a pass: `rows` of `length` tokens each, and the `outputs` that are wanted. `work` is whatever its
    owner knows it by."""

    rows: int
    length: int
    outputs: tuple[str, ...]
    work: T

    @property
    def tokens(self) -> int:
        return self.rows * self.length


class Backlog(Generic[T]):
    """What waits. `budget`: tokens of one batch."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._count = 0
        self._waiting: dict[tuple[int, tuple[str, ...]], deque[tuple[int, Job[T]]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, job: Job[T]) -> None:
        """`job` waits behind all that came before."""
        self._count += 1
        self._waiting.setdefault((job.length, job.outputs), deque()).append((self._count, job))

    def take(self) -> list[Job[T]]:
        """The next batch, in the order in which its jobs came; none where nothing waits."""
        if not self._waiting:
            return []
        key = min(self._waiting, key=lambda each: self._waiting[each][0][0])
        alike, tokens = self._waiting[key], 0
        batch: list[Job[T]] = []
        while alike and (not batch or tokens + alike[0][1].tokens <= self._budget):
            job = alike.popleft()[1]
            batch.append(job)
            tokens += job.tokens
        if not alike:
            del self._waiting[key]
        return batch
