"""A backtest that reads kept content: what recorded scores cannot tell, classifiers are asked again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policies import backtest
from proxy.cli import app
from tests.proxy.conftest import DEFAULTS, RULES, Make
from tests.proxy.contents import keeps, written
from tests.upstream import replies, shapes

OLD = RULES.format(**DEFAULTS)
NEW = OLD.replace(
    "  veil: {kind: canary, word: SECRET, inline: true}\n",
    "  veil: {kind: canary, word: SECRET, inline: true}\n  fresh: {kind: canary, word: NEWS, inline: true}\n",
) + (
    """  - id: no-news
    description: The word NEWS is blocked.
    stages: [input, output]
    when: {finding: fresh.mark, at_least: 0.5}
    action: block
"""
)


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "EXACT", frozenset({"canary"}))


def run(tmp_path: Path, *more: str, policy: str = NEW) -> Any:
    new = tmp_path / "new.yaml"
    new.write_text(policy)
    log = tmp_path / "data" / "audit.db"
    result = CliRunner().invoke(app, ["backtest", str(new), "--audit", str(log), *more])
    assert result.exit_code == 0, result.output
    return json.loads(result.output) if "json" in more else result.output


async def test_a_new_classifier_is_asked(stand: Make, key_file: Path, tmp_path: Path) -> None:
    async with stand(settings=keeps("all")) as s:
        for text in ("plain", "some NEWS", "a MARK", "a MARK in the NEWS"):
            await s.chat(text)
        s.upstream.reply = replies.json(shapes.completion("The NEWS of today."))
        await s.chat("ask")
        s.upstream.reply = replies.sse(shapes.stream("The NEWS of today, in a stream.", size=3))
        await s.chat("ask again", stream=True)
        escaped = shapes.ToolCall(arguments='{"a": "the \\u004eEWS"}')
        s.upstream.reply = replies.sse(shapes.stream(None, tool_calls=[escaped]))
        await s.chat("call", stream=True)
        await written(s, 7)
    blind = await asyncio.to_thread(run, tmp_path, "--output", "json")
    assert (blind["changed"], sum(blind["unknown"].values())) == (0, 5)  # a block stays a block, whatever is new
    told = await asyncio.to_thread(run, tmp_path, "--content", "--output", "json")
    assert (told["changed"], told["kinds"], told["unknown"]) == (4, {"new blocks": 4}, {})
    (rule,) = told["rules"]
    assert rule["rule"] == "no-news"
    assert told["judged_again"] == {"judged": 5, "masked": 0, "not_kept": 0, "left_out": 0}
    shown = [told["texts"][id] for id in rule["examples"]]
    assert ["user: ask", "assistant: The NEWS of today."] in shown
    text = await asyncio.to_thread(run, tmp_path, "--content", "--examples", "9")
    assert text.startswith("changes 4 of 7 decisions: 4 new blocks\n  rule no-news: 4 new blocks  e.g. pn_")
    assert "user: some NEWS\n" in text
    assert text.endswith("asked the classifiers again about 5 kept exchanges\n")
    assert "NEWS" not in await asyncio.to_thread(run, tmp_path)
    few = await asyncio.to_thread(run, tmp_path, "--content", "--ask", "2")
    assert "about 2 kept exchanges; 3 were left out (--ask 5)" in few
    assert "unknown 3 of 7" in few


async def test_what_was_not_kept_stays_unknown(stand: Make, key_file: Path, tmp_path: Path) -> None:
    policy = OLD.replace("    action: mask\n", "    action: mask\n    keep: content\n")
    async with stand(policy, settings=keeps("rules")) as s:
        await s.chat("some NEWS")
        await s.chat("a SECRET in the NEWS")
        await written(s, 1)
    told = await asyncio.to_thread(run, tmp_path, "--content", "--output", "json")
    assert told["kinds"] == {"new blocks": 1}
    assert sum(told["unknown"].values()) == 1
    assert told["judged_again"] == {"judged": 1, "masked": 1, "not_kept": 1, "left_out": 0}
    assert told["texts"] == {
        told["rules"][0]["examples"][0]: ["user: a [VEILED] in the NEWS", "assistant: Hello! How can I help you today?"]
    }


async def test_silence_is_no_answer(stand: Make, key_file: Path, tmp_path: Path) -> None:
    async with stand(settings=keeps("all")) as s:
        await s.chat("plain")
        await written(s, 1)
    broken = NEW.replace("word: NEWS, inline: true", "word: NEWS, inline: true, fault: crash")
    told = await asyncio.to_thread(run, tmp_path, "--content", "--output", "json", policy=broken)
    assert told["unknown"] == {"fresh gave no answer when it was asked again": 1}


async def test_it_needs_the_master_key(
    stand: Make, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stand(settings=keeps("all")) as s:
        await s.chat("some NEWS")
        await written(s, 1)
    monkeypatch.delenv("PENSTOCK_CONTENT_KEY_FILE")
    log = tmp_path / "data" / "audit.db"
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["backtest", "baseline", "--audit", str(log), "--content"]
    )
    assert result.exit_code == 2
    assert "no master key is set" in result.output


async def test_a_kept_exchange_is_explained(stand: Make, key_file: Path, tmp_path: Path) -> None:
    async with stand(settings=keeps("all")) as s:
        s.upstream.reply = replies.sse(shapes.stream("The NEWS of today.", size=3))
        await s.chat("a SECRET in the NEWS", stream=True)
        await s.chat("other")
        await written(s, 2)
        (first, _) = await s.rows()
    new = tmp_path / "new.yaml"
    new.write_text(NEW)
    args = ["explain", first.id, "--policy", str(new), "--audit", str(tmp_path / "data" / "audit.db")]
    result = await asyncio.to_thread(CliRunner().invoke, app, args)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("read as chat (POST /v1/chat/completions)")
    assert "masked here" in result.output
    assert result.output.count("block by rule 'no-news'") == 2  # what is asked, and the answer
    assert "NEWS" not in result.output
    told = json.loads(
        (await asyncio.to_thread(CliRunner().invoke, app, [*args, "--show-text", "--output", "json"])).output
    )
    assert [told[stage]["findings"][0]["text"] for stage in ("input", "output")] == ["NEWS", "NEWS"]
    vault = ["audit", "forget", "anonymous", "--path", str(tmp_path / "data" / "audit.db")]
    await asyncio.to_thread(CliRunner().invoke, app, vault)
    result = await asyncio.to_thread(CliRunner().invoke, app, args)
    assert result.exit_code == 1
    assert "forgotten" in result.output
    args[1] = "pn_" + "0" * 26
    result = await asyncio.to_thread(CliRunner().invoke, app, args)
    assert result.exit_code == 1
    assert "no decision of that id" in result.output
