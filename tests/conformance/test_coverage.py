"""Where each case of the threat list is held: COVERAGE.md, from threats.yml and the tables themselves.

`python -m tests.conformance.test_coverage` writes it anew. What is named there exists; what is held nowhere says why.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from policies.load import load as load_policy
from tests.conformance import benign
from tests.conformance.test_conformance import runs

ROOT = Path(__file__).parent.parent.parent
PAGE = Path(__file__).with_name("COVERAGE.md")
IDS = [f"T{number}" for number in range(1, 61)] + [f"P{number}" for number in range(1, 15)]
HEAD = """# Where each case of the threat list, and each promise, is held

Written by `python -m tests.conformance.test_coverage`; the suite fails when it is stale. Rows are those of the tables
in this folder (*.yaml), run in every dialect in which they mean something, whole and streamed.

| case | asks | rows of the tables, run in | tests | at full size by command | not held |
| --- | --- | --- | --- | --- | --- |
"""


class Case(BaseModel):
    """One case. `tables` is how the ids of its rows begin, where that is not its own name. `long`: what runs it at its
    full size, where the suite does not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asks: str
    tests: list[str] = []
    tables: str = ""
    long: str = ""
    open: str = ""


def cases() -> dict[str, Case]:
    tree = YAML(typ="safe", pure=True).load(Path(__file__).with_name("threats.yml").read_text("utf-8"))
    return {name: Case.model_validate(value) for name, value in tree.items()}


@cache
def rows() -> dict[str, dict[str, list[str]]]:
    """Beginning of an id -> id -> the dialects of its runs, each as often as it is run."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs():
        case, dialect, _ = run.values
        found[re.split("[-.]", case.id)[0]][case.id].append(dialect)
    return found


def page() -> str:
    lines = [HEAD]
    for name, case in cases().items():
        known = rows().get(case.tables or name, {})
        dialects = sorted({dialect for run in known.values() for dialect in run})
        told = ", ".join(dialects)
        tests = ", ".join(f"`{test.removeprefix('tests/')}`" for test in case.tests)
        lines.append(f"| {name} | {case.asks} | {told} | {tests} | {case.long} | {case.open} |\n")
    return "".join(lines)


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == page()


def test_every_case_is_held_or_says_why_not() -> None:
    known = cases()
    assert list(known) == IDS
    for name, case in known.items():
        assert rows().get(case.tables or name) or case.tests or case.open, name
    assert not [start for start in rows() if re.fullmatch(r"T\d+", start) and start not in known]


def is_defined(test: str) -> bool:
    """Whether there is a test of that name, `FILE::FUNCTION`, or any in a file."""
    file, _, function = test.partition("::")
    if not (ROOT / file).is_file():
        return False
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    wanted = function or "test_"
    return any(each == wanted or (not function and each.startswith(wanted)) for each in defined)


def test_every_test_that_is_named_exists() -> None:
    for name, case in cases().items():
        for test in case.tests:
            assert is_defined(test), (name, test)


def test_honest_texts() -> None:
    """T60, a sample of it: a rate with its interval, and no honest text stopped for its form."""
    texts = benign.drawn(((group, text[:1200]) for group, text in benign.library()), 16)
    policies = load_policy("baseline")
    (whole, *_) = benign.report(policies, benign.judged(policies, texts))
    match = re.fullmatch(r"all: (\d+) of 16 stopped, [\d.]+% \(95 % interval [\d.]+% to [\d.]+%\)", whole)
    assert match, whole
    assert int(match[1]) <= 1, whole


@pytest.mark.parametrize("label", ["benign", "harmful"])
def test_rows_are_drawn_evenly_and_by_their_label(tmp_path: Path, label: str) -> None:
    lines = [f'{{"text": "text {n}", "label": "{label}", "lang": "{"en" if n % 5 else "hi"}"}}' for n in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    drawn = benign.drawn(benign.rows(tmp_path), 20)
    groups = [group for group, _ in drawn]
    assert (groups.count("a en"), groups.count("a hi")) == ((10, 10) if label == "benign" else (0, 0))


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
