"""`penstock backtest`: over real exchanges, and over very many."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from policies import backtest
from policies.backtest import Backtest
from policies.changes import Changes
from policies.load import load
from proxy.audit import Record, new_id
from proxy.audit.key import sealer
from proxy.audit.reader import Reader
from proxy.audit.record import encode
from proxy.audit.store import SqliteStore
from proxy.cli import app
from proxy.recorded import recorded
from tests.proxy.conftest import DEFAULTS, RULES, Make


def run(*args: object) -> Result:
    result = CliRunner().invoke(app, ["backtest", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


async def test_recorded_traffic_decided_again(stand: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "EXACT", frozenset({"canary"}))
    async with stand() as s:
        for text in ("a MARK", "plain", "another MARK", "a SECRET"):
            await s.chat(text)
        await s.rows()
    log = tmp_path / "data" / "audit.db"
    new = tmp_path / "new.yaml"
    same = RULES.format(**DEFAULTS)

    async def told(text: str, *more: str) -> Any:
        new.write_text(text)
        result = await asyncio.to_thread(run, new, "--audit", log, *more)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if more else result.output

    assert await told(same) == "changes 0 of 4 decisions\n"
    shadow = await told(RULES.format(**{**DEFAULTS, "mode": "shadow"}), "--output", "json")
    assert (shadow["changed"], shadow["kinds"], shadow["unknown"]) == (2, {"new passes": 2}, {})
    assert shadow["rules"][0]["rule"] == "no-mark"
    assert len(shadow["rules"][0]["examples"]) == 2
    text = await told(same.replace("action: mask", "action: block", 1).replace('    mask_with: "[VEILED]"\n', ""))
    assert text.startswith("changes 1 of 4 decisions: 1 new block\n  rule veil-secret: 1 new block  e.g. pn_")
    other = await told(same.replace("word: SECRET", "word: SECRETS"))
    assert other.startswith("changes 0 of 4 decisions\nunknown ")
    assert "did not ask veil about the same texts" in other


def test_an_old_log_has_nothing_since(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "a.db", sealer(None))
    store.write(
        [encode(Record(new_id(), "outcome", time.time() - 90_000, {"action": "pass", "revision": "r", "input": {}}))]
    )
    store.close()
    assert run("baseline", "--audit", tmp_path / "a.db", "--since", "1d").output == "changes 0 of 0 decisions\n"
    assert "unknown 1 of 1" in run("baseline", "--audit", tmp_path / "a.db", "--since", "2d").output


def test_an_exchange_that_died_counts_by_its_intent(tmp_path: Path) -> None:
    ready = load("observe")
    body = {"action": "block", "revision": ready.revision, "input": {}, "rule": "gone"}
    store = SqliteStore.open(tmp_path / "a.db", sealer(None))
    store.write([encode(Record("pn_1", "intent", time.time(), body))])
    store.write([encode(Record("pn_1", "outcome", time.time(), {"status": "aborted"}))])
    store.write([encode(Record("pn_2", "intent", time.time(), body))])
    store.write([encode(Record("pn_2", "outcome", time.time(), body))])
    store.write([encode(Record("pn_3", "outcome", time.time(), {"status": "refused"}))])
    store.close()
    assert run("observe", "--audit", tmp_path / "a.db").output == "changes 0 of 2 decisions\n"


def test_wrong_usage(tmp_path: Path) -> None:
    assert run("baseline", "--since", "yesterday").exit_code == 2
    assert run("baseline", "--audit", tmp_path / "none.db").exit_code == 2
    assert run("none", "--audit", tmp_path / "none.db").exit_code == 1


@pytest.mark.bench
def test_a_million_decisions_in_a_minute(tmp_path: Path) -> None:
    """`pytest -m bench tests/proxy/test_backtest_cli.py`"""
    ready, path = load("baseline"), tmp_path / "a.db"
    store = SqliteStore.open(path, sealer(None))
    names = [f"guard.{label}" for label in ("injection", "jailbreak", "harmful", "injection_indirect", "violence")]
    for start in range(0, 1_000_000, 10_000):
        entries = []
        for n in range(start, start + 10_000):
            scores = {name: (n * 7919 * (at + 3)) % 1_000_003 / 1_000_003 for at, name in enumerate(names)}
            seen = {"scores": {name: round(score**4, 6) for name, score in scores.items()}, "role": "user"}
            body = {"action": "pass", "rule": None, "revision": ready.revision, "input": seen, "output": {}}
            body |= {"account": "0" * 32, "model": "m", "dialect": "chat", "path": "/v1/chat/completions"}
            entries.append(encode(Record(f"pn_{n:026d}", "outcome", 1.0 + n, body)))
        store.write(entries)
    store.close()
    began = time.process_time(), time.perf_counter()
    changes, trial = Changes(), Backtest(ready, lambda _: None)
    with Reader(path) as log:
        for rows in recorded(log):
            changes.add(rows, trial.decide(rows))
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    print(f"\n{changes.decisions:,} decisions, {changes.changed:,} changed: {cpu:.1f} s of CPU, {wall:.1f} s")
    assert changes.decisions == 1_000_000
    assert cpu < 60
