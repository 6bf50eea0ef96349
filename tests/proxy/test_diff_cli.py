"""`penstock diff`: words, JSON, and the exit codes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from typer.testing import CliRunner, Result

from proxy.cli import app


def run(*args: object) -> Result:
    result = CliRunner().invoke(app, ["diff", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_what_changed(tmp_path: Path) -> None:
    text = (resources.files("policies") / "packs" / "baseline.yaml").read_text("utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        text.replace("at_least: 0.8801", "at_least: 0.8").replace("stream: {hold_back: 64}", "stream: whole")
    )
    told = run("baseline", mine)
    assert told.exit_code == 0
    lines = told.output.splitlines()
    assert "rule injection-in-tool-result: threshold of guard.injection_indirect 0.8801 -> 0.8: stricter" in lines
    assert any(line.startswith("rule number-told: stream") for line in lines)
    assert lines[-1].endswith("1 stricter, 1 other")
    plain = json.loads(run("baseline", mine, "--output", "json").stdout)
    assert plain["changes"][0] == {
        "subject": "rule",
        "id": "injection-in-tool-result",
        "what": "threshold of guard.injection_indirect",
        "old": 0.8801,
        "new": 0.8,
        "effect": "stricter",
    }
    assert run("baseline", mine, "--exit-code").exit_code == 1


def test_no_difference() -> None:
    told = run("observe", "observe", "--exit-code")
    assert told.exit_code == 0
    assert told.output.startswith("no difference: revision ")


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    told = run("baseline", tmp_path / "none.yaml")
    assert told.exit_code == 1
    assert "none.yaml" in told.output
    assert run("baseline", "observe", "--output", "github").exit_code == 2
