"""The reference for authors, from the schema and from what conditions may read: `python -m policies.reference` writes
policies/REFERENCE.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from classifiers.catalog import KINDS, class_of
from classifiers.patterns import PATTERN
from classifiers.readings import DISGUISED, READINGS

from .cel.variables import FUNCTIONS, VARIABLES
from .editor import MEANINGS, TITLES
from .lint_ids import TOLD
from .schema import plain

FILE = Path(__file__).with_name("REFERENCE.md")
MOST = 60
"""Words of one list that are named."""
_PATTERN = "A pattern"
_HEAD = """# Reference

Every key of a policy file, and every name in a condition. Written by `python -m policies.reference`; do not edit.
A key without a default must be there.
"""


def text() -> str:
    """The contents of REFERENCE.md."""
    made = plain()
    parts = [_HEAD, *_model("A policy file", made)]
    for name, title in TITLES.items():
        parts += _model(title, made["$defs"][name])
    parts += _options()
    parts += _words(made["$defs"])
    parts += _names()
    parts += _lints()
    return "\n".join(parts) + "\n"


def _model(title: str, model: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    if "description" in model:
        yield " ".join(model["description"].split()) + "\n"
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    needed = set(model.get("required", ()))
    for key, value in model.get("properties", {}).items():
        default = "" if key in needed else _default(value)
        yield f"| `{key}` | {_kind(value)} | {default} | {_cell(value.get('description', ''))} |"
    yield ""


def _options() -> Iterator[str]:
    """What each kind of classifier takes, as its class declares it."""
    for kind in sorted(KINDS):
        options = class_of(kind).options()
        needed = [name for name, option in options.items() if option.needed]
        forms = {name: option.form for name, option in options.items()}
        told = {"properties": forms, "required": needed, "description": MEANINGS["kind"][kind]}
        yield from _model(f"Options of kind: {kind}", told)
        if kind == "patterns":
            yield from _model(_PATTERN, {"properties": PATTERN})


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default is None:
        return "all" if "all of them when left out" in value.get("description", "") else "none"
    if isinstance(default, list):
        return "all" if default else "none"
    if isinstance(default, dict):
        return "none"
    return f"`{_cell(str(default).lower() if isinstance(default, bool) else str(default))}`"


def _kind(value: dict[str, Any]) -> str:
    """The form of a value in words."""
    if "if" in value:  # what stands under a label of patterns
        return f"text, {_linked(_PATTERN)}, or a list of these"
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return _linked(name)
    if "const" in value:
        return "`null`" if value["const"] is None else f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"][:MOST]) + (" ..." if len(value["enum"]) > MOST else "")
    choices = value.get("oneOf") or value.get("anyOf")
    if choices:
        return " or ".join(dict.fromkeys(_kind(each) for each in choices))
    return _plain(value)


_PLAIN = {"boolean": "`true` or `false`", "string": "text", "integer": "whole number", "number": "number"}


def _plain(value: dict[str, Any]) -> str:
    kind = value.get("type", "")
    if kind == "array":
        return f"list of {_kind(value.get('items', {}))}"
    if kind == "object":
        inner = next(iter(value.get("patternProperties", {}).values()), value.get("additionalProperties", {}))
        if value.get("properties"):
            return "mapping of " + ", ".join(f"`{key}`" for key in value["properties"])
        return f"mapping of names to {_kind(inner)}"
    return _PLAIN.get(kind, "anything") + _bounds(value)


def _linked(name: str) -> str:
    title = TITLES.get(name, name)
    anchor = "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")
    return f"[{title}](#{anchor})"


def _bounds(value: dict[str, Any]) -> str:
    low = value.get("minimum", value.get("exclusiveMinimum"))
    high = value.get("maximum", value.get("exclusiveMaximum"))
    if low is None and high is None:
        return ""
    above = "above " if "exclusiveMinimum" in value else "from "
    below = "to below" if "exclusiveMaximum" in value else "to"
    return f", {above}{low:,}" + (f" {below} {high:,}" if high is not None else "")


def _cell(said: str) -> str:
    return " ".join(said.split()).replace("|", "\\|")


def _words(models: dict[str, Any]) -> Iterator[str]:
    """The closed lists of words."""
    for name, model in models.items():
        if "enum" in model:
            yield f"## {name}\n"
            yield "| | |"
            yield "|---|---|"
            yield from (f"| `{each}` | {_cell(MEANINGS[name][each])} |" for each in model["enum"])
            yield ""


def _names() -> Iterator[str]:
    yield "## Conditions in CEL: variables\n"
    yield "| variable | type | stages | |"
    yield "|---|---|---|---|"
    for each in VARIABLES:
        stages = ", ".join(sorted(each.stages))
        yield f"| `{each.name}` | {each.kind} | {stages} | {each.meaning} |"
    yield "\n## Conditions in CEL: functions\n"
    yield "| function | gives | |"
    yield "|---|---|---|"
    for function in FUNCTIONS:
        gives = "number" if function.gives == "dyn" else function.gives
        forms = "<br>".join(f"`{form}`" for form in function.written)
        yield f"| {forms} | {gives} | {_cell(function.meaning)} |"
    yield "\nThe reading of a text that `score` may ask for, of what a classifier of the kind `patterns` found:\n"
    yield from (f"- `{name}`: {meaning}" for name, meaning in READINGS.items())
    yield f"- `{DISGUISED}`: any of these"
    yield "\nBeside these, CEL's own: `size`, `in`, `has`, `exists`, `all`, `exists_one`, `filter`, `map`,"
    yield "`startsWith`, `endsWith`, `contains`, `matches` (RE2), `int`, `double`, `string`, and the operators."


def _lints() -> Iterator[str]:
    yield "\n## What penstock check warns of\n"
    yield "A warning may be meant, and then stays; `--strict` makes it count. Some of `never-fires` are errors: no"
    yield "intention explains them.\n"
    yield "| | |"
    yield "|---|---|"
    yield from (f"| `{id}` | {_cell(meaning)} |" for id, meaning in TOLD.items())


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
