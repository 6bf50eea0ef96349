"""Keys, where they are kept, and what a request's headers make of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.claims import claims
from proxy.accounts.file import KeyFile, KeysUnavailable, hashing
from proxy.accounts.identity import Denied, Identities
from proxy.accounts.keys import Keys
from proxy.accounts.record import SCOPES, KeyRecord
from proxy.accounts.secret import LENGTH, PREFIX, mint, well_formed
from proxy.audit import Key
from tests.proxy.keyring import change, give


def test_a_key_looks_like_one() -> None:
    made = {mint() for _ in range(200)}
    assert len(made) == 200
    for key in made:
        assert well_formed(key)
        assert len(key) == LENGTH
        assert key.startswith(PREFIX)
        assert key.isascii()
        assert key.replace("_", "").isalnum()


@given(st.data())
def test_a_mistyped_key_is_seen(data: st.DataObject) -> None:
    key = mint()
    place = data.draw(st.integers(0, LENGTH - 1))
    letter = data.draw(st.characters())
    typed = key[:place] + letter + key[place + 1 :]
    assert well_formed(typed) is (typed == key)


@given(st.text())
def test_anything_may_be_presented(text: str) -> None:
    assert not well_formed(text)
    assert not well_formed(PREFIX + text)


# The file


def test_no_file_holds_no_keys(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    assert file.read() == []
    assert file.stamp() == (None, None)


def test_what_is_kept_is_no_key(tmp_path: Path) -> None:
    secret = give(tmp_path)
    path = tmp_path / "keys.json"
    assert path.stat().st_mode & 0o777 == 0o600
    body = secret.removeprefix(PREFIX)
    for file in tmp_path.rglob("*"):
        assert body[:12].encode() not in file.read_bytes()
    assert {item.name for item in tmp_path.iterdir()} == {"keys.json", "keys.json.lock", "keys.key"}


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Invalid JSON"),
    "cut": (b'{"version": 1, "keys": [', "Invalid JSON"),
    "another version": (b'{"version": 2, "keys": []}', "version"),
    "an unknown member": (b'{"version": 1, "keys": [], "more": 1}', "more"),
    "a key without a digest": (
        b'{"keys": [{"id": "key_000000000000", "name": "a", "account": "a", "created": 1}]}',
        "digest",
    ),
    "a scope that is none": (b'{"keys": [{"id": "key_000000000000", "scopes": ["all"]}]}', "keys.0"),
}


@pytest.mark.parametrize(("raw", "word"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_says_where(tmp_path: Path, raw: bytes, word: str) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.path.write_bytes(raw)
    with pytest.raises(KeysUnavailable, match=r"keys\.json") as caught:
        file.read()
    assert word in str(caught.value)
    with pytest.raises(KeysUnavailable):
        file.change(lambda known: known)
    assert file.path.read_bytes() == raw


def _give(data: Path, name: str) -> None:
    for number in range(5):
        give(data, f"{name}-{number}")


def test_processes_do_not_lose_each_others_keys(tmp_path: Path) -> None:
    give(tmp_path)
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_give, args=(tmp_path, f"p{number}")) for number in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert len({record.name for record in KeyFile(tmp_path / "keys.json").read()}) == 11


# What a server knows


class Desk:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.key = Key.load(data / "audit.key")
        self.keys = Keys(KeyFile(data / "keys.json"), hashing(data / "keys.key"))
        self.who = Identities(self.key, self.keys)

    def ask(self, secret: str, header: bytes = b"authorization") -> Any:
        value = secret.encode("latin-1")
        return self.who.of([(header, b"Bearer " + value if header == b"authorization" else value)])


@pytest.mark.parametrize("header", [b"authorization", b"x-api-key", b"api-key"])
def test_who_asks(tmp_path: Path, header: bytes) -> None:
    secret = give(tmp_path, "ci", account="team-a", tier="trusted", policy="strict", models=("gpt-*",))
    found = Desk(tmp_path).ask(secret, header)
    assert (found.account.id, found.account.name, found.account.tier) == ("team-a", "ci", "trusted")
    assert found.policy == "strict"
    assert "gpt-4o" in found.models
    assert "claude" not in found.models
    assert found.scopes == frozenset(SCOPES) - {"batches", "open"}


def test_who_does_not(tmp_path: Path) -> None:
    secret = give(tmp_path)
    stranger = mint()
    gone = give(tmp_path, "gone", revoked=1.0)
    late = give(tmp_path, "late", expires=time.time() - 1)
    desk = Desk(tmp_path)
    told = set()
    for presented in (stranger, gone, late, secret[:-1], secret + "x", "sk-other", "é", secret.lower(), secret.upper()):
        with pytest.raises(Denied) as caught:
            desk.ask(presented)
        assert (caught.value.code, caught.value.status) == ("invalid_api_key", 401)
        told.add(str(caught.value))
    assert len(told) == 1  # nobody learns which of these it was
    with pytest.raises(Denied):
        desk.who.of([])
    assert desk.ask(secret).account.id == "ci"


PAIRS: dict[str, tuple[list[tuple[bytes, bytes]], bool]] = {
    "twice the same": ([(b"authorization", b"Bearer A"), (b"x-api-key", b"A")], True),
    "twice the same, bare": ([(b"authorization", b"A"), (b"x-api-key", b"A")], True),
    "any case of bearer": ([(b"authorization", b"bearer  A"), (b"x-api-key", b"A")], True),
    "two": ([(b"authorization", b"Bearer A"), (b"x-api-key", b"B")], False),
    "two, the other way round": ([(b"api-key", b"B"), (b"authorization", b"Bearer A")], False),
    "an empty one beside it": ([(b"authorization", b"Bearer A"), (b"x-api-key", b"")], True),
    "another scheme": ([(b"authorization", b"Basic A"), (b"x-api-key", b"A")], False),
}


@pytest.mark.parametrize(("headers", "fine"), PAIRS.values(), ids=PAIRS.keys())
def test_two_credentials_are_one_or_none(tmp_path: Path, headers: list[tuple[bytes, bytes]], fine: bool) -> None:
    """T44: nobody is two accounts at once, nor a new one by one more header."""
    who = Identities(Key(b"k" * 32), None)
    if fine:
        assert who.of(headers).account == who.of([(b"x-api-key", b"A")]).account
    else:
        with pytest.raises(Denied, match="Two different") as caught:
            who.of(headers)
        assert caught.value.status == 400


def test_a_change_is_seen(tmp_path: Path) -> None:
    secret = give(tmp_path, grants={"bio": None})
    desk = Desk(tmp_path)
    before = desk.ask(secret)
    desk.keys.refresh()
    assert desk.who.holds(before)
    change(tmp_path, "ci", revoked=time.time())
    desk.keys.refresh()
    assert not desk.who.holds(before)
    with pytest.raises(Denied):
        desk.ask(secret)


def test_time_takes_what_it_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    secret = give(tmp_path, expires=now + 100, grants={"bio": now + 50, "cyber": None, "old": now - 1})
    desk = Desk(tmp_path)
    first = desk.ask(secret)
    assert first.account.grants == {"bio", "cyber"}
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert not desk.who.holds(first)
    second = desk.ask(secret)
    assert second.account.grants == {"cyber"}
    monkeypatch.setattr(time, "time", lambda: now + 101)
    assert not desk.who.holds(second)
    with pytest.raises(Denied):
        desk.ask(secret)


def test_a_broken_file_keeps_the_last_keys(tmp_path: Path) -> None:
    secret = give(tmp_path)
    desk = Desk(tmp_path)
    path = tmp_path / "keys.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    desk.keys.refresh()
    assert desk.keys.fault
    assert desk.ask(secret).account.id == "ci"
    path.write_bytes(whole)
    desk.keys.refresh()
    assert not desk.keys.fault
    assert desk.ask(secret).account.id == "ci"
    assert not desk.keys.missing
    os.unlink(path)  # who takes the file away takes the keys away
    desk.keys.refresh()
    assert desk.keys.missing
    with pytest.raises(Denied):
        desk.ask(secret)


def ended_beside(path: Path, id: str, whole: bytes) -> None:
    """`penstock keys revoke ID`, whatever the other file is."""
    path.write_bytes(whole[:40])
    KeyFile(path).revoke(id, time.time())


def ended_by_hand(path: Path, id: str, whole: bytes) -> None:
    path.write_bytes(b"")
    path.with_suffix(".revoked").write_text(f"# stolen: {id}")


def ended_inside(path: Path, id: str, whole: bytes) -> None:
    """In a file that somebody broke by what he did beside it."""
    tree = orjson.loads(whole)
    for each in tree["keys"]:
        if each["id"] == id:
            each["revoked"] = time.time()
        else:
            each["scopes"] = ["everything"]
    path.write_bytes(orjson.dumps(tree))


@pytest.mark.parametrize("end", [ended_beside, ended_by_hand, ended_inside])
def test_a_revocation_counts_where_the_keys_are_broken(tmp_path: Path, end: Callable[[Path, str, bytes], None]) -> None:
    """And it stands when an older copy of the keys, in which it is none, is put back."""
    lost, kept = give(tmp_path, "lost"), give(tmp_path, "kept")
    desk, path = Desk(tmp_path), tmp_path / "keys.json"
    whole = path.read_bytes()
    asked = desk.ask(lost)
    end(path, next(each.id for each in KeyFile(path).read() if each.name == "lost"), whole)
    desk.keys.refresh()
    assert desk.keys.fault
    assert not desk.who.holds(asked)
    version = desk.keys.version
    desk.keys.refresh()
    assert desk.keys.version == version  # told once
    path.write_bytes(whole)
    desk.keys.refresh()
    assert not desk.keys.fault
    for secret, works in ((lost, False), (kept, True)):
        if works:
            assert desk.ask(secret).account.id == "kept"
        else:
            with pytest.raises(Denied):
                desk.ask(secret)
    if end is not ended_inside:  # nor does it come back with a restart
        with pytest.raises(Denied):
            Desk(tmp_path).ask(lost)


def test_a_broken_file_is_no_start(tmp_path: Path) -> None:
    give(tmp_path)
    (tmp_path / "keys.json").write_text("{}}")
    with pytest.raises(KeysUnavailable):
        Desk(tmp_path)


def test_another_secret_knows_no_key(tmp_path: Path) -> None:
    """The file alone opens nothing: what stands in it is of use only with the data directory's secret."""
    secret = give(tmp_path)
    keys = Keys(KeyFile(tmp_path / "keys.json"), Key(b"o" * 32).caller_hash)
    assert keys.find(secret.encode()) is None


def test_records_are_strict() -> None:
    fine: dict[str, Any] = {"id": "key_0123456789ab", "digest": "0" * 64, "name": "a", "account": "a", "created": 1.0}
    assert KeyRecord(**fine).state(2.0) == "active"
    wrong: list[dict[str, Any]] = [
        {"name": "a\nb"}, {"name": ""}, {"account": "<b>"}, {"tier": "No Tier"}, {"scopes": ["all"]}, {"models": [""]},
        {"grants": {"A B": None}}, {"more": 1}, {"digest": "0"},
    ]  # fmt: skip
    for more in wrong:
        with pytest.raises(ValueError, match="validation error"):
            KeyRecord(**{**fine, **more})


# Claims

CLAIMS: dict[str, tuple[Any, set[str]]] = {
    "none": ({}, set()),
    "user": ({"user": "u"}, {"user"}),
    "all": ({"user": "u", "safety_identifier": "s", "metadata": {"user_id": "m"}},
            {"user", "safety_identifier", "metadata.user_id"}),
    "no strings": ({"user": 1, "safety_identifier": ["s"], "metadata": {"user_id": None}}, set()),
    "empty": ({"user": "", "metadata": {}}, set()),
    "metadata that is none": ({"metadata": "user_id"}, set()),
}  # fmt: skip


@pytest.mark.parametrize(("tree", "names"), CLAIMS.values(), ids=CLAIMS.keys())
def test_claims(tree: Any, names: set[str]) -> None:
    key = Key(b"k" * 32)
    found = claims(tree, "a", key.keyed_hash)
    assert set(found) == names
    other = claims(tree, "b", key.keyed_hash)
    for name, value in found.items():
        assert len(value) == 32
        assert other[name] != value
    assert found == claims(json.loads(json.dumps(tree)), "a", key.keyed_hash)


def test_a_fault_of_ours_is_a_fault_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that were read last stay in force, and it is looked at again."""
    give(tmp_path)
    keys = Keys(KeyFile(tmp_path / "keys.json"), hashing(tmp_path / "keys.key"))
    with monkeypatch.context() as broken:
        broken.setattr(KeyFile, "stamp", lambda file: 1 / 0)
        keys.refresh()
    assert "a fault of ours: ZeroDivisionError" in keys.fault
    assert len(keys) == 1
    keys.refresh()
    assert not keys.fault
