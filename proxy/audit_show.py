"""One decision for people: what happened, what was judged on either side, rules and scores, and the time it took."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
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


def ended(exchange: Exchange) -> str:
    """How it ended, in a word or two: `open` where it has not. One record may tell of many refusals."""
    if exchange.outcome is None:
        return "open"
    status, times = exchange.outcome.get("status"), exchange.outcome.get("times")
    many = f" ({times:,} times)" if type(times) is int else ""
    return ("-" if status is None else str(status)) + many


@dataclass(frozen=True, slots=True)
class Section:
    """A table of what is known of one side of a decision: rows of names and values, all of them text."""

    title: str
    rows: list[tuple[str, ...]]


def pages(exchange: Exchange) -> Iterator[Table]:
    """Tables for a terminal, to be printed one after the other."""
    for section in sections(exchange):
        table = Table(title=Text(clean(section.title)), title_justify="left", show_header=False)
        for row in section.rows:  # Text: rich reads [brackets] in a str as its own markup
            table.add_row(*(Text(clean(cell)) for cell in row))
        yield table


def sections(exchange: Exchange) -> Iterator[Section]:
    """All that is known of a decision."""
    body = {**(exchange.intent or {}), **{k: v for k, v in (exchange.outcome or {}).items() if v is not None}}
    times = body.pop("milliseconds", None)
    stages = {name: body.pop(name) for name in _STAGES if isinstance(body.get(name), dict)}
    rows: list[tuple[str, ...]] = [("began", moment(exchange.at))]
    if exchange.outcome is None:
        rows.append(("status", "open"))
    yield Section(exchange.id, rows + list(_flat(body).items()))
    for name, seen in stages.items():
        yield _stage(_STAGES[name], seen)
    if isinstance(times, dict):
        order = list(_TIMES)
        told = sorted(times.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
        yield Section("milliseconds", [(_TIMES.get(name) or name, str(value)) for name, value in told])


def _stage(title: str, seen: dict[str, Any]) -> Section:
    """What was seen of the request or the answer."""
    rows: list[tuple[str, ...]] = []
    canary = seen.get("canary") or ()
    for rule, action in _items(seen, "rules"):
        rows.append(("rule", str(rule), f"{action}{' (canary)' if rule in canary else ''}"))
    for rule, action in _items(seen, "shadow"):
        rows.append(("in shadow", str(rule), f"would {action}"))
    role = seen.get("role")
    by_role = {role: seen.get("scores")} if role is not None else seen.get("by_role") or {"": seen.get("scores")}
    for who, scores in by_role.items():
        if isinstance(scores, dict):
            for name, score in sorted(scores.items(), key=_highest):
                rows.append((f"score {who}".strip(), str(name), str(score)))
    for classifier, reason in _items(seen, "failures"):
        rows.append(("no answer", str(classifier), str(reason)))
    if not rows:
        rows.append(("nothing was found", "", ""))
    rest = {key: value for key, value in seen.items() if key not in _SHOWN}
    rows += [(name, value, "") for name, value in _flat(rest).items()]
    return Section(f"the {title} as it was judged", rows)


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
