"""Texts that people bring: every accepted shape, and every mistake with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from classifiers.base import Role
from policies.texts import LARGEST, Reading, TextsError, read

LABELLED = Reading(labelled=True, label="refund_fraud", longest=1000)


def file(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("row", "bad"),
    [
        ({"label": "refund_fraud"}, True),
        ({"label": "Refund_Fraud "}, True),
        ({"label": "bad"}, True),
        ({"label": 1}, True),
        ({"label": True}, True),
        ({"label": "benign"}, False),
        ({"label": "honest"}, False),
        ({"label": 0}, False),
        ({"label": "none"}, False),
        ({"verdict": "right"}, True),
        ({"verdict": "wrong"}, False),
        ({"verdict": "right", "action": "log"}, True),
        ({"verdict": "right", "action": "pass"}, False),
        ({"verdict": "wrong", "action": "PASS"}, True),
        ({"verdict": "wrong", "label": "benign"}, False),
    ],
)
def test_a_row_says_its_side(tmp_path: Path, row: dict[str, object], bad: bool) -> None:
    found = read(file(tmp_path, json.dumps({"text": "hello", **row})), LABELLED)
    assert [(one.text, one.bad, one.role) for one in found] == [("hello", bad, Role.USER)]


def test_labels_may_be_named(tmp_path: Path) -> None:
    path = file(tmp_path, "\n".join(json.dumps({"text": label, "label": label}) for label in "abc"))
    reading = Reading(True, None, "x", frozenset("a"), frozenset("b"), frozenset("c"))
    assert [(one.text, one.bad) for one in read(path, reading)] == [("a", True), ("b", False)]


def test_every_kind_of_file_holds_texts(tmp_path: Path) -> None:
    honest = Reading(side=False)
    for path in (
        file(tmp_path, "\ufeffone\n\n  two \r\n", "a.txt"),
        file(tmp_path, '"one"\n{"text": "two"}\n', "a.jsonl"),
        file(tmp_path, gzip.compress(b'{"text": "one"}\n{"text": "two"}'), "a.jsonl.gz"),
        file(tmp_path, 'id,text\n1,one\n2,"two"\n', "a.csv"),
    ):
        assert [(one.text, one.bad) for one in read(path, honest)] == [("one", False), ("two", False)]
    rows = read(file(tmp_path, 'text,label\n"one, and\nmore",refund_fraud\ntwo,benign\n', "b.csv"), LABELLED)
    assert [(one.text, one.bad) for one in rows] == [("one, and\nmore", True), ("two", False)]


def test_a_row_may_say_who_speaks(tmp_path: Path) -> None:
    path = file(tmp_path, '{"text": "a", "role": "response"}\n{"text": "b", "role": "tool_result"}\n{"text": "c"}')
    found = read(path, Reading(side=False, role=Role.SYSTEM))
    assert [one.role for one in found] == [Role.ASSISTANT, Role.TOOL_RESULT, Role.SYSTEM]


MISTAKES = [
    (
        "rows.jsonl",
        '{"text": "a", "label": 1}\nnope',
        "rows.jsonl:2:1: not JSON: Expecting value; write one JSON object",
    ),
    ("rows.jsonl", '{"text": "", "label": 1}', "rows.jsonl:1:1: the text is blank"),
    ("rows.jsonl", '{"text": "\\ud800", "label": 1}', "rows.jsonl:1:1: half of a surrogate pair"),
    ("rows.jsonl", '{"text": "%s", "label": 1}' % ("x" * 1001), "rows.jsonl:1:1: a text of 1,001 characters; keep"),
    ("rows.jsonl", '["a"]', "rows.jsonl:1:1: the line is no JSON object"),
    ("rows.jsonl", '"a"', "rows.jsonl:1:1: the line is no JSON object"),
    ("rows.jsonl", '{"prompt": "a", "label": 1}', "no field 'text' that is a text (there are prompt, label)"),
    ("rows.jsonl", '{"text": 3, "label": 1}', "no field 'text' that is a text"),
    ("rows.jsonl", '{"text": "a"}', "neither 'label' nor 'verdict'"),
    ("rows.jsonl", '{"text": "a", "label": "odd"}', "'odd' is neither bad nor honest here; say --positive"),
    ("rows.jsonl", '{"text": "a", "label": [1]}', "the label must be a word"),
    ("rows.jsonl", '{"text": "a", "verdict": "maybe"}', "no verdict 'maybe'; write right or wrong"),
    ("rows.jsonl", '{"text": "a", "verdict": "right", "action": "sing"}', "no action 'sing'"),
    ("rows.jsonl", '{"text": "a", "label": 1, "role": "king"}', "no role 'king'; one of"),
    ("rows.jsonl", b'{"text": "\xff", "label": 1}', "rows.jsonl:1:11: not UTF-8"),
    ("rows.jsonl", "[" * 100_000, "not usable as JSON: RecursionError"),
    ("rows.jsonl", "\n\n", "rows.jsonl: no text in this file"),
    ("rows.jsonl.gz", "plain", "is no gzip file"),
    ("rows.jsonl.gz", gzip.compress(b"x" * 999)[:20], "cut off or damaged"),
    ("rows.csv", "words,label\na,1", "rows.csv:1:1: no column 'text'"),
    ("rows.csv", "text,label\na\n", "rows.csv:2:1: as many fields"),
    ("rows.csv", "text,label\na,1,2\n", "rows.csv:2:1: as many fields"),
    ("rows.csv", 'text,label\n"a,1\n', "not CSV"),
    ("rows.csv", "text,label\n%s,1\n" % ("x" * 200_000), "not CSV: field larger"),
    ("rows.csv", b"text,label\n\xff,1\n", "rows.csv:2:1: not UTF-8"),
    ("rows.csv", "text,label\n", "no text in this file"),
    ("rows.docx", "text", "what kind of file is this?"),
]


@pytest.mark.parametrize(("name", "content", "told"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_told_with_its_place(tmp_path: Path, name: str, content: str | bytes, told: str) -> None:
    with pytest.raises(TextsError) as caught:
        read(file(tmp_path, content, name), LABELLED)
    assert told in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TextsError, match="cannot be read"):
        read(tmp_path / "none.jsonl", LABELLED)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(TextsError, match="cannot be read"):
        read(tmp_path / "folder.txt", LABELLED)


def test_many_mistakes_of_one_kind_are_few_lines(tmp_path: Path) -> None:
    path = file(tmp_path, '{"text": "a", "label": "odd"}\n' * 500 + '{"text": ""}\n' * 60)
    with pytest.raises(TextsError) as caught:
        read(path, LABELLED)
    lines = str(caught.value).splitlines()
    assert len(lines) < 30
    assert any("'odd' is neither bad nor honest here: 500 rows" in line for line in lines)
    assert "problems more" in lines[-1]


def test_a_row_on_the_wrong_side_was_not_meant(tmp_path: Path) -> None:
    path = file(tmp_path, '{"text": "a", "label": "harmful"}\n{"text": "b", "label": "odd"}')
    with pytest.raises(TextsError, match="labelled 'harmful' in a file of honest texts"):
        read(path, Reading(side=False))
    assert len(read(path, Reading(side=True))) == 2


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        for _ in range(LARGEST // (1 << 20) + 1):
            out.write(b"\n" * (1 << 20))
    with pytest.raises(TextsError, match="larger than 256 MiB"):
        read(path, Reading(side=False))
