"""`penstock calibrate`: thresholds of a policy from local honest traffic.

Exit codes: 0 every rule keeps its budget, 1 one cannot or the texts or the policy cannot be used, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .audit_show import clean
from .teach_cli import Refused, operator, parse_share, write_all

if TYPE_CHECKING:
    from classifiers.base import Role
    from policies.calibrate import Outcome, Rate
    from policies.judged import Judged, Say
    from policies.ready import PolicySet
    from policies.texts import Text


def calibrate(  # noqa: PLR0913, PLR0917 - one parameter an option
    policy: Annotated[str, typer.Argument(help="A policy file, a directory of them, or a shipped pack.")],
    honest: Annotated[Path, typer.Option(help="Texts that must pass: .txt, .jsonl (rows may name a role), .csv.")],
    bad: Annotated[Path | None, typer.Option(help="Texts that should not pass: what the rules catch is told.")] = None,
    max_honest_block: Annotated[
        str, typer.Option(help="The share of honest texts that a block or mask rule may fire on.")
    ] = "0.1%",
    max_honest_log: Annotated[
        str | None, typer.Option(help="The same for log rules; left as they are if not said.")
    ] = None,
    min_catch: Annotated[str | None, typer.Option(help="The least share of bad texts a rule must fire on.")] = None,
    role: Annotated[str, typer.Option(help="Who says the texts whose rows do not say it.")] = "user",
    lower: Annotated[bool, typer.Option("--lower", help="Let thresholds fall where the budget allows it.")] = False,
    save: Annotated[bool, typer.Option("--write", help="Write the proposed thresholds into the files.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Set each rule's threshold so that its false alarms are proven to stay within a budget, or say why none does.

    No error in 299, 598 or 2,995 honest texts proves 1, 0.5 or 0.1 %. Thresholds only rise, unless --lower is given.

    Exit codes: 0 every rule keeps its budget, 1 one cannot or the texts or the policy cannot be used, 2 wrong usage.

    Example: penstock calibrate my-policies --honest honest.txt --bad bad.txt --max-honest-block 0.5% --write
    """
    from policies.calibrate import Budget, together
    from policies.calibrate import calibrate as propose
    from policies.judged import CalibrateError
    from policies.load import load, sources

    budget = Budget(
        parse_share(max_honest_block, "--max-honest-block"),
        None if max_honest_log is None else parse_share(max_honest_log, "--max-honest-log"),
        None if min_catch is None else parse_share(min_catch, "--min-catch", most=1.0),
        lower,
    )
    with operator():
        if budget.catch is not None and bad is None:
            raise Refused("--min-catch needs --bad FILE")
        texts = _texts(honest, False, role), [] if bad is None else _texts(bad, True, role)
        before = dict(sources(policy)) if save else {}
        policies = load(policy)
        try:
            passing, failing = _judged(policies, *texts)
            outcomes = propose(policies, passing, failing, budget)
        except CalibrateError as error:
            raise Refused(str(error)) from error
        stops = together(policies, passing), together(policies, passing, outcomes)
        if json:
            typer.echo(dumps(_plain(outcomes, stops), indent=1))
        else:
            for line in _lines(policies, outcomes, stops):
                typer.echo(clean(line))
        changed = [each for each in outcomes if each.changes]
        if save and changed:
            _save(policy, before, changed)
        elif changed and not json:
            typer.echo("nothing is written: --write puts these thresholds into the files")
        elif save and not json:
            typer.echo("nothing is written: no threshold moves")
    raise typer.Exit(0 if all(each.well for each in outcomes) else 1)


def _texts(path: Path, bad: bool, role: str) -> list[Text]:
    from policies.texts import Reading, read

    return read(path, Reading(side=bad, role=_role(role)))


def _role(name: str) -> Role:
    from classifiers.base import Role
    from classifiers.catalog import near

    if name not in {role.value for role in Role}:
        raise typer.BadParameter(near(name, [role.value for role in Role]), param_hint="--role")
    return Role(name)


def _judged(policies: PolicySet, honest: Sequence[Text], bad: Sequence[Text]) -> tuple[Judged, Judged | None]:
    from policies.judged import judge

    with _progress() as say:
        passing, failing = judge(policies, [*honest, *bad], say).split(len(honest))
    return passing, failing if bad else None


def _rate(found: Rate) -> str:
    if not found.count:
        return "no text"
    return f"{found.hits} of {found.count:,} ({found.share:.2%}, at most {found.bound:.2%})"


def _caught(found: Rate) -> str:
    return f"{found.share:.1%} ({found.low:.1%} to {found.high:.1%}) of {found.count:,}" if found.count else "no text"


def _lines(policies: PolicySet, outcomes: Sequence[Outcome], stops: tuple[Rate, Rate]) -> Iterator[str]:
    """For people: a block for each rule, and what all together stop."""
    from policies.edited import spelled
    from policies.forms import Mode

    several = len(policies.policies) > 1
    for each in outcomes:
        budget = "no budget" if each.budget is None else f"budget {each.budget:.2%}"
        of = f" of {each.policy}" if several else ""
        yield f"{each.rule.id}{of} ({each.rule.action}, {each.rule.mode}, {budget})"
        moved = bool(each.changes)
        for part in each.parts:
            move = f" -> {spelled(part.then)}" if moved and part.then != part.now else ""
            yield f"    threshold  {part.now:.10g}{move}  {', '.join(part.findings)}"
        yield f"    honest     {_rate(each.honest_now)}" + (f" -> {_rate(each.honest_then)}" if moved else "")
        if each.bad_now is not None and each.bad_then is not None:
            yield f"    bad        {_caught(each.bad_now)}" + (f" -> {_caught(each.bad_then)}" if moved else "")
        if each.note:
            yield f"    {'note' if each.well else 'INFEASIBLE'}  {each.note}"
    scoreless = [rule.id for rule in policies.rules if rule.mode is not Mode.OFF and not rule.conditions[0]]
    if scoreless:
        yield "rules without a score, asked as of a plain request: " + ", ".join(dict.fromkeys(scoreless))
    yield f"all rules that stop  {_rate(stops[0])}" + (f" -> {_rate(stops[1])}" if stops[0] != stops[1] else "")


def _plain(outcomes: Sequence[Outcome], stops: tuple[Rate, Rate]) -> dict[str, Any]:
    from dataclasses import asdict

    def one(found: Rate | None) -> dict[str, Any] | None:
        return None if found is None else asdict(found)

    rules = [
        {
            "policy": each.policy,
            "written_in": each.written,
            "rule": each.rule.id,
            "action": each.rule.action.value,
            "mode": str(each.rule.mode),
            "budget": each.budget,
            "well": each.well,
            "note": each.note,
            "thresholds": [
                {"findings": part.findings, "at": part.path, "now": part.now, "then": part.then} for part in each.parts
            ],
            "honest": {"now": one(each.honest_now), "then": one(each.honest_then)},
            "bad": {"now": one(each.bad_now), "then": one(each.bad_then)},
        }
        for each in outcomes
    ]
    return {"rules": rules, "stopped": {"now": one(stops[0]), "then": one(stops[1])}}


def _save(policy: str, before: Mapping[str, bytes], changed: Sequence[Outcome]) -> None:
    """Runs the policy's cases with the new thresholds, and writes the files where all pass and those that were there
    `before` the texts were judged are there as they were. Raises Refused."""
    from policies.calibrate import marks, moves
    from policies.check import check
    from policies.document import read
    from policies.edited import EditError, edited
    from policies.judged import CalibrateError
    from policies.load import packs

    if policy.removeprefix("pack:") in packs() and not Path(policy).exists():
        how = f"penstock policy copy {policy.removeprefix('pack:')} my-policies"
        raise Refused(f"{policy} is a shipped pack: copy it to a file of yours ({how}) and calibrate that")
    _unchanged(policy, before)  # or what is said of the cases would be about files that nobody calibrated
    after: dict[str, bytes] = {}
    said: list[str] = []
    for name, raw in before.items():
        written = read(raw, name).value
        try:
            bounds = marks(written, changed)
            numbers = {**moves(written, changed), **bounds}
            if numbers:
                after[name] = edited(raw, numbers)
        except (CalibrateError, EditError) as error:
            raise Refused(f"{name}: {error}") from error
        said += [f"moved with it: the case '{clean(written['cases'][path[1]]['name'])}'" for path in bounds]
    # Before anything is written: a server that follows these files must not see what fails its own cases.
    result = check(policy, live=True, instead=after)
    if not result.ok:
        what = "its own cases fail with these thresholds; nothing was changed"
        mend = (
            "a case that marks the old threshold moves along where its score is that very number; move others by hand"
        )
        if result.problems:
            what = "the policies cannot be used with these thresholds; nothing was changed"
            mend = "write them by hand, and what must move with them"
        raise Refused("\n".join((what, *result.lines()[:-1], mend)))
    _unchanged(policy, before)
    write_all({Path(name): raw for name, raw in after.items()})
    for line in dict.fromkeys(said):
        print(line, file=sys.stderr)
    for name in after:
        print(f"written: {clean(name)}", file=sys.stderr)


def _unchanged(policy: str, before: Mapping[str, bytes]) -> None:
    """Raises Refused where the files are others than `before`."""
    from policies.load import sources

    now = dict(sources(policy))
    others = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if others:
        told = ", ".join(map(clean, others))
        raise Refused(f"{told}: changed meanwhile, by somebody else; nothing was written: calibrate again")


@contextlib.contextmanager
def _progress() -> Iterator[Say | None]:
    """A bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(
        TextColumn("judging"), BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)
