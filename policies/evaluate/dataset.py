"""JSON lines to labelled rows. The whole data is read and checked before the first row is judged, and read again for
judging, so that a mistake in line 90,000 costs seconds and no data must fit into memory.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from classifiers.base import SAID_BY_MODEL, Message, Role, said_before

from ..document import Problem
from ..model import Stage
from .labels import Labels, NoLabel, UnknownLabel, spelled, whole

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
MAX_PROBLEMS = 20
"""Problems that are told at once; a file of another form has one in each line."""

ROLES: Mapping[str, Role] = {role.value: role for role in Role} | {
    "prompt": Role.USER,
    "human": Role.USER,
    "developer": Role.SYSTEM,
    "response": Role.ASSISTANT,
    "answer": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "document": Role.TOOL_RESULT,
    "tool": Role.TOOL_RESULT,
    "function": Role.TOOL_RESULT,
}


class DatasetError(ValueError):
    """The data cannot be used; printed, one problem stands on each line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text or conversation. `bad` is the side of its label. `messages` are what is judged at `stage`.
    `source` is the file's name, or the row's own `source` where its file holds several. Rows of one `family` of a
    source are wordings of one idea: intervals, bounds and tests count them as one (see `shares`)."""

    id: str
    source: str
    label: str
    bad: bool
    stage: Stage
    messages: tuple[Message, ...]
    category: str = ""
    lang: str = ""
    family: str = ""

    @property
    def surface(self) -> str:
        """Where in an exchange the text stands: the role of the last message."""
        return self.messages[-1].role.value

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.messages)


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are read and chosen. `limit` bounds the rows of each source, bad and honest ones in equal numbers while
    there are enough, chosen by `seed`. `sources` are names or globs; none means all."""

    labels: Labels = field(default_factory=Labels)
    text_field: str = "text"
    label_field: str = "label"
    sources: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    skip_bad_rows: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """One file that was read. `digest` is the sha256 of its bytes; `rows` counts lines that hold anything."""

    name: str
    path: Path
    digest: str
    rows: int


@dataclass(slots=True)
class _Entry:
    file: int
    line: int
    source: str
    label: str
    bad: bool
    surface: str
    weight: bytes


@dataclass(frozen=True, slots=True)
class Dataset:
    """Checked data: `files` as read, `left_out` rows by reason, and the rows to judge by `rows()`. `bad_labels` are
    those of the bad rows among them, by surface (every surface has an entry).

    `repeated` counts rows whose text stood in an earlier row as well, `contradictory` those of them with another side.
    """

    files: tuple[File, ...]
    options: Options
    left_out: Mapping[str, int]
    repeated: int
    contradictory: int
    bad_labels: Mapping[str, frozenset[str]]
    _chosen: Mapping[int, Mapping[int, str]]

    def __len__(self) -> int:
        return sum(len(lines) for lines in self._chosen.values())

    def rows(self) -> Iterator[Row]:
        """The chosen rows, in the order of files and lines. Raises DatasetError where a file has changed since."""
        seen: Counter[str] = Counter()
        for number, file in enumerate(self.files):
            chosen, found = self._chosen.get(number, {}), 0
            for line, raw in lines(file.path):
                if line in chosen:
                    try:
                        row = _row(json.loads(raw), file.name, line, self.options)
                    except (ValueError, RecursionError):
                        break
                    if row is None:
                        break
                    found += 1
                    seen[row.id] += 1
                    again = f"#{seen[row.id]}" if seen[row.id] > 1 else ""
                    yield replace(row, source=chosen[line], id=row.id + again)
            if found < len(chosen):
                raise DatasetError([Problem(file.name, 0, 0, "the file changed while it was evaluated", "run again")])

    @classmethod
    def open(cls, paths: Sequence[Path], options: Options) -> Self:
        """Reads and checks everything. Raises DatasetError."""
        scan = _Scan(options)
        for path in _files(paths):
            scan.file(path)
        if scan.problems:
            raise DatasetError(scan.problems[:MAX_PROBLEMS] + scan.more())
        for label in sorted(options.labels.named - scan.labels):
            there = ", ".join(sorted(scan.labels)[:40])
            raise DatasetError([Problem(f"label '{label}'", 0, 0, "no row has it", f"there are {there}")])
        entries = _named(scan.entries, scan.files)
        known = sorted({entry.source for entry in entries})
        for wanted in options.sources:
            if not any(fnmatchcase(name, wanted) for name in known):
                shown = ", ".join(known[:40]) + (" ..." if len(known) > 40 else "")
                raise DatasetError([Problem(f"--sources {wanted}", 0, 0, "no such source", f"there are {shown}")])
        if options.sources:
            kept = [e for e in entries if any(fnmatchcase(e.source, wanted) for wanted in options.sources)]
            scan.left_out["not in --sources"] += len(entries) - len(kept)
            entries = kept
        if options.limit is not None:
            kept = _limited(entries, options.limit)
            scan.left_out["over --limit"] += len(entries) - len(kept)
            entries = kept
        if not entries:
            why = "; ".join(f"{count} {reason}" for reason, count in scan.left_out.items() if count)
            raise DatasetError([Problem(str(paths[0]), 0, 0, "no row is left to judge", f"left out: {why or 'none'}")])
        chosen: dict[int, dict[int, str]] = defaultdict(dict)
        for entry in entries:
            chosen[entry.file][entry.line] = entry.source
        left_out = {reason: count for reason, count in sorted(scan.left_out.items()) if count}
        bad_labels = {
            surface: frozenset(entry.label for entry in entries if entry.bad and entry.surface == surface)
            for surface in sorted({entry.surface for entry in entries})
        }
        return cls(tuple(scan.files), options, left_out, scan.repeated, scan.contradictory, bad_labels, chosen)


class _Scan:
    """The first reading."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.files: list[File] = []
        self.entries: list[_Entry] = []
        self.problems: list[Problem] = []
        self.unsaid: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.labels: set[str] = set()
        self.repeated = self.contradictory = 0
        self._texts: dict[bytes, bool] = {}

    def file(self, path: Path) -> None:
        name, rows = path.name, 0
        try:
            for line, raw in lines(path):
                rows += 1
                self.line(name, line, raw)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            what = "is no gzip file" if isinstance(error, gzip.BadGzipFile) else f"cannot be read: {error.strerror}"
            self.problems.append(Problem(str(path), 0, 0, what))
            return
        except (EOFError, zlib.error):
            self.problems.append(Problem(str(path), 0, 0, "the gzip file is cut off or damaged", "fetch it again"))
            return
        if not rows:
            self.problems.append(Problem(str(path), 0, 0, "the file is empty", "one JSON object a line is needed"))
        self.files.append(File(name, path, digest, rows))

    def line(self, name: str, line: int, raw: bytes) -> None:
        try:
            value = json.loads(raw)
            row = _row(value, name, line, self.options)
        except UnknownLabel as error:
            mend = "say --positive, --negative or --ignore with it"
            if isinstance(error, NoLabel):
                mend = "write such a word as harmful or benign"
            self.problem(Problem(name, line, 1, str(error), mend), str(error))
        except (ValueError, RecursionError) as error:
            self.problem(_problem(name, line, error))
        else:
            label = spelled(value[self.options.label_field])
            self.labels.add(label)
            if row is None:
                self.left_out[f"label '{label}' left out"] += 1
                return
            self.repetition(row)
            drawn = f"{self.options.seed}|{name}|{line}".encode(errors="surrogatepass")
            weight = hashlib.blake2b(drawn, digest_size=8).digest()
            self.entries.append(_Entry(len(self.files), line, row.source, row.label, row.bad, row.surface, weight))

    def problem(self, problem: Problem, same: str = "") -> None:
        if self.options.skip_bad_rows:
            reason = f"unusable: {problem.what}"
            self.left_out[reason if reason in self.left_out or len(self.left_out) < 50 else "unusable: other"] += 1
            return
        # Ten thousand rows with one unknown label are one thing to mend.
        if same:
            self.unsaid[same] += 1
            if self.unsaid[same] > 1:
                return
        self.problems.append(problem)

    def repetition(self, row: Row) -> None:
        parts = "\0".join(f"{message.role}\1{message.text}" for message in row.messages)
        key = hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if key not in self._texts:
            self._texts[key] = row.bad
            return
        self.repeated += 1
        self.contradictory += self._texts[key] is not row.bad

    def more(self) -> list[Problem]:
        told = len(self.problems) - MAX_PROBLEMS
        notes = [Problem("in all", 0, 0, f"{what}: {count} rows") for what, count in self.unsaid.items() if count > 1]
        return notes[:MAX_PROBLEMS] + ([Problem("in all", 0, 0, f"{told} problems more")] if told > 0 else [])


class _BadRow(ValueError):
    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


def _problem(name: str, line: int, error: Exception) -> Problem:
    match error:
        case _BadRow():
            return Problem(name, line, 1, error.what, error.mend)
        case json.JSONDecodeError():
            return Problem(name, line, error.colno, f"not JSON: {error.msg}", "write one JSON object a line")
        case UnicodeDecodeError():
            return Problem(name, line, error.start + 1, "not UTF-8", "save the file as UTF-8")
        case RecursionError():
            return Problem(name, line, 1, "nested too deeply")
        case _:  # such as a number of five thousand digits
            return Problem(name, line, 1, f"not usable as JSON: {type(error).__name__}")


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of each line that holds anything. Raises OSError, EOFError, zlib.error."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield number, raw.removeprefix(b"\xef\xbb\xbf")


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    problems = []
    for path in paths:
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.name.endswith(SUFFIXES) and item.is_file())
            below = sorted({item.parent.name for item in path.glob("*/*") if item.name.endswith(SUFFIXES)})
            if not inside:
                mend = f"name one of its folders: {', '.join(below)}" if below else "put *.jsonl or *.jsonl.gz there"
                problems.append(Problem(str(path), 0, 0, "no JSON-lines file in this folder", mend))
            found += inside
        elif not path.exists():
            problems.append(Problem(str(path), 0, 0, "no such file or folder"))
        elif not path.is_file():
            what = "a pipe or a device: the data is read more than once, and this can be read only once"
            problems.append(Problem(str(path), 0, 0, what, "write it to a file first, and name that"))
        else:
            found.append(path)
    if not problems and (twice := [name for name, count in Counter(p.name for p in found).items() if count > 1]):
        problems.append(Problem(twice[0], 0, 0, "two files of this name", "rename one: names stand in the report"))
    if problems:
        raise DatasetError(problems)
    return found


def _stem(name: str) -> str:
    return whole(next((name.removesuffix(suffix) for suffix in reversed(SUFFIXES) if name.endswith(suffix)), name))


def _named(entries: list[_Entry], files: Sequence[File]) -> list[_Entry]:
    """Entries whose source is the file's name, but for files that hold rows of several sources."""
    several = defaultdict(set)
    for entry in entries:
        several[entry.file].add(entry.source)
    for entry in entries:
        if len(several[entry.file]) < 2 or not entry.source:
            entry.source = _stem(files[entry.file].name)
    return entries


def _limited(entries: Sequence[_Entry], limit: int) -> list[_Entry]:
    """At most `limit` of each source, half of each side while both last."""
    sides: dict[str, dict[bool, list[_Entry]]] = defaultdict(lambda: {True: [], False: []})
    for entry in entries:
        sides[entry.source][entry.bad].append(entry)
    kept: list[_Entry] = []
    for source in sides.values():
        fewer, more = sorted(source.values(), key=len)
        share = min(len(fewer), limit // 2)
        for side, count in ((fewer, share), (more, limit - share)):
            kept += sorted(side, key=lambda entry: entry.weight)[:count]
    return sorted(kept, key=lambda entry: (entry.file, entry.line))


def _row(value: Any, name: str, line: int, options: Options) -> Row | None:
    """The row, or None where its label is left out. Raises _BadRow and UnknownLabel."""
    if not isinstance(value, dict):
        raise _BadRow("the line is no JSON object", 'write {"text": ..., "label": ...}')
    if options.label_field not in value:
        have = ", ".join(str(key)[:40] for key in list(value)[:12])
        raise _BadRow(f"no field '{options.label_field}'", f"name the label's field: --label-field (there are {have})")
    label = spelled(value[options.label_field])
    side = options.labels.side(label)
    if side is None:
        return None
    messages, stage = _judged(value, options)
    return Row(
        id=whole(str(value.get("id") or f"{name}:{line}")),
        source=_word(value, "source"),
        label=label,
        bad=side,
        stage=stage,
        messages=messages,
        category=_word(value, "category"),
        lang=(_word(value, "lang") or _word(value, "language")).casefold(),
        family=_word(value, "family") or _word(value, "goal"),
    )


def _word(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if isinstance(found, list):
        found = ", ".join(str(item) for item in found)
    return whole(" ".join(str(found).split())[:200]) if found is not None else ""


def _judged(value: Mapping[str, Any], options: Options) -> tuple[tuple[Message, ...], Stage]:
    """The messages that are judged, and at which stage: what a model said at its last turn, or all it was told."""
    if "messages" in value:
        messages = _messages(value["messages"], "messages")
    elif options.text_field in value:
        text = value[options.text_field]
        if not isinstance(text, str):
            raise _BadRow(f"'{options.text_field}' is no text", "write a string")
        role = _role(value.get("role") or "user", "role")
        before = _messages(value["conversation"], "conversation") if value.get("conversation") else ()
        messages = (*_before(before, text), Message(role, text, "/text"))
        if role not in SAID_BY_MODEL:
            messages = messages[-1:]
    else:
        have = ", ".join(str(key)[:40] for key in list(value)[:12])
        mend = f"name the text's field: --text-field (there are {have})"
        raise _BadRow(f"neither '{options.text_field}' nor 'messages'", mend)
    given = value.get("stage")
    if given is not None and given not in {stage.value for stage in Stage}:
        raise _BadRow(f"no stage '{str(given)[:40]}'", "write input or output")
    stage = Stage(given) if given else Stage.OUTPUT if messages[-1].role in SAID_BY_MODEL else Stage.INPUT
    if stage is Stage.INPUT:
        return messages, stage
    end = len(messages)
    while end and messages[end - 1].role in SAID_BY_MODEL:
        end -= 1
    # What a model said is judged with what it was told, which is not judged again.
    context = said_before(messages[:end])
    return tuple(replace(message, context=context) for message in messages[end:] or messages[-1:]), stage


def _before(messages: Sequence[Message], text: str) -> Sequence[Message]:
    """What of a conversation came before `text`, which may be its last message."""
    return messages[:-1] if messages and messages[-1].text == text else messages


def _role(name: Any, where: str) -> Role:
    role = ROLES.get(str(name).strip().casefold())
    if role is None:
        raise _BadRow(f"{where}: no role '{str(name)[:40]}'", f"one of {', '.join(sorted(ROLES))}")
    return role


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _BadRow(f"'{where}' is no list of messages", 'write [{"role": "user", "content": ...}, ...]')
    found = []
    for at, item in enumerate(value):
        if not isinstance(item, dict):
            raise _BadRow(f"{where}[{at}] is no object", 'write {"role": "user", "content": ...}')
        text = item.get("content", item.get("text"))
        if isinstance(text, list):  # parts, as the chat API has them
            parts = [part.get("text") for part in text if isinstance(part, dict)]
            if len(parts) != len(text) or not all(isinstance(part, str) for part in parts):
                raise _BadRow(f"{where}[{at}] has parts that are no text", "leave such rows out")
            text = "\n".join(str(part) for part in parts)
        if not isinstance(text, str):
            raise _BadRow(f"{where}[{at}] has no text", "write 'content' as a string")
        found.append(Message(_role(item.get("role", "user"), f"{where}[{at}]"), text, f"/{where}/{at}"))
    return tuple(found)
