"""Operators' commands share a file of settings with the server, and not its secrets: no provider's key is in their
shell."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app
from proxy.config import load
from proxy.serve import main as serve
from proxy.settings_source import ConfigError
from proxy.upstream_settings import check_keys

VARIABLE = "OPENAI_KEY_OF_NOBODY"
TABLE = """\
credentials: keys
data_dir: {data}
upstreams:
  openai: {{url: "http://127.0.0.1:9/v1", key_env: OPENAI_KEY_OF_NOBODY, serves: [openai]}}
  local: {{url: "http://127.0.0.1:9/v1"}}
default_upstream: openai
policies: {{strict: strict}}
admin_port: 9
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    file = tmp_path / "penstock.yaml"
    file.write_text(TABLE.format(data=tmp_path / "data"))
    monkeypatch.setenv("PENSTOCK_CONFIG", str(file))
    return file


def said(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which the console cannot listen: it ends there, after it has read the settings."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield held.getsockname()[1]


# the command, its exit code, words of what it says
COMMANDS: dict[str, tuple[list[str], int, str]] = {
    "keys list": (["keys", "list"], 0, "team-a"),
    "keys create": (["keys", "create", "cd", "--policy", "strict"], 0, "for account cd"),
    "keys revoke": (["keys", "revoke", "ci"], 0, "is revoked"),
    "account list": (["account", "list"], 0, ""),
    "review list": (["review", "list"], 1, "the admin listener at 127.0.0.1:9 gave no answer"),
    "policy status": (["policy", "status"], 0, "no process serves"),
    "policy rollback": (["policy", "rollback"], 1, "no revision"),
    "audit tail": (["audit", "tail"], 0, ""),
    "audit verify": (["audit", "verify"], 0, "whole: "),
    "config": (["config"], 0, VARIABLE),
}


@pytest.mark.parametrize(("command", "code", "word"), COMMANDS.values(), ids=COMMANDS.keys())
def test_operators_need_no_key_of_a_provider(settings: Path, command: list[str], code: int, word: str) -> None:
    assert said("keys", "create", "ci", "--account", "team-a").exit_code == 0
    done = said(*command)
    assert "is not set" not in done.output
    assert (done.exit_code, word in done.output) == (code, True), done.output


def test_the_console_needs_none(settings: Path, taken: int) -> None:
    done = said("console", "--port", str(taken))
    assert "is not set" not in done.output
    assert "cannot listen" in done.output


# what the variable holds, words of the error
UNFIT: dict[str, tuple[str | None, str]] = {
    "not set": (None, f"the variable '{VARIABLE}' is not set: set it, or leave key_env out"),
    "empty": ("", "is not set"),
    "two words": ("hunter2 hunter3", "holds a blank"),
}


@pytest.mark.parametrize(("value", "word"), UNFIT.values(), ids=UNFIT.keys())
def test_what_asks_providers_needs_it(
    settings: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], value: str | None, word: str
) -> None:
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert serve([]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    doctor = said("doctor", "--output", "json")
    (finding,) = json.loads(doctor.stdout)["findings"]
    assert (doctor.exit_code, finding["check"], finding["state"]) == (1, "settings", "wrong")
    for told in (line.removeprefix("penstock: "), finding["detail"]):
        assert told.startswith("setting upstreams.openai.key_env: ")
        assert word in told
        assert "hunter2" not in told


def test_a_key_of_the_environment(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(settings).upstreams
    assert [found[name].keyed for name in ("openai", "local")] == [True, False]
    with pytest.raises(ConfigError, match=r"upstreams\.openai\.key_env"):
        check_keys(found)
    monkeypatch.setenv(VARIABLE, "hunter2")
    check_keys(found)
    assert [found[name].secret for name in ("openai", "local")] == ["hunter2", None]


def test_each_wrong_setting_is_a_line_of_what_the_audit_says(settings: Path) -> None:
    settings.write_text("port: x\nadmin_port: y\n")
    for command in (["audit", "tail"], ["audit", "verify"]):
        done = said(*command)
        assert done.exit_code == 2
        assert "\\n" not in done.output
        first, *others = done.output.splitlines()
        assert "--path" in first
        assert [line.split(":")[0] for line in others] == ["setting port", "setting admin_port"]


def test_a_policy_that_no_settings_name_says_where_they_are_missed(
    settings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = said("keys", "create", "ci", "--policy", "none")
    assert done.exit_code == 1
    assert f"name it under `policies` in {settings}" in done.output
    monkeypatch.delenv("PENSTOCK_CONFIG")
    done = said("keys", "create", "ci", "--policy", "strict", "--data-dir", str(tmp_path / "data"))
    assert done.exit_code == 1
    assert "--config" in done.output
    assert "PENSTOCK_CONFIG" in done.output


def test_explain_reads_the_settings_that_its_siblings_read(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said("keys", "create", "ci").exit_code == 0
    monkeypatch.delenv("PENSTOCK_CONFIG")
    done = said("explain", "pn_" + "0" * 26, "--config", str(settings))
    assert done.exit_code == 1
    assert f"no decision of that id in {settings.parent / 'data' / 'audit.db'}" in done.output
