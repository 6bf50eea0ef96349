"""One decision for people: what happened, what was judged on either side, rules and scores, and the time it took."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from .audit import Exchange

_TIMES = {
    "input": "judging the request", "audit": "until it was recorded", "upstream": "until the upstream answered",
    "first_token": "until the first text left", "gate": "text held back", "output": "judging the answer",
    "added": "added by Penstock", "total": "in all",
}  # fmt: skip
_STAGES = {"input": "request", "output": "answer"}


def clean(value: object) -> str:
    """Text for a terminal: what steers one, or hides (controls, bidi, zero-width), is shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(value))


def moment(at: float) -> str:
    """A time in this place's zone."""
    return datetime.datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")


def pages(exchange: Exchange) -> Iterator[Table]:
    """Tables, to be printed one after the other."""
    body = {**(exchange.intent or {}), **{k: v for k, v in (exchange.outcome or {}).items() if v is not None}}
    times = body.pop("milliseconds", None)
    stages = {name: body.pop(name) for name in _STAGES if isinstance(body.get(name), dict)}
    table = Table(title=Text(clean(exchange.id)), title_justify="left", show_header=False)
    table.add_row("began", moment(exchange.at))
    if exchange.outcome is None:
        table.add_row("status", "open")
    for name, value in _flat(body).items():
        table.add_row(Text(clean(name)), Text(clean(value)))  # Text: rich reads [brackets] in a str as its own markup
    yield table
    for name, seen in stages.items():
        yield from _stage(_STAGES[name], seen)
    if isinstance(times, dict):
        table = Table(title="milliseconds", title_justify="left", show_header=False)
        for name, value in sorted(
            times.items(), key=lambda item: list(_TIMES).index(item[0]) if item[0] in _TIMES else 99
        ):
            table.add_row(Text(clean(_TIMES.get(name, name))), Text(clean(value), justify="right"))
        yield table


def _stage(title: str, seen: dict[str, Any]) -> Iterator[Table]:
    """What was seen of the request or the answer."""
    table = Table(title=f"the {title} as it was judged", title_justify="left", show_header=False)
    canary = seen.get("canary") or ()
    for rule, action in _items(seen, "rules"):
        table.add_row("rule", Text(clean(rule)), Text(clean(f"{action}{' (canary)' if rule in canary else ''}")))
    for rule, action in _items(seen, "shadow"):
        table.add_row("in shadow", Text(clean(rule)), Text(clean(f"would {action}")))
    role = seen.get("role")
    by_role = {role: seen.get("scores")} if role is not None else seen.get("by_role") or {"": seen.get("scores")}
    for who, scores in by_role.items():
        if isinstance(scores, dict):
            for name, score in sorted(scores.items(), key=_highest):
                table.add_row(Text(clean(f"score {who}".strip())), Text(clean(name)), Text(clean(score)))
    for classifier, reason in _items(seen, "failures"):
        table.add_row("no answer", Text(clean(classifier)), Text(clean(reason)))
    if not table.rows:
        table.add_row("nothing was found")
    yield table
    rest = {key: value for key, value in seen.items() if key not in _SHOWN}
    if rest:
        more = Table(show_header=False)
        for name, value in _flat(rest).items():
            more.add_row(Text(clean(name)), Text(clean(value)))
        yield more


_SHOWN = frozenset({"rules", "canary", "shadow", "scores", "role", "by_role", "failures"})


def _highest(item: tuple[str, Any]) -> float:
    return -item[1] if isinstance(item[1], int | float) else 0.0


def _items(seen: dict[str, Any], name: str) -> list[tuple[Any, Any]]:
    found = seen.get(name)
    return list(found.items()) if isinstance(found, dict) else []


def _flat(body: Any, prefix: str = "") -> dict[str, str]:
    """Nested objects as dotted names."""
    if not isinstance(body, dict):
        return {}
    flat: dict[str, str] = {}
    for name, value in body.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            flat[prefix + name] = value
        elif value is not None:
            flat[prefix + name] = orjson.dumps(value).decode()
    return flat
