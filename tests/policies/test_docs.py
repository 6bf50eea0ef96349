"""What the pages for authors say is so: their commands run, their outputs come, their policies hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from policies.check import check

PAGES = Path(__file__).parents[2] / "policies"
COOKBOOK = (PAGES / "COOKBOOK.md").read_text("utf-8")
RECIPES = re.findall(r"^## (\d+\. .*?)$.*?^```yaml\n(.*?)^```", COOKBOOK, re.MULTILINE | re.DOTALL)
ACTIONS = (PAGES / "ACTIONS.md").read_text("utf-8")
EXAMPLES = re.findall(r"^## (.*?)$.*?^```yaml\n(.*?)^```", ACTIONS, re.MULTILINE | re.DOTALL)
TUTORIAL = (PAGES / "TUTORIAL.md").read_text("utf-8")
STEPS = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)


def test_there_are_fourteen() -> None:
    assert [title.partition(".")[0] for title, _ in RECIPES] == [str(number) for number in range(1, 15)]
    assert COOKBOOK.count("```yaml") == 14


@pytest.mark.parametrize(("title", "text"), RECIPES + EXAMPLES, ids=[title for title, _ in RECIPES + EXAMPLES])
def test_a_recipe_holds_without_a_warning(title: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    if "applies_to:" in text:
        (tmp_path / "everything.yaml").write_text(RECIPES[5][1], "utf-8")
    result = check(str(tmp_path), live=True, linted=True)
    assert result.lines()[:-1] == []
    assert len(result.cases) >= 2


def test_the_tutorial_works_as_written(tmp_path: Path) -> None:
    """One shell after the other in one directory, as a reader would do it."""
    assert TUTORIAL.count("```sh") == len(STEPS) == 5
    (tmp_path / "bin").mkdir()
    penstock = tmp_path / "bin" / "penstock"
    penstock.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m proxy "$@"\n')
    penstock.chmod(0o755)
    (tmp_path / "home").mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(PAGES.parent)}
    for script, told in STEPS:
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path / "home",
            env={**clean, **paths},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done
        for line in told.splitlines():
            assert line in done.stdout + done.stderr, (line, done)
