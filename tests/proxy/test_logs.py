"""The log lines: their levels and forms, and that a stack shows no values."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from proxy import logs
from proxy.logs import captured, configure_logs, get_logger

log = get_logger("penstock.test")


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    before = logs._output.least, logs._output.write
    yield
    logs._output.least, logs._output.write = before


def test_json_holds_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("warning", human=False)
    log.info("not asked for")
    log.warning("upstream failed", fault="reset", tries=2, place=("a", 1), why=ValueError("x"))
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry.pop("timestamp")
    assert entry == {
        "event": "upstream failed",
        "fault": "reset",
        "tries": 2,
        "place": ["a", 1],
        "why": "x",
        "level": "warning",
        "logger": "penstock.test",
    }


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug", human=True)
    log.debug("serving", url="http://x/v1", note="two words", nothing="")
    (line,) = capsys.readouterr().err.splitlines()
    assert " [debug  ] serving " in line
    assert line.endswith(" url=http://x/v1 note='two words' nothing=''")


@pytest.mark.parametrize("human", [True, False])
def test_a_fault_has_its_stack_and_no_values(human: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", human=human)
    private = "a text " + "that was judged"
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("internal fault", size=len(private))
    told = capsys.readouterr().err
    assert "RuntimeError: broken" in told
    assert "test_logs.py" in told
    assert private not in told


def test_captured_takes_all(capsys: pytest.CaptureFixture[str]) -> None:
    with captured() as entries:
        log.debug("a", x=1)
        log.error("b")
    assert [(entry["event"], entry["level"]) for entry in entries] == [("a", "debug"), ("b", "error")]
    assert capsys.readouterr().err == ""
