"""`penstock audit`: read the log of decisions, and prove that it is whole. It only ever reads.

Exit codes: 0 done, 1 the chain is broken or there is no such decision, 2 the log cannot be read.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
import time
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .audit import AuditUnavailable, Exchange, Key, Reader
from .audit.chain import Head
from .config import ConfigError, load

app = typer.Typer(help="Read the log of decisions, and prove that it is whole.", no_args_is_help=True)

FOLLOW = 0.25
"""Seconds between two looks of `tail --follow`."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

LogPath = Annotated[Path | None, typer.Option("--path", help="The log's file; else the one in the data directory.")]


@app.command()
def tail(
    path: LogPath = None,
    n: Annotated[int, typer.Option("-n", min=0, help="How many exchanges.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what ends from now on.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    action: Annotated[str | None, typer.Option(help="Only exchanges with this action.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only exchanges decided by this rule.")] = None,
    since: Annotated[str | None, typer.Option(help="Only since: 90s, 10m, 2h, 7d, or 2025-01-31T12:00.")] = None,
) -> None:
    """The latest exchanges, oldest first: time, id, action, rule, model, status."""
    begin = None if since is None else parse_since(since)
    with reading(), Reader(path := log_path(path)) as log:
        seq = log.last_seq()
        latest = log.latest(n, action=action, rule=rule, since=begin)
        for exchange in latest:
            _line(exchange, json)
        shown = {exchange.id for exchange in latest if exchange.outcome is not None}
        with contextlib.suppress(KeyboardInterrupt):
            while follow:
                before = seq
                seq, ended = log.after(seq, action=action, rule=rule)
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
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    content: Annotated[bool, typer.Option("--content", help="And what was judged; needs the master key.")] = False,
) -> None:
    """Everything that is kept about one decision."""
    with reading(), Reader(path := log_path(path)) as log:
        exchange = log.exchange(id)
    if exchange is None:
        typer.echo(f"audit: no decision {clean(id)} in {path}", err=True)
        raise typer.Exit(1)
    if json and not content:
        _line(exchange, json)
        return
    if not json:
        Console(soft_wrap=True).print(_table(exchange))
    if content:
        _show_content(exchange, path, json)


@app.command()
def verify(
    path: LogPath = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="The key file it was written with; else the one beside it.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="A head noted earlier, SEQ:HASH, that must be in the chain.")
    ] = None,
) -> None:
    """Walk the hash chain; name the first row that was edited, deleted, moved or cut off."""
    noted = None if head is None else _head(head)
    with reading(), Reader(path := log_path(path)) as log:
        beside = path.with_suffix(".key")
        if key is None and beside.exists():
            key = beside
        verdict = log.verify(Key.load(key, create=False) if key else None, noted)
    for note in verdict.notes:
        typer.echo(f"note: {clean(note)}", err=True)
    broken = verdict.broken
    if broken is None:
        typer.echo(f"whole: {verdict.rows} rows; head {verdict.head.seq}:{verdict.head.hash.hex()}")
        return
    typer.echo(f"broken at row {broken.seq} ({clean(broken.id)}): {broken.what}: {clean(broken.detail)}")
    raise typer.Exit(1)


def log_path(given: Path | None) -> Path:
    """The log that is meant: the one named, else that of the settings. Raises AuditUnavailable."""
    if given is not None:
        return given
    file = os.environ.get("PENSTOCK_CONFIG")
    try:
        return load(Path(file) if file else None).audit_path
    except ConfigError as error:
        raise AuditUnavailable(f"the settings do not say where it lies: {error}", "name it with --path") from None


def clean(value: object) -> str:
    """Text for a terminal: what steers one, or hides (controls, bidi, zero-width), is shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(value))


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Says what is wrong with a log, and ends with 2."""
    try:
        yield
    except AuditUnavailable as error:
        typer.echo(clean(error), err=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        raise typer.Exit(0) from None


def parse_since(text: str) -> float:
    """Unix seconds. Raises typer.BadParameter."""
    if found := re.fullmatch(r"(\d{1,9})([smhdw])", text.strip()):
        return time.time() - int(found[1]) * _UNITS[found[2]]
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter("write 90s, 10m, 2h, 7d or 2025-01-31T12:00", param_hint="--since") from None


def _head(text: str) -> Head:
    seq, _, hash_ = text.partition(":")
    if not (seq.isdecimal() and re.fullmatch("[0-9a-f]{64}", hash_)):
        raise typer.BadParameter("write SEQ:HASH as `verify` printed it", param_hint="--head")
    return Head(int(seq), bytes.fromhex(hash_))


def _status(exchange: Exchange) -> Any:
    return "open" if exchange.outcome is None else exchange.outcome.get("status")


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")


def _plain(exchange: Exchange) -> dict[str, Any]:
    return {"id": exchange.id, "at": exchange.at, "intent": exchange.intent, "outcome": exchange.outcome}


def _line(exchange: Exchange, json: bool) -> None:
    if json:
        typer.echo(dumps(_plain(exchange)))  # in ASCII: nothing in it can steer a terminal
        return
    parts = (exchange["action"], exchange["rule"], exchange["model"], _status(exchange))
    typer.echo("  ".join([_time(exchange.at), clean(exchange.id), *("-" if p is None else clean(p) for p in parts)]))


def _show_content(exchange: Exchange, path: Path, json: bool) -> None:
    from .content_cli import content_lines, content_of

    with reading():
        kept = content_of(exchange.id, path)
    if json:
        typer.echo(dumps({**_plain(exchange), "content": kept if isinstance(kept, dict) else None}))
    else:
        for line in content_lines(kept):
            typer.echo(clean(line))


def _table(exchange: Exchange) -> Table:
    table = Table(title=Text(clean(exchange.id)), title_justify="left", show_lines=False)
    for column in ("", "intent", "outcome"):
        table.add_column(column, overflow="fold")
    table.add_row("began", _time(exchange.at), "" if exchange.outcome is not None else "open")
    intent, outcome = _flat(exchange.intent), _flat(exchange.outcome)
    for name in dict.fromkeys([*intent, *outcome]):
        # Text, not str: rich would read [brackets] in a client's words as its own markup.
        table.add_row(*(Text(clean(cell)) for cell in (name, intent.get(name, ""), outcome.get(name, ""))))
    return table


def _flat(body: Any, prefix: str = "") -> dict[str, str]:
    """Nested objects as dotted names."""
    if not isinstance(body, dict):
        return {}
    flat: dict[str, str] = {}
    for name, value in body.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            flat[prefix + name] = value
        elif value is not None:
            flat[prefix + name] = orjson.dumps(value).decode()
    return flat
