"""Keys that are right, and stand where they are not: what their author meant, and where it is written."""

from __future__ import annotations

import re
from typing import Any

from . import case_form, model
from .document import Path
from .retyped import holder_of

_ASKED = {
    **{name: f"request: {{{name}: ...}}" for name in case_form.CaseRequest.model_fields},
    **{name: f"request: {{account: {{{name}: ...}}}}" for name in case_form.CaseAccount.model_fields if name != "id"},
    "turns": "request: {before: [...]}",
    "history": "request: {account: {history: {...}}}, or for turns request: {before: [...]}",
}
"""Keys that stand deeper in a case."""
_DEEPER = {
    "hold_back": "stream: {{hold_back: {}}}",
    "canary": "mode: canary {}",
    "finding": "when: {{finding: {}, at_least: 0.8}}",
    "at_least": "when: {{finding: classifier.label, at_least: {}}}",
    **dict.fromkeys(("threshold", "score", "min_score"), "when: {{finding: classifier.label, at_least: {}}}"),
    "within": "strike: {{name: ..., within: {}}}",
    "lasts": "flag: {{name: ..., lasts: {}}}",
}
"""Keys that stand deeper in a rule, with what was written there."""
_CONDITIONS = frozenset({"when", "any", "all"})
_COUNTS = frozenset({"count", "limit", "max", "times", "threshold", "at_least"})
_CONDITION = frozenset({"finding", "at_least", "any", "all"})
_REMOVALS = frozenset({"remove", "removed", "delete", "disable", "disabled", "exclude", "without", "skip", "ignore"})
_NEGATIONS = frozenset({"not", "none", "unless"})
_BELOW = frozenset({"below", "under", "less_than", "lt", "lte", "at_most", "max", "maximum"})


def mend(path: Path, value: Any, beside: Any) -> str:
    """Where the key at the end of `path` belongs, or what stands for it; nothing where nobody knows. `beside` is the
    mapping that it stands in."""
    name, holder = str(path[-1]), holder_of(path[:-1]) if len(path) > 1 else ""
    if holder in _CONDITIONS:
        return _condition(name, holder, value)
    overridden = path[:2] == ("override", "rules") and len(path) == 4
    if (holder == "rules" and len(path) == 3) or overridden:
        return _of_rule(name, value, beside, overridden)
    if holder == "strike" and name in _COUNTS:
        return 'a condition says how many: account.history["name"] >= 3'
    return _of_policy(name, holder, beside) if holder in {"", "override"} else _of_case(name, holder, value)


def _of_policy(name: str, holder: str, beside: Any) -> str:
    """A key of a policy, or of its `override`."""
    if holder and name == "classifiers":
        return "what is inherited stays; write one of another name under 'classifiers', without indentation"
    if holder:
        return f"write rules: {{{name}: ...}}, or cases: {{...}}"
    if name in _REMOVALS and isinstance(beside, dict) and "extends" in beside:
        return "write override: {rules: {...: {mode: off}}}, with the rule's id"
    return "it is a key of a rule: write it there" if name in model.Rule.model_fields else ""


def _of_case(name: str, holder: str, value: Any) -> str:
    """A key of a case, or of what stands in one."""
    said = value if isinstance(value, str) else "..."
    if holder == "cases" and name == "role":
        return f"write messages: [{{role: {said}, text: ...}}]"
    if holder == "cases" and name in _ASKED:
        return f"write {_ASKED[name]}"
    if holder == "request" and name in case_form.CaseAccount.model_fields:
        return f"write account: {{{name}: ...}}"
    return f"write action: {name}, rule: {said}" if holder == "expect" and name in list(model.Action) else ""


def _of_rule(name: str, value: Any, beside: Any, overridden: bool) -> str:
    if overridden and name == "id":
        return "remove it: what is inherited keeps its id"
    if name == "unless":
        return 'write when, and what must not be with a "!": !(score("classifier.label") >= 0.8)'
    if name in _CONDITION and isinstance(beside, dict) and beside.get("when", "") is None:
        return "indent it deeper than 'when', to which it belongs"
    if name in _DEEPER:
        return f"write {_DEEPER[name].format(value if isinstance(value, str | int | float) else '...')}"
    if name in model.Policy.model_fields:
        return "it is a key of the whole policy: write it beside 'rules', without indentation"
    return ""


def meant(path: Path) -> list[str]:
    """The keys that are not missing where this one is written in place of them."""
    name = str(path[-1])
    if holder_of(path[:-1]) in _CONDITIONS and ("." in name or name in _NEGATIONS or name in ("any", "all")):
        return ["finding", "at_least"]
    if holder_of(path[:-1]) in _CONDITIONS and name in _BELOW:
        return ["at_least"]
    if holder_of(path[:-1]) == "expect" and name in list(model.Action):
        return ["action"]
    return ["when"] if name == "unless" and holder_of(path[:-1]) == "rules" else []


def _condition(name: str, holder: str, value: Any) -> str:
    """How a condition is written that somebody has put into a key of its own."""
    if name in _NEGATIONS:
        return 'write an expression: !(score("classifier.label") >= 0.8)'
    if name in ("any", "all") and holder in ("any", "all"):
        return 'for conditions in conditions write an expression: (score("a.x") >= 0.8 || ...) && ...'
    if name in _BELOW:
        return f'write an expression: score("classifier.label") < {value if isinstance(value, int | float) else 0.5}'
    if "." in name:
        said = value if isinstance(value, int | float) and 0 < value <= 1 else 0.8
        return f"write finding: {name}, at_least: {said}"
    return ""


_NO_BLANK = re.compile(r"([a-z_]{2,20}):(\S.*)")
_NO_COLON = re.compile(r"([a-z_]{2,20}) +(\S.*)")


def valueless(key: str, known: list[str]) -> tuple[str, str, str]:
    """What is wrong with a key without a value, the mend, and the key that was meant, or nothing. `known` are the keys
    that may stand there."""
    if key.isdecimal():  # {at_least: 0,5} is read as two keys
        return f"'{key}' has no value", f"write a number with a point: 0.{key}", ""
    for form, what in ((_NO_BLANK, "no blank behind a colon"), (_NO_COLON, "no colon behind a key")):
        found = form.fullmatch(key)
        if found is not None and found[1] in known:
            return what, f"write '{found[1]}: {found[2]}'", found[1]
    if " " in key and key not in known:
        what = f"'{key}' is read as a key: a comma ends a text between brackets"
        return what, "put quotes around the whole text", ""
    return f"'{key}' has no value", "write one, or remove the key", ""


def wrapped(value: dict[str, Any]) -> str:
    """The mend of a file without any key of a policy, which may have the policy below a key of its own."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner.keys() & {"id", "rules"}:
            return f"remove the line '{key}:', and the indentation of what is below it"
        if isinstance(inner, list) and any(isinstance(each, dict) and each.keys() & {"id", "rules"} for each in inner):
            return "put each policy into a file of its own, without a list around it"
    return "move the file out of here, or write id, version ..."
