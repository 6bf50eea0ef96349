"""`penstock teach`: a policy learns from labelled texts what no shipped label says.

Exit codes: 0 written, 1 the texts, the model or the place to write cannot be used, 2 wrong usage. Warnings do not
change it: they stand in the head's card.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .audit_show import clean

if TYPE_CHECKING:
    from classifiers.examples import Example
    from classifiers.lesson import Lesson
    from classifiers.teach import Say
    from policies.texts import Text


class Refused(ValueError):
    """What was asked for cannot be done; the message says why and what to do."""


def teach(  # noqa: PLR0913, PLR0917 - one parameter an option
    label: Annotated[str, typer.Argument(help="What the head is to find: the label that rules will name.")],
    examples: Annotated[
        Path | None, typer.Option(help="Labelled texts: .jsonl with text and label (or verdict), or .csv.")
    ] = None,
    bad: Annotated[Path | None, typer.Option(help="Instead: texts that are LABEL, one a line or as .jsonl ...")] = None,
    good: Annotated[Path | None, typer.Option(help="... and texts that are not.")] = None,
    honest: Annotated[
        Path | None, typer.Option(help="Texts of your traffic that must pass: they set and prove the threshold.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; heads/LABEL.json, beside the policy if named.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="The policy file or directory that will use the head.")] = None,
    budget: Annotated[str, typer.Option(help="The share of honest texts that may be flagged.")] = "0.5%",
    roles: Annotated[str, typer.Option(help="Whose texts rules should ask it about; commas between.")] = "user",
    model: Annotated[str | None, typer.Option(help="The encoder: a shipped name, or a directory.")] = None,
    positive: Annotated[list[str] | None, typer.Option(help="A further label of the file that means LABEL.")] = None,
    negative: Annotated[list[str] | None, typer.Option(help="A further label that means an honest text.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A label whose rows are left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a head that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the head's card as JSON.")] = False,
) -> None:
    """Teach a head for LABEL with 50 or more labelled texts, in seconds, on the shipped encoder.

    A policy names the file like any other classifier: {kind: taught, path: heads/LABEL.json}.

    Exit codes: 0 written, 1 the texts cannot be used, 2 wrong usage.

    Example: penstock teach refund_fraud --examples examples.jsonl --honest honest.txt --policy support-bot.yaml
    """
    # Before numpy is loaded. Its matrices are small here: threads that wait for each other take longer, and on a busy
    # machine ten times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from classifiers.encoder import DEFAULT_MODEL
    from classifiers.taught import open_encoder
    from classifiers.teach import teach as fit

    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", label) is None:
        raise typer.BadParameter("letters, digits, '.', '_' and '-', at most 64", param_hint="LABEL")
    share, said = parse_share(budget, "--budget"), _roles(roles)
    base = Path() if policy is None else policy if policy.is_dir() else policy.parent
    place = out or base / "heads" / f"{label}.json"
    with operator():
        if policy is not None and not policy.exists():
            raise Refused(f"{policy}: no such file or directory")
        if place.exists() and not force:
            raise Refused(f"{place} is there already: --force replaces it, --out names another")
        before = _known(place)
        brought = _brought(label, examples, bad, good, (positive, negative, ignore))
        passing = _passing(honest)
        encoder = open_encoder(model or DEFAULT_MODEL)
        with _progress() as say:
            head, lesson = fit(label, brought, encoder, passing, share, said, say)
        if _known(place) != before:
            raise Refused(f"{place}: written meanwhile, by somebody else; it is left as it is: --out names another")
        write_all({place: head.dump()})
    if json:
        typer.echo(dumps(head.card, indent=1))
        return
    for line in lesson.lines():
        typer.echo(line)
    typer.echo(f"written     {clean(place)}")
    typer.echo("\n" + _snippet(label, os.path.relpath(place, base), said, lesson))


def _brought(
    label: str, examples: Path | None, bad: Path | None, good: Path | None, names: tuple[list[str] | None, ...]
) -> list[Example]:
    from classifiers.examples import LONGEST
    from policies.evaluate.labels import spelled
    from policies.texts import Reading, read

    if (examples is None) is not (bad is not None and good is not None) or (examples and (bad or good)):
        raise typer.BadParameter("name --examples, or both --bad and --good", param_hint="--examples")
    positive, negative, ignore = (frozenset(spelled(name) for name in given or ()) for given in names)
    files = ((bad, True), (good, False))
    found = [text for path, side in files if path for text in read(path, Reading(side=side, longest=LONGEST))]
    if examples is not None:
        found = read(examples, Reading(True, None, label, positive, negative, ignore, longest=LONGEST))
    return [_example(text) for text in found]


def _passing(honest: Path | None) -> list[Example]:
    from classifiers.examples import LONGEST
    from policies.texts import Reading, read

    return [] if honest is None else [_example(text) for text in read(honest, Reading(side=False, longest=LONGEST))]


def _example(text: Text) -> Example:
    from classifiers.examples import Example

    return Example(text.text, bool(text.bad), f"{text.file}:{text.line}")


def parse_share(text: str, option: str, most: float = 0.5) -> float:
    """0.5% or 0.005 as a share above 0 and up to `most`."""
    found = re.fullmatch(r"\s*(\d*\.?\d+(?:e-?\d+)?)\s*(%?)\s*", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 < value <= most:
        raise typer.BadParameter(f"a share above 0 and up to {most:.0%}, like 0.5% or 0.005", param_hint=option)
    return value


def _roles(given: str) -> tuple[str, ...]:
    from classifiers.base import Role

    names = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names or any(name not in {role.value for role in Role} for name in names):
        raise typer.BadParameter("some of " + ", ".join(role.value for role in Role), param_hint="--roles")
    return names


def _snippet(label: str, path: str, roles: tuple[str, ...], lesson: Lesson) -> str:
    """What to write in a policy."""
    name = re.sub(r"[^a-z0-9_-]", "_", label.casefold())
    name = name if name[0].isalpha() else f"h_{name}"
    stages = ["output" if role in {"assistant", "reasoning", "refusal", "tool_call"} else "input" for role in roles]
    return "\n".join(
        (
            "In the policy:",
            "classifiers:",
            f"  {name}: {{kind: taught, path: {dumps(path)}}}",
            "rules:",
            f"  - id: {name.replace('_', '-')}",
            f"    description: Texts like those that taught it, of {lesson.made}.",
            f"    stages: [{', '.join(dict.fromkeys(stages))}]",
            f"    roles: [{', '.join(roles)}]",
            f"    when: {{finding: {name}.{label}, at_least: {lesson.threshold.value:.6f}}}",
            f"    action: {'block' if lesson.threshold.proven else 'log'}",
        )
    )


def write(path: Path, raw: bytes) -> None:
    """The file whole or not at all. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory: name a file in it", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write_all(files: Mapping[Path, bytes]) -> None:
    """All of these files or none: whatever comes between, an interrupt too, those that are written already are as they
    were, or gone where there were none. Raises OSError, and Refused where one cannot be put back."""
    before = {path: _known(path) for path in files}
    try:
        for path, raw in files.items():
            write(path, raw)
    except BaseException:
        lost = [path for path, raw in before.items() if not _put_back(path, raw, files[path])]
        if lost:
            names = ", ".join(str(path) for path in lost)
            raise Refused(f"{names}: written, and cannot be put back as it was; restore it by hand") from None
        raise


def _known(path: Path) -> bytes | None:
    """What the file holds; None where there is none."""
    return path.read_bytes() if path.is_file() else None


def _put_back(path: Path, raw: bytes | None, ours: bytes) -> bool:
    """Whether the file is as it was; it was not there where `raw` is None. One that holds anything but what is `ours`
    was not written yet, or is somebody else's by now."""
    try:
        if _known(path) != ours:
            return True
        if raw is None:
            path.unlink()
        else:
            write(path, raw)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def operator() -> Iterator[None]:
    """Turns what is wrong with what was given into a line each and exit code 1."""
    from classifiers.catalog import OptionError
    from classifiers.examples import TeachError
    from policies.document import PolicyError
    from policies.evaluate.labels import LabelError, UnknownLabel
    from policies.texts import TextsError

    try:
        yield
    except (Refused, TextsError, TeachError, OptionError, PolicyError, LabelError, UnknownLabel) as error:
        for line in str(error).splitlines():
            typer.echo(f"penstock: {clean(line)}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"penstock: {clean(error.filename or 'file')}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("penstock: interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _progress() -> Iterator[Say | None]:
    """A bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(
        TextColumn("reading"), BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)
