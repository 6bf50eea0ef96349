"""`penstock`: the composition root. Exit codes: 0 well, 1 something is wrong with what was given, 2 wrong usage."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel
from rich.console import Console

from .backtest_cli import backtest
from .calibrate_cli import calibrate
from .check_cli import check
from .config import FILE_ONLY, ConfigError, Settings
from .config import load as load_settings
from .console_cli import console
from .diff_cli import diff
from .doctor_cli import doctor
from .evaluate_cli import evaluate
from .explain_cli import explain
from .groups import GROUPS, group, root
from .new_rule_cli import new_rule
from .teach_cli import teach

app = root()
for name in GROUPS:
    app.add_typer(group(name), name=name)
app.command("eval")(evaluate)
app.command()(check)
app.command()(doctor)
app.command()(diff)
app.command()(new_rule)
app.command()(explain)
app.command()(backtest)
app.command()(teach)
app.command()(console)
app.command()(calibrate)
out = Console(highlight=False, soft_wrap=True)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", envvar="PENSTOCK_CONFIG", help="A YAML file of settings.", show_default=False)
]


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def serve(context: typer.Context) -> None:
    """Stand between callers and a model, and enforce a policy on both ways."""
    from .serve import main as serve_main

    raise typer.Exit(serve_main(context.args))


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port to listen on; a free one if 0.")] = 8700,
    admin_port: Annotated[int, typer.Option(help="Port of health and metrics; a free one if 0.")] = 8701,
    once: Annotated[bool, typer.Option("--once", help="End after the table instead of waiting for Ctrl-C.")] = False,
) -> None:
    """Watch a real client talk to a real model through Penstock."""
    from .demo import run_demo
    from .server import CannotServe

    try:
        raise typer.Exit(run_demo(port, admin_port, once=once))
    except CannotServe as error:
        fail(str(error))


@app.command()
def config(config: ConfigFile = None) -> None:
    """Print every setting: its value, where it may be set, and what it is for."""
    settings = _settings(config)
    for name, field in Settings.model_fields.items():
        shown = _shown(getattr(settings, name))
        where = "" if name in FILE_ONLY else f" [PENSTOCK_{name.upper()}]"
        out.print(f"{name}: {shown}  # {field.description or ''}{where}", markup=False)


@app.command()
def openapi() -> None:
    """Print what Penstock serves, on the data plane and to operators, as an OpenAPI document."""
    from .openapi import document

    typer.echo(json.dumps(document(), indent=1))


@app.command()
def version() -> None:
    """Print the version."""
    out.print(installed_version("penstock"))


def _shown(value: Any) -> Any:
    """A value as the YAML file would have it; a key only as stars."""
    if isinstance(value, Path) or value == "":
        return f'"{value}"'
    if isinstance(value, dict):
        return json.dumps({name: _plain(each) for name, each in value.items()})
    if isinstance(value, list):
        return json.dumps([_plain(each) for each in value])
    return "null" if value is None else value


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else value


def _settings(file: Path | None) -> Settings:
    try:
        return load_settings(file)
    except ConfigError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Say what is wrong, a line each, and end with 1."""
    for line in message.splitlines():
        print(f"penstock: {line}", file=sys.stderr)
    raise typer.Exit(1)


def main() -> None:
    """The command's entry point."""
    app()


if __name__ == "__main__":
    main()
