"""JSON Schema of a policy file, for editors: `python -m policies.schema` writes policies/schema.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .model import Policy

FILE = Path(__file__).with_name("schema.json")


def schema() -> dict[str, Any]:
    """The schema of what an author writes (before defaults are filled in)."""
    made: dict[str, Any] = _without_null(Policy.model_json_schema(mode="validation"))
    made.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Penstock policy"})
    return made


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
