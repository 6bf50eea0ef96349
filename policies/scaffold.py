"""New entries for a policy file, with not a byte changed beside them.

An entry is written at the end of its block (rules, cases, classifiers), indented as the entries before it. What comes
out is not believed but read again: everything old must be where it was, and the new entries at their ends.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from .document import Document, read

BLOCKS = ("classifiers", "rules", "cases")


class ScaffoldError(ValueError):
    """The file cannot be added to; the message says why, and the mend."""


def rule_of(id: str, description: str, when: Sequence[tuple[Sequence[str], float]], **more: Any) -> dict[str, Any]:
    """A rule as plain values; `when` are (findings, threshold), any of which is enough."""
    parts = [{"finding": names[0] if len(names) == 1 else list(names), "at_least": least} for names, least in when]
    condition = parts[0] if len(parts) == 1 else {"any": parts}
    first = {"id": id, "description": description, "stages": more.pop("stages")}
    roles = more.pop("roles", None)
    return {**first, **({"roles": roles} if roles else {}), "when": condition, **more}


def added(raw: bytes, file: str, entries: Mapping[str, Sequence[Any]]) -> bytes:
    """The file with new entries in its blocks: lists of rules and cases, (name, options) of classifiers. Raises
    ScaffoldError."""
    document = read(raw, file)
    if document.problems or not isinstance(document.value, dict):
        problem = str(document.problems[0]) if document.problems else f"{file}: not a policy"
        raise ScaffoldError(f"{problem} (mend it first: penstock check {file})")
    _refuse_known(document, entries)
    text = raw.decode("utf-8-sig")
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines()
    # From the end of the file to its beginning, so that places stay what they are.
    for block in sorted(entries, key=lambda name: -_line(document, name)):
        if entries[block]:
            _insert(lines, document, block, entries[block])
    made = newline.join(lines) + newline
    out = (b"\xef\xbb\xbf" if raw.startswith(b"\xef\xbb\xbf") else b"") + made.encode()
    _same_but(document, read(out, file), entries)
    return out


def begun(id: str, owner: str, description: str) -> bytes:
    """A new policy file without rules."""
    head = {"id": id, "version": 1, "owner": owner, "description": description}
    return _dumped(CommentedMap(head)).encode()


def _line(document: Document, block: str) -> int:
    """Where a block begins (1 is the first line); 0 where there is none, which is then written behind all others."""
    return document.keys.get((block,), (0, 0))[0]


def _insert(lines: list[str], document: Document, block: str, entries: Sequence[Any]) -> None:
    value = document.value.get(block)
    if block not in document.value:
        while lines and not lines[-1].strip():
            lines.pop()
        lines += ["", f"{block}:", *_shown(block, entries, 2)]
        return
    line, column = document.keys[block,]
    if column != 1:
        raise ScaffoldError(f"{document.file}:{line}: '{block}' stands inside brackets: write it on lines of its own")
    following = [place[0] for path, place in document.keys.items() if len(path) == 1 and place[0] > line]
    end = min(following, default=len(lines) + 1) - 1
    # Blank lines and comments before the next block belong to that one.
    while end > line and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    if not value:
        lines[line - 1 : end] = [f"{block}:", *_shown(block, entries, 2)]
        return
    first = next(iter(value)) if isinstance(value, dict) else 0
    place = document.keys.get((block, first)) or document.places[block, first]
    if place[0] == line:
        raise ScaffoldError(f"{document.file}:{line}: '{block}' stands in brackets: write an entry on each line")
    spaces = lines[place[0] - 1]
    lines[end:end] = _shown(block, entries, len(spaces) - len(spaces.lstrip(" ")))


def _shown(block: str, entries: Sequence[Any], indent: int) -> list[str]:
    """The entries as lines of YAML."""
    made: Any = CommentedMap() if block == "classifiers" else CommentedSeq()
    for entry in entries:
        if block == "classifiers":
            made[entry[0]] = _flow(entry[1])
        elif block == "cases":
            made.append(_flow(entry))
        else:
            made.append(CommentedMap({key: _flow(value) for key, value in entry.items()}))
    return [" " * indent + line for line in _dumped(made).splitlines()]


def _flow(value: Any) -> Any:
    """Mappings and lists in one line."""
    if isinstance(value, dict):
        inner: Any = CommentedMap({key: _flow(each) for key, each in value.items()})
    elif isinstance(value, list | tuple):
        inner = CommentedSeq([_flow(each) for each in value])
    else:
        return value
    inner.fa.set_flow_style()
    return inner


def _dumped(value: Any) -> str:
    yaml = YAML()
    yaml.width = 10_000
    yaml.allow_unicode = True
    yaml.indent(mapping=2, sequence=2, offset=0)
    out = io.StringIO()
    yaml.dump(value, out)
    return out.getvalue()


def _refuse_known(before: Document, entries: Mapping[str, Sequence[Any]]) -> None:
    """Raises ScaffoldError where an entry is there already."""
    known = before.value if isinstance(before.value, dict) else {}
    ids = {each.get("id") for each in known.get("rules") or () if isinstance(each, dict)}
    for entry in entries.get("rules", ()):
        if entry.get("id") in ids:
            raise ScaffoldError(f"{before.file}: it has a rule '{entry['id']}' already: choose another id")
    for name, _ in entries.get("classifiers", ()):
        if name in (known.get("classifiers") or {}):
            raise ScaffoldError(f"{before.file}: it has a classifier '{name}' already: choose another id for the rule")


def _same_but(before: Document, after: Document, entries: Mapping[str, Sequence[Any]]) -> None:
    if after.problems:
        raise ScaffoldError(f"{before.file}: it cannot be added to ({after.problems[0].what}): write it by hand")
    wanted = dict(before.value)
    for block, more in entries.items():
        if more and block == "classifiers":
            wanted[block] = {**(wanted.get(block) or {}), **dict(more)}
        elif more:
            wanted[block] = [*(wanted.get(block) or []), *more]
    if after.value != wanted:
        raise ScaffoldError(f"{before.file}: it cannot be added to without changing it: write it by hand")
