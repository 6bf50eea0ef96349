"""`penstock explain`: one request, and its answer, judged as in live traffic, with everything that led to the decision.

No matched text is shown unless --show-text says so. Exit codes: 0 judged, 1 it cannot be, 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .audit_cli import ConfigFile, clean, log_path, reading, settings_of
from .check_cli import Plain, PlainOutput
from .policy_name import POLICY, source_of
from .teach_cli import Refused, operator

if TYPE_CHECKING:
    from classifiers.base import Finding, Message, Role
    from policies.decision import Decision
    from policies.explain import PartView, RuleView
    from policies.facts import Facts
    from policies.model import Stage
    from policies.ready import PolicySet

    from .audit import Exchange
    from .dialects.base import Body, Dialect
    from .guard import Guard

_ID = re.compile(r"pn_[0-9a-z]{26}").fullmatch
_BESIDE = {
    "advise": "the model gets a note with it",
    "rewrite": "the caller gets the rule's words",
    "route": "{0} is asked, and by what is for it the request is judged again",
    "review": "it waits {1} s for a person, then: {2}",
}
"""What a rule has done beside what its action's name says."""
MOST = 20
"""Findings that are listed for people; --output json has all."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """What was judged at one stage, and what became of it. `read` says how many texts each classifier was to read,
    `facing` which policies are for the request."""

    messages: Sequence[Message]
    decision: Decision
    rules: list[RuleView]
    read: dict[str, int]
    facing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is to be explained: where it was sent, how it was read, both bodies, and the answer's tree where there is
    one. `asked` is a Request where all of it is known. `notes` are for people."""

    place: str
    dialect: str
    asked: Body
    said: Body | None
    answer: Any
    notes: Sequence[str] = ()
    facts: Facts | None = None


def explain(
    request: Annotated[
        str,
        typer.Argument(
            help="A file with the request's JSON body; - reads standard input. Or the id of a decision whose "
            "content was kept: that needs the master key."
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(help=f"{POLICY} Left out: the revision that decided, or baseline for what nobody decided."),
    ] = None,
    response: Annotated[Path | None, typer.Option(help="A file with the answer to it: JSON, or a stream.")] = None,
    path: Annotated[
        str | None, typer.Option(help="Where it would be sent, like /v1/messages; else its shape tells.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="The log of the decision; else the one in the data directory.")
    ] = None,
    config: ConfigFile = None,
    show_text: Annotated[bool, typer.Option("--show-text", help="Show the text that matched.")] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show what each classifier saw in a request, each rule's condition with its values, and why the decision fell.

    Exit codes: 0 judged, 1 it cannot be, 2 wrong usage, or a log that cannot be read.

    Example: penstock explain request.json --response answer.json --policy my-policies
    """
    from policies.load import load

    with operator():
        found = _recorded(request, audit) if _ID(request) is not None and not Path(request).exists() else None
        source = _deciding(found) if found is not None and policy is None else source_of(policy or "baseline")
        policies = load(source)
        told = _kept(found, policies) if found is not None else _given(request, response, path)
        stages = asyncio.run(_judged(policies, told))
    if output is Plain.JSON:
        plain: dict[str, Any] = {}
        for stage in stages:
            name = str(stage.decision.stage)
            plain[name if name not in plain else f"{name}_elsewhere"] = _plain(stage, show_text)
        typer.echo(dumps({"path": told.place, "revision": policies.revision, **plain}, indent=1))
        return
    by = policy or ("as it decided then" if found is not None else "baseline")
    typer.echo(f"read as {told.dialect} (POST {told.place}); policy {clean(by)}, revision {policies.revision}")
    for note in told.notes:
        typer.echo(note)
    for name in sorted({each.id for each in policies.policies} - {each for stage in stages for each in stage.facing}):
        typer.echo(f"policy {name} is not for this request")
    for stage in stages:
        for line in _lines(stage, show_text):
            typer.echo(clean(line))


def _given(request: str, response: Path | None, path: str | None) -> _Told:
    """What files hold. Raises Refused and OSError."""
    from .dialects.base import BadRequest, Malformed
    from .spoken import is_stream, spoken
    from .strict import parse

    raw = sys.stdin.buffer.read() if request == "-" else Path(request).read_bytes()
    try:
        tree = parse(raw)
        place, dialect = _dialect(tree, path)
        asked = dialect.read_request(tree)
        answered = b"" if response is None else response.read_bytes()
        if answered and is_stream(answered):
            return _Told(place, dialect.name, asked, spoken(dialect, asked, answered), None)
        answer = None if response is None else parse(answered)
        said = None if answer is None else dialect.read_response(answer)
    except (Malformed, BadRequest) as error:
        raise Refused(f"it would be refused before it is judged: {error}") from error
    return _Told(place, dialect.name, asked, said, answer)


class _Recorded(NamedTuple):
    """A recorded exchange, what was kept of it, and where its log lies."""

    exchange: Exchange
    content: dict[str, Any]
    log: str


def _recorded(id: str, audit: Path | None) -> _Recorded:
    """Raises Refused."""
    from .audit import Reader
    from .content_cli import content_of

    with reading("--audit"):
        path = log_path(audit)
        with Reader(path) as log:
            exchange = log.exchange(id)
        if exchange is None:
            raise Refused(f"no such file, and no decision of that id in {path}")
        content = content_of(id, settings_of(path))
    if isinstance(content, str):
        raise Refused(f"{id}: {content}")
    return _Recorded(exchange, content, path)


def _deciding(found: _Recorded) -> str:
    """Where the revision that decided an exchange is kept. Raises Refused."""
    from .policy_store import Store, StoreError

    home, revision = settings_of(found.log).data_dir / "policies", str(found.exchange["revision"])
    for store in (Store(home), *map(Store, sorted(home.glob("named/*")))):
        with contextlib.suppress(StoreError):
            return store.get(revision).entry
    raise Refused(f"the revision {revision or '?'} that decided it is not kept in {home}: say --policy")


def _kept(found: _Recorded, policies: PolicySet) -> _Told:
    """What was kept of a decision."""
    from policies.model import Stage

    from .content.stated import stated
    from .rejudged import body_of, masked

    exchange, content = found.exchange, found.content
    notes = []
    if masked(content):
        notes.append("what the policy of then masked is masked here")
    facts = stated(content["facts"]) if "facts" in content else None
    if policies.asks and facts is None:
        notes.append("settings, tools and account are not kept: every policy applies, and what asks for them is open")
    said = body_of(content, Stage.OUTPUT) if str(Stage.OUTPUT) in content else None
    return _Told(
        str(exchange["path"]), str(exchange["dialect"]), body_of(content, Stage.INPUT), said, None, notes, facts
    )


def _dialect(tree: Any, path: str | None) -> tuple[str, Dialect]:
    """The API that such a body is for. Raises Refused."""
    from .app import DIALECTS

    known = {place.decode(): dialect for place, dialect in DIALECTS}
    if path is None:
        path = _shape(tree)
    if path not in known:
        raise Refused(f"{path} is not judged: one of {', '.join(known)}")
    return path, known[path]


def _shape(tree: Any) -> str:
    """The path that a body was made for, by the words in it."""
    if not isinstance(tree, dict):
        raise Refused("the body is no JSON object")
    if "messages" in tree:
        theirs = {"system", "stop_sequences", "thinking", "anthropic_version"} & tree.keys()
        blocks = dumps(tree["messages"])
        ours = any(word in blocks for word in ('"type": "tool_use"', '"type": "tool_result"'))
        return "/v1/messages" if theirs or ours else "/v1/chat/completions"
    if "prompt" in tree:
        return "/v1/completions"
    if "input" in tree:
        return "/v1/embeddings" if {"encoding_format", "dimensions"} & tree.keys() else "/v1/responses"
    raise Refused("no 'messages', 'input' or 'prompt' in it: say what it is with --path")


async def _judged(policies: PolicySet, told: _Told) -> list[_Stage]:
    """Both stages, by the same guard as in live traffic, for an account of which nothing is known. The answer is judged
    even where the request is blocked."""
    from classifiers.base import Role, said_before
    from classifiers.panel import Panel
    from policies.model import Stage

    from .dialects.base import Request
    from .guard import Guard
    from .metrics import Metrics

    panel = Panel()
    guard = Guard(policies, panel, Metrics())
    if guard.asks and isinstance(told.asked, Request):
        guard = guard.facing(told.asked, told.dialect)
    elif guard.asks and told.facts is not None:
        guard = guard.stating(told.facts)
    judged = []
    try:
        first = await _stage(guard, Stage.INPUT, told.dialect, told.asked, Role.USER, "")
        judged.append(first)
        if (elsewhere := _elsewhere(guard, first)) is not None:
            guard, to = elsewhere
            again = await _stage(guard, Stage.INPUT, told.dialect, told.asked, Role.USER, "")
            judged.append(replace(again, decision=again.decision.arrived({to})))
        if told.said is not None:
            guard = guard.answering(told.answer) if guard.asks and told.answer is not None else guard
            before = said_before(told.asked.messages)
            judged.append(await _stage(guard, Stage.OUTPUT, told.dialect, told.said, Role.ASSISTANT, before))
    finally:
        panel.close()
    return judged


def _elsewhere(guard: Guard, judged: _Stage) -> tuple[Guard, str] | None:
    """Who judges a request again that a rule sends to another model, where that makes a difference, and the model."""
    from policies.model import Action

    way = judged.decision.way
    if way is None or way.action is not Action.ROUTE:
        return None
    other = guard.asked_of(way.told)
    return None if other is None else (other, way.told)


async def _stage(guard: Guard, stage: Stage, dialect: str, body: Body, role: Role, before: str) -> _Stage:
    from classifiers.base import Message
    from policies.explain import explain as views
    from policies.plan import plan

    places = [(Message(role, "", origin), kind) for origin, kind in body.unscannable]
    decision = await guard.check(stage, dialect, body.messages, places, before)
    messages = [*body.messages, *(message for message, _ in places)]
    read = {
        reading.classifier: sum(message.role in reading.roles for message in body.messages)
        for reading in plan(guard.policies, stage)
    }
    rules = views(guard.policies, messages, decision, guard.known(stage, messages))
    facing = tuple(policy.id for policy in guard.policies.policies)
    return _Stage(messages, decision, rules, read, facing)


def _lines(stage: _Stage, show_text: bool) -> Iterator[str]:
    decision = stage.decision
    by = f" by rule '{decision.rule}' of policy '{decision.policy}'" if decision.rule else ", no rule fired"
    yield ""
    yield f"{decision.stage}: {decision.action}{by}"
    if len(decision.fired) > 1:
        yield f"  it is the most severe of {len(decision.fired)} that fired"
    for fired in decision.fired:
        if fired.action in _BESIDE and (fired is decision.way or fired.action == "advise"):
            yield f"  {fired.rule}: {_BESIDE[fired.action].format(fired.told, fired.hold, fired.otherwise)}"
    for at, message in enumerate(stage.messages):
        yield f"  text {at}  {message.role}  {message.origin}  {len(message.text):,} characters"
    for name, count in stage.read.items():
        yield f"  {name} was to read {count} of {len(stage.messages)}"
    for failure in decision.failures:
        yield f"  {failure.classifier} gave no answer: {failure.reason} {failure.detail}".rstrip()
    found = sorted(decision.findings, key=lambda each: -each.score)
    for each in found[:MOST]:
        yield f"  saw {_found(each, stage, show_text)}"
    if len(found) > MOST:
        yield f"  and {len(found) - MOST} findings with lower scores"
    for view in stage.rules:
        yield from _rule(view)


def _found(found: Finding, stage: _Stage, show_text: bool) -> str:
    message = stage.messages[found.message]
    where = "the whole text" if found.span is None else f"characters {found.span[0]} to {found.span[1]}"
    text = f"  '{_text(found, stage)}'" if show_text else ""
    name = f"{found.classifier}.{found.label}"
    where += f", read as {found.view}" if found.view not in ("", "raw") else ""
    return f"{name} {found.score:.4f} in text {found.message} ({message.role}), {where}{text}"


def _text(found: Finding, stage: _Stage) -> str:
    text = stage.messages[found.message].text
    return text if found.span is None else text[found.span[0] : found.span[1]]


def _rule(view: RuleView) -> Iterator[str]:
    rule = view.rule
    mode = "" if str(rule.mode) == "enforce" else f", {rule.mode}"
    mark = "* " if view.decided else "  "
    note = f" ({view.fired.note})" if view.fired is not None and view.fired.note else ""
    yield f"{mark}rule {rule.id} ({rule.action}{mode}): {view.state}{note}"
    if view.said:
        yield f"      when {' '.join(view.said.split())}"
    for name, value in view.values.items():
        yield f"      {name} is {dumps(value, ensure_ascii=False)}"
    for number, part in enumerate(view.parts):
        joint = "" if view.said or number == 0 else "and " if view.every else "or "
        yield f"      {joint}{_part(part)}"


def _part(part: PartView) -> str:
    names = " or ".join(part.names) + (f" read as {part.reading}" if part.reading else "")
    if part.state == "not evaluated":
        return f"{names} >= {part.at_least:g}: nobody answered"
    sign = ">=" if part.score >= part.at_least else "<"
    return f"{names}: {part.score:.4f} {sign} {part.at_least:g} ({part.distance:+.4f}): {part.state}"


def _plain(stage: _Stage, show_text: bool) -> dict[str, Any]:
    decision = stage.decision
    findings = []
    for found in decision.findings:
        message = stage.messages[found.message]
        one = {
            "classifier": found.classifier,
            "label": found.label,
            "score": found.score,
            "message": found.message,
            "role": str(message.role),
            "origin": message.origin,
            "span": found.span,
            "view": found.view or None,
        }
        findings.append({**one, "text": _text(found, stage)} if show_text else one)
    return {
        "action": str(decision.action),
        "rule": decision.rule,
        "policy": decision.policy,
        "reason": decision.reason,
        "messages": [
            {"role": str(message.role), "origin": message.origin, "characters": len(message.text)}
            for message in stage.messages
        ],
        "asked": stage.read,
        "failures": {failure.classifier: str(failure.reason) for failure in decision.failures},
        "findings": findings,
        "rules": [_plain_rule(view) for view in stage.rules],
    }


def _plain_rule(view: RuleView) -> dict[str, Any]:
    return {
        "policy": view.policy,
        "rule": view.rule.id,
        "action": str(view.rule.action),
        "mode": str(view.rule.mode),
        "state": str(view.state),
        "decided": view.decided,
        "expression": view.said or None,
        "values": view.values,
        "all_needed": view.every,
        "parts": [
            {
                "findings": list(part.names),
                "reading": part.reading or None,
                "at_least": part.at_least,
                "score": part.score,
                "distance": round(part.distance, 6),
                "state": str(part.state),
            }
            for part in view.parts
        ],
    }
