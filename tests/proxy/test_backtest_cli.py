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
from policies.load import load
from proxy.audit import Record, new_id
from proxy.audit.key import sealer
from proxy.audit.record import encode
from proxy.audit.store import SqliteStore
from proxy.cli import app
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
