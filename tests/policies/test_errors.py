"""What an author reads. `errors/NAME.yaml` (or a directory of files) leads to exactly the lines of `errors/NAME.txt`.

After a change that is meant: `REWRITE=1 pytest tests/policies/test_errors.py`, then read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policies.check import check
from policies.document import MAX_BYTES, MAX_VALUES
from policies.load import PolicyError, load

ERRORS = Path(__file__).with_name("errors")
INPUTS = sorted(item for item in ERRORS.iterdir() if item.suffix != ".txt")
OPTIONS = Path(__file__).with_name("options")
"""What is wrong with the options of real classifiers."""


@pytest.mark.usefixtures("words_only")
@pytest.mark.parametrize("given", INPUTS, ids=lambda path: path.stem)
def test_message(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _told_as_it_should_be(given, monkeypatch)


@pytest.mark.parametrize("given", sorted(OPTIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_message_about_an_option(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _told_as_it_should_be(given, monkeypatch)


def _told_as_it_should_be(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(given.parent)
    result = check(given.name)
    assert not result.ok
    assert result.policy is None
    told = "\n".join(result.lines()[:-1]) + "\n"
    golden = given.with_name(f"{given.stem}.txt")
    if os.environ.get("REWRITE"):
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")


def test_every_message_has_its_input() -> None:
    assert {item.stem for item in ERRORS.glob("*.txt")} == {item.stem for item in INPUTS}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: " + b"x" * MAX_BYTES, "larger than 1024 KiB"),
        (b"rules: [" + b"1," * (MAX_VALUES + 1) + b"1]", f"more than {MAX_VALUES} values"),
    ],
    ids=["bytes", "values"],
)
def test_size_is_bounded(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_bytes(content)
    with pytest.raises(PolicyError, match=told):
        load(str(file))


def test_sources_that_hold_no_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match=r"no such file, directory or pack; name .*: agents, baseline"):
        load("policyy")
    with pytest.raises(PolicyError, match="did you mean 'baseline'"):
        load("baselin")
    with pytest.raises(PolicyError, match="its name is empty"):
        load("")
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(PolicyError, match=r"did you mean 'mine\.yaml'"):
        load("mien.yaml")
    (tmp_path / "dir").mkdir()
    with pytest.raises(PolicyError, match=r"no \*\.yaml file in this directory"):
        load("dir")
    (tmp_path / "baseline").mkdir()
    with pytest.raises(PolicyError, match="both a shipped pack and a path here"):
        load("baseline")
    with pytest.raises(PolicyError, match="no such file"):
        load("../" + "pack:baseline")


def test_a_bad_expression_is_shown_where_it_stands(tmp_path: Path) -> None:
    """T48, with the real kind: what RE2 says reaches the author with the place in the file."""
    text = (ERRORS / "unknown_label.yaml").read_text(encoding="utf-8")
    text = text.replace("{kind: words}", "{kind: patterns, patterns: {fine: ok, mark: {regex: 'a(?=b)'}}}")
    file = tmp_path / "p.yaml"
    file.write_text(text.replace("canary.marc", "canary.mark"), encoding="utf-8")
    (problem,) = check(str(file)).problems
    column = text.splitlines()[problem.line - 1].index("'a(?=b)'") + 1
    assert (problem.line, problem.column) == (6, column), str(problem)
    assert "look-ahead" in problem.mend
