"""How long a backtest takes: `python -m tests.bench.backtest [--rows 1000000] [--others]`.

It fills a log with decisions of much variety (one role to three, an answer, scores of five labels that mostly lie low,
rules that fired, shadows, failures, a revision that nobody kept), and has a stricter `baseline` decide them again.
`--others` has DuckDB do the first half of that work (bodies to columns, scores to steps between thresholds, equal ones
counted) and Polars the first quarter (bodies to columns), where these are installed: duckdb, polars, pyarrow.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policies.backtest import Backtest
from policies.changes import Changes
from policies.heard import describe
from policies.load import load
from policies.model import Stage
from policies.ready import PolicySet
from proxy.audit import Reader, Record
from proxy.audit.key import sealer
from proxy.audit.record import encode
from proxy.audit.store import SqliteStore
from proxy.recorded import recorded

LABELS = ("injection", "jailbreak", "harmful", "injection_indirect", "violence")
ROLES = (
    (["user"],) * 5
    + (["user", "system"],) * 3
    + (["user", "tool_result", "assistant"], ["user", "system", "tool_result"])
)
BATCH = 10_000
STRICTER = """
id: stricter
version: 1
owner: bench
description: Stricter than baseline in one rule.
extends: baseline
override:
  rules:
    harmful-request: {when: {finding: guard.harmful, at_least: 0.9}}
"""


def _stage(chance: random.Random, roles: list[str]) -> dict[str, Any]:
    """What a record says of one stage."""
    found = {
        role: {f"guard.{label}": int(chance.random() ** 8 * 1e6) / 1e6 for label in LABELS if chance.random() < 0.8}
        for role in roles
    }
    if chance.random() < 0.05:
        found[chance.choice(roles)]["secrets.aws_access_key"] = 0.95
    seen: dict[str, Any] = {}
    if chance.random() < 0.03:
        seen["rules"] = {chance.choice(("jailbreak", "harmful-request", "secret-told")): "block"}
    if chance.random() < 0.05:
        seen["shadow"] = {"tried": "block"}
    if len(found) == 1:
        seen |= {"scores": found[roles[0]], "role": roles[0]}
    else:
        highest: dict[str, float] = {}
        for scores in found.values():
            for name, score in scores.items():
                highest[name] = max(score, highest.get(name, 0.0))
        seen |= {"scores": highest, "by_role": found}
    if chance.random() < 0.005:
        seen |= {"failures": {"guard": "timeout"}, "present": roles}
    return seen


def bodies(rows: int, revisions: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """Records of so many exchanges."""
    chance = random.Random(1)
    for _ in range(rows):
        asked, told = _stage(chance, chance.choice(ROLES)), _stage(chance, ["assistant"])
        fired = [*asked.get("rules", {}), *told.get("rules", {})]
        yield {
            "account": f"team-{chance.randrange(50)}", "dialect": chance.choice(("chat", "responses", "messages")),
            "method": "POST", "path": "/v1/chat/completions", "policy": "baseline" if fired else None,
            "revision": revisions[chance.random() < 0.05], "model": chance.choice(("gpt-4o-mini", "gpt-4o", "claude")),
            "stream": chance.random() < 0.5, "upstream": "default", "upstream_status": 200,
            "usage": {"prompt_tokens": chance.randrange(3000), "completion_tokens": chance.randrange(500)},
            "action": "block" if fired else "pass", "rule": fired[0] if fired else None, "input": asked, "output": told,
            "milliseconds": {"input": 2.5, "upstream": chance.randrange(900_000) / 1e3, "total": 950.5, "added": 2.5},
        }  # fmt: skip


def fill(path: Path, rows: int, revisions: tuple[str, str]) -> None:
    """Write a log of so many exchanges."""
    store, batch = SqliteStore.open(path, sealer(None)), []
    for number, body in enumerate(bodies(rows, revisions)):
        batch.append(encode(Record(f"pn_{number:026d}", "outcome", 1.0 + number, body)))
        if len(batch) == BATCH or number == rows - 1:
            store.write(batch)
            batch.clear()
    store.close()


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints what the block took."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    print(f"{what}: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s", flush=True)


def ours(path: Path, policies: PolicySet, known: PolicySet) -> Changes:
    """The backtest itself, as the command does it."""
    trial, changes = Backtest(policies, {known.revision: describe(known)}.get), Changes()
    with Reader(path) as log:
        for rows in recorded(log):
            changes.add(rows, trial.decide(rows))
    return changes


_SCORES = "MAP(VARCHAR, DOUBLE)"
_BY_ROLE = f"MAP(VARCHAR, {_SCORES})"
_WORDS = "MAP(VARCHAR, VARCHAR)"
_STAGE = {
    "scores": _SCORES, "role": "VARCHAR", "by_role": _BY_ROLE, "rules": _WORDS, "shadow": _WORDS, "failures": _WORDS,
    "present": ["VARCHAR"],
}  # fmt: skip
_PLAIN = {"dialect": "VARCHAR", "model": "VARCHAR", "account": "VARCHAR", "stream": "BOOLEAN", "revision": "VARCHAR"}
_STEPS = """
create macro step(found) as list_filter(list_transform(map_entries(found), lambda e:
  {'k': e.key, 's': len(list_filter(getvariable('steps')[e.key], lambda x: x <= e.value))}), lambda e: e.s > 0)"""
_PARSED = "create temp table parsed as select id, did, rule, from_json(body, ?) as x from log"
_COUNTED = """
select did, rule, x.revision, x.input.role, step(x.input.scores),
  list_transform(map_entries(x.input.by_role), lambda e: {'r': e.key, 'f': step(e.value)}),
  x.input.rules, x.input.shadow, x.input.failures, x.input.present,
  x.output.role, step(x.output.scores), x.output.rules, x.output.shadow, x.output.failures, x.output.present,
  count(*), max(id, 3)
from parsed group by all"""


def duckdb_half(path: Path, steps: dict[str, list[float]]) -> None:
    """The first half in DuckDB, which is told the form of a record. It reads SQLite by an extension that it would
    have to download, so rows come through Arrow."""
    import duckdb
    import pyarrow as pa

    with Reader(path) as log:
        rows = list(log.select("SELECT id, action, coalesce(rule, ''), body FROM records WHERE kind = 'outcome'"))
    names = ("id", "did", "rule", "body")
    base = duckdb.connect()
    base.register("log", pa.table(dict(zip(names, map(pa.array, zip(*rows, strict=True)), strict=True))))
    base.execute("create table steps (name varchar, bounds double[])")
    base.executemany("insert into steps values (?, ?)", [[name, bounds] for name, bounds in steps.items()])
    base.execute("set variable steps = (select map(list(name), list(bounds)) from steps)")
    base.execute(_STEPS)
    form = json.dumps({**_PLAIN, "input": _STAGE, "output": {**_STAGE, "by_role": _BY_ROLE}})
    base.execute(_PARSED, [form])
    base.execute(_COUNTED).fetchall()


def polars_half(path: Path, _: object) -> None:
    """Only the first quarter in Polars: bodies to columns, whose form it finds itself."""
    import polars

    with Reader(path) as log:
        lines = "\n".join(body for (body,) in log.select("SELECT body FROM records WHERE kind = 'outcome'"))
    polars.read_ndjson(io.BytesIO(lines.encode()), infer_schema_length=None)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.backtest", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--others", action="store_true", help="also the half of it in DuckDB and Polars")
    given = parser.parse_args()
    known = load("baseline")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        log, new = Path(folder) / "audit.db", Path(folder) / "stricter.yaml"
        new.write_text(STRICTER)
        fill(log, given.rows, (known.revision, "gone"))
        print(f"{given.rows:,} decisions, {log.stat().st_size / given.rows:.0f} bytes each")
        stricter = load(str(new))
        with timed("penstock backtest"):
            changes = ours(log, stricter, known)
        print(f"changes {changes.changed:,}, unknown {changes.unknown.total():,} of {changes.decisions:,}")
        if not given.others:
            return
        tables = stricter.tables[Stage.INPUT].tests["guard"]
        steps = {f"guard.{label}": sorted({test.at_least for test in row}) for label, (_, row) in tables.items()}
        for name, half in {"duckdb": duckdb_half, "polars": polars_half}.items():
            if importlib.util.find_spec(name) is None:
                print(f"{name}: not installed")
                continue
            with timed(f"{name}, in part"):
                half(log, steps)


if __name__ == "__main__":
    main()
