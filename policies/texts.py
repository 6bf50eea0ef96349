"""Texts that people bring: examples to teach with, honest and bad ones to set thresholds by.

One text a line (.txt), JSON lines (.jsonl, .jsonl.gz) or CSV with a header. A row is one of

    {"text": "...", "label": "refund_abuse"}                    a label, or bad / honest and their like
    {"text": "...", "verdict": "wrong", "action": "block"}      a reviewed decision: was the action right?
    {"text": "...", "role": "tool_result"}                      where the side is known from the file

A reviewed block, mask or log that was right means a bad text, one that was wrong an honest text; for a pass it is the
other way round. Without `action` something was stopped.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from classifiers.base import Role

from .document import Problem
from .evaluate.dataset import ROLES
from .evaluate.labels import BAD, HONEST, UnknownLabel, spelled
from .words import Action

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".txt")
MAX_PROBLEMS = 20
LARGEST = 1 << 28
"""Bytes of a file, unpacked."""
PLAIN_BAD = frozenset({"bad", "positive", "true", "yes", "1"})
"""Words for a bad text that name no kind of badness."""
_LET = frozenset({"pass"})
_STOPPED = frozenset(str(action) for action in Action) - _LET


class TextsError(ValueError):
    """The texts cannot be used; printed, one problem stands on each line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Text:
    """One text. `bad` is None where neither the file nor the row said. `line` counts from 1."""

    text: str
    bad: bool | None
    role: Role
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read. With `labelled` each row says its side, and `label` is the one that is taught; else all are of
    `side`, and a row whose label says otherwise is a problem."""

    labelled: bool = False
    side: bool | None = None
    label: str = ""
    positive: frozenset[str] = frozenset()
    negative: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    role: Role = Role.USER
    longest: int | None = None

    def judged(self, label: str) -> bool | None:
        """The side of a label as `spelled`, None for one to leave out. Raises UnknownLabel."""
        if label in self.ignore:
            return None
        if label in self.positive or label == self.label.casefold() or label in PLAIN_BAD - self.negative:
            return True
        if label in self.negative or label in HONEST:
            return False
        raise UnknownLabel(f"label '{label[:80]}' is neither bad nor honest here")


class _BadRow(ValueError):
    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


@dataclass(slots=True)
class _Found:
    texts: list[Text] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    more: int = 0

    def rest(self) -> list[Problem]:
        """What was not told line by line."""
        labels = [f"{what}: {count} rows" for what, count in self.unknown.items() if count > 1][:MAX_PROBLEMS]
        return [Problem("in all", 0, 0, what) for what in labels + [f"{self.more} problems more"] * (self.more > 0)]

    def add(self, problem: Problem) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more += 1


def read(path: Path, reading: Reading) -> list[Text]:
    """The texts of one file, in its order. Raises TextsError with every problem, each with its line."""
    found, name = _Found(), path.name
    raw = _bytes(path)
    rows = _csv(raw, name, found) if _kind(path) == ".csv" else _lines(raw, name, _kind(path) == ".txt", found)
    for line, row in rows:
        try:
            text = _text(row, name, line, reading)
        except UnknownLabel as error:
            # A thousand rows with one unknown label are one thing to mend.
            found.unknown[str(error)] += 1
            if found.unknown[str(error)] == 1:
                found.add(Problem(name, line, 1, str(error), "say --positive, --negative or --ignore with it"))
        except _BadRow as error:
            found.add(Problem(name, line, 1, error.what, error.mend))
        else:
            if text is not None:
                found.texts.append(text)
    if not found.texts and not found.problems:
        found.add(Problem(name, 0, 0, "no text in this file", "one text, or one JSON object, a line"))
    if found.problems:
        raise TextsError(found.problems + found.rest())
    return found.texts


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    kind = Path(name).suffix.casefold()
    if kind not in SUFFIXES:
        raise TextsError([Problem(str(path), 0, 0, "what kind of file is this?", "name it *" + ", *".join(SUFFIXES))])
    return kind


def _bytes(path: Path) -> bytes:
    _kind(path)
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except gzip.BadGzipFile:
        raise TextsError([Problem(str(path), 0, 0, "is no gzip file")]) from None
    except OSError as error:
        raise TextsError([Problem(str(path), 0, 0, f"cannot be read: {error.strerror}")]) from None
    except (EOFError, zlib.error):
        raise TextsError([Problem(str(path), 0, 0, "the gzip file is cut off or damaged", "fetch it again")]) from None
    if len(raw) > LARGEST:
        raise TextsError([Problem(str(path), 0, 0, f"larger than {LARGEST >> 20} MiB", "take a sample")])
    return raw.removeprefix(b"\xef\xbb\xbf")


def _lines(raw: bytes, name: str, plain: bool, found: _Found) -> Iterator[tuple[int, Any]]:
    """(number, row) of each line that holds anything. A plain line is a row with only a text."""
    for number, line in enumerate(io.BytesIO(raw), 1):
        if not line.strip():
            continue
        try:
            said = line.decode("utf-8")
            yield number, {"text": said.strip()} if plain else json.loads(said)
        except UnicodeDecodeError as error:
            found.add(Problem(name, number, error.start + 1, "not UTF-8", "save the file as UTF-8"))
        except json.JSONDecodeError as error:
            found.add(Problem(name, number, error.colno, f"not JSON: {error.msg}", "write one JSON object a line"))
        except (ValueError, RecursionError) as error:
            found.add(Problem(name, number, 1, f"not usable as JSON: {type(error).__name__}"))


def _csv(raw: bytes, name: str, found: _Found) -> Iterator[tuple[int, Any]]:
    """(line, row) of each row, by the header's names."""
    try:
        said = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        found.add(Problem(name, line, 1, "not UTF-8", "save the file as UTF-8"))
        return
    rows = csv.DictReader(io.StringIO(said, newline=""), strict=True)
    try:
        if "text" not in (rows.fieldnames or ()):
            found.add(Problem(name, 1, 1, "no column 'text'", "the first line names the columns: text,label"))
            return
        for row in rows:
            if None in row or None in row.values():
                found.add(Problem(name, rows.line_num, 1, "as many fields as the header has are needed", "quote texts"))
            else:
                yield rows.line_num, row
    except csv.Error as error:
        found.add(Problem(name, rows.line_num, 1, f"not CSV: {error}", "quote texts; bring long ones as JSON lines"))


def _text(row: Any, name: str, line: int, reading: Reading) -> Text | None:
    """The row's text, None where its label is to be left out. Raises _BadRow and UnknownLabel."""
    if isinstance(row, str) and not reading.labelled:
        row = {"text": row}
    if not isinstance(row, dict):
        raise _BadRow("the line is no JSON object", 'write {"text": ..., "label": ...}')
    text = row.get("text")
    if not isinstance(text, str):
        have = ", ".join(str(key)[:40] for key in list(row)[:12])
        raise _BadRow("no field 'text' that is a text" + (f" (there are {have})" if have else ""), "write a string")
    if not text.strip():
        raise _BadRow("the text is blank", "remove the line")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _BadRow("half of a surrogate pair in the text", "write the character itself")
    if reading.longest is not None and len(text) > reading.longest:
        raise _BadRow(f"a text of {len(text):,} characters", f"keep the part that matters, {reading.longest:,} at most")
    role = reading.role
    if row.get("role"):
        said = ROLES.get(str(row["role"]).strip().casefold())
        if said is None:
            raise _BadRow(f"no role '{str(row['role'])[:40]}'", f"one of {', '.join(sorted(ROLES))}")
        role = said
    side = _side(row, reading)
    return None if side == "left out" else Text(text, None if side is None else bool(side), role, name, line)


def _side(row: Mapping[str, Any], reading: Reading) -> bool | str | None:
    if not reading.labelled:
        _check(row, reading)
        return reading.side
    if "verdict" in row and "label" not in row:
        return _reviewed(row)
    if "label" not in row:
        raise _BadRow("neither 'label' nor 'verdict'", 'write {"text": ..., "label": ...}')
    side = reading.judged(spelled(row["label"]))
    return "left out" if side is None else side


def _check(row: Mapping[str, Any], reading: Reading) -> None:
    """A row that says itself that it is on the other side was not meant to be here."""
    wrong = {True: HONEST, False: BAD | PLAIN_BAD}.get(reading.side) if reading.side is not None else None
    if wrong and row.get("label") is not None and spelled(row["label"]) in wrong:
        here = "bad" if reading.side else "honest"
        raise _BadRow(f"labelled '{spelled(row['label'])}' in a file of {here} texts", "take it out, or mend the label")


def _reviewed(row: Mapping[str, Any]) -> bool:
    verdict, action = str(row["verdict"]).strip().casefold(), str(row.get("action") or "block").strip().casefold()
    if verdict not in {"right", "wrong"}:
        raise _BadRow(f"no verdict '{verdict[:40]}'", "write right or wrong")
    if action not in _STOPPED | _LET:
        raise _BadRow(f"no action '{action[:40]}'", "write block, mask, log or pass")
    return (verdict == "right") is (action in _STOPPED)
