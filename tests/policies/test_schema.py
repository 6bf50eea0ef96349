"""The published schema is the model's, and it says yes and no where the loader does."""

from __future__ import annotations

import json
from typing import Any

from policies import reference, schema
from policies.model import Policy


def test_schema_file_is_current() -> None:
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "run: python -m policies.schema"


def test_no_key_may_be_empty() -> None:
    assert '"null"' not in schema.text()


def test_every_reference_leads_somewhere_and_every_property_is_described_or_plain() -> None:
    made = json.loads(schema.text())
    names = set(made["$defs"])

    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [found for item in node for found in references(item)]
        if not isinstance(node, dict):
            return []
        own = [node["$ref"].rpartition("/")[2]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]

    assert set(references(made)) <= names
    assert set(made["properties"]) == set(Policy.model_fields)
    assert made["additionalProperties"] is False
    assert made["$defs"]["Rule"]["additionalProperties"] is False


def test_the_reference_is_current() -> None:
    assert reference.FILE.read_text(encoding="utf-8") == reference.text(), "run: python -m policies.reference"


def test_the_reference_names_every_key() -> None:
    made = json.loads(schema.text())
    told = reference.text()
    for model in (made, *made["$defs"].values()):
        for key in model.get("properties", {}):
            assert f"| `{key}` |" in told, key
