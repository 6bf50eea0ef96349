"""`penstock keys`: make, list, show and revoke the keys that callers ask with.

A server that runs sees every change within a second. Exit codes: 0 done, 1 no such key, or the file or the audit cannot
be used, 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import getpass
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from .accounts.file import KeyFile, KeysUnavailable, hashing
from .accounts.record import ID, SCOPES, KeyRecord, new_id
from .accounts.secret import mint
from .audit import Audit, AuditUnavailable, Record
from .audit import new_id as new_decision
from .audit_key import audit_key
from .config import ConfigError, Settings, load

app = typer.Typer(help="The keys that callers ask with.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31_536_000}
_NO_FILE = "no file of settings is named: add --config penstock.yaml, or set PENSTOCK_CONFIG"
LONGEST = 100 * 31_536_000
"""Seconds that anything may be given for: dates end in the year 9999."""

ConfigFile = Annotated[
    Path | None, typer.Option("--config", envvar="PENSTOCK_CONFIG", help="A YAML file of settings.", show_default=False)
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the keys lie; else as the settings say.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Which = Annotated[str, typer.Argument(help="The key's id, or its name where only one has it.")]


@app.command()
def create(  # noqa: PLR0913, PLR0917 - one parameter an option
    name: Annotated[str, typer.Argument(help="What people call it, like ci or alice-laptop.")],
    account: Annotated[str | None, typer.Option(help="Whose it is; the records say so. Its name if not told.")] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 12h, or 2027-01-31; never if not told.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCOPES)}; all but the last two if not told.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; `*` is any run of letters.")] = None,
    policy: Annotated[str, typer.Option(help="One of `policies` in the settings; the default if not told.")] = "",
    tier: Annotated[str, typer.Option(help="A tier of trust that policies may ask for.")] = "",
    grant: Annotated[
        list[str] | None, typer.Option(help="Trusted access that policies may ask for: NAME, or NAME=30d.")
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is printed on standard output this once: what is kept cannot be turned back into it."""
    with _operator():
        settings = _settings(config, data_dir)
        if policy and policy not in settings.policies:
            known = ", ".join(settings.policies) or "none is configured"
            mend = f"name it under `policies` in {config}" if config else _NO_FILE
            raise KeysUnavailable(f"there is no policy {policy!r} in the settings ({known}): {mend}")
        now, secret = time.time(), mint()
        hashed = _hashing(settings)
        record = _record(
            id=new_id(),
            digest=hashed(secret.encode()),
            name=name,
            account=account or name,
            created=now,
            expires=until(expires, now) if expires else None,
            scopes=scope or (),
            models=model or (),
            policy=policy,
            tier=tier,
            grants=dict(_grant(text, now) for text in grant or ()),
        )
        file = KeyFile(settings.keys_path)
        twins = [each for each in file.read() if each.name == name and each.state(now) == "active"]
        # A key that nobody can account for must not work: it is recorded first.
        _tell(settings, record, "key_created")
        file.change(lambda known: [*known, record])
    if twins:  # as while one takes the other's place: no error
        typer.echo(
            f"{len(twins) + 1} keys that work have this name now; end by its id what this one replaces:", err=True
        )
        for each in twins:
            typer.echo(f"  penstock keys revoke {_told(each)}", err=True)
    if as_json:
        typer.echo(json.dumps({**_shown(record), "key": secret}))
        return
    typer.echo(secret)
    typer.echo(f"{record.id} for account {record.account}; this is the only time that the key is shown", err=True)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also what is revoked or expired.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """The keys that work now."""
    with _operator():
        records = KeyFile(_settings(config, data_dir).keys_path).read()
    now = time.time()
    chosen = [record for record in records if everything or record.state(now) == "active"]
    if as_json:
        typer.echo(json.dumps([_shown(record) for record in chosen]))
        return
    rows = [("id", "name", "account", "state", "expires", "policy", "tier", "scopes", "models")]
    for record in chosen:
        expires = _date(record.expires) if record.expires is not None else "never"
        told = (
            record.policy or "-",
            record.tier or "-",
            ",".join(record.scopes) or "*",
            ",".join(record.models) or "*",
        )
        rows.append((record.id, record.name, record.account, record.state(now), expires, *told))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def show(which: Which, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """All that is kept of a key, as JSON."""
    with _operator():
        record = _one(KeyFile(_settings(config, data_dir).keys_path).read(), which)
    typer.echo(json.dumps(_shown(record), indent=1))


@app.command()
def revoke(which: Which, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """End a key for good: running servers refuse it within a second."""
    with _operator():
        settings = _settings(config, data_dir)
        file, now = KeyFile(settings.keys_path), time.time()
        try:
            records = file.read()
        except KeysUnavailable as error:
            if not re.fullmatch(ID, which):
                raise KeysUnavailable(f"{error}; until then a key is revoked by its id") from None
            file.revoke(which, now)
            typer.echo(f"{which} is revoked, if there is such a key: {error}", err=True)
            write_down(settings, {"status": "key_revoked", "key": which})
            return
        chosen = _meant(records, which)
        if chosen and all(each.revoked is not None for each in chosen):
            one = len(chosen) == 1
            typer.echo("it was revoked before" if one else f"all {len(chosen)} were revoked before", err=True)
            return
        found = _one(records, which)
        ended = found.model_copy(update={"revoked": now})
        file.revoke(found.id, now)  # first where no older copy of the keys takes it back
        file.change(lambda known: [ended if record.id == found.id else record for record in known])
        typer.echo(f"{found.id} is revoked", err=True)
        # Last: where nothing can be recorded a key must end all the same.
        _tell(settings, ended, "key_revoked")


def _settings(file: Path | None, data_dir: Path | None) -> Settings:
    return load(file, data_dir=data_dir)


def _hashing(settings: Settings) -> Callable[[bytes], str]:
    for folder in (settings.data_dir, settings.keys_path.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KeysUnavailable(f"the directory {folder} cannot be made: {error.strerror}") from None
    return hashing(settings.keys_secret_path, KeyFile(settings.keys_path))


def _record(**values: Any) -> KeyRecord:
    try:
        return KeyRecord(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).removesuffix("s") if first["loc"][0] in {"scopes", "models", "grants"} else None
        raise typer.BadParameter(first["msg"], param_hint=f"--{option}" if option else str(first["loc"][0])) from None


def _tell(settings: Settings, record: KeyRecord, status: str) -> None:
    kept = record.model_dump(mode="json", exclude={"digest", "id"})
    write_down(settings, {"account": record.account, "status": status, "key": record.id, "record": kept})


def write_down(settings: Settings, body: dict[str, Any]) -> None:
    """Write what an operator did into the audit, with who it was. Raises AuditUnavailable."""
    key, body = audit_key(settings, create=True), {**body, "by": user()}

    async def write() -> None:
        audit = await Audit.open(settings.audit_where, key=key, head=settings.audit_head)
        try:
            await audit.durable(Record(new_decision(), "outcome", time.time(), body))
        finally:
            await audit.close()

    asyncio.run(write())


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def _meant(records: Iterable[KeyRecord], which: str) -> list[KeyRecord]:
    """The key of this id, else those of this name: of what works, of what expired, or of what was revoked.

    Decision: a name means what works, and only where nothing does what has ended. Why: a rotation leaves a revoked key
    of the same name, and who ends or shows "ci" means the one in use. Cost: an ended one that has a successor is found
    by its id only."""
    known, now = list(records), time.time()
    by_id = [record for record in known if record.id == which]
    named = by_id or [record for record in known if record.name == which]
    states = [record.state(now) for record in named]
    best = min(states, key=("active", "expired", "revoked").index, default="")
    return [record for record, state in zip(named, states, strict=True) if state == best]


def _one(records: Iterable[KeyRecord], which: str) -> KeyRecord:
    found = _meant(records, which)
    if not found:
        raise KeysUnavailable("there is no such key (`penstock keys list --all` shows them)")
    if len(found) > 1:
        listed = "".join(f"\n  {_told(record)}" for record in found)
        raise KeysUnavailable(f"{len(found)} keys have this name: name one by its id{listed}")
    return found[0]


def _told(record: KeyRecord) -> str:
    return f"{record.id}  {record.state(time.time())}, account {record.account}, made {_date(record.created)}"


def _shown(record: KeyRecord) -> dict[str, Any]:
    """What is known of a key, for people and programs: all but the hash, times in words."""
    tree = record.model_dump(mode="json", exclude={"digest"})
    for name in ("created", "expires", "revoked"):
        tree[name] = None if tree[name] is None else _date(tree[name])
    tree["grants"] = {name: None if until is None else _date(until) for name, until in record.grants.items()}
    tree["scopes"] = sorted(record.allowed)
    return {**tree, "state": record.state(time.time())}


def _date(at: float) -> str:
    if abs(at) > 2 * LONGEST:  # what somebody wrote by hand
        return f"{at:g}"
    return datetime.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def _grant(text: str, now: float) -> tuple[str, float | None]:
    name, given, end = text.partition("=")
    return name, until(end, now) if given else None


def until(text: str, now: float) -> float:
    if found := re.fullmatch(r"(\d{1,6})([smhdwy])", text.strip()):
        at = now + int(found[1]) * _UNITS[found[2]]
    else:
        try:
            at = datetime.datetime.fromisoformat(text.strip()).timestamp()
        except (ValueError, OverflowError):
            raise typer.BadParameter("write 90d, 12h or 2027-01-31", param_hint="a time") from None
    if at <= now:
        raise typer.BadParameter("this time has passed already", param_hint="a time")
    if at > now + LONGEST:
        raise typer.BadParameter("nothing lasts so long: leave it out for no end", param_hint="a time")
    return at


@contextlib.contextmanager
def _operator() -> Iterator[None]:
    try:
        yield
    except (AuditUnavailable, ConfigError, KeysUnavailable) as error:
        for line in str(error).splitlines():
            print(f"penstock: {line}", file=sys.stderr)
        raise typer.Exit(1) from None
