"""`penstock check`: is a policy well written, and does it keep its own promises?

Exit codes: 0 nothing of the grade error, 1 something is, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .audit_show import clean

if TYPE_CHECKING:
    from policies.check import CheckResult


class Output(StrEnum):
    """For whom findings are written."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


class Plain(StrEnum):
    """For whom a comparison is written."""

    TEXT = "text"
    JSON = "json"


PlainOutput = Annotated[Plain, typer.Option("--output", "--format", help="text for people, json for programs.")]


@dataclass(frozen=True, slots=True)
class _Found:
    """One finding in the form that all outputs share. `line` and `column` are 0 for a whole file."""

    file: str
    line: int
    column: int
    grade: str
    id: str
    what: str
    mend: str


def check(
    path: Annotated[list[str], typer.Argument(help="A directory, a file, or a shipped pack.", metavar="PATH")],
    output: Annotated[
        Output,
        typer.Option("--output", "--format", help="text for people, json for programs, github for annotations."),
    ] = Output.TEXT,
    live: Annotated[
        bool, typer.Option("--live", help="Ask learned classifiers too, for cases that give no scores.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
) -> None:
    """Validate a policy, look for likely mistakes, and run its cases.

    Without --live a case that needs a learned classifier and gives no 'scores' is skipped, and said to be.

    Exit codes: 0 nothing of the grade error, 1 something is, 2 wrong usage.

    Example: penstock check my-policies --strict
    """
    from policies.check import check as check_policy

    if len(path) > 1:
        mend = "files that belong together stand in one directory: name that"
        raise typer.BadParameter(f"{len(path)} paths; {mend}", param_hint="PATH")
    result = check_policy(path[0], live=live, linted=True)
    match output:
        case Output.TEXT:
            for line in result.lines():
                typer.echo(clean(line))
        case Output.JSON:
            typer.echo(dumps(_plain(result), indent=1))
        case Output.GITHUB:
            for found in _found(result):
                typer.echo(_annotation(found))
            typer.echo(clean(result.summary()))
    raise typer.Exit(0 if result.ok and not (strict and result.notices) else 1)


def _found(result: CheckResult) -> Iterator[_Found]:
    for problem in result.problems:
        yield _Found(problem.file, problem.line, problem.column, "error", "invalid", problem.what, problem.mend)
    for notice, problem in result.notices:
        grade = notice.grade.value
        yield _Found(problem.file, problem.line, problem.column, grade, notice.id, problem.what, problem.mend)
    for place, outcome, said in result.told():
        grade = "error" if outcome == "failed" else "notice"
        yield _Found(*_place(place), grade, f"case-{outcome}", said, "")


def _place(place: str) -> tuple[str, int, int]:
    file, line, column = [*place.rsplit(":", 2), "", ""][:3]
    return (file, int(line), int(column)) if line.isdecimal() and column.isdecimal() else (place, 0, 0)


def _plain(result: CheckResult) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "source": result.source,
        "revision": result.policy.revision if result.policy is not None else None,
        "ok": result.ok,
        "findings": [asdict(found) for found in _found(result)],
        "cases": [
            {
                "policy": case.policy,
                "name": case.name,
                "place": case.place,
                "outcome": case.outcome.value,
                "base": case.base or None,
            }
            for case in result.cases
        ],
    }


def _annotation(found: _Found) -> str:
    """A workflow command of GitHub Actions: what it reads from a step's output, and shows beside the line."""
    place = f"file={_property(found.file)}"
    if found.line:
        place += f",line={found.line},col={found.column}"
    text = found.what + (f"; {found.mend}" if found.mend else "")
    return f"::{found.grade} {place},title={_property(f'penstock {found.id}')}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
