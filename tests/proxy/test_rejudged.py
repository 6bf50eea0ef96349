"""A backtest that reads kept content: what recorded scores cannot tell, classifiers are asked again."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from classifiers.base import Message, Role
from policies import backtest
from policies.facts import Account
from proxy.cli import app
from proxy.content.stated import stated, told
from proxy.dialects.chat import Chat
from proxy.facts import calls_told, facts_of
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
    return json.loads(result.stdout) if "json" in more else result.output


async def test_a_new_classifier_is_asked(
    stand: Make, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    unasked = await asyncio.to_thread(run, tmp_path)
    assert "NEWS" not in unasked
    assert "with --content" not in unasked
    monkeypatch.setenv("PENSTOCK_KEEP_CONTENT", "all")
    assert "with --content" in await asyncio.to_thread(run, tmp_path)
    few = await asyncio.to_thread(run, tmp_path, "--content", "--ask", "2")
    assert "about 2 kept exchanges; 3 were left out (--ask 5)" in few
    assert "unknown 3 of 7" in few


async def test_what_was_not_kept_stays_unknown(stand: Make, key_file: Path, tmp_path: Path) -> None:
    policy = OLD.replace("    action: mask\n", "    action: mask\n    keep: content\n")
    async with stand(policy, settings=keeps("rules")) as s:
        await s.chat("some NEWS")
        await s.chat("a SECRET in the NEWS")
        await s.chat("a SECRET")
        await written(s, 2)
    told = await asyncio.to_thread(run, tmp_path, "--content", "--output", "json")
    assert told["kinds"] == {"new blocks": 1}
    assert sum(told["unknown"].values()) == 2
    assert [count for why, count in told["unknown"].items() if "masked then" in why] == [1]
    assert told["judged_again"] == {"judged": 2, "masked": 2, "not_kept": 1, "left_out": 0}
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
    then = [*args[:2], *args[4:]]
    result = await asyncio.to_thread(CliRunner().invoke, app, then)
    assert result.exit_code == 0, result.output
    assert f"policy as it decided then, revision {first['revision']}" in result.output
    shutil.rmtree(tmp_path / "data" / "policies")
    result = await asyncio.to_thread(CliRunner().invoke, app, then)
    assert result.exit_code == 1
    assert f"the revision {first['revision']} that decided it is not kept" in result.output
    vault = ["audit", "forget", "anonymous", "--path", str(tmp_path / "data" / "audit.db")]
    await asyncio.to_thread(CliRunner().invoke, app, vault)
    result = await asyncio.to_thread(CliRunner().invoke, app, args)
    assert result.exit_code == 1
    assert "forgotten" in result.output
    args[1] = "pn_" + "0" * 26
    result = await asyncio.to_thread(CliRunner().invoke, app, args)
    assert result.exit_code == 1
    assert "no decision of that id" in result.output


ASKING = NEW.replace("NEWS", "LATE").replace(
    "[input, output]\n    when: {finding: fresh", "[input]\n    when: {finding: fresh"
) + (
    """  - id: long-and-late
    description: The word LATE is blocked in the answer where much was asked for.
    stages: [output]
    when: request.settings.max_tokens > 100 && score("fresh.mark") >= 0.5
    action: block
  - id: no-payments
    description: No call may pay.
    stages: [output]
    when: calls.exists(c, c.name == "pay")
    action: block
"""
)


async def test_facts_of_the_request_are_kept(stand: Make, key_file: Path, tmp_path: Path) -> None:
    """What a condition asks of settings and calls is known, of a stream and of a whole answer."""
    async with stand(settings=keeps("all")) as s:
        s.upstream.reply = replies.json(shapes.completion("It is LATE."))
        await s.chat("ask")
        await s.chat("ask", max_tokens=500)
        s.upstream.reply = replies.json(shapes.completion(None, tool_calls=[shapes.ToolCall("pay", '{"to": "x"}')]))
        await s.chat("call")
        s.upstream.reply = replies.sse(shapes.stream(None, tool_calls=[shapes.ToolCall("pay", '{"to": "x"}')]))
        await s.chat("call", stream=True)
        s.upstream.reply = replies.sse(shapes.stream(None, tool_calls=[shapes.ToolCall("say", '{"to": "x"}')]))
        await s.chat("call", stream=True)
        await written(s, 5)
        rows = await s.rows()
    blind = await asyncio.to_thread(run, tmp_path, "--output", "json", policy=ASKING)
    assert sum(blind["unknown"].values()) == 5
    told = await asyncio.to_thread(run, tmp_path, "--content", "--output", "json", policy=ASKING)
    assert told["unknown"] == {}
    assert {rule["rule"]: rule["examples"] for rule in told["rules"]} == {
        "long-and-late": [rows[1].id],
        "no-payments": [rows[2].id, rows[3].id],
    }
    args = ["explain", rows[1].id, "--policy", str(tmp_path / "new.yaml")]
    args += ["--audit", str(tmp_path / "data" / "audit.db")]
    output = (await asyncio.to_thread(CliRunner().invoke, app, args)).output
    assert "output: block by rule 'long-and-late'" in output
    assert "not kept" not in output


async def test_what_an_account_did_before_stays_unknown(stand: Make, key_file: Path, tmp_path: Path) -> None:
    """It is another at each moment, and nought would be a guess."""
    async with stand(settings=keeps("all")) as s:
        await s.chat("some NEWS")
        await written(s, 1)
    policy = NEW.replace(
        "    when: {finding: fresh.mark, at_least: 0.5}\n",
        '    when: account.flags.exists(f, f == "known") && score("fresh.mark") >= 0.5\n',
    )
    told = await asyncio.to_thread(run, tmp_path, "--content", "--output", "json", policy=policy)
    assert sum(told["unknown"].values()) == 1


def test_a_call_whose_arguments_lie_apart_is_not_guessed() -> None:
    said = [Message(Role.TOOL_CALL, "pay", "/content/0/name"), Message(Role.TOOL_CALL, "x", "/content/0/input/to")]
    assert calls_told(said[:1])
    assert not calls_told(said)


def test_facts_come_back_as_they_were() -> None:
    tree = {
        "model": "m", "temperature": 0.5, "max_tokens": 7, "n": 2, "reasoning_effort": "high",
        "tools": [{"type": "function", "function": {"name": "pay"}}],
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "pay", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "done"},
        ],
    }  # fmt: skip
    request = Chat().read_request(tree)
    account = Account("team-a", "ci", "gold", frozenset({"cyber", "bio"}))
    plain = json.loads(json.dumps(told(request, "chat", account)))
    assert stated(plain) == facts_of(request, "chat", account, lambda value: "")
    assert stated(plain).tools == ("pay",)
