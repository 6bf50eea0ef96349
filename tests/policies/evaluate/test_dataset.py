"""Rows are read as people write them, or refused with file, line and mend; nothing is left out in silence."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from classifiers.base import Role
from policies.evaluate.dataset import Dataset, DatasetError, Options, Row
from policies.evaluate.labels import LabelError, Labels, UnknownLabel, spelled
from policies.model import Stage

HERE = Path(__file__).parent
BAD_ROWS = YAML(typ="safe").load(HERE / "bad_rows.yaml")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path, options: Options | None = None) -> list[Row]:
    return list(Dataset.open([path], options or Options()).rows())


def one(tmp_path: Path, **row: Any) -> Row:
    (found,) = read(write(tmp_path / "one.jsonl", {"label": "benign"} | row))
    return found


def written(case: dict[str, Any]) -> str:
    long = {"<5000 digits>": "9" * 5000, "<100000 brackets>": "[" * 100_000, "<400 zeros>": "0" * 400}
    text = "\n".join(case["lines"])
    for short, meant in long.items():
        text = text.replace(short, meant)
    return text


@pytest.mark.parametrize("case", BAD_ROWS, ids=lambda case: case["name"])
def test_bad_rows(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    text = written(case)
    path.write_text(text, "utf-8")
    with pytest.raises(DatasetError) as error:
        Dataset.open([path], Options())
    for said in case["says"]:
        assert said in str(error.value)


@pytest.mark.parametrize("case", [case for case in BAD_ROWS if case["lines"]], ids=lambda case: case["name"])
def test_bad_rows_can_be_counted_instead(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    text = written(case)
    path.write_text(text + '\n{"text": "fine", "label": "benign"}\n', "utf-8")
    dataset = Dataset.open([path], Options(skip_bad_rows=True))
    rows = list(dataset.rows())
    assert rows[-1].text == "fine"
    assert dataset.files[0].rows == len(rows) + sum(dataset.left_out.values())
    assert all(reason.startswith("unusable: ") for reason in dataset.left_out)
    assert sum(dataset.left_out.values()) > 0


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    plain = tmp_path / "a.jsonl.gz"
    plain.write_text('{"text": "a", "label": "benign"}\n')
    whole = gzip.compress(json.dumps({"text": "a" * 5000, "label": "benign"}).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "\xff", "label": "benign"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "dev").mkdir(parents=True)
    write(tmp_path / "deep" / "dev" / "x.jsonl", {"text": "a", "label": "benign"})
    for name, said in (
        ("a.jsonl.gz", "is no gzip file"),
        ("b.jsonl.gz", "cut off or damaged"),
        ("c.jsonl", "c.jsonl:1:11: not UTF-8"),
        ("nowhere", "no such file or folder"),
        ("empty", "no JSON-lines file in this folder"),
        ("deep", "name one of its folders: dev"),
    ):
        with pytest.raises(DatasetError, match=said):
            Dataset.open([tmp_path / name], Options())


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x.jsonl", {"text": folder, "label": "benign"})
    with pytest.raises(DatasetError, match="two files of this name"):
        Dataset.open([tmp_path / "a", tmp_path / "b"], Options())


def test_many_problems_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *[[at] for at in range(1000)])
    with pytest.raises(DatasetError) as error:
        Dataset.open([path], Options())
    assert len(error.value.problems) == 21
    assert str(error.value).endswith("980 problems more")


ROLES = [
    ({"text": "a"}, Role.USER, Stage.INPUT),
    ({"text": "a", "role": "prompt"}, Role.USER, Stage.INPUT),
    ({"text": "a", "role": "document"}, Role.TOOL_RESULT, Stage.INPUT),
    ({"text": "a", "role": "tool"}, Role.TOOL_RESULT, Stage.INPUT),
    ({"text": "a", "role": "developer"}, Role.SYSTEM, Stage.INPUT),
    ({"text": "a", "role": "response"}, Role.ASSISTANT, Stage.OUTPUT),
    ({"text": "a", "role": "tool_call"}, Role.TOOL_CALL, Stage.OUTPUT),
    ({"text": "a", "role": "assistant", "stage": "input"}, Role.ASSISTANT, Stage.INPUT),
    ({"text": "a", "role": None}, Role.USER, Stage.INPUT),
]


@pytest.mark.parametrize(("row", "role", "stage"), ROLES)
def test_roles(row: dict[str, Any], role: Role, stage: Stage, tmp_path: Path) -> None:
    found = one(tmp_path, **row)
    assert (found.messages[-1].role, found.stage, found.surface) == (role, stage, role.value)


def test_a_conversation_that_ends_with_the_user_is_judged_whole(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    messages = [{"role": "system", "content": "a"}, {"role": "tool", "content": parts}, {"content": "d"}]
    found = one(tmp_path, messages=messages)
    assert [message.text for message in found.messages] == ["a", "b\nc", "d"]
    assert [message.role for message in found.messages] == [Role.SYSTEM, Role.TOOL_RESULT, Role.USER]
    assert found.stage is Stage.INPUT
    assert not any(message.context for message in found.messages)


def test_an_answer_is_judged_with_what_came_before_it(tmp_path: Path) -> None:
    before = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}, {"role": "tool", "content": "t"}]
    found = one(tmp_path, messages=[*before, {"role": "assistant", "content": "a"}])
    assert [(message.text, message.context) for message in found.messages] == [("a", "q\nt")]
    same = one(tmp_path, text="a", role="response", conversation=[*before, {"role": "assistant", "content": "a"}])
    assert [(message.text, message.context) for message in same.messages] == [("a", "q\nt")]
    prompt = one(
        tmp_path, text="p", conversation=[{"role": "user", "content": "p"}, {"role": "user", "content": "more"}]
    )
    assert [(message.text, message.context) for message in prompt.messages] == [("p", "")]


def test_fields(tmp_path: Path) -> None:
    found = one(tmp_path, text="a", category=["x", "y"], language="DE", goal="g", id=7)
    assert (found.id, found.source, found.label, found.bad) == ("7", "one", "benign", False)
    assert (found.category, found.lang, found.family) == ("x, y", "de", "g")
    path = write(tmp_path / "own.jsonl", {"prompt": "a", "toxic": 1}, {"prompt": "b", "toxic": False})
    own = read(path, Options(text_field="prompt", label_field="toxic"))
    assert [(row.id, row.text, row.bad) for row in own] == [("own.jsonl:1", "a", True), ("own.jsonl:2", "b", False)]


def test_odd_texts_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    lines = ['\ufeff{"text": "", "label": "benign"}', "", '{"text": "\\ud800", "label": "harmful"}', "   "]
    path.write_text("\n".join(lines), "utf-8")
    assert [row.text for row in read(path)] == ["", "\ud800"]


def test_half_a_pair_of_surrogates_is_in_no_name(tmp_path: Path) -> None:
    """JSON may hold one; no file, terminal or page takes it. The text is judged as it is."""
    half = "a\ud800b"
    row = {"text": half, "label": half, "id": half, "category": half, "lang": half, "family": half}
    path = write(tmp_path / "x.jsonl", row | {"source": half}, row | {"source": "s"})
    first, second = read(path, Options(Labels.of(positive=[half])))
    assert {first.id, first.source, first.label, first.category, first.lang, first.family} == {"a\ufffdb"}
    assert (second.id, second.source, second.text) == ("a\ufffdb#2", "s", half)


def test_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        write(path, {"text": "a", "label": "benign"})
    except OSError:
        pytest.skip("this disk takes no such name")
    assert [row.source for row in read(path)] == ["caf\ufffd"]


def test_what_can_be_read_only_once_is_refused_at_the_start(tmp_path: Path) -> None:
    """`eval <(cat data.jsonl)`: it was judged not at all, and said to have changed."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DatasetError, match=r"pipe.jsonl: a pipe or a device: .* write it to a file first"):
        Dataset.open([tmp_path / "pipe.jsonl"], Options())
    here, there = os.pipe()
    try:
        with pytest.raises(DatasetError, match="a pipe or a device"):
            Dataset.open([Path(f"/dev/fd/{here}")], Options())
    finally:
        os.close(here)
        os.close(there)


def test_sources_are_named_by_file_or_row(tmp_path: Path) -> None:
    write(tmp_path / "alone.jsonl", {"text": "a", "label": "benign", "source": "somewhere/else"})
    rows = [{"text": str(at), "label": "benign", "source": source} for at, source in enumerate(["s", "t", "", None])]
    write(tmp_path / "mixed.jsonl", *rows)
    assert [row.source for row in read(tmp_path)] == ["alone", "s", "t", "mixed", "mixed"]
    assert [row.source for row in read(tmp_path, Options(sources=("t", "al*")))] == ["alone", "t"]
    assert Dataset.open([tmp_path], Options(sources=("t",))).left_out == {"not in --sources": 4}
    with pytest.raises(DatasetError, match=r"--sources u: no such source; there are alone, mixed, s, t"):
        read(tmp_path, Options(sources=("u",)))


def test_limit_takes_both_sides_and_the_seed_chooses(tmp_path: Path) -> None:
    rows = [
        {"text": f"{label} {at}", "label": label} for label, n in (("harmful", 4), ("benign", 40)) for at in range(n)
    ]
    path = write(tmp_path / "x.jsonl", *rows)
    found = read(path, Options(limit=12))
    assert sum(row.bad for row in found) == 4
    assert len(found) == 12
    assert found == read(path, Options(limit=12))
    assert found != read(path, Options(limit=12, seed=1))
    assert sum(row.bad for row in read(path, Options(limit=4))) == 2
    assert len(read(path, Options(limit=1))) == 1
    assert Dataset.open([path], Options(limit=12)).left_out == {"over --limit": 32}


def test_repeated_and_contradictory_texts_are_counted(tmp_path: Path) -> None:
    rows = [("a", "benign"), ("a", "benign"), ("b", "benign"), ("b", "harmful"), ("a", "benign")]
    path = write(tmp_path / "x.jsonl", *[{"text": text, "label": label, "id": "same"} for text, label in rows])
    dataset = Dataset.open([path], Options())
    assert (dataset.repeated, dataset.contradictory) == (3, 1)
    assert [row.id for row in dataset.rows()] == ["same", "same#2", "same#3", "same#4", "same#5"]


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"text": "a", "label": "benign"}, {"text": "b", "label": "benign"})
    dataset = Dataset.open([path], Options())
    write(path, {"text": "a", "label": "benign"})
    with pytest.raises(DatasetError, match="changed while it was evaluated"):
        list(dataset.rows())


def test_nothing_left(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"text": "a", "label": "harmful"})
    with pytest.raises(DatasetError, match=r"no row is left to judge; left out: 1 label 'harmful' left out"):
        Dataset.open([path], Options(labels=Labels.of(ignore=["harmful"])))


# Labels -------------------------------------------------------------------------------------------------------------

SIDES: list[tuple[dict[str, list[str]], dict[str, bool | None]]] = [
    ({}, {"harmful": True, "benign": False, "1": True, "0": False, "true": True, "jailbreak": True}),
    ({"positive": ["injection"]}, {"injection": True, "harmful": None, "benign": False}),
    ({"positive": ["Spam"], "negative": ["HAM"]}, {"spam": True, "ham": False, "harmful": None, "benign": None}),
    ({"ignore": ["regulated_advice"]}, {"regulated_advice": None, "harmful": True, "benign": False}),
    ({"positive": ["benign"], "negative": ["harmful"]}, {"benign": True, "harmful": False}),
]


@pytest.mark.parametrize(("said", "sides"), SIDES)
def test_sides(said: dict[str, list[str]], sides: dict[str, bool | None]) -> None:
    labels = Labels.of(**said)
    assert {label: labels.side(label) for label in sides} == sides
    with pytest.raises(UnknownLabel):
        labels.side("unheard-of")


def test_a_label_has_one_side() -> None:
    with pytest.raises(LabelError, match="'a' is named on two sides"):
        Labels.of(["a"], ["A "])


@given(st.one_of(st.booleans(), st.integers(0, 1), st.sampled_from([0.0, 1.0, "0", "1", "true", "False", " yes "])))
def test_ways_to_write_yes_and_no(value: Any) -> None:
    expected = str(value).strip().casefold() in {"true", "1", "1.0", "yes"}
    assert Labels.of().side(spelled(value)) is expected
