"""The log lines: levels and forms, that a stack shows no values, and that one that cannot be written harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from proxy import logs
from proxy.logs import captured, configure_logs, get_logger, lost_lines
from tests.proxy.served import Served, served

log = get_logger("penstock.test")

LOST, MEND = "lines of this log were lost lost=3", "see to the disk, or to who reads standard error"


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    before = dict(vars(logs._output))
    yield
    vars(logs._output).update(before)


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


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Standard error as a pipe that makes nobody wait: both its ends."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    with open(reader, "rb"), open(writer, "w", encoding="ascii") as stream, contextlib.redirect_stderr(stream):
        yield reader, writer


def read(reader: int) -> str:
    """All that waits."""
    found = b""
    try:
        while piece := os.read(reader, 1 << 16):
            found += piece
    except BlockingIOError:
        pass
    return found.decode()


@pytest.mark.parametrize("human", [True, False])
def test_the_next_line_that_can_be_written_says_how_many_were_lost(human: bool) -> None:
    configure_logs("info", human=human)
    before = lost_lines()
    with pipe() as (reader, writer):
        with contextlib.suppress(BlockingIOError):
            while True:  # until it is full
                os.write(writer, b"x" * 4096)
        for number in range(3):
            log.info("into the void", number=number)
        assert lost_lines() - before == 3
        assert "void" not in read(reader)
        log.info("on again", word="h\xe4")
        log.info("and on")
        told = read(reader).splitlines()
    if human:
        assert [line.split("] ")[1].split("  ")[0] for line in told] == [f"{LOST} mend={MEND!r}", "on again", "and on"]
        assert "[warning]" in told[0]
    else:
        first, second, third = map(json.loads, told)
        assert (first["event"], first["lost"], first["level"]) == ("lines of this log were lost", 3, "warning")
        assert (second["event"], second["word"], third["event"]) == ("on again", "h\xe4", "and on")
    assert lost_lines() - before == 3


def test_a_line_of_which_half_was_written_spoils_no_other() -> None:
    configure_logs("info", human=False)
    with pipe() as (reader, _):
        log.info("long", text="y" * (1 << 20))  # more than a pipe holds
        cut = read(reader)
        assert cut[:16] == '{"event": "long"'
        assert cut[-1] == "y"
        log.info("on again")
        rest, first, second = read(reader).splitlines()
    assert rest == ""
    assert (json.loads(first)["lost"], json.loads(second)["event"]) == (1, "on again")


@pytest.mark.parametrize("stream", [None, io.StringIO(), io.BytesIO()])
def test_a_standard_error_that_was_closed(stream: io.IOBase | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if stream is not None:
        stream.close()
    before = lost_lines()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        log.error("nobody hears")
    assert lost_lines() == before + 1


def client(s: Served) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=s.url, trust_env=False, timeout=30)


def writers(s: Served) -> list[int]:
    """The audit's, whom a thread has started."""
    found = Path(f"/proc/{s.process.pid}/task").glob("*/children")
    return [int(pid) for children in found for pid in children.read_text().split()]


async def goes_on(s: Served, workers: int) -> None:
    """Callers get what they would have got, a worker that dies is replaced, and SIGTERM ends it all."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    async with client(s) as c:
        for _ in range(3):  # nobody listens there, and each such failure is a line
            answer = await c.post("/v1/chat/completions", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_connect")
        if workers > 1:
            while (await s.metrics(c))['penstock_workers{state="serving"}'] < workers:
                await asyncio.sleep(0.05)
            victim = s.children()[0]
            os.kill(victim, signal.SIGKILL)
            await s.until(lambda: len(s.children()) == workers and victim not in s.children())
        else:
            (writer,) = writers(s)
            os.kill(writer, signal.SIGKILL)
            await s.until(lambda: writers(s) not in ([], [writer]))
        while await s.ready(c):
            await asyncio.sleep(0.05)
        assert (await c.post("/v1/chat/completions", json=body)).status_code == 502
        assert (await s.metrics(c))["penstock_log_lost_lines_total"] >= 5
    s.process.terminate()
    assert await asyncio.wait_for(s.process.wait(), 20) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_full_disk_under_the_log(tmp_path: Path, workers: int) -> None:
    async with served(tmp_path, "http://127.0.0.1:9", workers=workers, onto="/dev/full") as s:
        await goes_on(s, workers)


@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_reads_the_log_any_more(tmp_path: Path, workers: int) -> None:
    async with served(tmp_path, "http://127.0.0.1:9", workers=workers) as s:
        s.deafen()
        await goes_on(s, workers)


async def test_what_is_wrong_at_the_start_ends_it_with_its_own_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proxy", "serve", "--upstream", "ftp://x", "--data-dir", str(tmp_path)]
    with open("/dev/full", "w") as full:
        process = await asyncio.create_subprocess_exec(*command, stderr=full)
    assert await asyncio.wait_for(process.wait(), 60) == 1
