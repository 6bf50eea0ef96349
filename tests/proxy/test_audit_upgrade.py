"""A log of schema 1 is brought to this schema. The fixture was written by a Penstock of that time: eight exchanges with
a block, a rule in shadow, a stream, an upstream that broke, a refusal, and one that `kill -9` cut."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy.audit import Audit, AuditUnavailable, Key, Reader
from proxy.audit.search import Search
from proxy.audit.upgrade import upgrade
from proxy.cli import app
from tests.proxy.audit_lines import until

FIXTURE = Path(__file__).parent.parent / "fixtures" / "audit" / "schema-1.db"
HEAD = "10:00c97b5eb1adea13904f4332d2f38620bf7115767e2ebd7072550462801d73b7"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    for end in ("", "-head"):
        shutil.copy(f"{FIXTURE}{end}", tmp_path / f"audit.db{end}")
    shutil.copy(FIXTURE.with_suffix(".key"), tmp_path / "audit.key")
    (tmp_path / "audit.key").chmod(0o600)
    return tmp_path / "audit.db"


def audit(*args: object, exit_code: int = 0) -> str:
    done = CliRunner().invoke(app, ["audit", *map(str, args)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == exit_code, done.output
    return done.output


def ids(log: Path, search: Search) -> int:
    with Reader(log) as reader:
        return len(reader.latest(100, search))


async def test_it_is_refused_with_the_mend_then_upgraded_whole(old: Path) -> None:
    mend = f"penstock audit upgrade --path {old}"
    assert mend in audit("tail", "--path", old, exit_code=2)
    key = Key.load(old.with_suffix(".key"), create=False)
    with pytest.raises(AuditUnavailable, match="penstock audit upgrade"):
        await Audit.open(old, key=key)
    assert "10 rows upgraded" in audit("upgrade", "--path", old)
    assert "whole: 10 rows" in audit("verify", "--path", old, "--head", HEAD)
    searches = (
        Search(), Search(rule="no-codename"), Search(mode="shadow"), Search(error="reset"), Search(status="aborted"),
        Search(stage="input"),
    )  # fmt: skip
    assert [ids(old, search) for search in searches] == [8, 1, 1, 1, 1, 1]
    assert "nothing to do" in audit("upgrade", "--path", old)
    log = await Audit.open(old, key=key)  # and is written on
    await log.close()
    assert "whole: 10 rows" in audit("verify", "--path", old)


def test_an_edit_is_not_smoothed_over(old: Path) -> None:
    with closing(sqlite3.connect(old)) as db, db:
        db.execute("UPDATE records SET action = 'pass' WHERE seq = 2")
    assert "row 2" in audit("upgrade", "--path", old, exit_code=2)
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM pragma_table_info('records') WHERE name = 'fired'").fetchone() == (0,)


async def test_nobody_writes_meanwhile(old: Path) -> None:
    upgrade(old)
    log = await Audit.open(old, key=Key.load(old.with_suffix(".key"), create=False))
    with closing(sqlite3.connect(old)) as db:
        db.execute("PRAGMA user_version = 1")
    await until(lambda: any(Path(f"{old}-writers").iterdir()))
    with pytest.raises(AuditUnavailable, match="is writing"):
        upgrade(old)
    await log.close()


def test_what_is_no_log_is_one_line(tmp_path: Path) -> None:
    assert "no such" in audit("upgrade", "--path", tmp_path / "none" / "audit.db", exit_code=2)
    (tmp_path / "text").write_text("Once upon a time.")
    assert "is not an audit log" in audit("upgrade", "--path", tmp_path / "text", exit_code=2)
