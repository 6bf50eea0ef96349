"""A value of one type that stands where another is asked for, and how it is written as that."""

from __future__ import annotations

import re
from typing import Any

from . import slips
from .document import Path

_MAPPING = ("must be a mapping", "write 'key: value' on the lines below it")
_TYPES = {
    "string_type": ("must be text", "put it in quotes"),
    "int_type": ("must be a whole number", "write it without quotes and without a point"),
    "int_from_float": ("must be a whole number", "write it without a point"),
    "float_type": ("must be a number", "write it without quotes"),
    "list_type": ("must be a list", "write [a, b], or one item on each line after '- '"),
    "bool_type": ("must be true or false", "write true or false; in YAML 1.2 yes, no, on and off are texts"),
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}
TYPES = {kind: what for kind, (what, _) in _TYPES.items()}
"""What a value must be, by the kind of pydantic's error."""

_FORMS = {
    "when": "{{finding: classifier.label, at_least: 0.8}}, or an expression",
    "after": "{{classifier: {}, labels: [...], band: [0.3, 0.95]}}",
    "expect": "{{action: {}}}",
    "n": "{{at_least: {}}}",
    "max_tokens": "{{at_least: {}}}",
    "account": "{{id: {}}}",
    "history": "{{jailbreak: 2}}: a name and how often",
    "before": "{{role: {}}}",
    "messages": "{{role: user, text: {}}}",
    "scores": "{{classifier.label: 0.9}}, without brackets [ ]",
    "cases": "{{name: {}, text: ..., expect: {{action: pass}}}}",
    "any": "{{finding: {}, at_least: 0.8}}",
    "all": "{{finding: {}, at_least: 0.8}}",
    "classifiers": "name: {{kind: ...}}, a line for each",
    "rules": "the id of a rule, then what differs: {{jailbreak: {{mode: off}}}}",
    "applies_to": "{{models: [{}]}}",
    "strike": "one name",
    "flag": "one name",
}
"""What a mapping looks like where another value was written, with that value in it."""
_NAMED = {"rules": "id", "cases": "name"}
"""Lists that other tools write as a mapping, and the key that has the name here."""
_EXPECTED = re.compile(r"([a-z]{3,7})(?:(?: by)?(?: rule)? ([a-z0-9._-]{1,64}))?")
_OVERRIDDEN = "{expect: {action: pass}, because: ...}"
_WITH_UNIT = re.compile(r"([0-9]{1,6}) ?(ms|s)")
_TIGHT = re.compile(r"([0-9.]{1,20})(#.{0,40})")
_NUMERAL = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")


def holder_of(path: Path) -> str:
    """The last key of a path: what a person would call the thing that is wrong."""
    return next((part for part in reversed(path) if isinstance(part, str)), "the file")


def plain(value: Any) -> str:
    """A value as it is written in YAML, near enough."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def mend(kind: str, path: Path, value: Any) -> str:
    """How `value` is written as what must stand at `path`. `kind` is pydantic's."""
    holder = holder_of(path)
    usual = _TYPES[kind][1]
    if holder == "extends":
        return "write one name: a policy extends one other"
    if _TYPES[kind] is _MAPPING:
        return _as_mapping(path, holder, value) or usual
    if isinstance(value, dict | list):
        return _of_many(kind, holder, value) or usual
    return _of_text(kind, holder, value) or usual if isinstance(value, str) else usual


def _of_many(kind: str, holder: str, value: dict[str, Any] | list[Any]) -> str:
    """How a mapping or a list is written as the list or the text that it means."""
    if kind == "list_type":
        return _listed(holder, value)
    if kind != "string_type":
        return ""
    if holder == "tools":
        return "write the names of the tools alone"
    if isinstance(value, list) and holder in {"route_to", "model"}:
        return "write one"
    # [X] was meant as a text.
    text = value[0] if isinstance(value, list) and len(value) == 1 else None
    return f'write "[{text}]"' if isinstance(text, str) else ""


def _listed(holder: str, value: dict[str, Any] | list[Any]) -> str:
    """How a mapping is written as the list that it means."""
    if isinstance(value, dict) and all(each is None for each in value.values()):
        return f"write [{', '.join(map(str, value))}]"  # {output} is a key without a value
    if isinstance(value, dict) and holder in _NAMED and not any(isinstance(each, str) for each in value.values()):
        first = next(iter(value))
        return f"write '- {_NAMED[holder]}: {first}' in place of '{first}:'"
    return "put it in brackets: [{...}], or write '- ' before it"


def _as_mapping(path: Path, holder: str, value: Any) -> str:
    if holder in {"n", "max_tokens"} and isinstance(value, str) and (meant := slips.span(value)):
        return f"write {meant}"
    if holder == "when" and isinstance(value, list):
        return "write {any: [...]} where one is enough, {all: [...]} where each is needed"
    if holder == "expect" and isinstance(value, str) and (said := _EXPECTED.fullmatch(value)):
        return f"write {{action: {said[1]}, rule: {said[2]}}}" if said[2] else f"write {{action: {said[1]}}}"
    form = "{{mode: {}}}" if path[:2] == ("override", "rules") and len(path) == 3 else _FORMS.get(holder, "")
    if path[:2] == ("override", "cases") and len(path) <= 3:
        return f"write {_OVERRIDDEN if len(path) > 2 else '{name of the case: ' + _OVERRIDDEN + '}'}"
    if isinstance(value, list) and holder in {"rules", "cases"} and len(path) == 2 and path[0] == holder:
        return "there is one '- ' too many"
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    return f"write {form.format('...' if isinstance(one, list | dict) else plain(one))}" if form else ""


def _as_list(holder: str, value: str) -> str:
    every = value.lower() in {"all", "any", "both", "*", "every", "everything"}
    if every and holder == "stages":
        return "write [input, output]"
    if every:
        return f"remove '{holder}': without it all are meant"
    if "\n" in value:
        return "remove the sign '|' or '>' behind the key"
    words = [word for word in re.split(r"\s*(?:[,/+]|\band\b)\s*", value.strip("()[]{} ")) if word]
    return f"write [{', '.join(words)}]" if words else ""


def _of_text(kind: str, holder: str, value: str) -> str:
    """How a text is written as the list, the truth or the number that it means."""
    if kind == "list_type":
        return _as_list(holder, value)
    if kind == "bool_type":
        meant = slips.truth(value)
        return f"write {meant}; in YAML 1.2 yes, no, on and off are texts" if meant else ""
    if kind not in {"int_type", "float_type"} or _NUMERAL.fullmatch(value):
        return ""
    if holder == "deadline_ms" and (timed := _WITH_UNIT.fullmatch(value)):
        return f"write {int(timed[1]) * (1 if timed[2] == 'ms' else 1000)}"
    if tight := _TIGHT.fullmatch(value):
        return f"write {tight[1]} {tight[2]}: a comment has a blank before its '#'"
    number = slips.number(value)
    return f"write {number:g}" if number is not None else f"write a number like {1 if kind == 'int_type' else 0.5}"
