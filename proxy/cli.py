"""`penstock`: the composition root. Exit codes: 0 well, 1 something is wrong with what was given, 2 wrong usage."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

if TYPE_CHECKING:
    from typer._click.core import Command, Context

ELSEWHERE = {
    "account": "account_cli:app",
    "audit": "content_cli:audit_app",
    "keys": "keys_cli:app",
    "policy": "policy_cli:app",
    "review": "review_cli:app",
    "eval": "evaluate_cli:evaluate",
    "check": "check_cli:check",
    "doctor": "doctor_cli:doctor",
    "diff": "diff_cli:diff",
    "new-rule": "new_rule_cli:new_rule",
    "explain": "explain_cli:explain",
    "backtest": "backtest_cli:backtest",
    "teach": "teach_cli:teach",
    "console": "console_cli:console",
    "calibrate": "calibrate_cli:calibrate",
}
"""Commands by name: the module of each, imported where it is asked for, and the function or group in it.

Why: a check should feel instant, and what an operator asks at night must not wait for numpy and the weights' engine.
"""


class Commands(TyperGroup):
    """The commands here and those of ELSEWHERE."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Their names, in the order of the help."""
        return [*ELSEWHERE, *(name for name in self.commands if name not in ELSEWHERE)]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """A command, imported now; for a name that is none all are, so that one like it can be suggested."""
        for name in [cmd_name] if cmd_name in self.list_commands(ctx) else ELSEWHERE:
            if name in ELSEWHERE and name not in self.commands:
                self.add_command(_command(name))
        return self.commands.get(cmd_name)


def _command(name: str) -> Command:
    module, _, attribute = ELSEWHERE[name].partition(":")
    found = getattr(import_module(f".{module}", __package__), attribute)
    if isinstance(found, typer.Typer):
        command: Command = get_group(found)
    else:
        one = typer.Typer(add_completion=False)
        one.command()(found)
        command = get_command(one)
    command.name = name
    return command


app = typer.Typer(
    cls=Commands,
    help="Penstock: a policy-enforcement proxy for model APIs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    from .config import FILE_ONLY, ConfigError, Settings, load

    wrong = ""
    try:
        settings = load(config)
    except ConfigError as error:
        # Who asks because a setting is wrong wants the list all the more: the values are then the defaults.
        settings, wrong = Settings(), str(error)
    for name, field in Settings.model_fields.items():
        shown = _shown(getattr(settings, name))
        where = "" if name in FILE_ONLY else f" [PENSTOCK_{name.upper()}]"
        typer.echo(f"{name}: {shown}  # {field.description or ''}{where}")
    if wrong:
        fail(f"{wrong}\nnothing that was set is shown above, only defaults")


@app.command()
def openapi() -> None:
    """Print what Penstock serves, on the data plane and to operators, as an OpenAPI document."""
    from .openapi import document

    typer.echo(json.dumps(document(), indent=1))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    typer.echo(installed_version("penstock"))


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
    from pydantic import BaseModel

    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else value


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
