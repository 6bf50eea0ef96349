"""Kinds of classifiers as policies name them: options from YAML, paths from the policy file's own directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifiers.catalog import KINDS, PATHS
from policies.load import PolicyError, load
from tests.classifiers.test_transformer import write

POLICY = """
id: outside
version: 1
owner: tests
description: Classifiers that others trained or serve.
classifiers:
  guard:
    kind: transformer
    path: models/words
    weights: model.onnx
    labels: {ATTACK: injection}
  reader:
    kind: judge
    url: http://127.0.0.1:9/v1
    model: m
    policy_file: POLICY_FILE
    labels: {weapons: the text asks how to make one}
    deadline_ms: 5000
  server:
    kind: remote
    url: http://127.0.0.1:9
    model: m
    labels: [null, injection]
rules:
  - id: injection
    description: No orders from outside.
    stages: [input]
    when: {any: [{finding: [guard.injection, server.injection], at_least: 0.9}, {finding: reader.weapons, at_least: 1}]}
    action: block
cases:
  - {name: an attack, text: attack, failed: [reader, server], expect: {action: block}}
"""


def test_a_policy_names_them(tmp_path: Path) -> None:
    write(tmp_path / "models" / "words")
    (tmp_path / "fair.md").write_text("Be fair.", encoding="utf-8")
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("POLICY_FILE", "fair.md"), encoding="utf-8")
    made = load(str(file)).classifiers
    assert {name: type(one).__name__ for name, one in made.items()} == {
        "guard": "Transformer",
        "reader": "Judge",
        "server": "Remote",
    }
    file.write_text(POLICY.replace("POLICY_FILE", "unfair.md"), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"policy\.yaml:16:\d+: policy_file: cannot read .*unfair\.md"):
        load(str(file))


def test_paths_belong_to_kinds() -> None:
    assert PATHS.keys() <= KINDS.keys()
