"""Kept texts on their way to a reviewer, and back as examples."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policies.texts import Reading, TextsError, read
from proxy.cli import app
from tests.proxy.conftest import Make
from tests.proxy.contents import keeps, written


async def penstock(*args: object) -> tuple[int, str]:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["audit", "examples", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


async def test_reviewed_decisions_are_examples(stand: Make, key_file: Path, tmp_path: Path) -> None:
    async with stand(settings=keeps("all"), mode="shadow") as s:
        for text in ("plain", "a MARK", "a SECRET"):
            await s.chat("before", {"role": "assistant", "content": "so?"}, text)
        await written(s, 3)
    log, review = tmp_path / "data" / "audit.db", tmp_path / "review.jsonl"
    assert await penstock("--to", review, "--path", log) == (0, "3 texts\n")
    assert review.stat().st_mode & 0o077 == 0
    rows = [json.loads(line) for line in review.read_text().splitlines()]
    assert [(row["text"], row["action"], row["rule"], row["verdict"]) for row in rows] == [
        ("plain", "pass", None, ""),
        ("a MARK", "pass", None, ""),
        ("a [VEILED]", "mask", "veil-secret", ""),
    ]
    with pytest.raises(TextsError, match="write right or wrong"):  # nobody has reviewed it yet
        read(review, Reading(labelled=True, label="mark"))
    one = tmp_path / "one.jsonl"
    assert await penstock("--to", one, "--rule", "no-mark", "--path", log) == (0, "1 text\n")
    (row,) = [json.loads(line) for line in one.read_text().splitlines()]
    assert (row["text"], row["action"], row["rule"]) == ("a MARK", "block", "no-mark")
    one.write_text(json.dumps({**row, "verdict": "right"}))
    assert [text.bad for text in read(one, Reading(labelled=True, label="mark"))] == [True]
    code, output = await penstock("--to", "-", "--role", "assistant", "--path", log)
    assert code == 0
    assert output.count("Hello! How can I help you today?") == 3  # the newest, not what was quoted


async def test_what_is_withheld_is_left_out(stand: Make, key_file: Path, tmp_path: Path) -> None:
    async with stand(settings=keeps("all"), action="mask", options="fault: crash", stream="whole") as s:
        await s.chat("hello")
        await written(s, 1)
    assert await penstock("--to", "-", "--path", tmp_path / "data" / "audit.db") == (
        0, "0 texts; 1 left out, of which nothing but a mask is kept\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--role", "nobody"], "role nobody: one of system, user"), (["--to", "there.jsonl"], "is there already")],
)
async def test_what_cannot_be_written(
    stand: Make, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("mine")
    async with stand(settings=keeps("all")):
        pass
    code, output = await penstock("--path", tmp_path / "data" / "audit.db", "--to", "new.jsonl", *more)
    assert code == 1
    assert said in output
    assert (tmp_path / "there.jsonl").read_text() == "mine"
