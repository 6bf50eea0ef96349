"""What an author reads of likely mistakes. `lints/NAME.yaml` leads to exactly the notices of `lints/NAME.txt`.

After a change that is meant: `REWRITE=1 pytest tests/policies/test_lint.py`, then read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from classifiers import catalog
from policies.check import check
from policies.lint import LINTS
from policies.lint_ids import TOLD
from policies.lint_patterns import flaws, widest
from policies.load import packs

LINTED = Path(__file__).with_name("lints")
INPUTS = sorted(item for item in LINTED.iterdir() if item.suffix != ".txt")


@pytest.fixture
def words_too(words_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.KINDS, "patterns", "classifiers.patterns:Patterns")


@pytest.mark.usefixtures("words_too")
@pytest.mark.parametrize("given", INPUTS, ids=lambda path: path.stem)
def test_notice(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(LINTED)
    result = check(given.name, linted=True)
    assert result.policy is not None, result.lines()
    told = "".join(f"{line}\n" for line in result.lines()[:-1] if "] skipped" not in line)
    golden = LINTED / f"{given.stem}.txt"
    if os.environ.get("REWRITE"):
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")
    assert result.ok == (re.search(r":\d+: error: ", told) is None)


def test_every_notice_has_its_input_and_every_lint_a_notice() -> None:
    assert {item.stem for item in LINTED.glob("*.txt")} == {item.stem for item in INPUTS}
    told = "".join(item.read_text(encoding="utf-8") for item in LINTED.glob("*.txt"))
    ids = set(re.findall(r" \[([a-z-]+)\]$", told, re.MULTILINE))
    assert ids == TOLD.keys(), "policies/lint_ids.py says what each is for"
    assert len(LINTS) == 11


@pytest.mark.parametrize("pack", packs())
def test_shipped_packs_have_nothing_to_lint(pack: str) -> None:
    result = check(pack, linted=True)
    assert [(notice.id, str(problem)) for notice, problem in result.notices] == []


@pytest.mark.parametrize(
    ("source", "most"),
    [
        ("abc", 3),
        (r"a(b|cd){2,3}", 7),
        (r"(?i)fo+o", None),
        (r"\bfoo\b", 3),
        (r"^a?$", 1),
        (r"\Qa.b|\E", 4),
        (r"[]a]{2}", 2),
        (r"[[:alpha:]\]]{4}x*?", None),
        (r"(?P<name>\p{Greek}|\pL\x{41}){3}|a{5}", 6),
        (r"(?:(a{2}){3}){4}", 24),
        (r"()*a", 1),
        (r"(a|(b|c*))", None),
    ],
)
def test_the_most_that_an_expression_matches(source: str, most: int | None) -> None:
    assert widest(source) == most


def test_an_atom_is_told_once() -> None:
    assert [flaw.id for flaw in flaws(r"a.*b.*[^x]+[^x]+[^\n]*[^\s]*.{3}[^q]{2,50}")] == [
        "unbounded-pattern",
        "negated-class",
    ]
