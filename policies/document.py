"""One YAML 1.2 document to plain values with their places, or to problems that name line and column.

Only what two readers of a file cannot read in two ways: no key twice, no anchors, aliases, merge keys or
tags, one document, bounded in size, depth and number of values. Plain words are resolved by the core schema
of YAML 1.2, so `on`, `off`, `yes` and `12:30` are text.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.docinfo import DocInfo
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from .syntax import told

MAX_BYTES = 1 << 20
MAX_DEPTH = 24
MAX_VALUES = 50_000

Path = tuple[str | int, ...]
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that an author must mend. `line` and `column` count from 1; 0 means the whole file."""

    file: str
    line: int
    column: int
    what: str
    mend: str = ""

    @property
    def place(self) -> str:
        """file:line:column, or the file alone."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    @property
    def said(self) -> str:
        """What is wrong, and the mend."""
        return self.what + (f"; {self.mend}" if self.mend else "")

    def __str__(self) -> str:
        return f"{self.place}: {self.said}"


class PolicyError(ValueError):
    """A policy set cannot be used. `problems` is never empty; printed, one problem stands on each line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Document:
    """A file as plain values. `places` holds where each value starts, `keys` where each key does."""

    file: str
    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    text: str = ""
    remarks: list[Problem] = field(default_factory=list)
    """What can be read, and was hardly meant."""

    def within(self, path: Path, at: int) -> Place:
        """Where character `at` of the text at `path` stands in the file. What YAML folds, escapes and indents is looked
        over: the letters of the text are followed through the file in their order."""
        if path not in self.places:
            problem = self.problem(path, "")  # it is inherited: what is near must do
            return problem.line, problem.column
        value: Any = self.value
        for part in path:
            value = value[part]
        starts = [0, *(found.end() for found in _BREAK.finditer(self.text))]
        line, column = self.places[path]
        here = starts[line - 1] + column - 1
        if self.text[here] in "|>" and line < len(starts):
            here = starts[line]
        for letter in value[:at]:
            here = here if letter.isspace() else self.text.find(letter, here) + 1
            if here == 0:
                return self.places[path]  # written in escapes
        here = max(here, self.text.find(value[at], here)) if value[at : at + 1].strip() else here
        number = bisect_right(starts, here)
        return number, here - starts[number - 1] + 1

    def problem(self, path: Path, what: str, mend: str = "", at_key: bool = False) -> Problem:
        """A problem at `path`, or at the nearest place above it that the file has."""
        for size in range(len(path), -1, -1):
            near = path[:size]
            if at_key and near in self.keys:
                return Problem(self.file, *self.keys[near], what, mend)
            if near in self.places:
                return Problem(self.file, *self.places[near], what, mend)
        return Problem(self.file, 0, 0, what, mend)


_BREAK = re.compile(r"\r\n|[\n\r]")
_CUT = re.compile(r"[ \t]+(#[^\s#][^\r\n]{0,40})")
"""A '#' that begins a comment behind a text, and is not written like one."""
_ALIAS = "write the value again, for nothing is shared here, or put quotes around a text that begins with '*'"

# The core schema of YAML 1.2 (10.3.2), less .inf and .nan: no number of a policy may be one of those.
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_TRUE = re.compile(r"(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"(?:false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]{1,40}\Z")
_BASED = re.compile(r"0(?:o[0-7]{1,40}|x[0-9a-fA-F]{1,40})\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?\Z")


def read(raw: bytes, file: str) -> Document:
    """The document in `raw`. What is wrong with it is in `problems`; then `value` is not to be used."""
    document = Document(file)
    if len(raw) > MAX_BYTES:
        document.problems.append(
            Problem(file, 0, 0, f"larger than {MAX_BYTES >> 10} KiB", "split it into several files")
        )
        return document
    if b"\0" in raw[:2]:  # UTF-16 without a mark
        document.problems.append(Problem(file, 1, 1, "not UTF-8", "save the file as UTF-8"))
        return document
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        document.problems.append(Problem(file, line, column, "not UTF-8", "save the file as UTF-8"))
        return document
    document.text = text
    try:
        _Builder(document).run(_events(text, document))
    except _Stop:
        pass
    except ReaderError as error:
        before_it = text[: error.position]
        line, column = before_it.count("\n") + 1, error.position - before_it.rfind("\n")
        document.problems.append(Problem(file, line, column, "a control character", "remove it"))
    except MarkedYAMLError as error:
        document.problems.append(Problem(file, *told(text, error)))
    except YAMLError as error:
        document.problems.append(Problem(file, 0, 0, f"not YAML: {error}"))
    return document


def _events(text: str, document: Document) -> Iterator[Event]:
    """What the parser reads. It believes numbers as they are written: no place is told by what Python says of one that
    is too large to be a character or a version."""
    yaml = YAML(typ="safe", pure=True)
    # What its `parse` does, which forgets where it was.
    yaml.doc_infos.append(DocInfo())
    _, parser = yaml.get_constructor_parser(text)
    try:
        while parser.check_event():
            yield parser.get_event()
    except (ValueError, OverflowError):
        mark = yaml.reader.get_mark()
        what, mend = "not YAML: a number that is too large", "remove it"
        if text[: mark.index].endswith("\\U"):
            what, mend = "an escape of no character", "write the character itself; the last one is \\U0010FFFF"
        document.problems.append(Problem(document.file, mark.line + 1, mark.column + 1, what, mend))


class _Stop(Exception):
    """A problem after which reading on would only mislead, or cost too much."""


@dataclass(slots=True)
class _Open:
    """A collection that is being filled. `key` is the key that waits for its value."""

    path: Path
    value: dict[str, Any] | list[Any]
    key: str | None = None
    skip: bool = False


class _Builder:
    """Events in, plain values out. No recursion, so that depth is a bound and not a crash."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: list[_Open] = []
        self.values = 0
        self.documents = 0
        self.aliases: set[str] = set()

    def run(self, events: Iterator[Event]) -> None:
        for event in events:
            match event:
                case DocumentStartEvent():
                    self.document_start(event)
                case AliasEvent():
                    if event.anchor not in self.aliases:
                        self.complain(event, f"alias *{event.anchor}", _ALIAS)
                    self.aliases.add(str(event.anchor))
                    if self.at_key():
                        raise _Stop
                    self.place(event, None)
                case ScalarEvent():
                    self.scalar(event)
                case MappingStartEvent() | SequenceStartEvent():
                    self.collection(event)
                case MappingEndEvent() | SequenceEndEvent():
                    self.open.pop()
                case _:
                    pass

    def at_key(self) -> bool:
        """Whether what comes next is the key of a mapping."""
        top = self.open[-1] if self.open else None
        return top is not None and isinstance(top.value, dict) and top.key is None

    def complain(self, event: Event, what: str, mend: str = "") -> None:
        mark = event.start_mark
        self.document.problems.append(Problem(self.document.file, mark.line + 1, mark.column + 1, what, mend))

    def document_start(self, event: DocumentStartEvent) -> None:
        self.documents += 1
        if self.documents > 1:
            self.complain(event, "a second document", "put each policy into a file of its own")
            raise _Stop
        if event.version not in (None, (1, 2)):
            self.complain(event, "a YAML version other than 1.2", "remove the %YAML line")
            raise _Stop

    def properties(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent) -> None:
        if event.anchor is not None:
            self.complain(event, f"anchor &{event.anchor}", "remove it; nothing is shared here")
        if event.tag is not None:
            self.complain(event, f"tag {event.tag}", "remove it, or put quotes around a text that begins with '!'")

    def scalar(self, event: ScalarEvent) -> None:
        self.properties(event)
        if any("\ud800" <= letter <= "\udfff" for letter in event.value):
            self.complain(event, "half of a surrogate pair", "write the character itself")
        top = self.open[-1] if self.open else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            self.key(top, event)
        else:
            plain = event.implicit[0] and event.style is None
            if event.style is None and (cut := _CUT.match(self.document.text, event.end_mark.index)):
                mark = event.end_mark
                what = f"'{cut[1]}' is a comment, not a part of the text before it"
                mend = "put quotes around the whole text, or a blank behind the '#'"
                self.document.remarks.append(Problem(self.document.file, mark.line + 1, mark.column + 2, what, mend))
            self.place(event, _resolve(event.value) if plain else event.value)

    def key(self, top: _Open, event: ScalarEvent) -> None:
        name = event.value
        if name == "<<" and event.style is None:
            self.complain(event, "merge key <<", "write the keys themselves; nothing is shared here")
        path = (*top.path, name)
        if path in self.document.keys:
            first = self.document.keys[path]
            self.complain(event, f"key '{name}' is there twice, first in line {first[0]}", "keep one of them")
            top.skip = True
        else:
            self.document.keys[path] = (event.start_mark.line + 1, event.start_mark.column + 1)
        top.key = name

    def collection(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        self.properties(event)
        if self.at_key():
            self.complain(event, "a key that is no plain text", "write 'key: value'")
            raise _Stop
        if len(self.open) >= MAX_DEPTH:
            self.complain(event, f"nested deeper than {MAX_DEPTH}", "make it flatter")
            raise _Stop
        value: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
        self.open.append(_Open(self.place(event, value), value))

    def place(self, event: Event, value: Any) -> Path:
        """Puts a value where it belongs and returns its path."""
        self.values += 1
        if self.values > MAX_VALUES:
            self.complain(event, f"more than {MAX_VALUES} values", "split it into several files")
            raise _Stop
        mark = (event.start_mark.line + 1, event.start_mark.column + 1)
        if not self.open:
            self.document.value, self.document.places[()] = value, mark
            return ()
        top = self.open[-1]
        if isinstance(top.value, list):
            path: Path = (*top.path, len(top.value))
            top.value.append(value)
        else:
            assert top.key is not None  # a value comes after its key
            path = (*top.path, top.key)
            if top.skip:
                path = (*path, *mark)  # what is inside must not be taken for a repetition of the first
            else:
                top.value[top.key] = value
            top.key, top.skip = None, False
        self.document.places[path] = mark
        return path


def _resolve(text: str) -> Any:
    if _NULL.match(text):
        return None
    if _TRUE.match(text) or _FALSE.match(text):
        return text[0] in "tT"
    if _INT.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text[2:], 8 if text[1] == "o" else 16)
    if _FLOAT.match(text) and math.isfinite(float(text)):
        return float(text)
    return text
