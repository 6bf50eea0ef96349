"""A document to a Policy, or to problems in the words of the person who wrote the file."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from classifiers.base import Role
from classifiers.catalog import near

from . import case_form, forms, marks, misplaced, model, retyped, slips
from .document import Document, Path
from .retyped import holder_of

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
    "replacement": "mask_with",
    "tests": "cases",
    "detectors": "classifiers",
    "label": "finding",
    **dict.fromkeys(("above", "over", "greater_than", "gt", "gte", "minimum", "from"), "at_least"),
    **dict.fromkeys(("below", "under", "less_than", "lt", "lte", "maximum", "to"), "at_most"),
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
    **dict.fromkeys(("per", "every", "during"), "within"),
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
    **dict.fromkeys(("on_fail", "on_failure", "onerror", "if_error", "on_timeout"), "on_error"),
    "tool": "name",
    "function": "name",
    **dict.fromkeys(("args", "parameters"), "arguments"),
    "view": "reading",
    "seen_in": "reading",
}

_SPOKEN = {"mode": ["canary 5%"], "stream": ["{hold_back: 64}"]}
"""What may be written in place of the words of a closed list."""

_MEND_OF = {
    "share": "write 'canary 5%'",
    "characters": "write a number of characters, or '50 tokens'",
    "time": "write 30m, 24h, 7d or 2w",
}

_NAME = r"[a-z][a-z0-9_-]{0,63}$"
_NAME_OF = dict.fromkeys(("id", "rule", "tags"), r"[a-z0-9][a-z0-9._-]{0,63}$") | {"reason": r"[a-z][a-z0-9_]{0,63}$"}
_WORD = "start with a small letter or a digit, then small letters, digits, '.', '_', ':' or '-', 64 at most"
_PATTERNS = {
    "rules": "write the id of a rule: small letters, digits, '.', '_' or '-'",
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
        _add(document, (), "not a policy: no key of one is in it", misplaced.wrapped(value))
    else:
        return _validated(document, value)
    return None


def _validated(document: Document, value: dict[str, Any]) -> model.Policy | None:
    details = _details(value)
    # What stands where it cannot is told as a whole.
    wrong = [_path(each) for each in details if each["type"] in retyped.TYPES]
    empty = [
        path for path in _empty(value, ()) if not any(path != each and path[: len(each)] == each for each in wrong)
    ]
    written = set()
    for path in empty:
        what, mend, key = misplaced.valueless(str(path[-1]), _known_keys(path[:-1]))
        written.add((path[:-1], key))
        _add(document, path, what, mend, at_key=True)
    if details:
        details = [each for each in details if _path(each) not in empty]
        unknown = [each for each in details if each["type"] == "extra_forbidden"]
        misspelt = written | {(_path(each)[:-1], meant) for each in unknown for meant in _meant(each)}
        # A condition with a key that no condition has is read as one of a finding, which it was not meant for.
        joined = {where for where, meant in misspelt if meant in {"any", "all"}}
        misspelt |= {(where, key) for where in joined for key in model.Seen.model_fields}
        nested = [_path(each) for each in details if _is_nested_score(document, each)]
        for detail in details:
            path = _path(detail)
            if any(path[: len(each)] == each and "[key]" not in detail["loc"] for each in nested):
                continue
            # A misspelt key is one mistake, not two: an unknown key and a missing one.
            if detail["type"] != "missing" or (path[:-1], path[-1]) not in misspelt:
                _explain(document, detail)
        return None
    return None if empty else _parsed(value)


def _parsed(value: dict[str, Any]) -> model.Policy:
    """By way of JSON, where strict still lets text stand for a word of a closed list, and a list for a tuple."""
    return model.Policy.model_validate_json(json.dumps(value), strict=True)


def _details(value: dict[str, Any]) -> list[ErrorDetails]:
    """What the model says is wrong."""
    try:
        _parsed(value)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def did_you_mean(word: str, known: list[str]) -> str:
    """A mend for a word that is not among `known`."""
    if mend := slips.disguised(word, known):
        return mend
    return near(word, known)


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
    holder = holder_of(path)
    if kind == "extra_forbidden":
        _unknown_key(document, path)
    elif kind == "missing":
        _add(document, path[:-1], f"'{name}' is missing{_in(path[:-1])}", f"add '{name}: ...'")
    elif kind in ("enum", "literal_error"):
        _no_word(document, path, value, re.findall(r"'([^']*)'", str(context["expected"])))
    elif kind in retyped.TYPES:
        _add(document, path, f"'{holder}' {retyped.TYPES[kind]}, not {_shown(value)}", retyped.mend(kind, path, value))
    elif kind == "string_pattern_mismatch":
        _mismatch(document, path, value, "[key]" in detail["loc"])
    elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        (sign, limit), *_ = context.items()
        words_for = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        share = sign == "le" and limit == 1 and isinstance(value, int | float) and 2 <= value <= 100
        mend = f"for {value:g} % write {value / 100:g}" if share else ""
        bound = marks.spoken(int(limit)) if isinstance(value, str) else f"{limit:g}"  # a time is written as a text
        _add(document, path, f"'{holder}' must be {words_for[sign]} {bound}, not {_shown(value)}", mend)
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
        meant = slips.time(value) if kind == "time" else slips.letters(value) if kind == "characters" else ""
        mend = meant or _MEND_OF.get(kind, "")
        _add(document, path, f"'{holder}': {detail['msg']}", mend)


def _no_word(document: Document, path: Path, value: Any, words: list[str]) -> None:
    """A value that is no word of a closed list."""
    holder = holder_of(path)
    words = words + _SPOKEN.get(holder, [])
    meant = slips.word(holder, retyped.plain(value))
    if isinstance(value, list):
        each = "a rule has one action: write the most severe, and a rule of its own for each other one"
        mend = each if holder == "action" else "write one"
    else:
        role = holder in {"stages", "stage"} and value in list(Role)
        mend = f"write {meant}" if meant is not None else did_you_mean(str(value), words)
        mend = f"that is a role: write roles: [{value}] beside it" if role else mend
    _add(document, path, f"'{holder}' cannot be {_shown(value)}", mend)


def _mismatch(document: Document, path: Path, value: Any, of_key: bool) -> None:
    if of_key:
        holder = holder_of(path[:-1])
        if _is_nested(document, path):
            label, score = next(iter(_at(document, path).items()))
            mend = f"write {path[-1]}.{label}: {score if isinstance(score, int | float) else 0.9}"
            _add(document, path, f"'{path[-1]}' is no name here", mend, at_key=True)
            return
        meant = slips.name(str(path[-1]), _NAME) if holder in {"classifiers", "rules"} else ""
        mend = _as_name(meant, _PATTERNS.get(holder, ""))
        _add(document, path, f"'{slips.visible(str(path[-1]))}' is no name here", mend, at_key=True)
        return
    holder = holder_of(path)
    meant = slips.name(value, _NAME_OF[holder]) if holder in _NAME_OF else ""
    if holder == "extends":
        meant = re.sub(r"^pack:|\.ya?ml$", "", value.rpartition("/")[2])
    mend = _as_name(meant, _PATTERNS.get(holder, ""))
    _add(document, path, f"'{holder}' cannot be {_shown(value)}", mend)


def _as_name(meant: str, form: str) -> str:
    if not meant:
        return form
    return f"write {meant}" if form.startswith("write") or not form else f"write {meant}: {form}"


def _is_nested_score(document: Document, detail: ErrorDetails) -> bool:
    return "[key]" in detail["loc"] and _is_nested(document, _path(detail))


def _is_nested(document: Document, path: Path) -> bool:
    """Whether it is a classifier with its labels below it, where `scores` has classifier.label."""
    value = _at(document, path) if path[-2:-1] == ("scores",) else None
    return isinstance(value, dict) and bool(value)


def _at(document: Document, path: Path) -> Any:
    """The value at a path of the file."""
    value = document.value
    for part in path:
        value = value[part]
    return value


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
    holder = holder_of(path) if path else ""
    return _PLACES.get(holder, f" in '{holder}'")


def _known_keys(path: Path) -> list[str]:
    if path[:2] in _OVERRIDDEN and len(path) == 3:
        return list(_OVERRIDDEN[path[:2]].model_fields)
    if path[-2:-1] == ("scores",):
        return list(case_form.CaseScore.model_fields)
    models = _MODELS.get(holder_of(path) if path else "", ())
    return list(dict.fromkeys(key for each in models for key in each.model_fields))


def _meant(detail: ErrorDetails) -> list[str]:
    """The keys that an unknown one is for, where that can be told."""
    path = _path(detail)
    if keys := misplaced.meant(path):
        return keys
    name, known = str(path[-1]), _known_keys(path[:-1])
    meant = _KNOWN_AS.get(name.lower())
    return [meant] if meant in known else difflib.get_close_matches(name, known, 1, 0.6)


def _unknown_key(document: Document, path: Path) -> None:
    name, known = str(path[-1]), _known_keys(path[:-1])
    what = f"unknown key '{slips.visible(name)}'{_in(path[:-1])}"
    if name in known:
        what, mend = f"'{name}' cannot stand beside these keys", "a condition is one of finding, any, all"
    elif where := misplaced.mend(path, _at(document, path), _at(document, path[:-1])):
        mend = where
    elif (meant := _KNOWN_AS.get(name.lower())) in known:
        mend = f"write '{meant}'"
    elif found := slips.strange(name):
        what, mend = found[1:]
    elif name == "on":
        mend = "in a rule, 'stages' says where it looks"
    else:
        mend = did_you_mean(name, known)
    _add(document, path, what, mend, at_key=True)
