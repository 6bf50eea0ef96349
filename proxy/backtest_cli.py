"""`penstock backtest`: what another policy would have decided about yesterday's traffic, from the scores in the audit.

Exit codes: 0 compared, 1 the policy cannot be used, 2 wrong usage, or a log that cannot be read.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from .audit_cli import ConfigFile, clean, log_path, parse_since, reading, settings_of
from .check_cli import Plain, PlainOutput
from .policy_name import POLICY, source_of
from .teach_cli import operator

if TYPE_CHECKING:
    from policies.changes import Changes
    from policies.ready import PolicySet

    from .rejudged import Rejudge


def backtest(
    new: Annotated[str, typer.Argument(help=f"The policy to try. {POLICY}")],
    since: Annotated[str, typer.Option(help="Decisions since: 90s, 10m, 2h, 7d, or 2025-01-31T12:00.")] = "7d",
    audit: Annotated[
        str | None, typer.Option("--audit", help="The log's file or database; else the one that the settings name.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Decision ids to show of each change.")] = 3,
    content: Annotated[
        bool,
        typer.Option(
            "--content",
            help="Read kept content: ask the classifiers where scores cannot tell, and show what examples say. Needs "
            "the master key.",
        ),
    ] = False,
    ask: Annotated[int, typer.Option(min=0, help="Exchanges of which classifiers are asked, at most.")] = 1000,
    output: PlainOutput = Plain.TEXT,
    config: ConfigFile = None,
) -> None:
    """Decide recorded exchanges again by another policy, from their stored scores and without asking a classifier.

    Where the scores cannot tell (a classifier that was not asked then), the decision is counted as unknown, unless its
    texts were kept and --content may read them. A canary is taken to act on everybody, a shadow on nobody.

    Exit codes: 0 compared, 1 the policy cannot be used, 2 wrong usage, or a log that cannot be read.

    Example: penstock backtest my-policies --since 24h --content
    """
    from policies.backtest import Backtest
    from policies.changes import Changes
    from policies.load import load

    from .audit import Reader
    from .policy_store import Store, StoreError, heard_by
    from .recorded import recorded

    begin = parse_since(since)
    with operator(), reading("--audit"):
        policies = load(source_of(new))
        where = log_path(audit)
        home = settings_of(where).data_dir / "policies"
        try:
            heard = heard_by([Store(home), *map(Store, sorted(home.glob("named/*")))])
        except StoreError as error:
            typer.echo(f"penstock: {clean(error)}", err=True)
            raise typer.Exit(1) from None
        trial, changes = Backtest(policies, heard.get), Changes(keep=examples)
        with Reader(where) as log, _progress() as bar, _reading(content, where, policies, ask) as kept:
            for rows in recorded(log, begin):
                decided = trial.decide(rows)
                changes.add(rows, decided if kept is None else kept.again(rows, decided))
                bar(changes.decisions)
            texts = {} if kept is None else kept.texts(changes)
    if output is Plain.JSON:
        told = {} if kept is None else {"judged_again": kept.counts, "texts": texts}
        typer.echo(dumps({"revision": policies.revision, **changes.plain(), **told}, indent=1))
        return
    for line in _lines(changes, texts):
        typer.echo(clean(line))
    if kept is not None:
        typer.echo(kept.said)
    elif changes.unknown and settings_of(where).keep_content != "off":
        typer.echo("texts are kept here: with --content the classifiers are asked about them")


@contextlib.contextmanager
def _reading(content: bool, where: str, policies: PolicySet, most: int) -> Iterator[Rejudge | None]:
    """What judges kept texts again, where they may be read. Raises AuditUnavailable."""
    if not content:
        yield None
        return
    from .content_cli import vault_of

    with vault_of(settings_of(where), unseals=True) as vault:
        from .rejudged import Rejudge

        with Rejudge(policies, vault, most) as kept:
            yield kept


def _lines(changes: Changes, texts: dict[str, list[str]]) -> Iterator[str]:
    """For people: the sentence, then by rule with what examples say, by reason, and what is not known."""
    kinds = ", ".join(f"{count:,} {_one(kind, count)}" for kind, count in changes.kinds.most_common())
    yield f"changes {changes.changed:,} of {changes.decisions:,} decisions" + (f": {kinds}" if kinds else "")
    if changes.unasked:
        many = "request" if changes.unasked == 1 else "requests"
        yield f"  {changes.unasked:,} {many} would reach the model now; what it answers is not known"
    for group in sorted(changes.groups.values(), key=lambda group: -group.count):
        shown = f"  e.g. {', '.join(group.examples)}" if group.examples else ""
        yield f"  rule {group.rule or '(none)'}: {group.count:,} {_one(group.what, group.count)}{shown}"
        for id in group.examples:
            yield from (f"    {id} {line}" for line in texts.get(id, ()))
    for name, count in changes.by_reason().most_common():
        reason, _, what = name.partition(": ")
        yield f"  {reason}: {count:,} {_one(what, count)}"
    total = changes.unknown.total()
    if total:
        yield f"unknown {total:,} of {changes.decisions:,}: they are not among the changes"
        for why, count in changes.unknown.most_common():
            yield f"  {count:,}: {why}"


def _one(what: str, count: int) -> str:
    """ "new blocks", or "new block" for one."""
    if count != 1 or not what.startswith("new "):
        return what
    return "new pass" if what == "new passes" else what.removesuffix("s")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A counter on a terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("reading")
        yield lambda done: bar.update(task, description=f"{done:,} decisions")
