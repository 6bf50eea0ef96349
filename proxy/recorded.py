"""Recorded exchanges as `policies.backtest` wants them: read from the audit in chunks, one JSON body after the other.

Decision: orjson and a loop, no DuckDB or Polars; policies/README.md has the figures. Cost: one core.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import orjson

from classifiers.base import Role
from policies.backtest import Part, Rows, Scope
from policies.decision import ENDS
from policies.model import Action, Stage

from .audit import Reader

CHUNK = 100_000
"""Exchanges at once."""

# Of an exchange whose process died the intent is all that was decided; of several outcomes the last one counts.
_DECIDED = """
SELECT id, action, coalesce(rule, ''), body FROM records AS r
WHERE kind = 'outcome' AND action IS NOT NULL AND at >= ? AND NOT EXISTS
  (SELECT 1 FROM records AS o WHERE o.id = r.id AND o.seq > r.seq AND o.kind = 'outcome' AND o.action IS NOT NULL)
UNION ALL
SELECT id, action, coalesce(rule, ''), body FROM records AS r
WHERE kind = 'intent' AND action IS NOT NULL AND at >= ? AND NOT EXISTS
  (SELECT 1 FROM records AS o WHERE o.id = r.id AND o.kind = 'outcome' AND o.action IS NOT NULL)
"""
_ROLES = frozenset(role.value for role in Role)


def recorded(log: Reader, since: float = 0.0) -> Iterator[Rows]:
    """The decided exchanges in a log that ended at or after `since` (unix seconds). Raises AuditUnavailable."""
    rows = Rows()
    for id, action, rule, body in log.select(_DECIDED, (since, since)):
        take(rows, id, action, rule, _parsed(body))
        if len(rows.ids) >= CHUNK:
            yield rows
            rows = Rows()
    if rows.ids:
        yield rows


def _parsed(body: bytes | str) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def take(rows: Rows, id: str, action: str, rule: str, body: Any) -> None:
    """Add one exchange, whose record is `body`. One that is not as Penstock writes it is added as unreadable."""
    row = len(rows.ids)
    rows.ids.append(id)
    rows.actions.append(action)
    rows.rules.append(rule)
    rows.revisions.append("")
    rows.scopes.append(_NOBODY)
    try:
        _take(rows, row, action, body)
    except (AttributeError, TypeError, ValueError):
        _forget(rows, row)


def _take(rows: Rows, row: int, action: str, body: dict[str, Any]) -> None:
    get = body.get
    scope = Scope(get("dialect", ""), get("model", ""), get("account", ""), get("stream", False))
    revision = get("revision") or ""
    # Values of other types could not be looked up, and a log may have been written by anybody.
    if action not in _ACTIONS or not all(type(each) in _PLAIN for each in (revision, *scope)):
        raise TypeError("no record of Penstock's")
    rows.revisions[row], rows.scopes[row] = revision, scope
    if "routed" in body:
        rows.routed[row] = str(body["routed"].get("to", ""))
    if not get("review", {}).get(str(Stage.INPUT), {}).get("passed", True):
        rows.ended.add(row)
    for name, stage in _STAGES:
        seen = body.get(name)
        if seen is None:
            continue
        part = rows.stages[stage]
        part.judged.append(row)
        if seen:
            _stage(part, row, seen)
            if stage is Stage.INPUT and _ends(seen.get("rules", {}).values(), body):
                rows.ended.add(row)


def _forget(rows: Rows, row: int) -> None:
    """Leave of a row only that it cannot be read."""
    rows.actions[row] = str(Action.PASS)
    rows.unreadable.add(row)
    rows.routed.pop(row, None)
    rows.ended.discard(row)
    for part in rows.stages.values():
        for at in (part.judged, part.unclear, part.untold):
            while at and at[-1] == row:
                at.pop()
        part.silent.pop(row, None)
        part.fired.pop(row, None)
        for at, values in part.columns.values():
            while at and at[-1] == row:
                at.pop()
                values.pop()


def _ends(actions: Collection[str], body: dict[str, Any]) -> bool:
    """Whether one of the rules that fired on a request answered it."""
    if _ENDING.isdisjoint(actions):
        return False
    # Words that a route outranked, as one did in an older Penstock, answered nobody, where a model was asked.
    return "routed" not in body or "upstream" not in body or str(Action.BLOCK) in actions


_ACTIONS = frozenset(map(str, Action))
_PLAIN = frozenset({str, bool})
_NOBODY = Scope()
_ENDING = frozenset(map(str, ENDS))
_STAGES = [(str(stage), stage) for stage in Stage]


def _stage(part: Part, row: int, seen: dict[str, Any]) -> None:
    scores = seen.get("scores")
    if scores:
        role = seen.get("role")
        by_role = {role: scores} if role is not None else seen.get("by_role")
        if by_role is None:
            part.unclear.append(row)
        else:
            _columns(part, row, by_role, False)
    views = seen.get("views")
    if views:
        for role, of_role in views.items():
            for view, found in of_role.items():
                _columns(part, row, {role: found}, view.endswith("#"), view.removesuffix("#"))
    elif views is None and scores:
        part.untold.append(row)
    unplaced = seen.get("unplaced")
    if unplaced:
        _columns(part, row, unplaced, True)
    if "rules" in seen or "shadow" in seen:
        part.fired[row] = fired = {**seen.get("shadow", {}), **seen.get("rules", {})}
        if not _ACTIONS.issuperset(fired.values()):
            raise ValueError("a rule that did what no rule does")
    failures = seen.get("failures")
    if failures:
        part.silent[row] = frozenset(failures), frozenset(seen.get("present", ())) & _ROLES


def _columns(part: Part, row: int, by_role: dict[str, dict[str, float]], placeless: bool, view: str = "") -> None:
    columns = part.columns
    for role, scores in by_role.items():
        if role not in _ROLES:
            part.unclear.append(row)
            continue
        for name, score in scores.items():
            if type(score) is not float and type(score) is not int:
                raise TypeError("a score that is no number")
            key = role, name, placeless, view
            column = columns.get(key)
            if column is None:
                column = columns[key] = ([], [])
            column[0].append(row)
            column[1].append(score)
