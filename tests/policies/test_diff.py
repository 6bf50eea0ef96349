"""Two policies, and what a reviewer reads of their difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.diff import Change, diff
from policies.load import load

pytestmark = pytest.mark.usefixtures("words_only")

POLICY = """\
id: demo
version: 1
owner: tests
description: A policy that changes.
classifiers:
  a: {kind: words, words: {mark: MARK, other: OTHER}}
  b: {kind: words}
rules:
  - id: first
    description: One.
    stages: [input]
    roles: [user, tool_result]
    when: {finding: a.mark, at_least: 0.9}
    action: block
    on_error: log
  - id: second
    description: Two.
    stages: [output]
    when: {any: [{finding: a.mark, at_least: 0.9}, {finding: b.other, at_least: 0.5}]}
    action: mask
    mode: shadow
    stream: {hold_back: 64}
cases:
  - {name: c, text: MARK, expect: {action: block, rule: first}}
"""
SECOND = POLICY[POLICY.index("  - id: second") : POLICY.index("cases:")]
TABLE: list[tuple[str, str, list[str]]] = [
    ("# no", "# no", []),
    ("id: demo\n", "id: demo # a comment\n", []),
    ("version: 1", "version: 2", ["policy demo: version 1 -> 2"]),
    (
        "id: demo\n",
        "id: other\n",
        [
            "policy demo: removed",
            "policy other: added",
            "rule first: moved to another policy demo -> other",
            "rule second: moved to another policy demo -> other",
            "case demo/c: removed",
            "case other/c: added",
        ],
    ),
    ("a.mark, at_least: 0.9}\n", "a.mark, at_least: 0.8}\n", ["rule first: threshold of a.mark 0.9 -> 0.8: stricter"]),
    ("b.other, at_least: 0.5", "b.other, at_least: 0.6", ["rule second: threshold of b.other 0.5 -> 0.6: looser"]),
    ("on_error: log", "on_error: block", ["rule first: on_error log -> block: stricter"]),
    ("    on_error: log\n", "", ["rule first: on_error log -> (none): stricter"]),
    ("action: block\n", "action: log\n", ["rule first: action block -> log: looser"]),
    ("mode: shadow", "mode: enforce", ["rule second: mode shadow -> enforce: stricter"]),
    ("mode: shadow", "mode: off", ["rule second: mode shadow -> off: looser"]),
    ("mode: shadow", "mode: canary 5%", ["rule second: mode shadow -> canary 5%: stricter"]),
    ("[user, tool_result]", "[user]", ["rule first: roles [user, tool_result] -> [user]: looser"]),
    ("[user, tool_result]", "[system]", ["rule first: roles [user, tool_result] -> [system]"]),
    ("hold_back: 64", "hold_back: 32", ['rule second: stream {"hold_back": 64} -> {"hold_back": 32}']),
    ("description: One.", "description: Once.", ["rule first: its words for people One. -> Once."]),
    (
        "{finding: a.mark, at_least: 0.9}\n",
        "{finding: [a.mark, a.other], at_least: 0.9}\n",
        ["rule first: condition a.mark >= 0.9 -> a.mark or a.other >= 0.9: stricter"],
    ),
    (
        "{any: [{",
        "{all: [{",
        ["rule second: condition a.mark >= 0.9, or b.other >= 0.5 -> a.mark >= 0.9 and b.other >= 0.5: looser"],
    ),
    (
        "{finding: a.mark, at_least: 0.9}\n",
        "{finding: b.mark, at_least: 0.9}\n",
        ["rule first: condition a.mark >= 0.9 -> b.mark >= 0.9"],
    ),
    (SECOND, "", ["rule second: removed (mask, shadow)"]),
    (
        SECOND,
        SECOND.replace("id: second", "id: third"),
        ["rule second: removed (mask, shadow)", "rule third: added (mask, shadow)"],
    ),
    ("b: {kind: words}", "b: {kind: words}\n  c: {kind: words}", ["classifier c: added (words)"]),
    ("mark: MARK", "mark: MERK", ["classifier a: words.mark MARK -> MERK"]),
    ("b: {kind: words}", "b: {kind: words, deadline_ms: 100}", ["classifier b: deadline_ms 2000 -> 100"]),
    ("name: c, text: MARK", "name: d, text: MARK", ["case demo/c: removed", "case demo/d: added"]),
    ("name: c, text: MARK", "name: c, text: A MARK", ["case demo/c: its text or scores changed"]),
    ("block, rule: first}", "block}", ["case demo/c: expects block by first -> block"]),
]


def compared(tmp_path: Path, before: str, after: str) -> list[Change]:
    files = []
    for name, text in (("old", before), ("new", after)):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(text, encoding="utf-8")
    return diff(*(load(str(file)) for file in files))


@pytest.mark.parametrize(("before", "after", "told"), TABLE)
def test_words(tmp_path: Path, before: str, after: str, told: list[str]) -> None:
    changes = compared(tmp_path, POLICY, POLICY.replace(before, after, 1))
    assert [str(change) for change in changes] == told
    json.dumps([[change.old, change.new] for change in changes])


def test_an_enforced_rule_that_comes_or_goes(tmp_path: Path) -> None:
    enforced = POLICY.replace("    mode: shadow\n", "")
    without = enforced.replace(SECOND.replace("    mode: shadow\n", ""), "")
    assert [str(each) for each in compared(tmp_path, enforced, without)] == ["rule second: removed (mask): looser"]
    assert [str(each) for each in compared(tmp_path, without, enforced)] == ["rule second: added (mask): stricter"]


def test_a_rule_that_moves_to_another_file(tmp_path: Path) -> None:
    for name, files in (("old", ["demo"]), ("new", ["demo", "more"])):
        (tmp_path / name).mkdir()
        for file in files:
            text = POLICY.replace(SECOND, "") if files[1:] else POLICY
            if file == "more":
                text = POLICY.replace("id: demo", "id: more")[: POLICY.index("  - id: first")] + SECOND
            (tmp_path / name / f"{file}.yaml").write_text(text, encoding="utf-8")
    changes = diff(load(str(tmp_path / "old")), load(str(tmp_path / "new")))
    assert [str(change) for change in changes] == [
        "policy more: added",
        "rule second: moved to another policy demo -> more",
    ]
