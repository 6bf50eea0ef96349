"""`penstock diff`: words, JSON, and the exit codes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from policies.load import load, sources
from proxy.cli import app
from proxy.policy_store import Files, Store


def run(*args: object) -> Result:
    result = CliRunner().invoke(app, ["diff", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_what_changed(tmp_path: Path) -> None:
    text = (resources.files("policies") / "packs" / "baseline.yaml").read_text("utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        text.replace("at_least: 0.975", "at_least: 0.8").replace("stream: {hold_back: 64}", "stream: whole")
    )
    told = run("baseline", mine)
    assert told.exit_code == 0
    lines = told.output.splitlines()
    assert "rule injection-in-tool-result: threshold of guard.injection_indirect 0.975 -> 0.8: stricter" in lines
    assert any(line.startswith("rule number-told: stream") for line in lines)
    assert lines[-1].endswith("1 stricter, 1 other")
    plain = json.loads(run("baseline", mine, "--output", "json").stdout)
    assert plain["changes"][0] == {
        "subject": "rule",
        "id": "injection-in-tool-result",
        "what": "threshold of guard.injection_indirect",
        "old": 0.975,
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
    assert run("baseline", "observe", "--format", "github").exit_code == 2


def test_a_kept_revision_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in force is compared with what is going to be, by the name that `penstock policy history` tells."""
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path))
    observe = load("observe")
    assert Store(tmp_path / "policies").keep(observe, Files(tuple(sources("observe"))))
    assert run(observe.revision[:6], "observe").output.startswith("no difference")
    told = run("0123456789ab", "observe")
    assert told.exit_code == 1
    assert "no such revision is kept" in told.output
    monkeypatch.delenv("PENSTOCK_DATA_DIR")
    settings = tmp_path / "penstock.yaml"
    settings.write_text(f"data_dir: {tmp_path}\nupstream: http://127.0.0.1:1\n")
    shown = CliRunner().invoke(app, ["policy", "show", observe.revision[:6], "--config", str(settings)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"# revision {observe.revision}, ")


@pytest.mark.parametrize("name", ["check", "explain", "new-rule", "diff", "backtest", "calibrate", "teach", "eval"])
def test_each_command_of_authors_shows_an_example_and_its_exit_codes(name: str) -> None:
    told = " ".join(CliRunner().invoke(app, [name, "--help"]).output.split())
    assert f"Example: penstock {name} " in told
    assert "Exit codes: 0 " in told
