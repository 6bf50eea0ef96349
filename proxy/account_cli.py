"""`penstock account`: what is remembered of the accounts that ask: strikes, which rules left, and flags.

A server that runs sees every change within a second. With Redis (setting `state`) a change holds on every machine. Exit
codes: 0 done, 1 not done, or not everywhere (it says which), 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer

from .accounts.file import KeyFile, KeysUnavailable
from .audit import AuditUnavailable
from .config import ConfigError, Settings, load
from .keys_cli import AsJson, ConfigFile, DataDir, until, user, write_down
from .state.base import Flag, StateUnavailable, Store
from .state.local import Local
from .state.opening import store_of

app = typer.Typer(help="What is remembered of the accounts that ask: strikes and flags.", no_args_is_help=True)

Account = Annotated[str, typer.Argument(help="The account, as `penstock keys list` shows it.")]
Name = Annotated[str, typer.Argument(help='The flag, as rules read it: "NAME" in account.flags.')]
_WORD = re.compile(r"[a-z0-9][a-z0-9_.:-]{0,63}")


@dataclass(slots=True)
class _Desk:
    """This machine's file, and what all machines share, where that is another thing and answers (else `away`)."""

    local: Local
    shared: Store
    away: StateUnavailable | None = None

    @property
    def alone(self) -> bool:
        return self.shared is self.local

    def everywhere(self) -> None:
        """Raises StateUnavailable where a change could not hold on every machine."""
        if self.away is not None:
            raise self.away

    def told(self) -> None:
        """Say that what is shown is only what this machine knows."""
        if self.away is not None:
            print(f"penstock: this machine's own view: {self.away}", file=sys.stderr)


@app.command("list")
def list_(as_json: AsJson = False, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """The accounts that have a flag."""

    async def ask(desk: _Desk) -> list[Flag]:
        desk.told()
        return sorted(await desk.shared.flags())

    with _operator():
        flags = _run(_settings(config, data_dir), ask)
    if as_json:
        typer.echo(json.dumps([_shown(flag) for flag in flags]))
        return
    rows = [("account", "flag", "until", "since", "by")]
    rows += [(flag.account, flag.name, _date(flag.until), _date(flag.at), flag.by) for flag in flags]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def show(account: Account, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """The flags of an account, and how many strikes are kept of it by name, as JSON."""

    async def ask(desk: _Desk) -> dict[str, Any]:
        desk.told()
        flags = [_shown(flag) for flag in sorted(await desk.shared.flags()) if flag.account == account]
        return {"account": account, "flags": flags, "strikes": await desk.shared.kept(account)}

    with _operator():
        typer.echo(json.dumps(_run(_settings(config, data_dir), ask), indent=1))


@app.command()
def flag(
    account: Account,
    name: Name,
    lasts: Annotated[
        str | None, typer.Option("--for", help="90d, 12h, or until 2027-01-31; for ever if not told.")
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Mark an account. Where Redis is away, it holds on this machine now, and everywhere once Redis is back."""
    if not _WORD.fullmatch(name):
        raise typer.BadParameter("small letters, digits, '.', '_', ':' or '-', 64 at most", param_hint="NAME")
    now = time.time()
    mark = Flag(account, name, until(lasts, now) if lasts else inf, now, user())

    async def do(desk: _Desk) -> StateUnavailable | None:
        """Why it does not hold everywhere yet."""
        desk.local.mark([mark])
        try:
            desk.everywhere()
            if not desk.alone:
                await desk.shared.flag([mark])
                desk.local.sent_flags([mark])
        except StateUnavailable as error:
            return error
        return None

    with _operator():
        settings = _settings(config, data_dir)
        _known(settings, account)
        write_down(settings, {"account": account, "status": "account_flagged", "flag": _shown(mark)})
        why = _run(settings, do)
    if why is not None:
        print(f"penstock: it holds on this machine, and elsewhere once this is mended: {why}", file=sys.stderr)
        raise typer.Exit(1)
    typer.echo(f"{account} is flagged {name}", err=True)


@app.command()
def unflag(account: Account, name: Name, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Take a mark away."""

    async def do(desk: _Desk) -> bool:
        desk.everywhere()
        gone = await desk.shared.unflag(account, name)
        return await desk.local.unflag(account, name) or gone

    with _operator():
        settings = _settings(config, data_dir)
        if not _run(settings, do):
            typer.echo("it had no such flag", err=True)
            return
        write_down(settings, {"account": account, "status": "account_unflagged", "flag": {"name": name}})
    typer.echo(f"{account} is no longer flagged {name}", err=True)


@app.command()
def reset(account: Account, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Forget every strike and flag of an account."""

    async def do(desk: _Desk) -> None:
        desk.everywhere()
        now = time.time()
        await desk.shared.reset(account, now)
        await desk.local.reset(account, now)

    with _operator():
        settings = _settings(config, data_dir)
        _known(settings, account)
        _run(settings, do)
        write_down(settings, {"account": account, "status": "account_reset"})
    typer.echo(f"{account}: no strikes, no flags", err=True)


def _settings(file: Path | None, data_dir: Path | None) -> Settings:
    settings = load(file, data_dir=data_dir)
    if not os.path.isdir(settings.data_dir):
        raise KeysUnavailable(
            f"there is no directory {settings.data_dir} that this user may enter: name the server's with --data-dir or "
            "--config"
        )
    return settings


def _known(settings: Settings, account: str) -> None:
    """Raises KeysUnavailable for an account that has no key, not even a revoked one: it is misspelt."""
    known = sorted({record.account for record in KeyFile(settings.keys_path).read()})
    if account not in known:
        shown = ", ".join(known[:20]) or "none"
        raise KeysUnavailable(f"no key is of the account {account!r} (there are: {shown})")


def _run(settings: Settings, do: Any) -> Any:
    async def run() -> Any:
        async with _desk(settings) as desk:
            return await do(desk)

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def _desk(settings: Settings) -> AsyncIterator[_Desk]:
    local = Local(settings.state_path)
    redis = store_of(settings, patient=True)
    try:
        if redis is None:
            yield _Desk(local, local)
            return
        await redis.line.begin()
        fault = redis.line.fault
        yield _Desk(local, redis) if fault is None else _Desk(local, local, fault)
    finally:
        if redis is not None:
            await redis.line.close()
        local.close()


def _shown(flag: Flag) -> dict[str, Any]:
    """A flag for people and programs."""
    return {
        "account": flag.account,
        "name": flag.name,
        "until": None if flag.until == inf else _date(flag.until),
        "since": _date(flag.at),
        "by": flag.by,
    }


def _date(at: float) -> str:
    return "ever" if at == inf else datetime.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


@contextlib.contextmanager
def _operator() -> Iterator[None]:
    try:
        yield
    except (AuditUnavailable, ConfigError, KeysUnavailable, StateUnavailable) as error:
        for line in str(error).splitlines():
            print(f"penstock: {line}", file=sys.stderr)
        raise typer.Exit(1) from None
