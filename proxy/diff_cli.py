"""`penstock diff`: two policies, and in words what differs.

Exit codes: 0 compared, 1 a policy cannot be loaded (with --exit-code also: they differ), 2 wrong usage.
"""

from __future__ import annotations

from collections import Counter
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from .audit_show import clean
from .check_cli import Plain, PlainOutput
from .policy_name import POLICY, source_of
from .teach_cli import operator

if TYPE_CHECKING:
    from policies.diff import Change


def diff(
    old: Annotated[str, typer.Argument(help=POLICY)],
    new: Annotated[str, typer.Argument(help="Another one.")],
    output: PlainOutput = Plain.TEXT,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 where they differ.")] = False,
) -> None:
    """Say in words what differs between two policies, and what is stricter or looser for it.

    Exit codes: 0 compared, 1 a policy cannot be loaded (with --exit-code also: they differ), 2 wrong usage.

    Example: penstock diff baseline my-policies
    """
    from policies.diff import diff as compare
    from policies.load import load

    with operator():
        before, after = load(source_of(old)), load(source_of(new))
    changes = compare(before, after)
    if output is Plain.JSON:
        plain = [
            {"subject": c.subject, "id": c.id, "what": c.what, "old": c.old, "new": c.new, "effect": c.effect or None}
            for c in changes
        ]
        typer.echo(dumps({"old": before.revision, "new": after.revision, "changes": plain}, indent=1))
    else:
        for change in changes:
            typer.echo(clean(change))
        typer.echo(_summary(changes, before.revision, after.revision))
    raise typer.Exit(1 if changes and exit_code else 0)


def _summary(changes: list[Change], old: str, new: str) -> str:
    if not changes:
        return f"no difference: revision {new}"
    count = Counter(str(change.effect) or "other" for change in changes)
    told = ", ".join(f"{count[effect]} {effect}" for effect in ("stricter", "looser", "other") if count[effect])
    return f"revision {old} -> {new}: {told}"
