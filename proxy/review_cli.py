"""`penstock review`: what waits for a person in a running server, and a person's word on it.

It speaks to the admin listener. Exit codes: 0 done, 1 not done (nothing of this id waits, or nobody answers), 2 wrong
usage.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from . import admin_client
from .audit_cli import clean
from .config import ConfigError, Settings, load
from .keys_cli import AsJson, ConfigFile, user

app = typer.Typer(help="Exchanges that wait for a person: see them, let them pass, or not.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The exchange, as `penstock review list` shows it.")]
By = Annotated[str | None, typer.Option("--by", help="Who says so, for the audit; else who is logged in here.")]
Admin = Annotated[
    str | None, typer.Option("--admin", help="HOST:PORT of the admin listener; else as the settings say.")
]


class _Failed(Exception):
    """The server did not do it; the message says why."""


@app.command("list")
def list_(as_json: AsJson = False, config: ConfigFile = None, admin: Admin = None) -> None:
    """What waits, the longest first: who asked what, by which rule, and the scores; no text that is not kept."""
    with _operator():
        held: list[dict[str, Any]] = _ask(_settings(config), admin, "GET", "/reviews")["reviews"]
    if as_json:
        typer.echo(json.dumps(held))
        return
    if not held:
        typer.echo("nothing waits", err=True)
    for each in held:
        scores = ", ".join(f"{name} {score:.2f}" for name, score in sorted(each["scores"].items(), key=_highest))
        what = f"{each['stage']} of {each['account']} to {each['model']} ({each['dialect']})"
        left = f"{each['seconds_left']:.0f} s left, then {each['otherwise']}"
        typer.echo(clean(f"{each['id']}  {what}  {', '.join(each['rules'])}  {scores}  {left}"))
        for stage, said in (each.get("texts") or {}).items():
            for text in said.get("texts", ()) if isinstance(said, dict) else ():
                typer.echo(clean(f"    {stage} {text[0]}: {text[2]}"))


@app.command()
def approve(id: Id, by: By = None, config: ConfigFile = None, admin: Admin = None) -> None:
    """Let one pass."""
    _say("approve", id, by, config, admin)


@app.command()
def deny(id: Id, by: By = None, config: ConfigFile = None, admin: Admin = None) -> None:
    """Let one not pass: its caller reads the rule's message."""
    _say("deny", id, by, config, admin)


def _say(word: str, id: str, by: str | None, config: Path | None, admin: str | None) -> None:
    with _operator():
        told = _ask(_settings(config), admin, "POST", f"/reviews/{word}", {"id": id, "by": by or user()})
    typer.echo(clean(f"{told['id']} is {told['status']} by {told['by']}"), err=True)


def _highest(item: tuple[str, float]) -> float:
    return -item[1]


def _settings(config: Path | None) -> Settings:
    return load(config)


def _ask(settings: Settings, admin: str | None, method: str, path: str, told: Any = None) -> Any:
    where = f"{settings.admin_host}:{settings.admin_port}"
    if admin is not None:
        _, colon, number = admin.rpartition(":")
        if not colon or not number.isdigit():
            raise typer.BadParameter("write HOST:PORT", param_hint="--admin")
        where = admin
    try:
        return admin_client.ask(where, settings.admin_token, method, path, told)
    except admin_client.Silent as error:
        raise _Failed(f"the admin listener at {where} gave no answer: {error}") from None
    except admin_client.Refused as error:
        raise _Failed(str(error)) from None


@contextlib.contextmanager
def _operator() -> Iterator[None]:
    try:
        yield
    except (_Failed, ConfigError) as error:
        for line in str(error).splitlines():
            print(f"penstock: {clean(line)}", file=sys.stderr)
        raise typer.Exit(1) from None
