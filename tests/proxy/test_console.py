"""The console: what people see of decisions, and that nothing that callers wrote does anything there (T47)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from proxy.audit_cli import parse_since
from proxy.cli import app as cli
from proxy.console.guard import HEADERS, LOCAL, Doorman
from proxy.console.site import Sources, Unanswered, site
from proxy.console_cli import asking
from tests.bench.candidates import BenchError, free_port, tool
from tests.proxy.conftest import Make, Stand
from tests.proxy.contents import keeps, written
from tests.proxy.test_reviews import policy, waiting

TOKEN = "0123456789abcdef"
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & MARK \u202eabc"


class Reviewed:
    """An admin listener, as the console sees it."""

    def __init__(self) -> None:
        self.held: list[dict[str, Any]] = [
            {
                "id": "pn_1", "stage": "input", "account": "a<b>", "model": "m", "rules": ["ask"], "seconds_left": 29.6,
                "otherwise": "block", "scores": {"x.y": 0.91}, "texts": {"input": {"texts": [["user", "/a", SCRIPT]]}},
            }
        ]  # fmt: skip
        self.told: list[tuple[str, dict[str, str] | None]] = []

    def __call__(self, method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
        if method == "GET":
            return {"reviews": self.held}
        if not self.held:
            raise Unanswered("No exchange of this id waits here, or not any more.")
        self.held.clear()
        self.told.append((path, body))
        return {}


def made(s: Stand, ask: Reviewed | None = None, token: str | None = None) -> FastAPI:
    where = s.data / "audit.db"
    sources = Sources(where, "", None, ask or Reviewed(), "alice", parse_since)
    return site(sources, Doorman(LOCAL, token))


def browsing(app: FastAPI, base: str = "http://127.0.0.1:9") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=base)


async def test_decisions_are_found_and_explained(stand: Make) -> None:
    async with stand() as s:
        await s.chat("Hello")
        blocked = (await s.chat(SCRIPT)).json()["error"]["penstock"]["decision_id"]
        await s.rows()
        async with browsing(made(s)) as browser:
            page = await browser.get("/")
            assert page.status_code == 200
            assert page.text.count("<td><a href=") == 2
            assert {name: page.headers[name] for name in HEADERS} == HEADERS
            counts = {"action=block": 1, "action=pass": 1, "rule=no*": 1, "rule=yes*": 0, "since=all&model=*": 2}
            for query, count in counts.items():
                assert (await browser.get(f"/?{query}")).text.count("<td><a href=") == count, query
            told = await browser.get(f"/decisions/{blocked}")
            assert told.status_code == 200
            assert "the request as it was judged" in told.text
            assert "block" in told.text
            for path in ("/decisions/pn_none", "/decisions/%3Cscript%3E"):
                assert (await browser.get(path)).status_code == 404
            echoed = await browser.get("/", params={"model": '"><script>x</script>'})
            assert "<script" not in echoed.text


async def test_who_reviews_and_from_where(stand: Make) -> None:
    async with stand() as s:
        ask = Reviewed()
        async with browsing(made(s, ask)) as browser:
            page = await browser.get("/reviews")
            assert "30 s left, then block" in page.text
            assert "<script" not in page.text
            assert "<img" not in page.text
            assert "a&lt;b&gt;" in page.text
            for origin in ({}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:8"}):
                assert (await browser.post("/reviews/pn_1/approve", headers=origin)).status_code == 403
            assert ask.told == []
            own = {"origin": "http://127.0.0.1:9"}
            assert (await browser.post("/reviews/pn_1/wave", headers=own)).status_code == 422
            assert (await browser.post("/reviews/pn_1/deny", headers=own)).status_code == 303
            assert ask.told == [("/reviews/deny", {"id": "pn_1", "by": "alice"})]
            late = await browser.post("/reviews/pn_1/deny", headers=own)
            assert (late.status_code, "not any more" in late.text) == (502, True)
            assert "Nothing waits" in (await browser.get("/reviews")).text


@pytest.mark.parametrize(("word", "status"), [("approve", 200), ("deny", 400)])
async def test_a_held_exchange_gets_its_word(stand: Make, word: str, status: int) -> None:
    async with stand(policy()) as s:
        admin = asking(s.admin_url.removeprefix("http://"), None)
        sources = Sources(s.data / "audit.db", "", None, admin, "alice", parse_since)
        asked = asyncio.create_task(s.chat("An ODD one."))
        (held,) = await waiting(s)
        async with browsing(site(sources, Doorman(LOCAL, None))) as browser:
            page = await browser.get("/reviews")
            assert (page.status_code, held["id"] in page.text, "odd" in page.text) == (200, True, True)
            own = {"origin": "http://127.0.0.1:9"}
            assert (await browser.post(f"/reviews/{held['id']}/{word}", headers=own)).status_code == 303
            assert (await asked).status_code == status
            assert (await browser.post(f"/reviews/{held['id']}/{word}", headers=own)).status_code == 502
            await s.rows()
            assert "alice" in (await browser.get(f"/decisions/{held['id']}")).text


async def test_names_and_passwords(stand: Make) -> None:
    async with stand() as s:
        async with browsing(made(s), "http://rebound.example:9") as browser:
            assert (await browser.get("/")).status_code == 421
        ask = Reviewed()
        async with browsing(made(s, ask, "secret token")) as browser:
            for given in ("", "Basic !", "Bearer secret token", basic("bob", "wrong"), basic("", "")):
                refused = await browser.get("/", headers={"authorization": given} if given else {})
                assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic"), given
            headers = {"authorization": basic("bob", "secret token"), "origin": "http://127.0.0.1:9"}
            assert (await browser.get("/", headers=headers)).status_code == 200
            assert (await browser.post("/reviews/pn_1/approve", headers=headers)).status_code == 303
            assert ask.told == [("/reviews/approve", {"id": "pn_1", "by": "bob"})]


@contextlib.asynccontextmanager
async def consoled(folder: Path, *options: str) -> AsyncIterator[tuple[int, list[str]]]:
    """`penstock console` as a process: its port, and its lines so far."""
    config = folder / "console.yaml"
    settings = {"upstream": "http://127.0.0.1:9", "data_dir": str(folder), "admin_token": TOKEN}
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "proxy", "console", "--port", "0", "--config", str(config), *options]
    serving = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    assert serving.stderr is not None
    try:
        lines = [(await asyncio.wait_for(serving.stderr.readline(), 60)).decode().strip()]
        yield int(lines[0].rpartition(":")[2].strip("/")), lines
        serving.terminate()
        lines += (await asyncio.wait_for(serving.stderr.read(), 20)).decode().splitlines()
    finally:
        if serving.returncode is None:
            serving.kill()
        await serving.wait()


async def statuses(port: int, names: dict[str, int]) -> dict[str, int]:
    """What is answered to who asks by these names, with the right password."""
    found = {}
    for name in names:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET /style.css HTTP/1.1\r\nHost: {name}\r\nAuthorization: {basic('bob', TOKEN)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode("latin-1"))
        found[name] = int((await reader.readline()).split()[1])
        writer.close()
    return found


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (
            ["--host", "0.0.0.0"],
            {"127.0.0.1:1": 200, "192.0.2.7:8702": 200, "[2001:DB8:0::1]:9": 200, "localhost": 200,
             "console.example.com": 421, "2130706433": 421, "": 421, "a!b.example": 421, "caf\xe9.example": 421,
             "192.0.2.7:x": 421, "[192.0.2.7": 421, "192.0.2.7.evil.example": 421, "a@192.0.2.7": 421,
             "192.0.2.7/a": 421},
        ),
        (
            ["--host", "0.0.0.0", "--name", "Console.Example.com", "--name", "box."],
            {"console.example.com": 200, "CONSOLE.example.com.:80": 200, "box:8702": 200, "192.0.2.7": 200,
             "other.example.com": 421, "example.com": 421},
        ),
        (
            ["--host", "LocalHost", "--name", "2001:DB8:0:0::7"],
            {"localhost": 200, "[2001:db8::7]:1": 200, "192.0.2.7": 421, "[2001:db8::8]": 421},
        ),
    ],
)  # fmt: skip
async def test_the_names_under_which_it_is_served(tmp_path: Path, options: list[str], names: dict[str, int]) -> None:
    async with consoled(tmp_path, *options) as (port, lines):
        assert await statuses(port, names) == names
        # It has left this machine: without the password nobody is let in.
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as browser:
            assert (await browser.get("/")).status_code == 401
            refused = await browser.get("/", headers={"host": "rebound.example"})
            assert (refused.status_code, "--name" in refused.text) == (421, True)
    everywhere = [line for line in lines if "at any address of this machine" in line]
    assert bool(everywhere) == ("0.0.0.0" in options)
    assert all(("as box, console.example.com" in line) == ("--name" in options) for line in everywhere)


async def test_behind_who_ends_tls_forms_are_taken(stand: Make) -> None:
    async with stand() as s:
        ask = Reviewed()
        sources = Sources(s.data / "audit.db", "", None, ask, "alice", parse_since)
        app = site(sources, Doorman(LOCAL | {"console.example.com"}, "secret token"))
        async with browsing(app, "http://console.example.com") as browser:
            headers = {"authorization": basic("bob", "secret token")}
            for origin in ("https://evil.example", "https://console.example.com:1", "ftp://console.example.com"):
                sent = await browser.post("/reviews/pn_1/deny", headers={**headers, "origin": origin})
                assert sent.status_code == 403
            own = {**headers, "origin": "https://console.example.com"}
            assert (await browser.post("/reviews/pn_1/deny", headers=own)).status_code == 303


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "https://console.example.com/"], "without scheme, port and path"),
        (["--name", "console.example.com:8702"], "without scheme, port and path"),
        (["--name", ""], "without scheme, port and path"),
        (["--host", "127.0.0.1", "--name", "console.example.com"], "set admin_token"),
        (["--host", "0.0.0.0"], "set admin_token"),
    ],
)
def test_wrong_usage(options: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_CONFIG", raising=False)
    done = CliRunner().invoke(cli, ["console", "--port", "0", *options])
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


async def test_nobody_reads_what_it_says(tmp_path: Path) -> None:
    config = tmp_path / "console.yaml"
    port = free_port()
    config.write_text(json.dumps({"upstream": "http://127.0.0.1:9", "data_dir": str(tmp_path)}))
    command = [sys.executable, "-m", "proxy", "console", "--port", str(port), "--config", str(config)]
    with open("/dev/full", "w") as full:
        serving = await asyncio.create_subprocess_exec(*command, stderr=full)
    status = 0
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as browser:
            while not status and serving.returncode is None:
                with contextlib.suppress(httpx2.TransportError):
                    status = (await browser.get("/style.css")).status_code
                await asyncio.sleep(0.05)
    finally:
        if serving.returncode is None:
            serving.terminate()
        await serving.wait()
    assert status == 200


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_an_audit_that_is_away(stand: Make) -> None:
    async with stand() as s:
        sources = Sources(s.data / "none.db", "", None, Reviewed(), "alice", parse_since)
        async with browsing(site(sources, Doorman(LOCAL, None))) as browser:
            page = await browser.get("/")
            assert (page.status_code, "cannot be read" in page.text) == (503, True)


async def test_a_script_in_a_prompt_is_inert_in_a_browser(stand: Make, key_file: Path, tmp_path: Path) -> None:
    """T47, in a real browser: what a caller wrote is shown, and does nothing."""
    try:
        chromium = tool("chromium")
    except BenchError as error:
        pytest.skip(str(error))
    async with stand(settings=keeps("all")) as s:
        asked = await s.chat(SCRIPT)
        await written(s, 1)
        config = tmp_path / "console.yaml"
        config.write_text(json.dumps({"upstream": s.upstream.url, "data_dir": str(s.data)}))
        command = [sys.executable, "-m", "proxy", "console", "--port", "0", "--content", "--config", str(config)]
        serving = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        try:
            assert serving.stderr is not None
            url = (await asyncio.wait_for(serving.stderr.readline(), 60)).decode().strip()
            id = asked.json()["error"]["penstock"]["decision_id"]
            options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
            shown = await asyncio.to_thread(
                subprocess.run, [chromium, *options, "--dump-dom", f"{url}decisions/{id}"],
                check=True, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
        finally:
            serving.terminate()
            await serving.wait()
        assert f"<title>{id} · Penstock</title>" in shown.stdout
        assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in shown.stdout
        assert "\\u202eabc" in shown.stdout  # what would turn the line around is shown as what it is
        assert "<script" not in shown.stdout
