"""`penstock audit`: what an operator sees, and the exit codes that a script reads."""

from __future__ import annotations

import datetime
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.audit import Key, Record, new_id
from proxy.audit.key import sealer
from proxy.audit.record import encode
from proxy.audit.store import SqliteStore
from proxy.audit_cli import app, clean

NOW = time.time()  # of the import: the distances below outlast any run
IDS = [f"pn_{n:026d}" for n in range(5)]
HOSTILE = "gpt[red]\x1b]0;owned\x07\u202ex[/red]"
EXCHANGES: list[tuple[str, float, dict[str, Any], dict[str, Any] | None]] = [
    (IDS[0], NOW - 720_000, {"action": "pass", "model": "a"}, {"status": 200}),
    (IDS[1], NOW - 30_000, {"action": "block", "rule": "no-mark", "model": "a"}, {"status": 400}),
    (IDS[2], NOW - 20_000, {"action": "pass", "model": "b"}, {"action": "block", "rule": "pii", "status": 200}),
    (IDS[3], NOW - 10_000, {"action": "pass", "model": HOSTILE, "scores": {"injection": 0.25}}, {"status": 200}),
    (IDS[4], NOW - 1, {"action": "pass", "model": "a"}, None),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.db")


def write(path: Path, key: Key | None = None) -> Path:
    store = SqliteStore.open(path, sealer(key))
    for id, at, intent, outcome in EXCHANGES:
        store.write([encode(Record(id, "intent", at, intent))])
        if outcome is not None:
            store.write([encode(Record(id, "outcome", at + 1, outcome))])
    store._open.clear()  # keep the last one open, as under a living proxy
    store.close()
    return path


def run(*args: object) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def shown(args: Sequence[object], path: Path) -> list[str]:
    result = run("tail", "--path", path, *args)
    assert result.exit_code == 0, result.output
    return re.findall(r"pn_\d{26}", result.output)


@pytest.mark.parametrize(
    ("args", "ids"),
    [
        ([], IDS),
        (["-n", 2], IDS[3:]),
        (["-n", 0], []),
        (["--action", "block"], IDS[1:3]),
        (["--action", "pass"], [IDS[0], IDS[3], IDS[4]]),  # the third was passed first and blocked in the end
        (["--action", "block", "-n", 1], [IDS[2]]),
        (["--rule", "pii"], [IDS[2]]),
        (["--action", "pass", "--rule", "pii"], []),
        (["--rule", "'; DROP TABLE records; --"], []),
        (["--since", "10h"], IDS[1:]),
        (["--since", "15000s"], IDS[3:]),
        (["--since", "2001-01-01"], IDS),
        (["--since", "2d", "--action", "block"], IDS[1:3]),
    ],
)
def test_tail(path: Path, args: list[object], ids: list[str]) -> None:
    assert shown(args, path) == ids
    assert shown([*args, "--json"], path) == ids


@pytest.mark.parametrize(
    ("args", "ids"),
    [
        (["--until", "15000s"], IDS[:3]),
        (["--status", "4*"], [IDS[1]]),
        (["--model", "a", "--action", "pass"], [IDS[0], IDS[4]]),
        (["--model", "?"], []),
        (["--mode", "shadow"], []),
        (["--error", "any"], []),
        (["--account", "*"], []),
    ],
)
def test_tail_finds_by_what_is_asked(path: Path, args: list[object], ids: list[str]) -> None:
    assert shown(args, path) == ids


def test_since_means_when_the_exchange_began(path: Path) -> None:
    between = datetime.datetime.fromtimestamp(NOW - 19_999.5).isoformat()  # after the third began, before it ended
    assert shown(["--since", between], path) == IDS[3:]


def test_tail_joins_both_halves_to_one_line(path: Path) -> None:
    lines = run("tail", "--path", path).output.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:.]+[+-]\d\d:\d\d  pn_0+2  block  pii  b  200", lines[2])
    assert lines[4].endswith("pass  -  a  open")
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ({"status": "refused"}, "refused"),
        ({"status": "refused", "times": 12_345}, "refused (12,345 times)"),
        ({"status": "refused", "times": "x"}, "refused"),
        ({}, "-"),
        (None, "open"),
    ],
)
def test_how_it_ended_in_a_word_or_two(tmp_path: Path, outcome: dict[str, Any] | None, words: str) -> None:
    store = SqliteStore.open(tmp_path / "a.db", sealer(None))
    store.write([encode(Record(IDS[0], "intent", NOW, {}))])
    if outcome is not None:
        store.write([encode(Record(IDS[0], "outcome", NOW, outcome))])
    store._open.clear()
    store.close()
    assert run("tail", "--path", tmp_path / "a.db").output.endswith(f"-  -  -  {words}\n")


def test_json_lines(path: Path) -> None:
    lines = [json.loads(line) for line in run("tail", "--json", "--path", path).stdout.splitlines()]
    assert [line["outcome"] for line in lines] == [outcome for _, _, _, outcome in EXCHANGES]
    assert [line["intent"] for line in lines] == [intent for _, _, intent, _ in EXCHANGES]


@pytest.mark.parametrize("command", [["tail"], ["tail", "--json"], ["show", IDS[3]], ["show", IDS[3], "--json"]])
def test_what_a_client_named_cannot_steer_a_terminal(path: Path, command: list[str]) -> None:
    output = run(*command, "--path", path).output
    assert "owned" in output
    assert "[red]" in output  # nor rich
    assert all(c.isprintable() or c == "\n" for c in output)


def test_show(path: Path) -> None:
    result = run("show", IDS[3], "--path", path)
    assert result.exit_code == 0
    assert re.search(r"scores\.injection\W+0\.25", result.output)
    assert re.search(r"status\W+200", result.output)
    assert "open" in run("show", IDS[4], "--path", path).output
    missing = run("show", "pn_\x1bnone", "--path", path)
    assert missing.exit_code == 1
    assert "no decision pn_\\x1bnone" in missing.output


def test_show_says_what_was_judged_how_and_how_long_it_took(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore.open(path, sealer(None))
    seen = {
        "rules": {"no-mark": "block", "tone": "log"}, "canary": ["tone"], "shadow": {"pii": "mask"},
        "by_role": {"user": {"guard.injection": 0.25, "words.mark": 1.0}, "tool_result": {"guard.injection": 0.5}},
        "scores": {"guard.injection": 0.5}, "failures": {"judge": "timeout"}, "present": ["user"],
    }  # fmt: skip
    body = {
        "action": "block",
        "rule": "no-mark",
        "revision": "abc123",
        "status": "blocked",
        "input": seen,
        "output": {},
    }
    store.write([encode(Record("pn_1", "outcome", NOW, {**body, "milliseconds": {"total": 12.5, "input": 2.25}}))])
    store.close()
    result = run("show", "pn_1", "--path", path)
    said = " ".join(re.sub(r"[│┃─━┌┐└┘├┤┬┴┼╇╈┏┓┡┩]", " ", result.output).split())
    for words in (
        "revision abc123", "the request as it was judged", "rule no-mark block", "rule tone log (canary)",
        "in shadow pii would mask", "score user words.mark 1.0 score user guard.injection 0.25",
        "score tool_result guard.injection 0.5", "no answer judge timeout", "the answer as it was judged",
        "nothing was found", "judging the request 2.25", "in all 12.5",
    ):  # fmt: skip
        assert words in said


def test_export_writes_a_whole_file_or_none(path: Path, tmp_path: Path) -> None:
    to = tmp_path / "out.jsonl"
    assert run("export", "--to", to, "--action", "block", "--path", path).exit_code == 0
    assert [json.loads(line)["id"] for line in to.read_text().splitlines()] == IDS[1:3]
    assert json.loads(run("export", "--to", "-", "--rule", "pii", "--path", path).stdout)["id"] == IDS[2]
    assert run("export", "--to", "-", "--form", "parquet", "--path", path).exit_code == 2
    lost = run("export", "--to", tmp_path / "none" / "out.jsonl", "--path", path)
    assert lost.exit_code == 2
    assert "cannot be written" in lost.output
    db = sqlite3.connect(path)
    db.execute("UPDATE records SET body = '{' WHERE seq = 7")
    db.commit()
    db.close()
    before = to.read_bytes()
    assert run("export", "--to", to, "--path", path).exit_code == 2
    assert to.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir() if "out" in each.name) == ["out.jsonl"]


def test_export_guesses_no_form(path: Path, tmp_path: Path) -> None:
    to = tmp_path / "out.csv"
    result = run("export", "--to", to, "--path", path)
    assert (result.exit_code, to.exists()) == (2, False)
    assert run("export", "--to", to, "--form", "jsonl", "--path", path).exit_code == 0
    assert len(to.read_text().splitlines()) == len(IDS)


def test_tail_says_that_there_is_nothing(path: Path) -> None:
    result = run("tail", "--path", path, "--rule", "none-such")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing like that" in result.stderr


def test_export_names_the_package_that_it_needs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("export", "--to", tmp_path / "out.parquet", "--path", path)
    assert result.exit_code == 2
    assert "pip install 'penstock[parquet]'" in result.output


def test_the_settings_may_hold_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "audit.db", Key(bytes.fromhex("ab" * 32)))
    assert run("verify", "--path", path).exit_code == 2
    monkeypatch.setenv("PENSTOCK_AUDIT_KEY", "ab" * 32)
    assert run("verify", "--path", path).exit_code == 0
    monkeypatch.setenv("PENSTOCK_AUDIT_KEY", "ab-no-key")
    result = run("verify", "--path", path)
    assert (result.exit_code, "ab-no-key" in result.output) == (2, False)


def test_verify(tmp_path: Path) -> None:
    key_file, path = tmp_path / "a.key", tmp_path / "a.db"
    write(path, Key.load(key_file))
    good = run("verify", "--path", path, "--key", key_file)
    assert good.exit_code == 0
    head = re.fullmatch(r"whole: 9 rows; head (9:[0-9a-f]{64})\n", good.output)
    assert head is not None
    assert run("verify", "--path", path, "--key", key_file, "--head", head[1]).exit_code == 0
    later = run("verify", "--path", path, "--key", key_file, "--head", "12:" + "0" * 64)
    assert later.exit_code == 1
    assert "broken at row 10 (-): truncated" in later.output
    assert run("verify", "--path", path).exit_code == 0  # the key beside it
    key_file = key_file.rename(tmp_path / "elsewhere")
    assert run("verify", "--path", path).exit_code == 2  # it needs its key
    db = sqlite3.connect(path)
    db.execute("UPDATE records SET action = 'pass' WHERE seq = 3")
    db.commit()
    db.close()
    bad = run("verify", "--path", path, "--key", key_file)
    assert bad.exit_code == 1
    assert bad.output.startswith(f"broken at row 3 ({IDS[1]}): edited: the column action")


@pytest.mark.parametrize("command", [["tail"], ["show", "x"], ["verify"]])
@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no audit log at"), (b"", "no audit log at"), (b"hello " * 99, "not an audit log"), ("dir", "directory")],
)
def test_what_is_no_log_is_one_line(tmp_path: Path, command: list[str], content: object, problem: str) -> None:
    path = tmp_path / "a.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "dir":
        path.mkdir()
    result = run(*command, "--path", path)
    assert result.exit_code == 2
    assert problem in result.output
    assert result.output.count("\n") == 1
    assert not list(tmp_path.glob("a.db-*"))


WRONG = [["--since", "soon"], ["--since", "99999999999d"], ["-n", "-1"], ["-n", "x"], ["--action", "blocked"]]


@pytest.mark.parametrize("args", WRONG)
def test_wrong_options_of_tail(path: Path, args: list[str]) -> None:
    assert run("tail", "--path", path, *args).exit_code == 2


def test_the_settings_say_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path))
    write(tmp_path / "audit.db")
    assert IDS[1] in run("tail").output
    monkeypatch.setenv("PENSTOCK_PORT", "none")
    result = run("tail")
    assert result.exit_code == 2
    assert "--path" in result.output


def test_a_file_of_settings_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "audit.db", Key(bytes.fromhex("ab" * 32)))
    file = tmp_path / "penstock.yaml"
    file.write_text(f"data_dir: {tmp_path}\naudit_key: {'ab' * 32}\n")
    assert IDS[1] in run("tail", "--config", file).output
    assert run("verify", "--config", file).exit_code == 0
    assert run("tail").exit_code == 2  # and only for that command
    monkeypatch.setenv("PENSTOCK_CONFIG", str(file))
    assert run("verify").exit_code == 0


@pytest.mark.parametrize("head", ["", "5", "x:00", "5:zz"])
def test_a_wrong_head(path: Path, head: str) -> None:
    assert run("verify", "--path", path, "--head", head).exit_code == 2


def test_a_damaged_row_does_not_end_in_a_traceback(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE records SET body = CAST(x'7bff' AS TEXT) WHERE seq = 3")
    db.commit()
    db.close()
    for command in (["tail"], ["show", IDS[1]]):
        result = run(*command, "--path", path)
        assert result.exit_code == 2
        assert "audit verify" in result.output
    assert run("verify", "--path", path).exit_code == 1


def test_follow_reads_while_the_proxy_writes(path: Path) -> None:
    command = "from proxy.audit_cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", command, "tail", "-f", "-n", "1", "--action", "block", "--path", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert IDS[2] in process.stdout.readline()
        store = SqliteStore.open(path, sealer(None))
        ids = [new_id() for _ in range(3)]
        for id, action in zip(ids, ["block", "pass", "block"], strict=True):
            store.write([encode(Record(id, "intent", time.time(), {"action": action}))])
            store.write([encode(Record(id, "outcome", time.time(), {"status": 400}))])
        assert ids[0] in process.stdout.readline()
        assert ids[2] in process.stdout.readline()
        store.close()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("text", "safe"),
    [("gpt-4o", "gpt-4o"), ("é漢", "é漢"), ("a\x1b[31m", "a\\x1b[31m"), ("\u202e", "\\u202e"), (5, "5")],
)
def test_clean(text: object, safe: str) -> None:
    assert clean(text) == safe


def test_asking_the_audit_waits_for_no_engine() -> None:
    code = (
        "import sys; from proxy.__main__ import main; sys.argv = ['penstock', 'audit', '--help']\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "rekey" in said
    assert not {"numpy", "onnxruntime", "httpx2", "proxy.server"} & set(said.split())
