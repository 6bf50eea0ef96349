"""The measurement of the backtest runs, and a million decisions take less than a minute."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from policies.load import load
from tests.bench import backtest


def test_it_decides_what_it_wrote(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["backtest", "--rows", "400"])
    backtest.main()
    said = capsys.readouterr().out
    assert "400 decisions" in said
    assert "of 400\n" in said


@pytest.mark.bench
def test_a_million_decisions_in_a_minute(tmp_path: Path) -> None:
    """`pytest -m bench tests/bench/test_backtest.py`"""
    known, log = load("baseline"), tmp_path / "audit.db"
    backtest.fill(log, 1_000_000, (known.revision, "gone"))
    began = time.process_time()
    assert backtest.ours(log, known, known).decisions == 1_000_000
    assert time.process_time() - began < 60
