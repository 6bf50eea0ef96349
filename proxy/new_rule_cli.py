"""`penstock new-rule`: a rule with its cases, written into a policy file that keeps its comments and order.

Exit codes: 0 written, and it holds; 1 it cannot be written or would not hold, and the file is as it was; 2 wrong usage.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from .audit_show import clean
from .teach_cli import Refused, operator, write

ACTIONS = ("pass", "log", "mask", "block", "review")
"""Those that need no words of the author's."""
SHIPPED = {"guard": "embedded", "secrets": "secrets", "pii": "pii"}
"""Classifiers that the shipped packs call so: a rule may ask them where the file does not define them yet."""
ROLE = {"input": "user", "output": "assistant"}


def new_rule(  # noqa: PLR0913, PLR0917 - one parameter an option
    file: Annotated[Path, typer.Argument(help="The policy file; it is begun where there is none.")],
    id: Annotated[str | None, typer.Argument(help="The rule's id: small letters, digits, '-'.")] = None,
    finding: Annotated[
        list[str] | None,
        typer.Option("--finding", help="Like guard.harmful; say it again for any of several."),
    ] = None,
    at_least: Annotated[str | None, typer.Option(help="The lowest score that counts: 0.9, or 90%.")] = None,
    action: Annotated[str | None, typer.Option(help=f"{', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}.")] = None,
    stage: Annotated[str, typer.Option(help="input or output.")] = "input",
    role: Annotated[list[str] | None, typer.Option("--role", help="Whose texts; all where it is left out.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for, in plain words.")] = None,
    word: Annotated[
        list[str] | None, typer.Option("--word", help="A word or phrase to find: makes the classifier as well.")
    ] = None,
    taught: Annotated[
        Path | None, typer.Option(help="A head that `penstock teach` wrote: makes the classifier as well.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="A text on which it must fire: a case.")] = None,
    let: Annotated[list[str] | None, typer.Option("--pass", help="A text that must pass: a case.")] = None,
    shown: Annotated[bool, typer.Option("--print", help="Print the file instead of writing it.")] = False,
) -> None:
    """Write a rule with its cases into a policy. What is left out is asked for on a terminal.

    Cases with texts of yours run against the classifiers; where you give none, two are made with scores just above
    and just below the threshold.

    Exit codes: 0 written, and it holds; 1 it cannot be or would not hold, and the file is as it was; 2 wrong usage.

    Example: penstock new-rule my.yaml no-refund --word "full refund" --stage output --action log
    """
    from policies.check import check
    from policies.scaffold import ScaffoldError, added, begun, rule_of

    asking = sys.stdin.isatty()
    _one_of("--stage", stage, ROLE, "stages")
    for each in role or []:
        _one_of("--role", each, _roles(), "role")
    if action is not None:
        _one_of("--action", action, ACTIONS, "action")
    with operator():
        least = None if at_least is None else _threshold(at_least)
        id = _named(id or _ask(asking, "id of the rule", "the rule's ID behind the file"))
        classifiers, names = _sources(file, id, finding or [], word or [], taught)
        if not names:
            names = [_ask(asking, "finding (classifier.label)", "--finding, --word or --taught")]
        if least is None:
            least = 0.5 if word else _threshold(_ask(asking, "the lowest score that counts, like 0.9", "--at-least"))
        if action is None:
            action = "log" if not asking else typer.prompt(f"action ({', '.join(ACTIONS)})", default="log")
            _one_of("--action", action, ACTIONS, "action")
        description = description or (
            typer.prompt("what is it for") if asking else f"Fires on {', '.join(names)} from {least:g} on."
        )
        more: dict[str, Any] = {"stages": [stage], "roles": role, "action": action}
        more["on_error"] = "log" if action in ("pass", "log", "advise") else "block"
        if stage == "output":
            more["stream"] = {"hold_back": 256}
        rule = rule_of(id, description, [(names, least)], **more)
        cases = _cases(rule, names, least, stop or [], let or [])
        before = file.read_bytes() if file.exists() else None
        base = before if before is not None else begun(_id(file), _owner(), f"Rules of {file.stem}.")
        try:
            made = added(base, str(file), {"classifiers": classifiers, "rules": [rule], "cases": cases})
        except ScaffoldError as error:
            raise Refused(str(error)) from error
        if shown:
            typer.echo(made.decode("utf-8-sig"), nl=False)
            return
        write(file, made)
        result = check(str(file), live=True)
        if not result.ok:
            _restore(file, before)
            # Their places are in a file that nobody has, and what the rule says its cases say again.
            told = [problem.said for problem in result.problems] or result.lines()[:-1]
            raise Refused("\n".join(("nothing was written: it would not hold", *dict.fromkeys(told))))
    typer.echo(f"written: {clean(file)}: rule {id}, {len(cases)} cases; change it there, and run penstock check")


def _one_of(option: str, said: str, known: Collection[str], what: str) -> None:
    """Raises BadParameter for a word that is not among `known`."""
    from policies.mends import did_you_mean
    from policies.slips import word

    if said not in known:
        meant = word(what, said)
        mend = f"write {meant}" if meant is not None else did_you_mean(said, list(known))
        raise typer.BadParameter(f"{said!r} is unknown; {mend}", param_hint=option)


def _roles() -> list[str]:
    from classifiers.base import Role

    return [role.value for role in Role]


def _named(id: str) -> str:
    """Raises Refused for what cannot be the id of a rule."""
    from policies.slips import name

    pattern = r"[a-z0-9][a-z0-9._-]{0,63}$"
    if re.match(pattern, id) is None:
        meant = name(id, pattern)
        mend = f"write {meant}" if meant else "write small letters, digits, '.', '_' or '-', 64 at most"
        raise Refused(f"{id!r} cannot be the id of a rule; {mend}")
    return id


def _threshold(said: str) -> float:
    """The number in 0.9, 90% or 0,9. Raises Refused."""
    from policies.slips import number

    try:
        value = float(said)
    except ValueError:
        meant = number(said)
        value = math.nan if meant is None else meant
    if not 0 < value <= 1:
        mend = f"; for {value:g} % write {value / 100:g}" if 1 < value <= 100 else ""
        raise Refused(f"{said!r} is no threshold: a number above 0, up to 1{mend}")
    return value


def _ask(asking: bool, what: str, option: str) -> str:
    if not asking:
        raise Refused(f"say {option}: {what}")
    return str(typer.prompt(what))


def _sources(
    file: Path, id: str, findings: list[str], words: list[str], taught: Path | None
) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """New classifiers, and all that the rule asks for."""
    classifiers: list[tuple[str, dict[str, Any]]] = []
    names = list(findings)
    asked = dict.fromkeys(finding.partition(".")[0] for finding in findings)
    classifiers += [(each, {"kind": SHIPPED[each]}) for each in asked if each in SHIPPED and not _defines(file, each)]
    name = re.sub(r"[^a-z0-9_-]", "-", id.lower())
    name = name if name[:1].isalpha() else f"c-{name}"
    if words:
        classifiers.append((f"{name}-words", {"kind": "patterns", "patterns": {"word": {"words": words}}}))
        names.append(f"{name}-words.word")
    if taught is not None:
        label = _label(taught)
        own = re.sub(r"[^a-z0-9_-]", "-", label.lower())
        path = os.path.relpath(taught, file.parent)
        classifiers.append((own, {"kind": "taught", "path": path}))
        names.append(f"{own}.{label}")
    return classifiers, names


def _defines(file: Path, name: str) -> bool:
    """Whether a classifier of that name is, or may be, in the file: what is inherited is not looked for."""
    from policies.document import read

    found = read(file.read_bytes(), str(file)).value if file.exists() else {}
    return not isinstance(found, dict) or "extends" in found or name in (found.get("classifiers") or {})


def _label(head: Path) -> str:
    try:
        label = json.loads(head.read_bytes())["label"]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{head}: not a head (penstock teach LABEL --examples FILE makes one)") from None
    return str(label)


def _cases(rule: dict[str, Any], names: list[str], least: float, stop: list[str], let: list[str]) -> list[Any]:
    """Cases that the rule must keep."""
    id, stage = rule["id"], rule["stages"][0]
    # A text that a rule of this action fires on; other rules may do more to it, so that the author sees them clash.
    fires = {"action": rule["action"], "rule": id}
    place = {"stage": stage} if stage == "output" else {}
    who = (rule.get("roles") or [ROLE[stage]])[0]

    def case(name: str, text: str, **more: Any) -> dict[str, Any]:
        said = {"text": text} if who == ROLE[stage] else {"messages": [{"role": who, "text": text}]}
        return {"name": name, **place, **said, **more}

    made = [case(f"{id} fires {at}", text, expect=fires) for at, text in enumerate(stop, 1)]
    made += [case(f"{id} lets pass {at}", text, expect={"action": "pass"}) for at, text in enumerate(let, 1)]
    below = round(max(least - 0.01, 0.0), 6)
    if not stop:
        made.append(case(f"{id} fires", "as if", scores={names[0]: least}, expect=fires))
    if not let:
        made.append(case(f"{id} stays silent", "as if", scores={names[0]: below}, expect={"action": "pass"}))
    return made


def _restore(file: Path, before: bytes | None) -> None:
    if before is None:
        file.unlink()
    else:
        write(file, before)


def _id(file: Path) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", file.stem.lower()).strip("._-") or "policy"


def _owner() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "owner"
