"""The groups of commands of `penstock`, each to be had by itself.

Decision: one group is run without the others' code (`__main__`). Why: what an operator asks at night, the audit above
all, must not wait for numpy and the engine of the weights, half of a start's CPU and most of what it reads from a disk.
Cost: a list of groups.
"""

from __future__ import annotations

import functools
import importlib

import typer

_MODULES = {
    "account": "account_cli",
    "audit": "audit_cli",
    "keys": "keys_cli",
    "policy": "policy_cli",
    "review": "review_cli",
}
GROUPS = tuple(_MODULES)


def root() -> typer.Typer:
    """`penstock` without any command."""
    return typer.Typer(
        help="Penstock: a policy-enforcement proxy for model APIs.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


@functools.cache
def group(name: str) -> typer.Typer:
    """The commands of one of GROUPS."""
    app: typer.Typer = importlib.import_module(f".{_MODULES[name]}", __package__).app
    if name == "audit":
        from .content_cli import examples, forget, rekey

        for command in (forget, examples, rekey):
            app.command()(command)
    return app
