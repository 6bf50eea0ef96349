"""`penstock account`: beside a server that runs, alone, with Redis and without it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.account_cli import app
from proxy.audit import Reader
from proxy.state.base import Strike
from proxy.state.local import Local
from tests.proxy.conftest import Make, Stand
from tests.proxy.keyring import give
from tests.proxy.test_accounts_remembered import KEYS, RULES, Asker, until
from tests.servers.redis import server


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_CONFIG", raising=False)


class Desk:
    """The command, on a data directory of its own or a server's."""

    def __init__(self, folder: Path, data: Path | None = None, state: str = "") -> None:
        self.data = data or folder / "data"
        self.settings = folder / "penstock.yaml"
        self.settings.write_text(f"data_dir: {self.data}\n" + (f"state: {state}\n" if state else ""))

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(self.settings)])

    def shown(self, account: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self("show", account).stdout)
        return told


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    give(tmp_path / "data", "ann")
    return Desk(tmp_path)


async def test_beside_a_server(stand: Make, tmp_path: Path) -> None:
    async with stand(RULES, keys=KEYS) as s:
        ann, desk = Asker(s, "ann"), Desk(tmp_path, s.data)
        assert (await asyncio.to_thread(desk, "flag", "ann", "banned")).exit_code == 0
        await until(lambda: _is(ann, "account_banned"))
        assert (await asyncio.to_thread(desk, "unflag", "ann", "banned")).exit_code == 0
        await until(lambda: _is(ann, "ok"))
        for _ in range(3):
            await ann("MARK")
        assert await ann("Hi") == "account_banned"
        assert (await asyncio.to_thread(desk.shown, "ann"))["strikes"] == {"mark": 3}
        assert (await asyncio.to_thread(desk, "reset", "ann")).exit_code == 0
        await until(lambda: _is(ann, "ok"))
        assert [await ann("MARK"), await ann("Hi")] == ["content_policy_violation", "ok"]
        told = {str(row["status"]) for row in await _rows(s)}
        assert {"account_flagged", "account_unflagged", "account_reset"} <= told


async def _is(ask: Asker, what: str) -> bool:
    return await ask("Hi") == what


async def _rows(s: Stand) -> list[Any]:
    return await s.rows()


def test_what_is_shown(desk: Desk) -> None:
    assert desk("list").stdout.split() == ["account", "flag", "until", "since", "by"]
    assert desk("flag", "ann", "slow", "--for", "12h").exit_code == 0
    local = Local(desk.data / "state.db")
    local.put([Strike("ann", "loud", "pn_1", 2e9)])
    local.close()
    shown = desk.shown("ann")
    assert shown["strikes"] == {"loud": 1}
    (flag,) = shown["flags"]
    assert (flag["account"], flag["name"]) == ("ann", "slow")
    assert flag["until"] > flag["since"]
    assert json.loads(desk("list", "--json").stdout) == [flag]
    assert "slow" in desk("list").stdout
    assert desk.shown("nobody") == {"account": "nobody", "flags": [], "strikes": {}}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("flag", "amm", "banned"), 1, "no key is of the account 'amm' (there are: ann)"),
        (("reset", "amm"), 1, "no key is of the account 'amm'"),
        (("flag", "ann", "So Bad"), 2, "small letters"),
        (("flag", "ann", "bad", "--for", "ever"), 2, "90d, 12h or 2027-01-31"),
        (("unflag", "ann", "bad"), 0, "it had no such flag"),
    ],
)
def test_what_is_not_done(desk: Desk, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = desk(*arguments)
    assert (done.exit_code, said in done.output.replace("\n", " ")) == (code, True), done.output
    assert not (desk.data / "audit.db").exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["list", "--data-dir", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "there is no directory" in done.output
    assert not (tmp_path / "none").exists()


def test_with_redis_and_without_it(tmp_path: Path) -> None:
    with server() as own:
        data, other = tmp_path / "data", tmp_path / "other"
        other.mkdir()
        give(data, "ann")
        give(other / "data", "ann")
        here, there = Desk(tmp_path, data, own.url()), Desk(other, None, own.url())
        assert here("flag", "ann", "banned").exit_code == 0
        assert [flag["name"] for flag in there.shown("ann")["flags"]] == ["banned"]
        assert there("unflag", "ann", "banned").exit_code == 0
        assert here.shown("ann")["flags"] == []

        own.stop()
        done = here("flag", "ann", "banned")
        assert done.exit_code == 1
        assert "it holds on this machine" in done.output
        assert "that-nobody-may-print" not in done.output
        assert [flag["name"] for flag in here.shown("ann")["flags"]] == ["banned"]
        assert "this machine's own view" in here("show", "ann").output
        for refused in (here("unflag", "ann", "banned"), here("reset", "ann")):
            assert refused.exit_code == 1
            assert "Redis cannot be reached" in refused.output
        assert len(here.shown("ann")["flags"]) == 1
        with Reader(data / "audit.db") as log:
            assert [row["status"] for row in log.latest(10)] == ["account_flagged"] * 2
