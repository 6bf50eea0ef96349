"""`penstock eval`: how well a policy or a classifier tells bad texts from honest ones, and what changed since.

Exit codes: 0 done, 1 the data, the policy or a folder cannot be used (one line each), 2 wrong usage, 130 interrupted;
nothing is written then.
"""

from __future__ import annotations

import contextlib
import datetime
import json as jsons
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from policies.evaluate.evaluation import Evaluation
    from policies.evaluate.runner import Tell

WIDE = 120
QUIET = 30.0
"""Seconds between two lines of progress where there is no terminal."""


def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    paths: Annotated[list[Path] | None, typer.Argument(help="JSON-lines files (.jsonl, .jsonl.gz) or folders.")] = None,
    policy: Annotated[str | None, typer.Option(help="A directory, a file, or a pack; baseline if left out.")] = None,
    classifier: Annotated[
        str | None, typer.Option(help="One classifier instead: a name in the policy, or a kind like embedded.")
    ] = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="A label of the classifier that counts; else those named like the data's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; penstock-eval-TIME if left out.")] = None,
    positive: Annotated[list[str] | None, typer.Option(help="A label that means a bad text.")] = None,
    negative: Annotated[list[str] | None, typer.Option(help="A label that means an honest text.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A label whose rows are left out.")] = None,
    text_field: Annotated[str, typer.Option(help="Where a row has its text, unless it has messages.")] = "text",
    label_field: Annotated[str, typer.Option(help="Where a row has its label.")] = "label",
    sources: Annotated[list[str] | None, typer.Option(help="Only these sources; names or globs.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows of each source, both sides alike.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the rows under --limit, and the bootstrap's draws.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that classify; one for each core.")] = None,
    deadlines: Annotated[
        bool, typer.Option("--deadlines", help="A late classifier fails, as in live traffic.")
    ] = False,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Count unusable rows, do not stop.")] = False,
    keep_texts: Annotated[bool, typer.Option("--keep-texts", help="Write the judged texts into the run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a run in the same folder.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two runs: say what changed from the first to the second.", metavar="RUN RUN"),
    ] = None,
    min_common: Annotated[int, typer.Option(min=1, help="Rows that --compare wants to find in both runs.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print the figures, or the comparison, as JSON.")] = False,
) -> None:
    """Measure a policy or a classifier on labelled texts: figures with intervals, plots, a report.

    A row is {"text": ..., "label": ...}, or has "messages". It may have role, category, lang, source, family and id.
    Several words for one option: repeat it, or put commas between.

    Exit codes: 0 measured, 1 the texts or the policy cannot be used, 2 wrong usage.

    Example: penstock eval labelled.jsonl --policy my-policies --out before
    """
    from policies.evaluate.dataset import Dataset, Options
    from policies.evaluate.evaluation import classifier_subject, policy_subject
    from policies.evaluate.evaluation import evaluate as run
    from policies.evaluate.files import check_free
    from policies.evaluate.labels import Labels

    if compare is not None:
        if paths:
            raise typer.BadParameter("--compare takes two runs, and no data")
        _compare(compare, min_common, seed, json)
        return
    if not paths:
        raise typer.BadParameter("name the data: a JSON-lines file or a folder of them")
    folder = out or Path(f"penstock-eval-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}")
    with _operator():
        check_free(folder, force)
        labels = Labels.of(_words(positive), _words(negative), _words(ignore))
        options = Options(labels, text_field, label_field, _words(sources), limit, seed, skip_bad_rows)
        dataset = Dataset.open(paths, options)
        subject = (
            policy_subject(policy, deadlines)
            if classifier is None
            else classifier_subject(classifier, dataset.bad_labels, policy, _words(finding), deadlines)
        )
        _say(f"{subject.kind} {subject.title}: {len(dataset):,} texts of {len(dataset.files)} files")
        for reason, count in dataset.left_out.items():
            _say(f"left out: {reason}: {count:,} rows")
        settings = {"deadlines": deadlines, "sources": list(options.sources), "keep_texts": keep_texts}
        with _progress(len(dataset)) as tell:
            done = run(dataset, subject, workers, keep_texts, settings, tell)
        done.write(folder)
    if json:
        typer.echo(jsons.dumps(done.results, indent=1))
    else:
        _print(done)
    _say(f"report: {folder / 'report.html'}")


def _words(given: Sequence[str] | None) -> tuple[str, ...]:
    """`--x a,b --x c` as three words."""
    return tuple(word.strip() for each in given or () for word in each.split(",") if word.strip())


def _say(text: str) -> None:
    """A line for people, beside what is printed for programs."""
    print(_plain(text), file=sys.stderr)


def _plain(text: str) -> str:
    """What a terminal would take for an order, written out: names come from the data."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


@contextlib.contextmanager
def _operator() -> Iterator[None]:
    """Turns what is wrong with what was given into one line each and exit code 1."""
    from policies.document import PolicyError
    from policies.evaluate.compare import CannotCompare
    from policies.evaluate.dataset import DatasetError
    from policies.evaluate.evaluation import CannotEvaluate
    from policies.evaluate.files import RunError
    from policies.evaluate.labels import LabelError

    try:
        yield
    except (PolicyError, DatasetError, CannotEvaluate, CannotCompare, RunError, LabelError) as error:
        for line in str(error).splitlines():
            _say(f"penstock: {line}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("penstock: interrupted; nothing was written")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Tell]:
    """A bar on a terminal, else a line now and then; both on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    begun = last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= QUIET:
            last = now
            left = (now - begun) / done * (total - done)
            told = f"{left:.0f} seconds" if left < 100 else f"{left / 60:.0f} minutes"
            _say(f"judged {done:,} of {total:,}, about {told} left")

    yield tell


def _print(done: Evaluation) -> None:
    """The summary for a terminal."""
    from policies.evaluate.plots import share
    from policies.evaluate.report import idle, lines

    table = Table(box=None, pad_edge=False)
    for name in ("where", "score", "bad", "honest", "AUROC", "recall at 1 %", "caught", "honest flagged", "at most"):
        table.add_column(name, justify="left" if name in {"where", "score"} else "right", no_wrap=True)
    for surface, figures in done.results["surfaces"].items():
        for names, ranking, row in lines(figures):
            cells = [surface, ", ".join(names), f"{figures['bad']:,}", f"{figures['honest']:,}"]
            cells += [f"{ranking['auroc']:.3f}", share(ranking["recall_at"][-1]["recall"])] if ranking else ["–", "–"]
            cells += [share(row[side]["rate"]) for side in ("bad", "honest")] if row else ["–", "–"]
            cells.append(share(row["honest"]["at_most"]) if row and row["honest"]["n"] else "–")
            table.add_row(*cells)
    console = Console(highlight=False)
    console.width = max(console.width, WIDE)  # a figure that is cut off is none
    console.print(table)
    if told := idle(done.manifest):
        _say(told)
    rows = done.results["rows"]
    if rows["units"] < rows["judged"]:
        _say(f"the {rows['judged']:,} texts are {rows['units']:,} families or single texts; bounds count those")
    if done.results["rows"]["failed"]:
        told = ", ".join(f"{name} {count:,}" for name, count in done.results["rows"]["failures"].items())
        _say(f"not fully judged, and in no ranking: {done.results['rows']['failed']:,} texts ({told})")


def _compare(runs: tuple[Path, Path], least: int, seed: int, json: bool) -> None:
    from policies.evaluate import compare, files

    with _operator():
        found = compare.compare(files.read(runs[0]), files.read(runs[1]), least, seed)
    if json:
        typer.echo(jsons.dumps(found, indent=1))
        return
    for line in compare.words(found):
        typer.echo(_plain(line))
