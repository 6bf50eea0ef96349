"""The files of kept content are taken away, emptied, overwritten, locked while they are in use: it is said, exchanges
go on, and what waited is written once they are back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.content import keeping, sqlite
from proxy.content.seal import ContentUnavailable, Master
from proxy.content.sqlite import SqliteContents, SqliteKeys
from proxy.content.store import Row
from proxy.content.vault import Item, Vault
from tests.proxy.conftest import Make, Stand
from tests.proxy.contents import keeps, written

FILES = ["content.db", "content-keys.db"]
each_file = pytest.mark.parametrize("name", FILES)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "BACKOFF", (0.05, 0.05))
    monkeypatch.setattr(keeping, "TIDY", 0.05)
    monkeypatch.setattr(sqlite, "PATIENCE", 0.2)


async def state(s: Stand, beginning: str) -> str:
    """How the part stands, once it begins so."""
    async with asyncio.timeout(20):
        while True:
            told: str = (await s.client.get(f"{s.admin_url}/readyz")).json()["parts"]["content"]
            if told.startswith(beginning):
                return told
            await asyncio.sleep(0.02)


def away(path: Path, aside: Path) -> None:
    path.rename(aside)


def emptied(path: Path, aside: Path) -> None:
    shutil.copy(path, aside)
    os.truncate(path, 0)


def overwritten(path: Path, aside: Path) -> None:
    shutil.copy(path, aside)
    path.write_bytes(b"no database" * 1000)


def foreign(path: Path, aside: Path) -> None:
    """Another program's."""
    path.rename(aside)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")


BROKEN: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "away": (away, "missing: {path} was taken away while in use"),
    "emptied": (emptied, "missing: {path} was emptied while in use"),
    "overwritten": (overwritten, "version: {path} is not kept content"),
    "another's": (foreign, "unwritable: {path} is not kept content"),
}


@pytest.mark.parametrize("back", ["moved", "copied"])
@pytest.mark.parametrize(("harm", "said"), BROKEN.values(), ids=BROKEN.keys())
@each_file
async def test_a_file_that_goes_and_comes(
    stand: Make, key_file: Path, name: str, harm: Callable[[Path, Path], None], said: str, back: str
) -> None:
    async with stand(settings=keeps("all")) as s:
        assert (await s.chat("one")).status_code == 200
        await written(s, 1)
        path, aside = s.data / name, s.data.parent / "aside"
        harm(path, aside)
        assert (await s.chat("two")).status_code == 200
        assert (await state(s, said.partition(":")[0])).startswith(said.format(path=path))
        metrics = (await s.client.get(f"{s.admin_url}/metrics")).text
        assert 'penstock_part_up{part="content"} 0.0' in metrics
        if back == "moved":
            aside.replace(path)
        else:  # into what lies there
            path.write_bytes(aside.read_bytes())
        await state(s, "ready")
        await written(s, 2)
        with contextlib.closing(SqliteContents.open(s.data / "content.db", create=False)) as contents:
            assert len(list(contents.since(0))) == 2


@each_file
async def test_a_file_that_is_locked(stand: Make, key_file: Path, name: str) -> None:
    async with stand(settings=keeps("all")) as s, contextlib.AsyncExitStack() as stack:
        other = stack.enter_context(contextlib.closing(sqlite3.connect(s.data / name, isolation_level=None)))
        other.execute("BEGIN EXCLUSIVE")
        assert (await s.chat("one")).status_code == 200
        assert await state(s, "busy") == f"busy: {s.data / name} is locked by another process"
        other.execute("ROLLBACK")
        await state(s, "ready")
        await written(s, 1)


async def test_no_memory_is_shared_that_others_could_truncate(stand: Make, key_file: Path) -> None:
    """Who truncates a file that is mapped ends whoever maps it."""
    async with stand(settings=keeps("all")) as s:
        for count in (1, 2):
            assert (await s.chat("Hi")).status_code == 200
            await written(s, count)
            found = {path.name for path in s.data.glob("content*")}
            assert found == {"content.db", "content.db-journal", "content-keys.db"}
            assert "content" not in "".join(
                line for line in Path("/proc/self/maps").read_text().splitlines() if str(s.data) in line
            )
            os.truncate(s.data / "content.db-journal", 0)


def test_a_file_that_is_begun_anew_elsewhere_is_followed(tmp_path: Path) -> None:
    """By a worker that was started again, say: all write to the same one."""
    files = tmp_path / "keys.db", tmp_path / "content.db"
    first = Vault(SqliteKeys.open(files[0]), SqliteContents.open(files[1]), Master(b"m" * 32))
    first.write([Item("a", 1.0, ("s",), {"x": 1})])
    for path in files:
        path.unlink()
    with pytest.raises(ContentUnavailable, match="taken away"):
        first.write([Item("b", 2.0, ("s",), {"x": 2})])
    second = Vault(SqliteKeys.open(files[0]), SqliteContents.open(files[1]), Master(b"m" * 32))
    first.write([Item("b", 2.0, ("s",), {"x": 2})])
    assert [id for id, _, _ in second.since(0)] == ["b"]
    first.close()
    second.close()


def test_nobody_waits_for_who_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.0)
    reader, writer = (SqliteContents.open(tmp_path / "content.db") for _ in range(2))
    count = 3 * sqlite.PAGE + 5
    # Many ended at one moment, more than stand on a page.
    writer.write([Row(f"{n:04}", float(n // 100), (1,), b"x") for n in range(count)])
    seen = []
    for row in reader.since(0.0):
        seen.append(row.id)
        writer.write([Row(f"later {row.id}", -1.0, (1,), b"x")])
    assert seen == [f"{n:04}" for n in range(count)]
    assert [row.id for row in reader.since(1.0)] == [f"{n:04}" for n in range(100, count)]
    assert list(reader.since(3.0)) == []
    reader.close()
    writer.close()
