"""The measurement of the audit runs, and finds what it wrote."""

from __future__ import annotations

import pytest

from tests.bench import audit


def test_it_finds_what_it_wrote(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["audit", "--rows", "400"])
    audit.main()
    said = capsys.readouterr().out
    assert "a rule that fired eight times: 8 found" in said
    assert "a rule that never fired: 0 found" in said
    assert "export parquet: 200," in said
    assert "verify: 400 rows," in said
