"""`penstock doctor`: looks at all that Penstock needs, and says what is wrong and how to mend it.

Exit codes: 0 it can serve (warnings are told), 1 something is wrong, 2 wrong usage.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import orjson
import typer

from .config import ConfigError, load
from .doctor.base import Finding, Place, State
from .doctor.checks import CHECKS, kubernetes_mend
from .upstream_settings import check_keys


class Output(StrEnum):
    """How it is told."""

    TEXT = "text"
    JSON = "json"


def doctor(  # noqa: PLR0913, PLR0917 - one parameter an option
    config: Annotated[Path | None, typer.Option(envvar="PENSTOCK_CONFIG", help="A YAML file of settings.")] = None,
    upstream: Annotated[str | None, typer.Option(help="As of `penstock serve`.")] = None,
    policy: Annotated[str | None, typer.Option(help="As of `penstock serve`.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="As of `penstock serve`.")] = None,
    host: Annotated[str | None, typer.Option(help="As of `penstock serve`.")] = None,
    port: Annotated[int | None, typer.Option(help="As of `penstock serve`.")] = None,
    admin_host: Annotated[str | None, typer.Option(help="As of `penstock serve`.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="As of `penstock serve`.")] = None,
    workers: Annotated[int | None, typer.Option(help="As of `penstock serve`.")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Look only at this: {', '.join(CHECKS)}. Repeatable.")] = None,
    output: Annotated[Output, typer.Option(help="How it is told.")] = Output.TEXT,
) -> None:
    """Look at all that Penstock needs: packages, policy, models, upstream, audit, ports, files, memory and clock."""
    unknown = [name for name in only or [] if name not in CHECKS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]}: one of {', '.join(CHECKS)}", param_hint="--only")
    began = time.time(), time.monotonic()
    try:
        settings = load(
            config, upstream=upstream, policy=policy, data_dir=data_dir, host=host, port=port, admin_host=admin_host,
            admin_port=admin_port, workers=workers,
        )  # fmt: skip
        check_keys(settings.upstreams)
    except ConfigError as error:
        findings: Iterable[Finding] = [
            Finding("settings", State.WRONG, line, kubernetes_mend(line)) for line in str(error).splitlines()
        ]
    else:
        findings = look(Place(settings, began), only or list(CHECKS))
    raise typer.Exit(_tell(findings, output))


def look(place: Place, names: Iterable[str]) -> Iterator[Finding]:
    """The findings of these checks. A check that fails itself is a finding."""
    for name in CHECKS:
        if name not in names:
            continue
        for check in CHECKS[name]:
            try:
                yield from check(place)
            except Exception as error:
                detail = f"the check itself failed: {type(error).__name__}"
                yield Finding(name, State.WRONG, detail, "this is a fault of Penstock's: please tell us")


def _tell(findings: Iterable[Finding], output: Output) -> int:
    """Print them, as they come where people read; the exit code."""
    count: Counter[State] = Counter()
    rows = []
    for finding in findings:
        count[finding.state] += 1
        if output is Output.TEXT:
            typer.echo(f"{finding.state:<8} {finding.check:<9} {finding.detail}")
            if finding.mend:
                typer.echo(f"{'':<8} {'':<9} -> {finding.mend}")
        rows.append(
            {"check": finding.check, "state": finding.state, "detail": finding.detail, "mend": finding.mend or None}
        )
    if output is Output.JSON:
        typer.echo(orjson.dumps({"ok": not count[State.WRONG], "findings": rows}, option=orjson.OPT_INDENT_2))
    else:
        typer.echo("doctor: " + ", ".join(f"{count[state]} {state}" for state in State if count[state]))
    return 1 if count[State.WRONG] else 0
