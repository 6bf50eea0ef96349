"""What an author sees in VS Code, asked of the language server that its YAML extension runs: what is offered where,
what is said of a word, and what is underlined. Packs find their schema beside them, without a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from policies import schema
from policies.load import packs
from tests.editor.client import CURSOR, Editor
from tests.packages import node_packages

HERE = Path(__file__).parent
PACKS = schema.FILE.parent / "packs"
HEAD = "# yaml-language-server: $schema=../schema.json\nid: p\nversion: 1\nowner: o\ndescription: d\n"
NEW = PACKS / "new.yaml"
"""A file that nobody has saved yet."""


def _table(name: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = YAML(typ="safe").load((HERE / name).read_text("utf-8"))
    return made


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with Editor(node_packages(HERE)) as editor:
        yield editor


def test_packs_are_not_underlined(editor: Editor) -> None:
    for pack in packs():
        file = PACKS / f"{pack}.yaml"
        assert editor.underlined(file, file.read_text("utf-8")) == [], pack


@pytest.mark.parametrize("case", _table("cases.yaml"), ids=lambda case: case["name"])
def test_what_is_offered(editor: Editor, case: dict[str, Any]) -> None:
    found = editor.offers(NEW, HEAD + case["text"])
    assert [label for label in found if label in case["offers"]] == case["offers"]
    assert found.keys().isdisjoint(case.get("never", ()))
    for label, text in case.get("inserts", {}).items():
        assert found[label]["insertText"] == text
    for label, said in case.get("says", {}).items():
        assert found[label]["documentation"] == said


@pytest.mark.parametrize("case", _table("hovers.yaml"), ids=lambda case: case["text"])
def test_what_is_said_of_a_word(editor: Editor, case: dict[str, Any]) -> None:
    assert CURSOR in case["text"]
    said = editor.hover(NEW, HEAD + case["text"]).splitlines()
    assert [line for line in case["says"] if line not in said] == []


def test_what_is_underlined(editor: Editor) -> None:
    text = (HERE / "mistakes.yaml").read_text("utf-8")
    broken = text.replace("#", "# yaml-language-server: $schema=../schema.json #", 1)
    lines = broken.splitlines()
    told = []
    for found in editor.underlined(PACKS / "broken.yaml", broken):
        start, end = found["range"]["start"], found["range"]["end"]
        line = lines[start["line"]]
        until = end["character"] if end["line"] == start["line"] else len(line)
        told.append(f"{start['line'] + 1} {line[start['character'] : until]!r}: {found['message']}")
    assert "\n".join(sorted(told, key=lambda one: int(one.partition(" ")[0]))) + "\n" == (
        HERE / "mistakes.txt"
    ).read_text("utf-8")
