"""What a YAML parser says is wrong, in the words of whoever wrote the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ruamel.yaml.error import MarkedYAMLError

from . import slips

_BREAK = re.compile(r"\r\n|[\n\r]")
_NO_BLANK = re.compile(r"\s*(?:- +)?([\w-]+):(\S.*)")
_TWO_COLONS = re.compile(r"\s*(?:- +)?[\w.-]+: +[^\s\"'\[{|>].*?: ")


class Told(NamedTuple):
    """What is wrong at `line` and `column`, both from 1, and 0 where nobody knows."""

    line: int
    column: int
    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class _Stop:
    """Where the parser stopped, at `line` and `column`, and where it began what it could not end, all from 0."""

    lines: list[str]
    problem: str
    context: str
    line: int
    column: int
    began_line: int
    began_column: int

    def told(self, what: str, mend: str) -> Told:
        return Told(self.line + 1, self.column + 1, what, mend)

    def told_where_it_began(self, what: str, mend: str) -> Told:
        return Told(self.began_line + 1, self.began_column + 1, what, mend)


def told(text: str, error: MarkedYAMLError) -> Told:
    """The one mistake in `text` that the parser stopped at."""
    at, began = error.problem_mark or error.context_mark, error.context_mark or error.problem_mark
    if at is None or began is None:
        return Told(0, 0, f"not YAML: {error.problem or error.context}", "")
    problem, context = error.problem or "", error.context or ""
    stop = _Stop(_BREAK.split(text), problem, context, at.line, at.column, began.line, began.column)
    return (
        _strange(stop) or _foreign(stop) or next(made(stop) for sign, made in _KINDS if sign in f"{context} {problem}")
    )


def _strange(stop: _Stop) -> Told | None:
    """A letter that only looks like a part of YAML. What is read as one thing often began in the line before."""
    for number in sorted({stop.began_line, max(stop.line - 1, 0), stop.line}):
        found = slips.strange(stop.lines[number]) if number < len(stop.lines) else None
        if found is not None:
            return Told(number + 1, found[0] + 1, *found[1:])
    return None


_NO_COMMENT = re.compile(r"\s*(//|/\*|<!--|--\s)")
_EQUALS = re.compile(r"\s*(?:- +)?[\w-]+( *=) *[^=\s]")


def _foreign(stop: _Stop) -> Told | None:
    """A line of another language. What is read as one thing often began in the line before."""
    for number in sorted({stop.began_line, max(stop.line - 1, 0), stop.line}):
        line = stop.lines[number] if number < len(stop.lines) else ""
        if found := _NO_COMMENT.match(line):
            what = f"'{found[1].strip()}' begins no comment here"
            return Told(number + 1, found.start(1) + 1, what, "begin it with '#'")
        if found := _EQUALS.match(line):
            return Told(number + 1, found.end(1), "a '=' behind a key", "write ': ' in place of it")
    return None


def _tab(stop: _Stop) -> Told:
    return stop.told("a tab", "indent with spaces, never with tabs")


def _no_colon(stop: _Stop) -> Told:
    line, above = stop.lines[stop.began_line], stop.lines[max(stop.began_line - 1, 0)].rstrip()
    if dash := re.match(r"(\s*)-([^\s-].{0,40})", line):
        return Told(stop.began_line + 1, dash.end(1) + 1, "no blank behind a '-'", f"write '- {dash[2]}'")
    if re.search(r":\s+[|>][+-]?$", above):
        return stop.told_where_it_began(f"a text below '{above[-1]}' that is not indented", "indent it by two blanks")
    written = _NO_BLANK.match(stop.lines[stop.began_line])
    if written is None:
        return stop.told_where_it_began("this is no 'key: value'", "write 'key: value', with a blank after the colon")
    place = Told(stop.began_line + 1, written.start(2) + 1, "no blank behind a colon", "")
    return place._replace(mend=f"write '{written[1]}: {written[2][:40]}'")


def _open_bracket(stop: _Stop) -> Told:
    hidden = re.search(r"[^\s,\[{]\s+(#\S?)", stop.lines[stop.began_line])
    if hidden is not None and stop.began_line < max(stop.line, len(stop.lines) - 1):
        at = Told(stop.began_line + 1, hidden.start(1) + 1, "a '#' behind a blank, where a comment begins", "")
        return at._replace(mend="put quotes around the text, or close the bracket before it")
    if "<stream end>" in stop.problem or "end of" in stop.problem:
        return stop.told_where_it_began("a bracket that is never closed", "close it")
    line = stop.lines[stop.line] if stop.line < len(stop.lines) else ""
    before, here = line[: stop.column].rstrip(), line[stop.column : stop.column + 1]
    if here == ":" and re.search(r": +[^\s\"',\[{][^,]*$", before):
        what = "a second colon in one part between brackets"
        return stop.told(what, "put a comma before the key that it ends, or quotes around the whole text")
    if before[-1:] in ('"', "'") and here not in (",", "}", "]", ":", "#", ""):
        return stop.told("a text goes on behind its closing quote", _QUOTE_ALL)
    what = f"the bracket that is opened in line {stop.began_line + 1} is not closed before this"
    return stop.told(what, "close it, or put a comma between its parts and a blank after each colon")


_QUOTE_ALL = "quote the whole of it; in single quotes '' stands for one"


def _open_quotes(stop: _Stop) -> Told:
    return stop.told_where_it_began("quotes that are never closed", "close them")


def _second_colon(stop: _Stop) -> Told:
    if re.match(r"\s*(?:- +)?[\w.-]+: +\(", stop.lines[stop.line]):
        return stop.told("round brackets, which mean nothing in YAML", "write { and } in place of ( and )")
    if found := re.match(r"\s*[\w.-]+: +\S.*?; *([\w-]+)$", stop.lines[stop.line][: stop.column]):
        return stop.told("two keys in one line", f"write '{found[1]}: ...' on a line of its own")
    if share := re.search(r"mode: +canary: *([0-9.]+ ?%?)", stop.lines[stop.line]):
        return stop.told("a second colon", f"write canary {share[1].rstrip('% ')}%")
    if _TWO_COLONS.match(stop.lines[stop.line][: stop.column + 2]):
        return stop.told("a text that holds ': '", "put quotes around the text")
    return stop.told("this line is read as a part of the text above it", "indent it like the keys that it stands with")


def _block(stop: _Stop) -> Told:
    if "<scalar>" in stop.problem:
        if (opened := _opened_before(stop)) is not None:
            what = f"quotes that are opened here are closed in line {stop.line + 1} only"
            return Told(*opened, what, "close them where the text ends")
        return _behind(stop)
    if "'?'" in stop.problem and stop.lines[stop.began_line][stop.began_column :].startswith("- "):
        what = f"a '- ' in line {stop.began_line + 1} begins a list, and this line is none of its items"
        return stop.told(what, "write '- ' before each of them, or before none")
    if "'-'" in stop.problem:
        mend = "write '- ' before each of them, or before none"
        return stop.told("a '- ' among lines that are no list", mend)
    if stop.column == stop.began_column:
        return stop.told(f"not YAML: {stop.problem}", "check the indentation, and the '- ' of lists")
    what = f"this line begins in column {stop.column + 1}, unlike those that it stands with"
    return stop.told(what, "indent it like the line above it")


def _behind(stop: _Stop) -> Told:
    """Text where none can be: behind quotes, or in a line that goes on with nothing."""
    if _text_before(stop)[-1:] in ('"', "'"):
        return stop.told("a text goes on behind its closing quote", _QUOTE_ALL)
    if sign := re.match(r"\s*(?:- +)?[\w.-]+: +([*&!])", stop.lines[stop.line]):
        what = f"a text that begins with '{sign[1]}', which is a sign of YAML"
        return Told(stop.line + 1, sign.start(1) + 1, what, "put quotes around the whole of it")
    what = "a line of text that belongs to nothing"
    return stop.told(what, "indent it like the text above it, or write 'key: value'")


def _text_before(stop: _Stop) -> str:
    return "\n".join([*stop.lines[: stop.line], stop.lines[stop.line][: stop.column]]).rstrip()


def _opened_before(stop: _Stop) -> tuple[int, int] | None:
    """Where quotes were opened that end just before, if that was in an earlier line."""
    before = _text_before(stop)
    if before[-1:] not in ('"', "'"):
        return None
    opened = before.rfind(before[-1], 0, len(before) - 1)
    line = before.count("\n", 0, opened)
    return (line + 1, opened - before.rfind("\n", 0, opened)) if opened >= 0 and line < stop.line else None


def _tag(stop: _Stop) -> Told:
    what = "a value that begins with '!', which is a sign of YAML"
    return stop.told_where_it_began(what, "put single quotes around the whole of it")


def _dash(stop: _Stop) -> Told:
    return stop.told("a '- ' behind a key", "put quotes around the text, or begin the list on the next line")


def _alias(stop: _Stop) -> Told:
    what = f"a value that begins with '{stop.lines[stop.began_line][stop.began_column : stop.began_column + 1]}'"
    return stop.told_where_it_began(what, "put quotes around it")


def _special(stop: _Stop) -> Told:
    if stop.lines[stop.line][stop.column :].startswith("```"):
        return stop.told("a line of Markdown", "remove it, and the one that ends the block")
    sign = stop.lines[stop.line][stop.column : stop.column + 1]
    if sign in {"@", "`", "%"}:
        return stop.told(
            f"a text that begins with '{sign}', which is a sign of YAML", "put quotes around the whole of it"
        )
    return stop.told(f"not YAML: {stop.problem}", "put quotes around a text that starts with a special character")


def _escape(stop: _Stop) -> Told:
    return stop.told(f"not YAML: {stop.problem}", "use single quotes around a text with backslashes")


def _other(stop: _Stop) -> Told:
    return stop.told(f"not YAML: {stop.problem or stop.context}", "")


_KINDS: tuple[tuple[str, Callable[[_Stop], Told]], ...] = (
    ("'\\t'", _tab),
    ("could not find expected ':'", _no_colon),
    ("unknown escape character", _escape),
    ("sequence entries are not allowed", _dash),
    ("while scanning a tag", _tag),
    ("while scanning an alias", _alias),
    ("while scanning an anchor", _alias),
    ("while parsing a flow", _open_bracket),
    ("unexpected end of stream", _open_quotes),
    ("mapping values are not allowed", _second_colon),
    ("expected <block end>", _block),
    ("cannot start any token", _special),
    ("", _other),
)
"""What the parser says, and whose turn it is then."""
