"""`penstock audit forget`, `examples` and `show --content`: what is kept of somebody's texts, read with the master key
or made unreadable for good.

Exit codes of `forget`: 0 nothing of the subject can be read any more, 2 it may still be, or it was not recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .audit import Audit, AuditUnavailable, Key, Reader, Record, new_id
from .audit_cli import ConfigFile, LogPath, clean, log_path, parse_since, reading, settings_of
from .audit_cli import app as audit_app
from .audit_key import audit_key
from .config import Settings

if TYPE_CHECKING:
    from .content.vault import Vault


@audit_app.command()
def forget(
    subject: Annotated[str, typer.Argument(help="An account, or the hash of an end user, as the audit names them.")],
    user: Annotated[
        str | None, typer.Option(help="The end user of the account SUBJECT, as its requests name it.")
    ] = None,
    path: LogPath = None,
    config: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before, on a terminal.")] = False,
) -> None:
    """Destroy a subject's keys: no text that was kept of it can be read any more, also from backups of the content.

    The decisions stay in the audit, which records that this was done. What ends later is kept under new keys.
    """
    with reading():
        settings = settings_of(path)
        key = audit_key(settings)
        named = clean(subject) if user is None else f"{clean(user)} of {clean(subject)}"
        if user is not None:
            from .accounts.claims import claim

            subject = claim(subject, user, key.keyed_hash)
        if not yes and sys.stdin.isatty():
            typer.confirm(f"Make all content of {named} unreadable, for good?", abort=True)
        with vault_of(settings) as vault:
            done = vault.forget(subject)
        said = f"{many(done.rows, 'row')} became unreadable, {many(done.keys, 'key')} destroyed"
        try:
            id = asyncio.run(_recorded(settings, key, subject, done.rows, done.keys))
        except AuditUnavailable as error:
            problem = f"{said}, and this could not be recorded: {error.problem}"
            raise AuditUnavailable(problem, "mend that, and run it again") from None
    if not done.known:
        typer.echo(f"nothing is kept of {named} (recorded as {id})")
        return
    typer.echo(f"{named}: {said} (recorded as {id})")


@audit_app.command()
def examples(
    to: Annotated[Path, typer.Option("--to", help="The file to write, for a reviewer: JSON lines; - is the terminal.")],
    rule: Annotated[str | None, typer.Option(help="Only where this rule fired, in shadow too.")] = None,
    since: Annotated[str, typer.Option(help="Ended since: 90s, 10m, 2h, 7d, or 2025-01-31T12:00.")] = "7d",
    role: Annotated[
        str, typer.Option(help="Whose newest text of each exchange: user, tool_result, assistant ...")
    ] = "user",
    path: LogPath = None,
    config: ConfigFile = None,
) -> None:
    """Write kept texts for somebody to review: `verdict` is to become right or wrong, as the action was.

    What was reviewed teaches: penstock teach LABEL --examples FILE.
    """
    from .examples import NotText, written

    begin = parse_since(since)
    with reading(), Reader(log_path(path)) as log, vault_of(settings_of(path), unseals=True) as vault:
        try:
            count, left = written(vault.since(begin), log, to, rule, role)
        except NotText as error:
            typer.echo(f"penstock: {clean(error)}", err=True)
            raise typer.Exit(1) from None
    told = many(count, "text") + (f"; {left:,} left out, of which nothing but a mask is kept" if left else "")
    typer.echo(told, err=True)


@audit_app.command()
def rekey(
    new: Annotated[Path, typer.Argument(help="A file with the new master key, 64 hex digits or more.")],
    path: LogPath = None,
    config: ConfigFile = None,
) -> None:
    """Put the keys of all subjects under a new master key: what is kept stays readable, with the new one only.

    Servers with the old one keep nothing from now on: set content_key_file to the new file and start them again.
    """
    with reading():
        settings = settings_of(path)
        with vault_of(settings, unseals=True) as vault:
            from .content.seal import Master

            count = vault.rekey(Master.load(new))
    typer.echo(
        f"{many(count, 'key')} put under {clean(new)}: set content_key_file to it, start again, destroy the old one"
    )


def many(count: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


async def _recorded(settings: Settings, key: Key, subject: str, rows: int, keys: int) -> str:
    """The id under which the audit says that a subject was forgotten. Raises AuditUnavailable."""
    audit = await Audit.open(settings.audit_where, key=key, head=settings.audit_head)
    try:
        id = new_id()
        body = {"account": subject, "action": None, "status": "erased", "erased": {"rows": rows, "keys": keys}}
        await audit.durable(Record(id, "outcome", time.time(), body))
        return id
    finally:
        await audit.close()


@contextlib.contextmanager
def vault_of(settings: Settings, *, unseals: bool = False) -> Iterator[Vault]:
    """The vault; with the master key, where it is to be read. Raises AuditUnavailable, for what goes wrong in the block
    too."""
    try:
        from .content.places import master_of, opened
        from .content.seal import ContentUnavailable
    except ImportError:
        mend = "pip install 'penstock[content]'"
        raise AuditUnavailable("kept content needs the package cryptography", mend) from None
    try:
        vault = opened(settings, master_of(settings) if unseals else None)
        try:
            yield vault
        finally:
            vault.close()
    except ContentUnavailable as error:
        raise AuditUnavailable(f"kept content: {error.problem}", error.mend) from None


def content_of(id: str, settings: Settings) -> dict[str, Any] | str:
    """What was judged of a decision, or why that cannot be read. Raises AuditUnavailable."""
    with vault_of(settings, unseals=True) as vault:
        from .content.vault import Gone

        try:
            return vault.read(id)
        except Gone as gone:
            return str(gone)


def content_lines(content: dict[str, Any] | str) -> Iterator[str]:
    """For people."""
    if isinstance(content, str):
        yield f"content: {content}"
        return
    for stage, told in ((stage, content[stage]) for stage in ("input", "output") if stage in content):
        yield f"{stage}{' (masked where the policy masks)' if told['masked'] else ''}:"
        for role, origin, text in told["texts"]:
            yield f"  {role} {origin}: {text}"
        for role, origin, kind in told["places"]:
            yield f"  {role} {origin}: (no text: {kind})"
