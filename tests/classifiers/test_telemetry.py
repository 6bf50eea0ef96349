"""No library that judges texts reports to its makers: ONNX Runtime does by default, and keeps an id of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "classifiers" / "models" / "minilm-heads" / "model.onnx"
USES = {
    "the embedded model": f"from classifiers.runtime import Session; Session(open({str(MODEL)!r}, 'rb').read())",
    "a model of others": "import classifiers.transformer_model",
}


@pytest.mark.parametrize("code", USES.values(), ids=USES.keys())
def test_nothing_is_kept_to_be_reported(code: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
