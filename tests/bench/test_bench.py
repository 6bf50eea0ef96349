"""The bench itself, on this machine: `pytest -m bench tests/bench`. Not part of `make test`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.bench
def test_quick_run_reaches_the_goals(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--check", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    for row in told["figures"]:
        assert None not in row["values"].values(), row["figure"]
    assert "WARNING" not in done.stdout
