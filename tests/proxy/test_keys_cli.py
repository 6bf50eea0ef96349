"""`penstock keys`: what an operator sees, what is written down, and the exit codes that a script reads."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.accounts.file import KeyFile, hashing
from proxy.accounts.keys import Keys
from proxy.accounts.secret import well_formed
from proxy.audit import Reader
from proxy.keys_cli import app


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_CONFIG", raising=False)


class Desk:
    """The command, on a data directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.settings = folder / "penstock.yaml"
        self.settings.write_text(f"data_dir: {self.data}\npolicies: {{strict: baseline}}\n")

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(self.settings)])

    def keys(self) -> Keys:
        return Keys(KeyFile(self.data / "keys.json"), hashing(self.data / "keys.key"))

    def rows(self) -> list[Any]:
        with Reader(self.data / "audit.db") as log:
            return list(log.latest(100))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_key_is_shown_once(desk: Desk) -> None:
    made = desk(
        "create", "ci", "--account", "team-a", "--expires", "90d", "--scope", "chat", "--scope", "models",
        "--model", "gpt-*", "--policy", "strict", "--tier", "trusted", "--grant", "bio=30d", "--grant", "cyber",
    )  # fmt: skip
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert well_formed(secret)
    record = desk.keys().find(secret.encode())
    assert record is not None
    assert record.id in made.stderr
    assert (record.name, record.account, record.policy, record.tier) == ("ci", "team-a", "strict", "trusted")
    assert record.allowed == {"chat", "models"}
    assert record.models == ("gpt-*",)
    assert record.expires is not None
    assert 89 * 86_400 < record.expires - time.time() <= 90 * 86_400
    assert record.granted(time.time()) == {"bio", "cyber"}
    assert record.granted(time.time() + 31 * 86_400) == {"cyber"}
    digest = record.digest
    for told in (desk("list"), desk("list", "--json"), desk("show", "ci"), desk("show", record.id)):
        assert told.exit_code == 0
        assert record.id in told.stdout
        assert "team-a" in told.stdout
        assert digest not in told.output
        assert secret not in told.output
    (row,) = desk.rows()
    assert (row["status"], row["account"], row["key"]) == ("key_created", "team-a", record.id)
    assert row["record"]["grants"].keys() == {"bio", "cyber"}
    assert row["by"]
    raw = b"".join(path.read_bytes() for path in desk.data.rglob("*") if path.is_file())
    assert secret.encode() not in raw


def test_a_key_is_revoked_for_good(desk: Desk) -> None:
    secret = desk("create", "ci").stdout.strip()
    other = desk("create", "other").stdout.strip()
    assert desk("revoke", "ci").exit_code == 0
    again = desk("revoke", "ci")
    assert (again.exit_code, "before" in again.stderr) == (0, True)
    found, kept = (desk.keys().find(key.encode()) for key in (secret, other))
    assert found is not None
    assert found.state(time.time()) == "revoked"
    assert kept is not None
    assert kept.state(time.time()) == "active"
    assert found.id not in desk("list").stdout
    assert found.id in desk("list", "--all").stdout
    assert [row["status"] for row in desk.rows()] == ["key_created", "key_created", "key_revoked"]


def id_of(desk: Desk, made: Result) -> str:
    record = desk.keys().find(made.stdout.strip().encode())
    assert record is not None
    return record.id


def test_after_a_rotation_the_name_is_that_of_the_key_that_works(desk: Desk) -> None:
    old = id_of(desk, desk("create", "ci"))
    assert desk("revoke", "ci").exit_code == 0
    made = desk("create", "ci")
    new = id_of(desk, made)
    assert "this name" not in made.stderr, "the one before is revoked: nothing to say"
    shown = desk("show", "ci")
    assert (shown.exit_code, json.loads(shown.stdout)["id"]) == (0, new)
    assert json.loads(desk("show", old).stdout)["state"] == "revoked"
    ended = desk("revoke", "ci")
    assert (ended.exit_code, new in ended.stderr) == (0, True)
    again = desk("revoke", "ci")
    assert (again.exit_code, again.stderr) == (0, "all 2 were revoked before\n")
    assert [row["key"] for row in desk.rows() if row["status"] == "key_revoked"] == [old, new]
    which = desk("show", "ci")
    assert (which.exit_code, which.stderr.count(", made 2"), which.stderr.count("revoked")) == (1, 2, 2)


def test_an_expired_key_does_not_stand_in_the_way_of_its_successor(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk("create", "ci", "--expires", "1s")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2)
    new = id_of(desk, desk("create", "ci"))
    ended = desk("revoke", "ci")
    assert (ended.exit_code, new in ended.stderr) == (0, True)


def test_keys_of_one_name_are_told_apart(desk: Desk) -> None:
    """While one takes the other's place both work: said when it is made, and when a name could be either's."""
    old = id_of(desk, desk("create", "ci", "--account", "team-a"))
    made = desk("create", "ci", "--account", "team-b")
    new = id_of(desk, made)
    assert (made.exit_code, well_formed(made.stdout.strip())) == (0, True)
    assert f"penstock keys revoke {old}  active, account team-a, made 2" in made.stderr
    ended = desk("revoke", "ci")
    assert ended.exit_code == 1
    for id, account in ((old, "team-a"), (new, "team-b")):
        assert re.search(rf"{id}  active, account {account}, made \d{{4}}-\d\d-\d\dT", ended.stderr)
    assert desk("revoke", old).exit_code == 0
    assert desk("revoke", "ci").exit_code == 0


def test_a_key_is_revoked_by_its_id_where_the_keys_are_broken(desk: Desk) -> None:
    secret = desk("create", "ci").stdout.strip()
    id = json.loads(desk("list", "--json").stdout)[0]["id"]
    path = desk.data / "keys.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    by_name = desk("revoke", "ci")
    assert (by_name.exit_code, "by its id" in by_name.stderr) == (1, True)
    ended = desk("revoke", id)
    assert (ended.exit_code, str(path) in ended.stderr) == (0, True)
    assert [(row["status"], row["key"]) for row in desk.rows()] == [("key_created", id), ("key_revoked", id)]
    path.write_bytes(whole)
    found = desk.keys().find(secret.encode())
    assert found is not None
    assert found.state(time.time()) == "revoked"
    assert id not in desk("list").stdout


def test_json_for_programs(desk: Desk) -> None:
    made = json.loads(desk("create", "ci", "--json").stdout)
    assert well_formed(made["key"])
    (listed,) = json.loads(desk("list", "--json").stdout)
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert listed["state"] == "active"
    assert "open" not in listed["scopes"]


# the arguments, the exit code, words of what is said
WRONG: dict[str, tuple[list[str], int, list[str]]] = {
    "no such key": (["revoke", "none"], 1, ["no such key", "penstock keys list"]),
    "no such key to show": (["show", "none"], 1, ["no such key"]),
    "a name that two have": (["revoke", "twin"], 1, ["2 keys", "key_"]),
    "no such policy": (["create", "x", "--policy", "none"], 1, ["'none'", "strict"]),
    "no such scope": (["create", "x", "--scope", "all"], 2, ["scope"]),
    "no time": (["create", "x", "--expires", "soon"], 2, ["90d"]),
    "no time at all": (["create", "x", "--expires", "0d"], 2, ["passed"]),
    "a time without end": (["create", "x", "--expires", "999999y"], 2, ["leave it out"]),
    "a time that has passed": (["create", "x", "--expires", "2001-01-01"], 2, ["passed"]),
    "a grant that is none": (["create", "x", "--grant", "No Such"], 2, ["grant"]),
    "a name that steers a terminal": (["create", "x\x1b[0m"], 2, ["name"]),
    "an empty name": (["create", ""], 2, ["name"]),
}


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong(desk: Desk, arguments: list[str], code: int, words: list[str]) -> None:
    for _ in range(2):
        assert desk("create", "twin").exit_code == 0
    before = (desk.data / "keys.json").read_bytes()
    done = desk(*arguments)
    assert done.exit_code == code
    for word in words:
        assert word in done.output
    assert "Traceback" not in done.output
    assert (desk.data / "keys.json").read_bytes() == before


def test_an_end_that_no_calendar_has_is_listed(desk: Desk) -> None:
    """Somebody wrote it by hand."""
    desk("create", "ci", "--expires", "1d")
    path = desk.data / "keys.json"
    path.write_text(re.sub(r'"expires": ?[0-9.]+', '"expires": 1e15', path.read_text()))
    listed = desk("list")
    assert (listed.exit_code, "1e+15" in listed.output) == (0, True)


def test_what_cannot_be_recorded_is_not_made_but_revoked(desk: Desk) -> None:
    secret = desk("create", "ci").stdout.strip()
    (desk.data / "audit.db").write_bytes(b"no database" * 100)
    made = desk("create", "late")
    assert (made.exit_code, made.stdout) == (1, "")
    assert len(desk.keys()) == 1
    ended = desk("revoke", "ci")
    assert ended.exit_code == 1
    assert "is revoked" in ended.stderr
    assert "audit" in ended.stderr
    found = desk.keys().find(secret.encode())
    assert found is not None
    assert found.state(time.time()) == "revoked"


def test_a_broken_file_is_left_alone(desk: Desk) -> None:
    desk("create", "ci")
    path = desk.data / "keys.json"
    path.write_text("{")
    for arguments in (["create", "x"], ["list"], ["revoke", "ci"]):
        done = desk(*arguments)
        assert done.exit_code == 1
        assert "keys.json" in done.stderr
    assert path.read_text() == "{"


def test_keys_may_lie_elsewhere(tmp_path: Path) -> None:
    """Made here, known to every server that is given the two files; the record of it stays here."""
    desk = Desk(tmp_path)
    desk.settings.write_text(f"data_dir: {desk.data}\nkeys_dir: {tmp_path}/shared\n")
    secret = desk("create", "ci").stdout.strip()
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"keys.json", "keys.json.lock", "keys.key"}
    assert not (desk.data / "keys.json").exists()
    assert [row["status"] for row in desk.rows()] == ["key_created"]
    copied = tmp_path / "mounted"
    copied.mkdir()
    for name in ("keys.json", "keys.key"):
        (copied / name).write_bytes((tmp_path / "shared" / name).read_bytes())
        (copied / name).chmod(0o400)
    found = Keys(KeyFile(copied / "keys.json"), hashing(copied / "keys.key")).find(secret.encode())
    assert found is not None
    assert found.name == "ci"
