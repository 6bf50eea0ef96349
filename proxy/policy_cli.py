"""`penstock policy`: which policy is in force, what was before, and back to it with one command.

It works on the data directory: running processes see a changed pin within seconds, and it survives a restart. Exit
codes: 0 done, 1 it cannot be done, or a process could not load its policy (`status`), 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import time
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .audit_show import clean
from .config import ConfigError, load
from .teach_cli import write

if TYPE_CHECKING:
    from .policy_store import Kept, Store

app = typer.Typer(help="Which policy is in force, what was before, and back to it.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The data directory; else the settings'.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", envvar="PENSTOCK_CONFIG", help="A YAML file of settings.", show_default=False)
]
Name = Annotated[str, typer.Option("--name", help="A named policy of the settings (`policies`); else the default.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of lines.")]


@app.command()
def status(name: Name = "", data_dir: DataDir = None, config: ConfigFile = None, json: Json = False) -> None:
    """What each running process enforces, what is pinned, and what went wrong last.

    Ends with 1 where a process could not load its policy. Example: penstock policy status --json
    """
    with _operator():
        store = _store(data_dir, name, config)
        pinned, processes = store.pinned(), store.processes()
        if json:
            typer.echo(dumps({"pinned": pinned, "processes": processes}, indent=1))
        else:
            typer.echo(f"pinned    {pinned or 'nothing: the setting `policy` decides'}")
            for state in processes:
                told = f"since {_time(state.get('since'))}, source {state.get('source')}"
                typer.echo(clean(f"process {state.get('pid')}  revision {state.get('revision')}  {told}"))
                if failure := state.get("last_failure"):
                    typer.echo(f"  not loaded at {_time(failure.get('at'))}; what was in force before still is:")
                    for line in str(failure.get("problem")).splitlines():
                        typer.echo(f"  {clean(line)}")
            if not processes:
                mend = "name another by --data-dir, or the settings of the one that serves by --config"
                typer.echo(clean(f"no process serves from {store.root}: {mend}"))
    raise typer.Exit(1 if any(state.get("last_failure") for state in processes) else 0)


@app.command()
def schema() -> None:
    """The JSON Schema of a policy file, for editors.

    Example: penstock policy schema > schema.json, and in each policy file, as its first line:
    # yaml-language-server: $schema=schema.json
    """
    from policies.schema import FILE

    typer.echo(FILE.read_text("utf-8"), nl=False)


@app.command()
def copy(
    pack: Annotated[str, typer.Argument(help="A shipped pack, like baseline.")],
    to: Annotated[str, typer.Argument(help="The file to write (.yaml), or the directory that it goes into.")],
) -> None:
    """Copy a shipped pack to a file of yours, and beside it the schema that editors ask for.

    What you leave as it is need not be copied: `extends: baseline`. Example: penstock policy copy baseline my-policies
    """
    from policies.load import packs, sources

    with _operator():
        if pack.removeprefix("pack:") not in packs():
            raise typer.BadParameter("no shipped pack: " + ", ".join(packs()), param_hint="PACK")
        ((name, raw),) = sources(f"pack:{pack.removeprefix('pack:')}")
        place = Path(to)
        is_file = place.suffix in {".yaml", ".yml"} and not to.endswith("/") and not place.is_dir()
        file = place if is_file else place / name
        if file.exists():
            raise FileExistsError(errno.EEXIST, "is there already, and stays as it is", str(file))
        write(file, _LEADING.sub(_leading(file.parent), raw, count=1))
    typer.echo(f"written: {clean(file)}")


_LEADING = re.compile(rb"\A# yaml-language-server: [^\n]*\n(#\n)?")
"""The line of a shipped pack that leads editors to the schema."""


def _leading(folder: Path) -> bytes:
    """The same for a file in `folder`, whose schema it leads to; nothing where something else is called so there."""
    from policies.schema import FILE, TITLE

    beside = folder / FILE.name
    if not beside.exists():
        write(beside, FILE.read_bytes())
    ours = TITLE.encode() in beside.read_bytes()
    return b"# yaml-language-server: $schema=%b\n#\n" % FILE.name.encode() if ours else b""


@app.command()
def history(
    n: Annotated[int, typer.Option("-n", min=1, help="How many lines.")] = 20,
    name: Name = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """What was loaded, refused, pinned and unpinned, oldest first.

    Example: penstock policy history -n 50
    """
    with _operator():
        store = _store(data_dir, name, config)
        lines = store.history()[-n:]
        if not lines and not json:
            typer.echo(f"nothing was loaded under {clean(str(store.root))} yet: `penstock serve` writes it down")
        for line in lines:
            if json:
                typer.echo(dumps(line))
                continue
            first = (str(line.get("problem", "")).splitlines() or [""])[0]
            parts = (line.get("event"), line.get("revision") or "-", line.get("source", ""), first)
            typer.echo(clean("  ".join([_time(line.get("at")), *(str(part) for part in parts if part)])))


@app.command()
def show(
    revision: Annotated[str, typer.Argument(help="A kept revision, or the beginning of its name.")],
    name: Name = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """One kept revision: where it came from, and its files.

    `penstock diff REVISION my-policies` says how it differs. Example: penstock policy show 5707c2
    """
    with _operator():
        store = _store(data_dir, name, config)
        kept = store.get(revision)
        files = _files(kept)
        if json:
            typer.echo(dumps({**_plain(kept), "files": files}, indent=1))
            return
        typer.echo(clean(f"# revision {kept.revision}, first in force {_time(kept.at)}, from {kept.source}"))
        for file, text in files.items():
            typer.echo(clean(f"# {file}"))
            # Line by line: a file may hold what would steer a terminal.
            for line in text.splitlines():
                typer.echo(clean(line))


@app.command()
def activate(
    revision: Annotated[str, typer.Argument(help="A kept revision, or the beginning of its name.")],
    name: Name = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for running processes.")] = 15,
) -> None:
    """Put a kept revision in force and pin it, whatever the settings say, until `unpin`.

    Example: penstock policy activate 5707c2
    """
    with _operator():
        store = _store(data_dir, name, config)
        _activate(store, store.get(revision), wait)


@app.command()
def rollback(
    name: Name = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for running processes.")] = 15,
) -> None:
    """Put the revision in force that was before the present one, and pin it.

    Running processes change within seconds. Example: penstock policy rollback
    """
    with _operator():
        store = _store(data_dir, name, config)
        loaded = [line["revision"] for line in store.history() if line.get("event") == "loaded"]
        pinned, kept = store.pinned(), {each.revision for each in store.all()}
        now = pinned or (loaded[-1] if loaded else "")
        # What a rollback put in force stands in the history again: from it, back is before it first came.
        places = [at for at, name in enumerate(loaded) if name == now]
        first = (places[0] if pinned else _since(loaded)) if places else 0
        before = [name for name in loaded[:first] if name != now and name in kept]
        if not before:
            typer.echo("penstock: no revision before the present one is kept", err=True)
            raise typer.Exit(1)
        _activate(store, store.get(before[-1]), wait)


@app.command()
def unpin(name: Name = "", data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Let the setting `policy` decide again."""
    with _operator():
        store = _store(data_dir, name, config)
        before = store.pin_path.exists()
        store.unpin()
        typer.echo("the setting `policy` decides again" if before else "nothing was pinned")


def _since(loaded: list[str]) -> int:
    """Where the newest run of one revision begins: several processes load each, and at each start."""
    at = len(loaded) - 1
    while at > 0 and loaded[at - 1] == loaded[-1]:
        at -= 1
    return at


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="A directory, a file, or a shipped pack; its cases must pass.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")],
) -> None:
    """Put a policy and the small files that it names into one file, to be signed and served."""
    from policies.check import check
    from policies.load import sources

    from .bundle import pack as packed
    from .policy_store import Files, referred

    with _operator():
        result = check(source, live=True)
        if result.policy is None or not result.ok:
            for line in result.lines()[:-1]:
                typer.echo(f"penstock: {clean(line)}", err=True)
            raise typer.Exit(1)
        files = Files(tuple(sources(source)), referred(result.policy))
        write(out, packed(files, result.policy.revision, time.time()))
    typer.echo(f"written: {clean(out)}: revision {result.policy.revision}")


@app.command()
def keygen(
    out: Annotated[Path, typer.Argument(help="The private key to write; keep it away from the machines that serve.")],
) -> None:
    """Make a key pair: the private key signs bundles, the public one is the setting `policy_public_key`."""
    from .bundle import make_key

    with _operator():
        private, public = make_key()
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(private)
    typer.echo(public)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="What `penstock policy pack` wrote.")],
    key: Annotated[Path, typer.Option(help="The private key.")],
) -> None:
    """Write the signature of a bundle beside it: BUNDLE.sig."""
    from .bundle import opened
    from .bundle import sign as signed

    with _operator():
        raw = bundle.read_bytes()
        opened(raw)
        beside = _signature(bundle)
        write(beside, signed(raw, key.read_bytes()).encode() + b"\n")
    typer.echo(f"written: {clean(beside)}")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle, with BUNDLE.sig beside it.")],
    public_key: Annotated[str, typer.Option(help="The line that `keygen` printed.")],
) -> None:
    """Say whether a bundle is what the key's owner signed, and what is in it."""
    from .bundle import opened
    from .bundle import verify as verified

    with _operator():
        raw = bundle.read_bytes()
        verified(raw, _signature(bundle).read_text("ascii", "replace"), public_key)
        found = opened(raw)
    typer.echo(f"signed: revision {clean(found.revision)}, packed {_time(found.created)}")
    for name in found.files:
        typer.echo(f"  {clean(name)}")


def _activate(store: Store, kept: Kept, wait: float) -> None:
    """Checked before it is pinned: a process would refuse what does not hold, and the operator would not see it."""
    from policies.check import check

    result = check(kept.entry, live=True)
    if result.policy is None or not result.ok:
        for line in result.lines()[:-1]:
            typer.echo(f"penstock: {clean(line)}", err=True)
        raise typer.Exit(1)
    if result.policy.revision != kept.revision:
        typer.echo(f"penstock: {kept.revision} decides otherwise now: a file that it names has changed", err=True)
        raise typer.Exit(1)
    store.pin(kept.revision)
    typer.echo(f"pinned {kept.revision}, first in force {_time(kept.at)}")
    until = time.monotonic() + wait
    while (late := _late(store, kept.revision)) and time.monotonic() < until:
        time.sleep(0.2)
    enforcing = len(store.processes()) - len(late)
    if enforcing:
        processes = "1 process enforces" if enforcing == 1 else f"{enforcing} processes enforce"
        typer.echo(f"{processes} it; `penstock policy unpin` lets the setting `policy` decide again")
    for state in late:
        typer.echo(clean(f"penstock: process {state['pid']} still enforces {state.get('revision')}"), err=True)
    if late:
        raise typer.Exit(1)


def _late(store: Store, revision: str) -> list[dict[str, Any]]:
    return [state for state in store.processes() if state.get("revision") != revision]


def _signature(bundle: Path) -> Path:
    return bundle.with_name(bundle.name + ".sig")


def _store(data_dir: Path | None, name: str, config: Path | None) -> Store:
    from .policy_store import Store

    if name and not re.fullmatch(r"[\w.-]+", name):
        raise typer.BadParameter("no name of a policy", param_hint="--name")

    home = data_dir or load(config).data_dir
    return Store(home / "policies" / "named" / name if name else home / "policies")


def _files(kept: Kept) -> dict[str, str]:
    """The policy files of a revision, by their names."""
    entry = Path(kept.entry)
    paths = [entry] if entry.is_file() else sorted(path for path in entry.iterdir() if path.suffix in {".yaml", ".yml"})
    return {path.name: path.read_text("utf-8", "replace") for path in paths}


def _plain(kept: Kept) -> dict[str, Any]:
    return {"revision": kept.revision, "digest": kept.digest, "source": kept.source, "at": kept.at}


def _time(at: object) -> str:
    if not isinstance(at, int | float) or not at:
        return "-"
    return datetime.datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


@contextlib.contextmanager
def _operator() -> Iterator[None]:
    from policies.document import PolicyError

    from .bundle import BundleError
    from .policy_store import StoreError

    try:
        yield
    except (StoreError, BundleError, PolicyError, ConfigError) as error:
        for line in str(error).splitlines():
            typer.echo(f"penstock: {clean(line)}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"penstock: {clean(error.filename or 'file')}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
