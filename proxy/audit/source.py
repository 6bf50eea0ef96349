"""What `Reader` needs of a database: rows of a query, the log's own notes, and one state of both at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from .entry import AuditUnavailable, Plain
from .record import columns
from .seal import Head, Sealer


class Damaged(AuditUnavailable):
    """The database says that what it holds is broken."""


class Source(ABC):
    """A read-only view of one log's database. Every method raises AuditUnavailable, or Damaged."""

    name: str
    """Where it lies, for people."""

    @abstractmethod
    def rows(self, sql: str, values: Sequence[object] = (), *, few: bool = False) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one after the other in bounded memory, or at once where they are `few`. `?` stands for
        each value."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """What is read inside the block is of one moment."""

    def searching(self, span: tuple[float, float]) -> AbstractContextManager[object]:
        """What makes a search of the rows whose `at` is within `span` sooner done, while the block lasts."""
        return nullcontext()

    @abstractmethod
    def opened(self, seal: Sealer) -> tuple[str, str]:
        """The log's uuid, and the note of what was pruned (or nothing), after its version and key were found right."""

    @abstractmethod
    def noted(self, seal: Sealer) -> Head | None:
        """The newest head as it was noted beside the rows; None where there is no note. Raises BadHead."""

    def columns(self, body: dict[str, Any]) -> tuple[Plain, ...]:
        """The columns of a body as this database keeps them."""
        return columns(body)

    @abstractmethod
    def close(self) -> None: ...


def open_source(where: str | Path, head: str | Path = "") -> Source:
    """The log at a path or URL. Raises AuditUnavailable."""
    from .target import check_driver, is_database

    if is_database(str(where)):
        check_driver()
        from .postgres_source import PostgresSource

        return PostgresSource(str(where), str(head))
    from .sqlite_source import SqliteSource

    return SqliteSource(Path(where))
