"""Kept content in a serving Penstock, and what an operator does with it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from classifiers.base import Message, Role
from policies.engine import Decision
from policies.facts import ANONYMOUS
from policies.load import load as load_policy
from policies.model import Action
from proxy.audit import Exchange, Key, Reader
from proxy.cli import app
from proxy.config import ConfigError
from proxy.config import load as load_settings
from proxy.content import keeping
from proxy.content.choice import Choice, seconds
from proxy.content.keeping import Keeping, Kept, Marks
from proxy.content.places import keeping as keeping_of
from proxy.content.places import opened
from proxy.content.seal import Master
from proxy.content.sqlite import SqliteContents, SqliteKeys
from proxy.content.vault import Vault
from proxy.server import CannotServe, serving
from tests.conformance.speak_completions import legacy
from tests.proxy.conftest import DEFAULTS, RULES, Make
from tests.proxy.contents import keeps, written
from tests.servers.postgres import Postgres
from tests.upstream import messages, replies, responses, shapes

VEILED = "Here is the SECRET, and more of what is said after it."
APIS: dict[str, tuple[dict[str, Any], Any]] = {
    "/v1/responses": (
        {"model": "m", "input": "a SECRET word"},
        responses.response(responses.message(responses.text("Hello"))),
    ),
    "/v1/messages": (
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a SECRET word"}]},
        messages.message(messages.text("Hello")),
    ),
    "/v1/completions": ({"model": "m", "prompt": "a SECRET word"}, legacy(shapes.completion("Hello"))),
    "/v1/moderations": ({"input": "a SECRET word"}, {}),
}


def penstock(*args: object, exit_code: int = 0) -> str:
    result: Result = CliRunner().invoke(app, ["audit", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


async def forgotten(*args: object, exit_code: int = 0) -> str:
    """`penstock audit forget`, which has a loop of its own."""
    return await asyncio.to_thread(penstock, "forget", *args, exit_code=exit_code)


def shown(data: Path, exchange: Exchange) -> Any:
    output = penstock("show", exchange.id, "--content", "--json", "--path", data / "audit.db")
    return json.loads(output)["content"]


def texts(data: Path, exchange: Exchange, stage: str) -> list[str]:
    """What people and models said."""
    kept = shown(data, exchange)[stage]["texts"]
    return [text for role, _, text in kept if role in {"user", "assistant", "tool_call"}]


async def test_what_was_judged_is_kept_and_masked(stand: Make, key_file: Path) -> None:
    async with stand(settings=keeps("all")) as s:
        await s.chat("plain")
        await s.chat("a SECRET")
        await s.chat("both a MARK and a SECRET")
        s.upstream.reply = replies.json(shapes.completion(VEILED))
        await s.chat("ask")
        s.upstream.reply = replies.sse(shapes.stream(VEILED, size=4))
        await s.chat("ask", stream=True)
        s.upstream.reply = replies.sse(shapes.stream("All the long way to the MARK, and more.", size=4))
        await s.chat("ask", stream=True)
        await written(s, 6)
        rows = await s.rows()
        data = s.data
    assert [row["content"] for row in rows] == ["kept"] * 6
    asked = [texts(data, row, "input") for row in rows]
    assert asked == [["plain"], ["a [VEILED]"], ["both a MARK and a [MARK]"], ["ask"], ["ask"], ["ask"]]
    assert "output" not in shown(data, rows[2])
    for row in rows[3:5]:
        assert texts(data, row, "output") == [VEILED.replace("SECRET", "[VEILED]")]
    (answer,) = texts(data, rows[5], "output")
    assert "MARK" in answer  # what was found, for whoever reviews it
    for path in data.rglob("*"):
        if path.is_file():
            assert b"long way" not in path.read_bytes()


@pytest.mark.parametrize("path", APIS)
async def test_every_api(stand: Make, key_file: Path, path: str) -> None:
    body, reply = APIS[path]
    async with stand(settings=keeps("all")) as s:
        s.upstream.reply = replies.json(reply)
        answer = await s.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        await written(s, 1)
        (row,) = await s.rows()
        data = s.data
    assert texts(data, row, "input") == ["a [VEILED] word"]


@pytest.mark.parametrize(
    ("choice", "keep", "found"),
    [
        ("off", "", []),
        ("rules", "keep: content", ["a MARK"]),
        ("fired", "", ["a MARK", "a SECRET"]),
    ],
)
async def test_which_are_kept(stand: Make, key_file: Path, choice: str, keep: str, found: list[str]) -> None:
    policy = RULES.format(**DEFAULTS).replace("    action: block\n", f"    action: block\n    {keep}\n", 1)
    said = ["plain", "a MARK", "a SECRET"]
    async with stand(policy, settings=keeps(choice)) as s:
        for text in said:
            await s.chat(text)
        rows = await s.rows()
        data = s.data
    kept = [text for text, row in zip(said, rows, strict=True) if row["content"] == "kept"]
    assert kept == found
    assert (data / "content.db").exists() is (choice != "off")
    if choice != "off":
        for row in rows:
            assert (shown(data, row) is not None) is (row["content"] == "kept")


@pytest.mark.parametrize(
    ("text", "rules", "fits", "drawn"),
    [
        ("rules", {"other"}, False, False),
        ("rules", {"other", "keeper"}, True, False),
        ("fired", set(), False, False),
        ("fired", {"other"}, True, False),
        ("all", set(), False, True),
        ("100%", set(), False, True),
        ("0.000001%", {"keeper"}, True, False),
    ],
)
def test_the_words_of_the_setting(text: str, rules: set[str], fits: bool, drawn: bool) -> None:
    choice = Choice.read(text)
    assert choice is not None
    assert choice.fits(rules, {"keeper"}) is fits
    assert choice.drawn("pn_1") is drawn


def test_a_share_is_drawn_by_the_id() -> None:
    choice = Choice.read("20%")
    assert choice is not None
    drawn = [choice.drawn(f"pn_{number}") for number in range(2000)]
    assert 300 < sum(drawn) < 500
    assert drawn == [choice.drawn(f"pn_{number}") for number in range(2000)]


async def test_a_subject_is_forgotten(stand: Make, key_file: Path, tmp_path: Path) -> None:
    """T59: unreadable, in a backup too, and the chain still verifies."""
    async with stand(settings=keeps("all"), keys={"one": {"account": "team-a"}, "two": {"account": "team-b"}}) as s:
        for name, user in (("one", "alice"), ("one", "bob"), ("two", "alice"), ("one", "")):
            headers = {"authorization": f"Bearer {s.keys[name]}"}
            turns = [{"role": "user", "content": f"{name} {user}"}]
            body = {"model": "m", "messages": turns, **({"user": user} if user else {})}
            await s.client.post("/v1/chat/completions", json=body, headers=headers)
        await written(s, 4)
        rows = await s.rows()
        log = s.data / "audit.db"

        def readable() -> list[str]:
            return [texts(s.data, row, "input")[0].strip() for row in rows if shown(s.data, row) is not None]

        assert readable() == ["one alice", "one bob", "two alice", "one"]
        backup = tmp_path / "backup.db"
        with sqlite3.connect(s.data / "content.db") as db, sqlite3.connect(backup) as copy:
            db.backup(copy)
        said = await forgotten("team-a", "--user", "alice", "--path", log)
        assert "1 row became unreadable" in said
        assert readable() == ["one bob", "two alice", "one"]
        assert "0 rows" in await forgotten("team-a", "--user", "alice", "--path", log)
        said = await forgotten("team-a", "--path", log)
        assert "2 rows became unreadable" in said
        assert readable() == ["two alice"]
        assert "forgotten" in penstock("show", rows[0].id, "--content", "--path", log)
        assert "nothing is kept" in await forgotten("team-c", "--path", log)
        # The chain holds while the server goes on writing it, and says what was done without a text.
        assert "whole" in penstock("verify", "--path", log)
        erased = [row for row in await s.rows() if row["status"] == "erased"]
        assert [(row["erased"]["rows"], row["erased"]["keys"]) for row in erased] == [(1, 1), (0, 0), (2, 1), (0, 0)]
        assert erased[0]["account"] == rows[0]["claims"]["user"]
        assert erased[2]["account"] == "team-a"
        listed = penstock("tail", "--status", "erased", "--account", "team-a", "--path", log)
        assert [line.split()[2] for line in listed.splitlines()] == [erased[2].id]
        # Not even the backup of the rows, beside the keys of now and with the master key.
        restored = Vault(
            SqliteKeys.open(s.data / "content-keys.db"), SqliteContents.open(backup), Master.load(key_file)
        )
        assert [id for id, _, _ in restored.since(0)] == [rows[2].id]
        restored.close()
        assert len(await s.rows()) == 8


async def test_a_subject_is_forgotten_in_postgresql(
    stand: Make, key_file: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and keys in two databases, and the audit beside the rows."""
    where, keys = postgres.database(), postgres.database()
    databases = {"audit_database": where, "content_keys_database": keys}
    async with stand(settings={**keeps("all"), **databases}) as s:
        await s.chat("from alice", user="alice")
        await s.chat("from bob", user="bob")
        await written(s, 2)
        monkeypatch.setenv("PENSTOCK_DATA_DIR", str(s.data))
        for name, url in databases.items():
            monkeypatch.setenv(f"PENSTOCK_{name.upper()}", url)
        with Reader(where) as log:
            first, second = log.latest(2)

        def read(row: Exchange) -> Any:
            return json.loads(penstock("show", row.id, "--content", "--json"))["content"]

        assert "from alice" in str(read(first))
        assert "1 row " in await forgotten("anonymous", "--user", "alice")
        assert read(first) is None
        assert "from bob" in str(read(second))
        assert "whole" in penstock("verify")
        assert postgres.run("SELECT count(*) FROM penstock_content.keys WHERE wrapped IS NULL", keys) == [(1,)]
        assert postgres.run("SELECT count(*) FROM penstock_content.content", where) == [(2,)]
        assert not list(s.data.glob("content*"))


async def test_a_subject_that_comes_back(stand: Make, key_file: Path) -> None:
    """A running server holds no key: it makes a new one."""
    async with stand(settings=keeps("all")) as s:
        await s.chat("before")
        await written(s, 1)
        assert "1 row " in await forgotten("anonymous", "--path", s.data / "audit.db")
        await s.chat("after")
        await written(s, 2)
        rows = [row for row in await s.rows() if row["content"] == "kept"]
        assert shown(s.data, rows[0]) is None
        assert texts(s.data, rows[1], "input") == ["after"]


async def test_two_claims_in_one_request(stand: Make, key_file: Path) -> None:
    """Either of them may ask."""
    async with stand(settings=keeps("all")) as s:
        await s.chat("hello", user="alice", metadata={"user_id": "bob"})
        await written(s, 1)
        (row,) = await s.rows()
        log = s.data / "audit.db"
        assert "1 row " in await forgotten("anonymous", "--user", "bob", "--path", log)
        assert shown(s.data, row) is None
        assert "0 rows" in await forgotten("anonymous", "--user", "alice", "--path", log)


async def test_the_audit_holds_where_content_cannot_be_written(
    stand: Make, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it well and full by turns, where a small row finds room and the next one does not."""
    monkeypatch.setattr(keeping, "BACKOFF", (0.05, 0.05))
    looks: list[Path] = []
    room = False

    def is_roomy(path: Path) -> bool:
        looks.append(path)
        return room

    monkeypatch.setattr("proxy.content.sqlite.is_roomy", is_roomy)
    async with stand(settings=keeps("all")) as s:
        made = s.running.plane.keeping
        assert made is not None
        contents = made._vault._contents
        assert isinstance(contents, SqliteContents)
        contents._db.execute("PRAGMA max_page_count = 1")  # as many as there are
        assert (await s.chat(secrets.token_hex(20_000))).status_code == 200
        async with asyncio.timeout(20):
            while not made.fault:
                await asyncio.sleep(0.02)
        assert (await s.chat("two")).status_code == 200
        assert len(await s.rows()) == 2
        ready = await s.client.get(f"{s.admin_url}/readyz")
        assert ready.status_code == 200
        assert ready.json()["parts"]["content"] == "full: the disk is full"
        contents._db.execute("PRAGMA max_page_count = 1000000")
        await written(s, 2)
        looks.clear()
        async with asyncio.timeout(20):
            while len(looks) < 3:
                await asyncio.sleep(0.02)
        assert (await s.client.get(f"{s.admin_url}/readyz")).json()["parts"]["content"] == "full: the disk is full"
        room = True
        async with asyncio.timeout(20):
            while made.fault:
                await asyncio.sleep(0.02)
        assert (await s.client.get(f"{s.admin_url}/readyz")).json()["parts"]["content"] == "ready"


async def test_what_the_queue_does_not_take_is_counted(
    stand: Make, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST", 2)
    monkeypatch.setattr(keeping, "LARGEST", 1000)
    monkeypatch.setattr(keeping, "GATHER", 30.0)  # the end does not wait for it
    async with stand(settings=keeps("all")) as s:
        await s.chat("x" * 2000)
        for _ in range(4):
            await s.chat("short")
        made = s.running.plane.keeping
        assert made is not None
        page = (await s.client.get(f"{s.admin_url}/metrics")).text
        rows = await s.rows()
        data = s.data
    assert [row["content"] for row in rows] == ["lost", "kept", "kept", "lost", "lost"]
    assert 'penstock_content_lost_total{reason="large"} 1.0' in page
    assert 'penstock_content_lost_total{reason="full"} 2.0' in page
    assert "penstock_content_queue_used_ratio 1.0" in page
    assert made.kept == 2  # written at the end
    assert not made._thread.is_alive()  # and waited for no longer than that takes
    assert [shown(data, row) is not None for row in rows] == [False, True, True, False, False]


def test_a_start_with_a_clock_that_is_far_ahead_destroys_nothing(tmp_path: Path) -> None:
    """What was written last says so; `test_clock` has how long it is not believed."""
    settings = load_settings(None, data_dir=tmp_path, keep_content="all", content_key="ab" * 32, content_keep="1d")
    month = 30 * 86_400
    for old, behind in ((0, False), (3600, False), (month, True)):
        opened(settings, None, create=True).close()
        for path in tmp_path.glob("content.db*"):
            os.utime(path, (time.time() - old,) * 2)
        made = keeping_of(settings, lambda error: None)
        assert (made._clock.now() < time.time() - month / 2) is behind
        made.close()


def test_what_cannot_be_written_at_all_keeps_nothing_else(tmp_path: Path) -> None:
    vault = Vault(SqliteKeys.open(tmp_path / "k"), SqliteContents.open(tmp_path / "c"), Master(b"m" * 32))
    made = Keeping(vault, Choice(share=1.0), 60.0)
    marks, batch = Marks(load_policy("observe")), []
    for id in "abc":
        kept = Kept(made, id, marks, ANONYMOUS, drawn=True)
        text = "\ud800" if id == "b" else id
        kept.saw(Decision(Action.PASS), [Message(Role.USER, text, "/0")], ())
        batch.append((kept, 1.0, ("a",)))
    assert made._put(batch) == 2
    assert made.lost == Counter(full=0, large=0, unwritable=1)
    assert [id for id, _, _ in vault.since(0)] == ["a", "c"]
    vault.close()


async def test_content_expires_while_it_serves(stand: Make, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "TIDY", 0.05)
    async with stand(settings={**keeps("all"), "content_keep": "1s"}) as s:
        await s.chat("hello")
        await written(s, 1)
        (row,) = await s.rows()
        async with asyncio.timeout(20):
            while shown(s.data, row) is not None:
                await asyncio.sleep(0.1)
        assert "expired" in penstock("show", row.id, "--content", "--path", s.data / "audit.db")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (keeps("sometimes"), "keep_content: is off, rules, fired, all"),
        (keeps("0%"), "keep_content"),
        (keeps("101%"), "keep_content"),
        ({"content_keep": "soon"}, "content_keep: is a time like 90s"),
        ({"content_keep": "0d"}, "content_keep"),
        ({"content_key": "ab" * 32, "content_key_file": "x"}, "both set"),
        ({"content_keys_dir": "x", "audit_database": "postgresql://h/d"}, "set content_keys_database"),
        ({"content_keys_database": "postgresql://h/d"}, "set content_keys_dir"),
        ({"content_keys_database": "h/d", "audit_database": "postgresql://h/d"}, "content_keys_database: is no URL"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        load_settings(None, upstream="http://127.0.0.1:1", **settings)
    assert "abab" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "no master key is set"),
        ({"content_key": "ab"}, "content_key holds no master key"),
        ({"content_key_file": "/nowhere/key"}, "/nowhere/key: No such file"),
    ],
)
async def test_no_server_without_its_master_key(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    given = {"upstream": "http://127.0.0.1:1", "port": 0, "admin_port": 0, "data_dir": tmp_path, "policy": "observe"}
    with pytest.raises(CannotServe, match=problem):
        async with serving(load_settings(None, **given, **keeps("all"), **settings)):
            pass
    assert not (tmp_path / "content.db").exists()


async def test_reading_needs_the_master_key(
    stand: Make, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stand(settings=keeps("all")) as s:
        await s.chat("hello")
        await written(s, 1)
        (row,) = await s.rows()
        data = s.data
    args = ["show", row.id, "--content", "--path", data / "audit.db"]
    assert "user /messages/0/content: hello" in penstock(*args)
    monkeypatch.delenv("PENSTOCK_CONTENT_KEY_FILE")
    assert "no master key is set" in penstock(*args, exit_code=2)
    monkeypatch.setenv("PENSTOCK_CONTENT_KEY", "cd" * 32)
    said = penstock(*args, exit_code=2)
    assert "another master key" in said
    assert "cdcd" not in said
    monkeypatch.setenv("PENSTOCK_CONTENT_KEY", "ab" * 32)
    assert "user /messages/0/content: hello" in penstock(*args)
    monkeypatch.delenv("PENSTOCK_CONTENT_KEY")
    assert "1 row " in await forgotten("anonymous", "--path", data / "audit.db")  # without


async def test_another_master_key_from_now_on(stand: Make, key_file: Path, tmp_path: Path) -> None:
    async with stand(settings=keeps("all")) as s:
        await s.chat("hello")
        await written(s, 1)
        (row,) = await s.rows()
        data = s.data
    new = tmp_path / "new.key"
    new.write_text("cd" * 32)
    new.chmod(0o600)
    assert "1 key put under" in penstock("rekey", new, "--path", data / "audit.db")
    assert "another master key" in penstock("rekey", new, "--path", data / "audit.db", exit_code=2)
    assert "another master key" in penstock("show", row.id, "--content", "--path", data / "audit.db", exit_code=2)
    new.rename(key_file)
    assert texts(data, row, "input") == ["hello"]


async def test_what_was_said_cannot_steer_a_terminal(stand: Make, key_file: Path) -> None:
    async with stand(settings=keeps("all")) as s:
        await s.chat("\x1b]0;owned\x07 \u202e")
        await written(s, 1)
        (row,) = await s.rows()
        data = s.data
    output = penstock("show", row.id, "--content", "--path", data / "audit.db")
    assert "owned" in output
    assert all(c.isprintable() or c == "\n" for c in output)


async def test_forgetting_where_it_cannot_be_recorded(stand: Make, key_file: Path) -> None:
    async with stand(settings=keeps("all")) as s:
        await s.chat("hello")
        await written(s, 1)
        data = s.data
    (data / "audit.db").rename(data / "away")
    (data / "audit.db").mkdir()
    said = await forgotten("anonymous", "--path", data / "audit.db", exit_code=2)
    assert "1 row became unreadable" in said
    assert "could not be recorded" in said
    assert "run it again" in said


def test_forgetting_where_nothing_was_kept(tmp_path: Path) -> None:
    Key.load(tmp_path / "audit.key")
    said = penstock("forget", "anonymous", "--path", tmp_path / "audit.db", exit_code=2)
    assert "nothing at" in said
    assert said.count("\n") == 1


def test_a_rule_may_ask_for_it_and_a_policy_that_extends_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        RULES.format(**DEFAULTS).replace("    action: block\n", "    action: block\n    keep: content\n", 1)
    )
    (rule, other) = load_policy(str(path)).rules
    assert (rule.keep, other.keep) == ("content", None)


@pytest.mark.parametrize(("text", "wanted"), [("90s", 90), ("2h", 7200), ("7d", 604_800), (" 4w ", 2_419_200)])
def test_times(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


async def test_a_row_that_is_damaged_does_not_end_the_keeping(
    stand: Make, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "BACKOFF", (0.05, 0.05))
    monkeypatch.setattr(keeping, "TIDY", 0.05)
    async with stand(settings=keeps("all")) as s:
        made = s.running.plane.keeping
        assert made is not None
        contents = made._vault._contents
        assert isinstance(contents, SqliteContents)
        contents._db.execute("INSERT INTO content VALUES ('old', 1.0, 'no number', NULL)")
        async with asyncio.timeout(20):
            while not made.fault:
                await asyncio.sleep(0.02)
        await s.chat("Hi")
        await written(s, 1)
        state = (await s.client.get(f"{s.admin_url}/readyz")).json()["parts"]["content"]
        assert state == "unwritable: what is too old stays: ValueError"
        contents._db.execute("DELETE FROM content WHERE id = 'old'")
        async with asyncio.timeout(20):
            while made.fault:
                await asyncio.sleep(0.02)
