"""JSON Schema of a policy file, for editors: `python -m policies.schema` writes policies/schema.json.

It comes from the model. What the model checks by code and a schema can say too is added here, from the same tables:
which keys go with which action, which options a kind of classifier has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from classifiers.catalog import KINDS, class_of

from .editor import furnish
from .marks import spoken
from .model import INPUT_ONLY, KEYS_OF, MASK_FIELDS, MESSAGE_FIELDS, NEEDED, NUMBER, Action, Policy
from .ready import BUILT_IN

TITLE = "Penstock policy"
FILE = Path(__file__).with_name("schema.json")


def schema() -> dict[str, Any]:
    """The schema of what an author writes, with what an editor says of it."""
    made = plain()
    furnish(made)
    made["$defs"]["Seen"]["properties"]["finding"]["defaultSnippets"] = [
        {"label": name, "description": said, "body": name} for name, said in _findings()
    ]
    return made


def _findings() -> Iterator[tuple[str, str]]:
    """Findings that an editor offers: of the classifiers that packs and `penstock new-rule` call by these names."""
    guard = class_of("embedded").options()["labels"].form["items"]["anyOf"][0]["enum"]
    yield from ((f"guard.{label}", "Where a classifier 'guard' is of the kind embedded.") for label in guard)
    data = class_of("pii").options()["labels"].form["items"]["enum"]
    yield from ((f"pii.{label}", "Where a classifier 'pii' is of the kind pii.") for label in data)
    yield "secrets.*", "Where a classifier 'secrets' is of the kind secrets: any key, token or password."
    yield "surface.unscannable", "A part that no classifier can read, such as an image."
    yield "surface.opaque", "What the provider has encrypted, or keeps of its own thoughts, and only he can read."


def plain() -> dict[str, Any]:
    """The schema of what an author writes (before defaults are filled in)."""
    made: dict[str, Any] = _without_null(Policy.model_json_schema(mode="validation"))
    made.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": TITLE})
    defs = made["$defs"]
    for model in (made, *defs.values()):
        for value in model.get("properties", {}).values():
            _mend(value)
    rule, patch = defs["Rule"]["properties"], defs["RulePatch"]["properties"]
    for key, value in patch.items():
        value.setdefault("description", rule[key].get("description", ""))
    for model in (made, *defs.values()):
        _only_fields(model.get("properties", {}))
    defs["Rule"]["allOf"] = _of_actions()
    defs["Case"]["allOf"] = [_when({"required": ["calls"]}, {"required": ["stage"], **_is("stage", "output")})]
    defs["ClassifierSpec"]["properties"]["kind"]["enum"] = sorted(KINDS)
    defs["ClassifierSpec"]["allOf"] = [_of_kind(kind, defs["ClassifierSpec"]) for kind in sorted(KINDS)]
    made["properties"]["classifiers"]["propertyNames"] = {"not": {"enum": sorted(BUILT_IN)}}
    made["allOf"] = [_when({"required": ["override"]}, {"required": ["extends"]})]
    return made


def _mend(value: dict[str, Any]) -> None:
    """What pydantic says of a value otherwise than its author writes it."""
    if "oneOf" in value:  # each of them excludes the others, and editors complete better
        value["anyOf"] = value.pop("oneOf")
    if "patternProperties" in value:
        value["additionalProperties"] = False
    default = value.get("default")
    if default == {} and value.get("minProperties"):
        del value["default"]
    if isinstance(default, int) and value.get("type") == "string":
        value["default"] = spoken(default)
        for bound in ("minimum", "maximum"):
            value.pop(bound, None)


def _only_fields(properties: dict[str, Any]) -> None:
    """Texts with fields in curly brackets have those that are filled in, and no others."""
    for key, fields in (("message", MESSAGE_FIELDS), ("rewrite_with", MESSAGE_FIELDS), ("mask_with", MASK_FIELDS)):
        if key in properties:
            none = [{"pattern": rf"\{{(?!(?:{'|'.join(sorted(fields))})\}})\w*\}}"}]
            none += [{"pattern": r"\{n\}(?:[0-9]|.*\{n\})"}] if key == "mask_with" else []
            properties[key]["not"] = {"anyOf": none} if len(none) > 1 else none[0]


def _when(given: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """`then` where `given`. What it says of keys that are known is nothing that an editor should offer."""
    for part in (given, then):
        for value in part.get("properties", {}).values():
            value["doNotSuggest"] = True
    return {"if": given, "then": then}


def _is(key: str, *values: str) -> dict[str, Any]:
    return {"properties": {key: {"const": values[0]} if len(values) == 1 else {"enum": list(values)}}}


def _of_actions() -> list[dict[str, Any]]:
    """Which keys of a rule go together (`Rule.check_keys`)."""
    numbered = {"properties": {"mask_with": {"pattern": re.escape(NUMBER)}}, "required": ["mask_with"]}
    acts = {action: {"required": ["action"], **_is("action", action.value)} for action in Action}
    needs = {"input": "A mask with {n} needs the stage input.", "output": "stream needs the stage output."}
    looks = {
        stage: {"properties": {"stages": {"contains": {"const": stage}, "errorMessage": said}}}
        for stage, said in needs.items()
    }
    only = [action.value for action in Action if action in INPUT_ONLY]
    said = f"{' and '.join(only)} change what the model is asked: write [input]."
    asks = {"stages": {"const": ["input"], "errorMessage": said}}
    waits = {"stream": {"const": "whole", "errorMessage": "A person reads the whole answer: leave stream out."}}
    return [
        *(_when({"required": [key]}, _goes_with(key, action.value)) for key, action in KEYS_OF.items()),
        *(_when(acts[action], {"required": [key]}) for action, key in NEEDED.items()),
        _when({"required": ["action"], **_is("action", *only)}, {"properties": asks}),
        _when({"required": ["stream"]}, looks["output"]),
        _when(acts[Action.REVIEW], {"properties": waits}),
        _when(numbered, looks["input"]),
        _when({"required": ["restore"], "properties": {"restore": {"const": True}}}, numbered),
    ]


def _goes_with(key: str, action: str) -> dict[str, Any]:
    return {"properties": {"action": {"const": action, "errorMessage": f"{key} goes with the action {action}."}}}


def _of_kind(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The options that a kind of classifier has, as its class declares them and reads them."""
    made = class_of(kind)
    options = made.options()
    then: dict[str, Any] = {
        "properties": {name: {"title": name, **option.form} for name, option in options.items()},
        "propertyNames": {"enum": sorted({*spec["properties"], *options})},
    }
    if needed := [name for name, option in options.items() if option.needed]:
        then["required"] = needed
    if together := getattr(made, "together", None):
        then["allOf"] = together()
    return {"if": {"required": ["kind"], **_is("kind", kind)}, "then": then}


def _without_null(node: Any) -> Any:
    """No key of a file may be empty, so None is never a choice: only a key that is left out has its default."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    choices = [choice for choice in made.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        del made["anyOf"]
        made = {**choices[0], **made}
    elif choices:
        made["anyOf"] = choices
    return made


def text() -> str:
    """The contents of schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
