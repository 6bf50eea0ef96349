"""Kept texts as rows for a reviewer, and what was reviewed as examples to teach with (`policies.texts` reads them)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from json import dumps
from pathlib import Path
from typing import Any

import typer

from classifiers.base import Role
from policies.model import Stage

from .audit import Exchange, Reader
from .content.texts import WITHHELD
from .rejudged import messages_of

Row = dict[str, Any]


class NotText(ValueError):
    """What was asked for cannot be written; the message says why."""


def written(
    contents: Iterable[tuple[str, float, dict[str, Any]]], log: Reader, to: Path, rule: str | None, role: str
) -> tuple[int, int]:
    """Write a row for each exchange with a text of this role, where the rule fired if one is told. How many were
    written, and how many were left out since nothing of the text is kept. Raises NotText and AuditUnavailable."""
    if role not in set(Role):
        raise NotText(f"role {role}: one of {', '.join(Role)}")
    count = left = 0
    with _lines(to) as write:
        for id, _, content in contents:
            exchange = log.exchange(id)
            action = None if exchange is None else _action(exchange, rule)
            if exchange is None or action is None:
                continue
            row = _row(content, Role(role))
            if row is None:
                continue
            if row["text"] == WITHHELD:
                left += 1
                continue
            write(dumps({"id": id, **row, "action": action, "rule": rule or exchange["rule"], "verdict": ""}))
            count += 1
    return count, left


def _action(exchange: Exchange, rule: str | None) -> str | None:
    """What was done, or what the rule asked for where it fired; None where it did not."""
    if rule is None:
        return str(exchange["action"] or "pass")
    for stage in Stage:
        seen = exchange[str(stage)] or {}
        for fired in ("rules", "shadow"):
            if rule in seen.get(fired, {}):
                return str(seen[fired][rule])
    return None


def _row(content: dict[str, Any], role: Role) -> Row | None:
    """The newest text of a role, without readings derived from others."""
    for stage in reversed(Stage):
        for message in reversed(messages_of(content, stage)):
            if message.role is role and message.text.strip() and "#" not in message.origin:
                return {"text": message.text, "role": str(role), "stage": str(stage), "origin": message.origin}
    return None


@contextlib.contextmanager
def _lines(to: Path) -> Iterator[Callable[[str], None]]:
    """What writes a line: to the terminal, or into a new file that only its owner may read. Raises NotText."""
    if str(to) == "-":
        yield typer.echo
        return
    try:
        handle = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise NotText(f"{to} is there already: name another file") from None
    except OSError as error:
        raise NotText(f"{to}: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        yield lambda line: print(line, file=file)
