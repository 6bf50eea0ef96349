"""Structured logs on standard error, one line an event. No text of a request or an answer is ever in them.

Decision: our own lines, not structlog's. Why: it brings rich and pygments into every process, a tenth of its memory.
Cost: no processors to choose from; JSON lines are what collectors read anyway.

Decision: a line that cannot be written (its reader has gone, its disk is full) is lost and counted, and the next one
that can be says how many were. Why: who logs is in the middle of something else, like replacing a worker, and that
matters more. Cost: lines are written past Python's buffers, which would hold what failed and say it later, in pieces.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Entry = dict[str, Any]
"""One event: `event`, what is known of it, `level`, `logger`, and for a fault `exception`, the plain stack: the values
of its variables, which could hold requests and keys, are left out."""


class Logger:
    """Writes events: what happened, and the facts."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **facts: Any) -> None:
        self._say("debug", event, facts)

    def info(self, event: str, **facts: Any) -> None:
        self._say("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._say("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._say("error", event, facts)

    def exception(self, event: str, **facts: Any) -> None:
        """An error, with the stack of the exception that is being handled."""
        self._say("error", event, {**facts, "exception": traceback.format_exc().rstrip()})

    def _say(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if LEVELS[level] >= _output.least:
            _output.write({"event": event, **_output.facts, **facts, "level": level, "logger": self._name})


def get_logger(name: str) -> Logger:
    """The logger of one part of Penstock."""
    return Logger(name)


def configure_logs(level: str, *, human: bool) -> None:
    """Lines for people, or JSON, from `level` on."""
    _output.least, _output.write = LEVELS[level], _print_line if human else _print_json


def tell_in_each(**facts: Any) -> None:
    """Facts that stand in each line of this process, which was just forked, from now on."""
    _output.facts = facts
    _output.lost = _output.untold = 0  # its parent's, who tells of them


def lost_lines() -> int:
    """How many lines of this process could not be written."""
    return _output.lost


def write_line(text: str) -> bool:
    """Write it and a line end to standard error; False where that cannot be. In one piece: several processes may write
    to one file."""
    stream = sys.stderr
    try:
        fd = stream.fileno()
    except io.UnsupportedOperation:  # it is no file
        return _spoken(stream, text)
    except (ValueError, AttributeError):  # it is closed, or was when this process began
        return False
    data = f"{text}\n".encode(stream.encoding or "utf-8", "backslashreplace")
    if _output.cut:
        data = b"\n" + data
    done = 0
    try:
        while done < len(data):
            done += os.write(fd, data[done:])
    except OSError:
        pass
    if done:
        _output.cut = done < len(data)
    return done == len(data)


@contextlib.contextmanager
def captured() -> Iterator[list[Entry]]:
    """Every event of the block, in a list and nowhere else: for tests."""
    entries: list[Entry] = []
    before = _output.least, _output.write
    _output.least, _output.write = 0, entries.append
    try:
        yield entries
    finally:
        _output.least, _output.write = before


def _print_json(entry: Entry) -> None:
    _print(_json, entry)


def _print_line(entry: Entry) -> None:
    _print(_line, entry)


def _print(form: Callable[[Entry], str], entry: Entry) -> None:
    text, untold = form(entry), _output.untold
    if untold:
        lost = {"event": "lines of this log were lost", **_output.facts, "lost": untold}
        lost["mend"] = "see to the disk, or to who reads standard error"
        text = form({**lost, "level": "warning", "logger": __name__}) + "\n" + text
    if write_line(text):
        _output.untold -= untold
    else:
        _output.untold += 1
        _output.lost += 1


def _json(entry: Entry) -> str:
    entry["timestamp"] = datetime.now(UTC).isoformat()
    return json.dumps(entry, default=str)


def _line(entry: Entry) -> str:
    event, level, stack = entry.pop("event"), entry.pop("level"), entry.pop("exception", "")
    del entry["logger"]
    facts = "".join(f" {name}={_shown(value)}" for name, value in entry.items())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{now} [{level:7}] {event:24}{facts}" + (f"\n{stack}" if stack else "")


def _spoken(stream: TextIO, text: str) -> bool:
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _shown(value: object) -> str:
    text = str(value)
    return text if text and not any(sign.isspace() for sign in text) else repr(text)


class _Output:
    """Where all loggers write."""

    def __init__(self) -> None:
        self.least = LEVELS["info"]
        self.write: Callable[[Entry], None] = _print_line
        self.facts: dict[str, Any] = {}
        self.lost = self.untold = 0  # lines: all, and those that no line has told of yet
        self.cut = False  # a line was written in part


_output = _Output()
