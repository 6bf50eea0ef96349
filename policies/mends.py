"""A document to a Policy, or to problems in the words of the person who wrote the file."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from . import case_form, forms, marks, model, slips
from .document import Document, Path

# The model whose keys are allowed below the last named part of a path.
_MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "": (model.Policy,),
    "rules": (model.Rule,),
    "when": (model.Seen, model.AnyOf, model.AllOf),
    "any": (model.Seen,),
    "all": (model.Seen,),
    "stream": (forms.HoldBack,),
    "mode": (forms.Canary,),
    "override": (model.Override,),
    "applies_to": (forms.AppliesTo,),
    "n": (forms.Range,),
    "max_tokens": (forms.Range,),
    "request": (case_form.CaseRequest,),
    "account": (case_form.CaseAccount,),
    "before": (case_form.CaseTurn,),
    "calls": (case_form.CaseCall,),
    "cases": (case_form.Case,),
    "messages": (case_form.CaseMessage,),
    "expect": (case_form.Expectation,),
    "after": (model.AfterSpec,),
    "strike": (marks.Strike,),
    "flag": (marks.Flag,),
}

# What people write who know other tools. Keys that are near in letters are found by difflib.
_KNOWN_AS = {
    "on": "stages",
    "where": "stages",
    "phase": "stages",
    "if": "when",
    "condition": "when",
    "threshold": "at_least",
    "score": "at_least",
    "min_score": "at_least",
    "name": "id",
    "title": "description",
    "enabled": "mode",
    "status": "mode",
    "fail_open": "on_error",
    "on_failure": "on_error",
    "replacement": "mask_with",
    "tests": "cases",
    "detectors": "classifiers",
    "label": "finding",
    "or": "any",
    "and": "all",
    "type": "kind",
    "timeout_ms": "deadline_ms",
    "range": "band",
    "between": "band",
    "gate": "classifier",
    "routes": "dialects",
    "apis": "dialects",
    "model": "models",
    "reasoning_effort": "effort",
    "streaming": "stream",
    "min": "at_least",
    "max": "at_most",
    "share": "canary",
    "only_for": "applies_to",
    "scope": "applies_to",
    "inherits": "extends",
    "base": "extends",
    "overrides": "override",
    "except": "override",
    "ban": "flag",
    "mark": "flag",
    "strikes": "strike",
    "window": "within",
    "ttl": "lasts",
    "for": "lasts",
    "until": "lasts",
    "content": "text",
    "prompt": "text",
    "expected": "expect",
    "should": "expect",
    "asserts": "expect",
    "reason": "because",
    "why": "because",
    "skip": "drop",
    "remove": "drop",
}

_TYPES = {
    "string_type": ("must be text", "put it in quotes"),
    "int_type": ("must be a whole number", "write it without quotes and without a point"),
    "int_from_float": ("must be a whole number", "write it without a point"),
    "float_type": ("must be a number", "write it without quotes"),
    "list_type": ("must be a list", "write [a, b], or one item on each line after '- '"),
    "bool_type": ("must be true or false", "write true or false; in YAML 1.2 yes, no, on and off are texts"),
    "dict_type": ("must be a mapping", "write 'key: value' on the lines below it"),
    "model_type": ("must be a mapping", "write 'key: value' on the lines below it"),
    "model_attributes_type": ("must be a mapping", "write 'key: value' on the lines below it"),
}

_SPOKEN = {"mode": ["canary 5%"], "stream": ["{hold_back: 64}"]}
"""What may be written in place of the words of a closed list."""

_MEND_OF = {
    "share": "write 'canary 5%'",
    "characters": "write a number of characters, or '50 tokens'",
    "time": "write 30m, 24h, 7d or 2w",
}

_WORD = "start with a small letter or a digit, then small letters, digits, '.', '_', ':' or '-', 64 at most"
_PATTERNS = {
    "id": "start with a small letter or a digit, then small letters, digits, '.', '_' or '-', 64 at most",
    "route_to": "write the name of one model, as callers would ask for it",
    "rule": "write the id of a rule: small letters, digits, '.', '_' or '-'",
    "tags": "start with a small letter or a digit, then small letters, digits, '.', '_' or '-', 64 at most",
    "reason": "start with a small letter, then small letters, digits or '_', 64 at most",
    "extends": "write the id of a policy beside this one, or the name of a pack",
    "finding": "write classifier.label, or classifier.* for every label",
    "scores": "write classifier.label",
    "classifier": "write the name of a classifier",
    "labels": "write the name of a label, without the classifier",
    "classifiers": "start with a small letter, then small letters, digits, '_' or '-', 64 at most",
    "failed": "write the name of a classifier",
    "strike": _WORD,
    "flag": _WORD,
    "name": _WORD,
}


def parse(document: Document) -> model.Policy | None:
    """The policy in `document`. What is wrong is added to its problems; then the answer is None."""
    if document.problems:
        return None
    value = document.value
    if value is None:
        _add(document, (), "an empty file", "write a policy: id, version, owner, description and rules")
    elif not isinstance(value, dict):
        _add(document, (), "not a policy", "write 'key: value' lines: id, version, owner, description and rules")
    elif value and not value.keys() & model.Policy.model_fields.keys():
        _add(
            document, (), "not a policy: no key of one is in it", "move the file out of here, or write id, version ..."
        )
    else:
        return _validated(document, value)
    return None


def _validated(document: Document, value: dict[str, Any]) -> model.Policy | None:
    empty = _empty(value, ())
    for path in empty:
        # {at_least: 0,5} is read as two keys.
        comma = str(path[-1]).isdecimal() and isinstance(path[-1], str)
        mend = f"write a number with a point: 0.{path[-1]}" if comma else "write one, or remove the key"
        _add(document, path, f"'{path[-1]}' has no value", mend, at_key=True)
    try:
        # By way of JSON, where strict still lets text stand for a word of a closed list, and a list for a
        # tuple.
        policy = model.Policy.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        details = [each for each in error.errors(include_url=False) if _path(each) not in empty]
        misspelt = {(_path(each)[:-1], _meant(each)) for each in details if each["type"] == "extra_forbidden"}
        for detail in details:
            path = _path(detail)
            # A misspelt key is one mistake, not two: an unknown key and a missing one.
            if detail["type"] != "missing" or (path[:-1], path[-1]) not in misspelt:
                _explain(document, detail)
        return None
    return None if empty else policy


def did_you_mean(word: str, known: list[str]) -> str:
    """A mend for a word that is not among `known`."""
    if mend := slips.disguised(word, known):
        return mend
    near = difflib.get_close_matches(word, known, 1, 0.6)
    listed = ", ".join(known) if len(known) <= 40 else ", ".join(known[:40]) + ", ..."
    return f"did you mean '{near[0]}'?" if near else f"one of {listed}"


def _add(document: Document, path: Path, what: str, mend: str = "", at_key: bool = False) -> None:
    document.problems.append(document.problem(path, what, mend, at_key))


def _empty(value: Any, path: Path) -> list[Path]:
    """Paths of keys without a value. The options of a classifier are its own affair."""
    if value is None:
        return [path]
    if len(path) == 2 and path[0] == "classifiers":
        own = {key: value[key] for key in ("kind", "after") if key in value} if isinstance(value, dict) else {}
        return [found for key, item in own.items() for found in _empty(item, (*path, key))]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in _empty(item, (*path, key))]


def _path(detail: ErrorDetails) -> Path:
    # A part in angle brackets is the name of a union's member; "[key]" says that the key itself is wrong.
    return tuple(part for part in detail["loc"] if not (isinstance(part, str) and part.startswith(("<", "[key]"))))


def _explain(document: Document, detail: ErrorDetails) -> None:
    path = _path(detail)
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    name = path[-1] if path else "the file"
    holder = _holder(path)
    if kind == "extra_forbidden":
        _unknown_key(document, path)
    elif kind == "missing":
        _add(document, path[:-1], f"'{name}' is missing{_in(path[:-1])}", f"add '{name}: ...'")
    elif kind in ("enum", "literal_error"):
        words = re.findall(r"'([^']*)'", str(context["expected"])) + _SPOKEN.get(holder, [])
        meant = slips.word(holder, _plain(value))
        mend = f"write {meant}" if meant is not None else did_you_mean(str(value), words)
        _add(document, path, f"'{holder}' cannot be {_shown(value)}", mend)
    elif kind in _TYPES:
        _add(document, path, f"'{holder}' {_TYPES[kind][0]}, not {_shown(value)}", _typed(kind, path, value))
    elif kind == "string_pattern_mismatch":
        _mismatch(document, path, value, "[key]" in detail["loc"])
    elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        (sign, limit), *_ = context.items()
        words_for = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        share = sign == "le" and limit == 1 and isinstance(value, int | float) and 2 <= value <= 100
        mend = f"for {value:g} % write {value / 100:g}" if share else ""
        _add(document, path, f"'{holder}' must be {words_for[sign]} {limit:g}, not {_shown(value)}", mend)
    elif kind == "too_short":
        _add(document, path, f"'{holder}' is an empty list", "name at least one, or remove the key")
    elif kind == "string_too_short":
        _add(document, path, f"'{holder}' is empty", "write something")
    elif kind == "string_too_long":
        _add(document, path, f"'{holder}' is longer than {context['max_length']} characters", "shorten it")
    elif kind == "idle_key":
        _add(document, (*path, context["key"]), detail["msg"], at_key=True)
    elif kind == "value_error":
        whole = not path or (isinstance(path[-1], int) and not isinstance(value, str))
        _add(document, path, str(context["error"]) if whole else f"'{holder}': {context['error']}")
    else:
        _add(document, path, f"'{holder}': {detail['msg']}", _MEND_OF.get(kind, ""))


def _mismatch(document: Document, path: Path, value: Any, of_key: bool) -> None:
    if of_key:
        mend = _PATTERNS.get(_holder(path[:-1]), "")
        _add(document, path, f"'{slips.visible(str(path[-1]))}' is no name here", mend, at_key=True)
        return
    _add(document, path, f"'{_holder(path)}' cannot be {_shown(value)}", _PATTERNS.get(_holder(path), ""))


def _holder(path: Path) -> str:
    """The last key of a path: what a person would call the thing that is wrong."""
    return next((part for part in reversed(path) if isinstance(part, str)), "the file")


def _typed(kind: str, path: Path, value: Any) -> str:
    """How a value of another type is written as the one that it must have."""
    holder = _holder(path)
    if kind == "list_type" and isinstance(value, str):
        return f"write [{value}]"
    if kind in _MAPPINGS:
        of_rule = path[:2] == ("override", "rules") and len(path) == 3
        form = "{{mode: {}}}" if of_rule else _FORMS.get(holder, "")
        return f"write {form.format(_plain(value))}" if form else _TYPES[kind][1]
    if holder == "extends":
        return "write one name: a policy extends one other"
    if kind not in ("int_type", "float_type") or not isinstance(value, str) or _NUMERAL.fullmatch(value):
        return _TYPES[kind][1]
    meant = slips.number(value)
    return f"write {meant:g}" if meant is not None else f"write a number like {1 if kind == 'int_type' else 0.5}"


_MAPPINGS = frozenset({"dict_type", "model_type", "model_attributes_type"})
_FORMS = {
    "when": "{{finding: classifier.label, at_least: 0.8}}, or an expression",
    "expect": "{{action: {}}}",
    "n": "{{at_least: {}}}",
    "max_tokens": "{{at_least: {}}}",
    "account": "{{id: {}}}",
    "classifiers": "name: {{kind: ...}}, a line for each",
    "rules": "the id of a rule, then what differs: {{jailbreak: {{mode: off}}}}",
    "strike": "one name",
    "flag": "one name",
}
"""What a mapping looks like where another value was written, with that value in it."""
_NUMERAL = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"'{slips.visible(value[:60])}'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return str(value)[:60]


_OVERRIDDEN: dict[Path, type[BaseModel]] = {
    ("override", "rules"): model.RulePatch,
    ("override", "cases"): case_form.CasePatch,
}
_PLACES = {
    "": "",
    "rules": " in a rule",
    "when": " in a condition",
    "any": " in a condition",
    "all": " in a condition",
    "cases": " in a case",
    "messages": " in a message",
}


def _in(path: Path) -> str:
    if path[:2] in _OVERRIDDEN and len(path) == 3:
        return f" in an overridden {str(path[1]).removesuffix('s')}"
    holder = _holder(path) if path else ""
    return _PLACES.get(holder, f" in '{holder}'")


def _known_keys(path: Path) -> list[str]:
    if path[:2] in _OVERRIDDEN and len(path) == 3:
        return list(_OVERRIDDEN[path[:2]].model_fields)
    models = _MODELS.get(_holder(path) if path else "", ())
    return list(dict.fromkeys(key for each in models for key in each.model_fields))


def _meant(detail: ErrorDetails) -> str | None:
    """The key that an unknown one is for, where that can be told."""
    path = _path(detail)
    name, known = str(path[-1]), _known_keys(path[:-1])
    meant = _KNOWN_AS.get(name.lower())
    return meant if meant in known else next(iter(difflib.get_close_matches(name, known, 1, 0.6)), None)


_ASKED = {
    **{name: f"request: {{{name}: ...}}" for name in case_form.CaseRequest.model_fields},
    **{name: f"request: {{account: {{{name}: ...}}}}" for name in case_form.CaseAccount.model_fields if name != "id"},
    "turns": "request: {before: [...]}",
    "history": "request: {account: {history: {...}}}, or for turns request: {before: [...]}",
}
"""Keys that stand deeper in a case."""


def _unknown_key(document: Document, path: Path) -> None:
    name, known = str(path[-1]), _known_keys(path[:-1])
    what = f"unknown key '{slips.visible(name)}'{_in(path[:-1])}"
    if name in known:
        what, mend = f"'{name}' cannot stand beside these keys", "a condition is one of finding, any, all"
    elif (meant := _KNOWN_AS.get(name.lower())) in known:
        mend = f"write '{meant}'"
    elif _holder(path[:-1]) == "cases" and name in _ASKED:
        mend = f"write {_ASKED[name]}"
    elif found := slips.strange(name):
        what, mend = found[1:]
    elif name == "on":
        mend = "in a rule, 'stages' says where it looks"
    else:
        mend = did_you_mean(name, known)
    _add(document, path, what, mend, at_key=True)
