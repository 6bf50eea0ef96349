"""`penstock audit`: find decisions, show one, take them elsewhere, and prove that the log is whole. All but
`upgrade` only ever read.

Exit codes: 0 done, 1 the chain is broken or there is no such decision, 2 the log cannot be read.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from policies.words import Action

from .audit import AuditUnavailable, Exchange, Key, Reader
from .audit.chain import Head
from .audit.search import Search
from .audit.target import is_database
from .audit_key import audit_key
from .audit_show import clean, ended, moment, pages
from .config import ConfigError, Settings, load

__all__ = ["ConfigFile", "app", "clean", "log_path", "parse_since", "reading"]

app = typer.Typer(help="Find decisions, and prove that their log is whole.", no_args_is_help=True)

FOLLOW = 0.25
"""Seconds between two looks of `tail --follow`."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

LogPath = Annotated[
    str | None, typer.Option("--path", help="The log's file or database; else the one that the settings name.")
]

_FILE: ContextVar[Path | None] = ContextVar("file", default=None)


def _named(file: Path | None) -> Path | None:
    _FILE.set(file)  # for `settings_of`, in whichever module of this command
    return file


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="PENSTOCK_CONFIG", callback=_named, help="A YAML file of settings.", show_default=False
    ),
]


class Form(StrEnum):
    """What `export` writes."""

    JSONL = "jsonl"
    PARQUET = "parquet"


_FORMS = {".jsonl": Form.JSONL, ".ndjson": Form.JSONL, ".parquet": Form.PARQUET}
"""By how the file's name ends."""


class Mode(StrEnum):
    """How a rule takes part."""

    ENFORCE = "enforce"
    CANARY = "canary"
    SHADOW = "shadow"


class Stage(StrEnum):
    INPUT = "input"
    OUTPUT = "output"


def searching(  # noqa: PLR0913, PLR0917 - the options of a command
    action: Annotated[str | None, typer.Option(help=f"What was done: {', '.join(Action)}.")] = None,
    rule: Annotated[str | None, typer.Option(help="A rule that fired, in shadow too.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="A rule fired (the one of --rule) in this mode.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Where it was decided.")] = None,
    policy: Annotated[str | None, typer.Option(help="The policy of the rule that decided.")] = None,
    account: Annotated[str | None, typer.Option(help="Whose key it was.")] = None,
    model: Annotated[str | None, typer.Option(help="The model that was asked for.")] = None,
    status: Annotated[str | None, typer.Option(help="How it ended: released, blocked, refused, aborted ...")] = None,
    error: Annotated[
        str | None, typer.Option(help="What went wrong: a code, a classifier that gave no answer, or `any`.")
    ] = None,
    request: Annotated[str | None, typer.Option(help="The upstream's id of the request.")] = None,
    since: Annotated[str | None, typer.Option(help="Began since: 90s, 10m, 2h, 7d, or 2025-01-31T12:00.")] = None,
    until: Annotated[str | None, typer.Option(help="Began before: the same.")] = None,
) -> Search:
    """What the options of a search mean. In names `*` stands for any run of letters."""
    if action is not None and "*" not in action and action not in list(Action):
        raise typer.BadParameter(f"it is one of {', '.join(Action)}", param_hint="--action")
    return Search(
        since=None if since is None else parse_since(since),
        until=None if until is None else parse_since(until, "--until"),
        action=action, rule=rule, policy=policy, model=model, account=account, status=status, stage=stage,
        request=request, mode=mode, error=error,
    )  # fmt: skip


def _searches(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `searching`, which is given what they mean as its first argument."""
    asked = inspect.signature(searching, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(searching(**{name: given.pop(name) for name in asked}), **given)

    every = [*list(own.values())[1:], *asked.values()]
    each = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in every]
    run.__signature__ = inspect.Signature(each)  # type: ignore[attr-defined]
    return run


@app.command()
@_searches
def tail(
    search: Search,
    path: LogPath = None,
    config: ConfigFile = None,
    n: Annotated[int, typer.Option("-n", min=0, help="How many exchanges.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what ends from now on.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """The latest exchanges that are looked for, oldest first: time, id, action, rule, model, status.

    In names `*` stands for any run of letters: --model 'gpt-*'.
    """
    with reading(), Reader(log_path(path)) as log:
        seq = log.last_seq()
        latest = log.latest(n, search)
        for exchange in latest:
            _line(exchange, json)
        if n and not latest:
            typer.echo(f"audit: nothing like that in {log.name}", err=True)
        shown = {exchange.id for exchange in latest if exchange.outcome is not None}
        with contextlib.suppress(KeyboardInterrupt):
            while follow:
                before = seq
                seq, ended = log.after(seq, search)
                for exchange in ended:
                    if exchange.id not in shown:
                        _line(exchange, json)
                shown.clear()
                sys.stdout.flush()
                if seq == before:
                    time.sleep(FOLLOW)


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The decision's id, as the client was told.")],
    path: LogPath = None,
    config: ConfigFile = None,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of words.")] = False,
    content: Annotated[bool, typer.Option("--content", help="And what was judged; needs the master key.")] = False,
) -> None:
    """One decision: what was judged, the scores, the rules, the revision of the policy, and where the time went."""
    with reading(), Reader(log_path(path)) as log:
        exchange = log.exchange(id)
        name = log.name
    if exchange is None:
        typer.echo(f"audit: no decision {clean(id)} in {name}", err=True)
        raise typer.Exit(1)
    if json and not content:
        _line(exchange, json)
        return
    if not json:
        console = Console(soft_wrap=True)
        for page in pages(exchange):
            console.print(page)
    if content:
        _show_content(exchange, path, json)


@app.command()
@_searches
def export(
    search: Search,
    to: Annotated[Path, typer.Option("--to", help="The file to write; - is the terminal or pipe.")],
    form: Annotated[Form | None, typer.Option("--form", help="jsonl or parquet; else as the file's name ends.")] = None,
    path: LogPath = None,
    config: ConfigFile = None,
) -> None:
    """Write the exchanges that are looked for, one a row, as JSON lines or Parquet; memory stays small.

    Parquet needs Penstock's extra of that name. A file is complete or not there.
    """
    from .audit.export import Exporting, write

    form = form or _FORMS.get(to.suffix) or (Form.JSONL if str(to) == "-" else None)
    if form is None:
        raise typer.BadParameter(f"{to.name} ends in none of {', '.join(_FORMS)}: say --form", param_hint="--to")
    if form is Form.PARQUET and str(to) == "-":
        raise typer.BadParameter("Parquet needs a file", param_hint="--to")
    with reading(), Reader(log_path(path)) as log:
        try:
            count = write(log.walk(search), to, form.value)
        except Exporting as error:
            typer.echo(f"audit: {clean(error)}", err=True)
            raise typer.Exit(2) from None
    typer.echo(f"{count:,} exchanges", err=True)


@app.command()
def verify(
    path: LogPath = None,
    config: ConfigFile = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The key file it was written with; else the settings' or one beside it."),
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="A head noted earlier, SEQ:HASH, that must be in the chain.")
    ] = None,
) -> None:
    """Walk the hash chain; name the first row that was edited, deleted, moved or cut off."""
    noted = None if head is None else _head(head)
    with reading(), _verified(path) as (where, log):
        verdict = log.verify(Key.load(key, create=False) if key else _key_of(where), noted)
    for note in verdict.notes:
        typer.echo(f"note: {clean(note)}", err=True)
    broken = verdict.broken
    if broken is None:
        typer.echo(f"whole: {verdict.rows} rows; head {verdict.head.seq}:{verdict.head.hash.hex()}")
        return
    typer.echo(f"broken at row {broken.seq} ({clean(broken.id)}): {broken.what}: {clean(broken.detail)}")
    raise typer.Exit(1)


@app.command()
def upgrade(path: LogPath = None, config: ConfigFile = None) -> None:
    """Bring a log that an older Penstock wrote to what this one reads: all of it or nothing, its chain as it is."""
    from .audit.upgrade import upgrade as upgraded

    with reading():
        where = log_path(path)
        if is_database(where):
            raise AuditUnavailable("only a file can be of an older schema", "name it with --path")
        rows = upgraded(where)
    typer.echo(f"{rows:,} rows upgraded" if rows else "nothing to do: it has the schema of this Penstock")


@contextlib.contextmanager
def _verified(path: str | None) -> Iterator[tuple[str, Reader]]:
    where = log_path(path)
    with Reader(where, settings_of().audit_head if is_database(where) else "") as log:
        yield where, log


def log_path(given: str | Path | None) -> str:
    """The log that is meant: the one named, else that of the settings. Raises AuditUnavailable."""
    return str(given) if given is not None else settings_of().audit_where


def settings_of(where: str | Path | None = None) -> Settings:
    """The settings; with the log that is meant: with its database, or of the directory that it lies in. Raises
    AuditUnavailable."""
    file = _FILE.get() or os.environ.get("PENSTOCK_CONFIG")
    named: dict[str, Any] = {}
    if where is not None:
        there = is_database(str(where))
        named = {"audit_database": str(where)} if there else {"audit_database": "", "data_dir": Path(where).parent}
    try:
        return load(Path(file) if file else None, **named)
    except ConfigError as error:
        problem = f"the settings do not say where it lies: mend them, or name it with --path\n{error}"
        raise AuditUnavailable(problem) from None


def _key_of(where: str) -> Key | None:
    """The key of a log: that of the file beside it, else the settings'. Raises AuditUnavailable."""
    beside = Path(where).with_suffix(".key")
    if not is_database(where) and os.path.exists(beside):
        return Key.load(beside, create=False)
    settings = settings_of()
    known = settings.audit_key is not None or (is_database(where) and os.path.exists(settings.key_path))
    return audit_key(settings) if known else None


@contextlib.contextmanager
def reading(option: str = "--path") -> Iterator[None]:
    """Says what is wrong with a log, and ends with 2. `option` is the one that names a log."""
    try:
        yield
    except AuditUnavailable as error:
        for line in str(error).splitlines():
            typer.echo(clean(line.replace("--path", option)), err=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        raise typer.Exit(0) from None


def parse_since(text: str, option: str = "--since") -> float:
    """Unix seconds. Raises typer.BadParameter."""
    if found := re.fullmatch(r"(\d{1,9})([smhdw])", text.strip()):
        return time.time() - int(found[1]) * _UNITS[found[2]]
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter("write 90s, 10m, 2h, 7d or 2025-01-31T12:00", param_hint=option) from None


def _head(text: str) -> Head:
    seq, _, hash_ = text.partition(":")
    if not (seq.isdecimal() and re.fullmatch("[0-9a-f]{64}", hash_)):
        raise typer.BadParameter("write SEQ:HASH as `verify` printed it", param_hint="--head")
    return Head(int(seq), bytes.fromhex(hash_))


def _plain(exchange: Exchange) -> dict[str, Any]:
    return {"id": exchange.id, "at": exchange.at, "intent": exchange.intent, "outcome": exchange.outcome}


def _show_content(exchange: Exchange, path: str | None, json: bool) -> None:
    from .content_cli import content_lines, content_of

    with reading():
        kept = content_of(exchange.id, settings_of(path))
    if json:
        typer.echo(dumps({**_plain(exchange), "content": kept if isinstance(kept, dict) else None}))
    else:
        for line in content_lines(kept):
            typer.echo(clean(line))


def _line(exchange: Exchange, json: bool) -> None:
    if json:
        typer.echo(dumps(_plain(exchange)))  # in ASCII: nothing in it can steer a terminal
        return
    parts = (exchange["action"], exchange["rule"], exchange["model"], ended(exchange))
    typer.echo("  ".join([moment(exchange.at), clean(exchange.id), *("-" if p is None else clean(p) for p in parts)]))
