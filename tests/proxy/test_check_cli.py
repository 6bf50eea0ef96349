"""`penstock check`: what people, programs and GitHub read, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app

POLICY = """\
id: demo
version: 1
owner: tests
description: Words of our own.
classifiers:
  words: {kind: patterns, patterns: {codename: {words: [bluebird]}}}
  guard: {kind: embedded}
rules:
  - id: codename
    description: The code name is blocked.
    stages: [input]
    when: {finding: words.codename, at_least: 0.5}
    action: block
    on_error: block
  - id: injected
    description: Orders in tool results are blocked.
    stages: [input]
    roles: [tool_result]
    when: {finding: guard.injection, at_least: 0.9}
    action: block
    on_error: block
cases:
  - {name: stopped, text: the bluebird, expect: {action: block, rule: codename}}
  - {name: harmless, text: the bird, scores: {}, expect: {action: pass}}
  - name: as if
    messages: [{role: tool_result, text: x}]
    scores: {guard.injection: 0.95}
    expect: {action: block, rule: injected}
  - name: for real
    messages: [{role: tool_result, text: The weather is fine.}]
    expect: {action: pass}
"""
CHANGES: dict[str, tuple[str, str, int, str, str]] = {
    # change, its other half, exit code, GitHub's level, id
    "well": ("", "", 0, "notice", "case-skipped"),
    "warning": ("    on_error: block\n", "", 0, "warning", "no-on-error"),
    "error": ("[tool_result]", "[error]", 1, "error", "never-fires"),
    "invalid": ("at_least: 0.9", "at_least: 0", 1, "error", "invalid"),
    "failed": ("text: the bird, scores: {},", "text: the bluebird,", 1, "error", "case-failed"),
}


def run(*args: object) -> Result:
    result = CliRunner().invoke(app, ["check", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "demo.yaml"
    path.write_text(POLICY)
    return path


@pytest.mark.parametrize(("before", "after", "code", "level", "id"), CHANGES.values(), ids=CHANGES.keys())
def test_all_outputs_say_the_same(policy: Path, before: str, after: str, code: int, level: str, id: str) -> None:
    assert before in POLICY
    policy.write_text(POLICY.replace(before, after))
    told = {output: run("demo.yaml", "--output", output) for output in ("text", "json", "github")}
    assert {each.exit_code for each in told.values()} == {code}
    plain: dict[str, Any] = json.loads(told["json"].stdout)
    assert plain["ok"] == (code == 0)
    found = next(each for each in plain["findings"] if each["id"] == id)
    assert (found["file"], found["grade"]) == ("demo.yaml", level)
    place = "demo.yaml:{line}:{column}: ".format(**found)
    assert any(line.startswith(place) for line in told["text"].output.splitlines())
    start = "::{grade} file=demo.yaml,line={line},col={column},title=penstock {id}::".format(**found)
    assert any(line.startswith(start) for line in told["github"].output.splitlines())


def test_strict(policy: Path) -> None:
    assert run("demo.yaml", "--strict").exit_code == 0
    policy.write_text(POLICY.replace("    on_error: block\n", ""))
    assert run("demo.yaml").exit_code == 0
    assert run("demo.yaml", "--strict").exit_code == 1


def test_live_runs_what_was_skipped(policy: Path) -> None:
    def outcomes(*args: str) -> dict[str, str]:
        return {case["name"]: case["outcome"] for case in json.loads(run(*args, "--output", "json").stdout)["cases"]}

    assert outcomes("demo.yaml")["for real"] == "skipped"
    assert set(outcomes("demo.yaml", "--live").values()) == {"passed"}


def test_what_an_author_wrote_ends_no_annotation(policy: Path) -> None:
    odd = "odd,:100%.yaml"
    Path(odd).write_text('id: x\n"a\\n::error::b": 1\n')
    lines = run(odd, "--output", "github").output.splitlines()
    assert all(line.startswith("::error file=odd%2C%3A100%25.yaml,line=") for line in lines[:-1])
    assert lines[:-1]
    assert not any(line.startswith("::error::b") for line in lines)


def test_wrong_usage() -> None:
    assert run().exit_code == 2
    assert run("baseline", "--output", "xml").exit_code == 2
    assert run("baseline", "--no-such-option").exit_code == 2
    assert run("no-such-policy").exit_code == 1
