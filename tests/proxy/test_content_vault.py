"""Kept content at rest: who can read it, who can no more, and what a copy, a swap or another key is worth."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.content.postgres import PostgresContents, PostgresKeys
from proxy.content.seal import Broken, ContentUnavailable, Master, seal, unseal
from proxy.content.sqlite import SqliteContents, SqliteKeys
from proxy.content.store import Contents, Keys, Row
from proxy.content.vault import DAY, Gone, Item, Vault
from tests.servers.postgres import PASSWORD, Postgres

MASTER = Master(b"m" * 32)
SECRET = "the quick brown secret"
NOW = 1_800_000_000.0

Stores = Callable[[], tuple[Keys, Contents]]


@pytest.fixture(params=["files", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Opens the same two stores each time."""
    if request.param == "files":
        return lambda: (SqliteKeys.open(tmp_path / "keys.db"), SqliteContents.open(tmp_path / "content.db"))
    server: Postgres = request.getfixturevalue("postgres")
    url = server.database()
    return lambda: (PostgresKeys.open(url), PostgresContents.open(url))


in_files = pytest.mark.parametrize("stores", ["files"], indirect=True)
in_postgres = pytest.mark.parametrize("stores", ["postgres"], indirect=True)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault(stores: Stores, clock: Clock) -> Iterator[Vault]:
    opened = Vault(*stores(), MASTER, clock)
    yield opened
    opened.close()


def put(vault: Vault, id: str, *subjects: str, at: float = NOW, text: str = SECRET) -> None:
    vault.write([Item(id, at, subjects, {"input": text})])


def readable(vault: Vault, *ids: str) -> list[str]:
    """Those of `ids` that can be read."""
    found = []
    for id in ids:
        try:
            assert vault.read(id) == {"input": SECRET}
        except Gone:
            continue
        found.append(id)
    return found


# ---- the envelope


@given(st.binary(), st.text(min_size=1, max_size=40), st.integers(1, 4))
def test_sealed_for_one_decision_and_all_its_keys(content: bytes, id: str, count: int) -> None:
    keys = [bytes([number]) * 32 for number in range(count)]
    sealed = seal(keys, id, content)
    assert unseal(keys, id, sealed) == content
    for others, name in ((keys, id + "x"), (keys[1:], id), ([*keys, keys[0]], id), ([b"z" * 32] * count, id)):
        with pytest.raises(Broken):
            unseal(others, name, sealed)
    for place in (0, 1, len(sealed) // 2, len(sealed) - 1):
        with pytest.raises(Broken):
            unseal(keys, id, sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :])


def test_no_two_are_sealed_alike() -> None:
    assert seal([b"k" * 32], "a", b"text") != seal([b"k" * 32], "a", b"text")


def test_a_wrapped_key_is_of_its_subject() -> None:
    key, wrapped = MASTER.fresh("team-a")
    assert MASTER.unwrap("team-a", wrapped) == key
    assert key not in wrapped
    for master, subject in ((MASTER, "team-b"), (Master(b"n" * 32), "team-a")):
        with pytest.raises(Broken):
            master.unwrap(subject, wrapped)


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (None, 0o600, "No such file"),
        ("", 0o600, "holds no master key"),
        ("ab" * 31, 0o600, "holds no master key"),
        ("no hex digits" * 9, 0o600, "holds no master key"),
        ("é" * 64, 0o600, "holds no master key"),
        ("ab" * 32, 0o644, "open to every user"),
    ],
)
def test_a_file_that_holds_no_key(tmp_path: Path, text: str | None, mode: int, problem: str) -> None:
    path = tmp_path / "content.key"
    if text is not None:
        path.write_text(text, "utf-8")
        path.chmod(mode)
    with pytest.raises(ContentUnavailable, match=problem) as error:
        Master.load(path)
    assert error.value.mend
    assert not text or text not in str(error.value)


# ---- the vault, over every store


def test_what_was_written_is_read(vault: Vault, stores: Stores) -> None:
    put(vault, "a", "team-a", "user-1")
    put(vault, "b", "team-b")
    again = Vault(*stores(), MASTER)
    assert readable(again, "a", "b", "c") == ["a", "b"]
    again.close()


@in_files
def test_nothing_of_it_is_on_the_disk_in_clear(vault: Vault, tmp_path: Path) -> None:
    put(vault, "a", "team-a", text=SECRET * 50)
    assert all(b"quick brown" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_row_that_is_there_stays_as_it_is(vault: Vault) -> None:
    put(vault, "a", "team-a")
    put(vault, "a", "team-b", text="another")
    assert vault.read("a") == {"input": SECRET}
    assert vault.forget("team-b").rows == 0


def test_the_subject_alone_is_forgotten(vault: Vault) -> None:
    put(vault, "a", "team-a", "user-1")
    put(vault, "b", "team-a", "user-2")
    put(vault, "c", "team-a")
    put(vault, "d", "team-b")
    done = vault.forget("user-1")
    assert (done.rows, done.keys, done.known) == (1, 1, 1)
    assert readable(vault, "a", "b", "c", "d") == ["b", "c", "d"]
    with pytest.raises(Gone, match="forgotten"):
        vault.read("a")
    done = vault.forget("team-a")
    assert (done.rows, done.keys) == (2, 1)
    assert readable(vault, "a", "b", "c", "d") == ["d"]


def test_to_forget_twice_changes_nothing(vault: Vault) -> None:
    put(vault, "a", "team-a")
    vault.forget("team-a")
    done = vault.forget("team-a")
    assert (done.rows, done.keys, done.known) == (0, 0, 1)
    nobody = vault.forget("nobody")
    assert (nobody.rows, nobody.keys, nobody.known) == (0, 0, 0)


def test_what_comes_later_is_under_a_new_key(vault: Vault) -> None:
    put(vault, "a", "team-a")
    vault.forget("team-a")
    put(vault, "b", "team-a")
    assert readable(vault, "a", "b") == ["b"]
    assert vault.forget("team-a").rows == 1
    assert readable(vault, "a", "b") == []


def test_forgetting_needs_no_master_key(vault: Vault, stores: Stores) -> None:
    put(vault, "a", "team-a")
    blind = Vault(*stores())
    with pytest.raises(ContentUnavailable, match="master key"):
        blind.read("a")
    with pytest.raises(ContentUnavailable, match="master key"):
        put(blind, "b", "team-a")
    assert blind.forget("team-a").rows == 1
    blind.close()
    assert readable(vault, "a") == []


def test_another_master_key_is_told_apart(vault: Vault, stores: Stores) -> None:
    put(vault, "a", "team-a")
    keys, contents = stores()
    with pytest.raises(ContentUnavailable, match="another master key"):
        Vault(keys, contents, Master(b"n" * 32))
    keys.close()
    contents.close()


def test_a_new_master_key(vault: Vault, stores: Stores) -> None:
    put(vault, "a", "team-a", "user-1")
    put(vault, "b", "team-b")
    vault.forget("user-1")
    fresh = Master(b"n" * 32)
    keys, contents = stores()
    before = {key.wrapped for name in ("team-a", "team-b") for key in keys.of(name)}
    operator = Vault(keys, contents, MASTER)
    assert operator.rekey(fresh) == 2  # what was destroyed stays so
    assert readable(operator, "a", "b") == ["b"]
    put(operator, "c", "team-a")
    assert not before & {key.wrapped for name in ("team-a", "team-b") for key in keys.of(name)}
    for use in (lambda: put(vault, "d", "team-d"), lambda: vault.read("b"), lambda: vault.rekey(fresh)):
        with pytest.raises(ContentUnavailable, match="another master key"):
            use()  # a server that goes on with the old one
    operator.close()
    again = Vault(*stores(), fresh)
    assert readable(again, "a", "b", "c", "d") == ["b", "c"]
    again.close()


def test_rows_cannot_be_put_in_each_others_place(vault: Vault, stores: Stores) -> None:
    put(vault, "a", "team-a")
    keys, contents = stores()
    row = contents.read("a")
    assert row is not None
    contents.write([Row("b", row.at, row.keys, row.body)])
    keys.close()
    contents.close()
    with pytest.raises(Gone, match="damaged"):
        vault.read("b")


def test_content_expires_and_so_do_its_keys(vault: Vault, stores: Stores, clock: Clock) -> None:
    put(vault, "a", "team-a", at=NOW)
    clock.now += DAY + 1
    put(vault, "b", "team-a", at=clock.now)
    keys, contents = stores()
    first, second = keys.of("team-a")
    assert first.wrapped != second.wrapped  # another day, another key
    assert vault.expire(NOW + 1)
    assert readable(vault, "a", "b") == ["b"]
    assert len(keys.of("team-a")) == 2  # what the first one sealed last may be younger
    assert vault.expire(NOW + DAY + 0.5)
    assert [key.number for key in keys.of("team-a")] == [second.number]
    # A copy of the expired row from a backup is worth nothing.
    row = contents.read("b")
    assert row is not None
    contents.write([Row("a", NOW, (first.number,), row.body)])
    with pytest.raises(Gone, match="expired"):
        vault.read("a")
    keys.close()
    contents.close()


def test_no_number_is_given_twice(vault: Vault, stores: Stores, clock: Clock) -> None:
    put(vault, "a", "team-a")
    keys, contents = stores()
    (first,) = keys.of("team-a")
    clock.now += 9 * DAY
    vault.expire(clock.now)
    put(vault, "b", "team-b", at=clock.now)
    (second,) = keys.of("team-b")
    assert second.number > first.number
    keys.close()
    contents.close()


def test_an_older_copy_of_the_keys_is_forgotten_again(vault: Vault, stores: Stores, clock: Clock) -> None:
    put(vault, "a", "team-a")
    keys, contents = stores()
    (kept,) = keys.of("team-a")
    clock.now += 10
    vault.forget("team-a")
    assert kept.wrapped is not None
    number = keys.add([("team-a", kept.wrapped)], kept.made)[0]  # as a restored file has it
    vault.expire(NOW - DAY)
    (found,) = keys.find([number])
    assert found.wrapped is None
    put(vault, "b", "team-a", at=clock.now)
    vault.expire(NOW - DAY)
    assert readable(vault, "b") == ["b"]  # it came after
    keys.close()
    contents.close()


def test_all_that_can_be_read(vault: Vault) -> None:
    for place, id in enumerate("dacb"):
        put(vault, id, f"team-{id}", at=NOW + place)
    vault.forget("team-a")
    assert [(id, at) for id, at, _ in vault.since(NOW + 1)] == [("c", NOW + 2), ("b", NOW + 3)]


def test_none_or_all_of_a_batch(vault: Vault) -> None:
    with pytest.raises(TypeError):
        vault.write([Item("a", NOW, ("team-a",), {"input": SECRET}), Item("b", NOW, ("team-a",), {"input": object()})])
    assert readable(vault, "a") == []


def test_several_write_at_once_and_one_forgets(stores: Stores) -> None:
    """As workers do, and an operator beside them."""
    opened = [Vault(*stores(), MASTER) for _ in range(3)]
    faults: list[Exception] = []

    def work(name: int) -> None:
        try:
            for batch in range(10):
                ids = [f"{name}-{batch}-{place}" for place in range(4)]
                opened[name].write([Item(id, NOW, (f"team-{batch}", f"user-{name}"), {"input": SECRET}) for id in ids])
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    admin = Vault(*stores())
    admin.forget("user-1")
    for thread in threads:
        thread.join()
    assert faults == []
    admin.forget("user-1")
    found = sorted(id for id, _, _ in opened[0].since(0))
    assert found == sorted(f"{name}-{batch}-{place}" for name in (0, 2) for batch in range(10) for place in range(4))
    for vault in (*opened, admin):
        vault.close()


# ---- the files


@in_files
def test_forgotten_in_every_copy_of_the_rows(vault: Vault, tmp_path: Path) -> None:
    put(vault, "a", "team-a")
    put(vault, "b", "team-b")
    (tmp_path / "backup").mkdir()
    for path in tmp_path.glob("content.db*"):
        shutil.copy(path, tmp_path / "backup" / path.name)
    copy = SqliteContents.open(tmp_path / "backup" / "content.db")
    vault.forget("team-a")
    restored = Vault(SqliteKeys.open(tmp_path / "keys.db"), copy, MASTER)
    row = copy.read("a")
    assert row is not None
    assert row.body  # the sealed text is there
    assert readable(restored, "a", "b") == ["b"]
    restored.close()


@in_files
def test_a_destroyed_key_is_in_no_file(vault: Vault, stores: Stores, tmp_path: Path) -> None:
    put(vault, "a", "team-a")
    keys, contents = stores()
    (key,) = keys.of("team-a")
    keys.close()
    contents.close()
    assert key.wrapped is not None

    def holding() -> list[Path]:
        return [path for path in tmp_path.iterdir() if key.wrapped is not None and key.wrapped in path.read_bytes()]

    assert holding() == [tmp_path / "keys.db"]
    vault.forget("team-a")
    assert holding() == []


@in_postgres
def test_a_destroyed_key_is_in_no_table(vault: Vault, stores: Stores, postgres: Postgres) -> None:
    """The file that held it is emptied: an update alone would leave the old row in it."""
    put(vault, "a", "team-a")
    put(vault, "b", "team-b")
    keys, contents = stores()
    assert isinstance(keys, PostgresKeys)
    where = keys._url

    def file() -> str:
        return str(postgres.run("SELECT pg_relation_filepath('penstock_content.keys')", where)[0][0])

    before = file()
    vault.forget("team-a")
    assert file() != before
    assert postgres.run(f"SELECT coalesce((pg_stat_file('{before}', true)).size, 0)", where) == [(0,)]
    assert readable(vault, "b") == ["b"]
    keys.close()
    contents.close()


@in_postgres
def test_a_database_that_comes_back(vault: Vault, stores: Stores, postgres: Postgres) -> None:
    put(vault, "a", "team-a")
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock content'")
    for _ in range(2):  # each store finds out by itself
        with pytest.raises(ContentUnavailable) as error:
            put(vault, "b", "team-a")
        assert error.value.mend
        assert PASSWORD not in str(error.value)
    put(vault, "b", "team-a")
    assert readable(vault, "a", "b") == ["a", "b"]


def test_no_database_is_one_line(postgres: Postgres) -> None:
    for url, said in (
        (postgres.url("nowhere"), "does not exist"),
        (postgres.url("postgres", password="x"), "password"),
    ):
        with pytest.raises(ContentUnavailable, match=said) as error:
            PostgresKeys.open(url)
        assert PASSWORD not in str(error.value)
    with pytest.raises(ContentUnavailable, match="nothing"):
        PostgresKeys.open(postgres.database(), create=False)


@pytest.mark.parametrize("name", ["keys.db", "content.db"])
@pytest.mark.parametrize("content", [b"hello " * 99, "another", "newer", "dir"])
def test_what_is_no_file_of_ours_is_one_line(tmp_path: Path, name: str, content: object) -> None:
    path = tmp_path / name
    kind = SqliteKeys if name == "keys.db" else SqliteContents
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "dir":
        path.mkdir()
    else:
        if content == "newer":
            kind.open(path).close()
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 2" if content == "newer" else "CREATE TABLE t (x)")
        db.commit()
        db.close()
    with pytest.raises(ContentUnavailable) as error:
        kind.open(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_nothing_is_made_where_nothing_was_kept(tmp_path: Path) -> None:
    with pytest.raises(ContentUnavailable, match="nothing at"):
        SqliteKeys.open(tmp_path / "keys.db", create=False)
    assert list(tmp_path.iterdir()) == []
