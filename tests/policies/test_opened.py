"""Weights are verified when a policy is loaded, and opened only where a text is judged or somebody serves."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from classifiers.card import DEFAULT_MODEL, MODELS
from policies.check import check

POLICY = """\
id: demo
version: 1
owner: tests
description: A model of our own.
classifiers:
  guard: {kind: embedded, model: %s}
rules:
  - {id: harm, description: d, stages: [input], when: {finding: guard.harmful, at_least: 0.9}, action: log}
cases:
  - {name: as if, text: x, scores: {guard.harmful: 0.95}, expect: {action: log}}
"""


def test_cases_with_scores_need_no_engine() -> None:
    script = (
        "import sys; from policies.check import check; result = check('observe', linted=True); "
        "assert result.ok, result.lines(); "
        "print(*({'numpy', 'onnxruntime', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_weights_that_cannot_be_opened_are_found_before_anybody_serves(tmp_path: Path) -> None:
    """Their digest is right, so only who opens them can know."""
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(MODELS / DEFAULT_MODEL / "tokenizer.json", model)
    (model / "model.onnx").write_bytes(b"no graph")
    card = json.loads((MODELS / DEFAULT_MODEL / "card.json").read_text("utf-8"))
    card["files"]["model.onnx"] = hashlib.sha256(b"no graph").hexdigest()
    (model / "card.json").write_text(json.dumps(card), "utf-8")
    file = tmp_path / "p.yaml"
    file.write_text(POLICY % model, "utf-8")
    assert check(str(file)).ok
    served = check(str(file), live=True)  # as `penstock serve` loads
    assert not served.ok
    assert "classifier 'guard' cannot be made" in served.lines()[0]
    (model / "model.onnx").write_bytes(b"another")
    assert "was altered" in check(str(file)).lines()[0]
