"""Pages in a browser: what those of named origins may read, and all others not."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.cors import problem_with
from tests.bench.candidates import BenchError, tool
from tests.proxy.conftest import Make, Stand
from tests.upstream import replies, shapes

PAGE = "https://app.example.com"
ON: dict[str, Any] = {"settings": {"cors_origins": [PAGE, "http://localhost:3000"]}}
PREFLIGHT = {"origin": PAGE, "access-control-request-method": "POST"}
THEIRS = [("Access-Control-Allow-Origin", "*"), ("access-control-allow-credentials", "true"), ("Vary", "X")]
CHAT = "/v1/chat/completions"


def said(response: httpx2.Response) -> dict[str, str]:
    """What an answer says of origins."""
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def read_by(origin: str) -> dict[str, str]:
    return {"access-control-allow-origin": origin, "access-control-expose-headers": "*"}


async def test_a_preflight_is_answered_here_without_a_key(stand: Make) -> None:
    async with stand(keys={"ci": {}}, **ON) as s:
        wanted = "authorization, content-type, x-stainless-lang"
        for path in (CHAT, "/v1/models", "/v1/files"):
            response = await s.client.options(path, headers={**PREFLIGHT, "access-control-request-headers": wanted})
            assert (response.status_code, response.content) == (204, b"")
            assert said(response) == {
                "access-control-allow-origin": PAGE,
                "access-control-allow-methods": "DELETE, GET, HEAD, PATCH, POST, PUT",
                "access-control-allow-headers": wanted,
                "access-control-expose-headers": "*",
                "access-control-max-age": "600",
            }
            assert response.headers["vary"] == "Origin"
            assert "connection" not in response.headers
        assert not s.upstream.requests
        assert await s.rows() == []


STRANGERS: dict[str, dict[str, str]] = {
    "another origin": {**PREFLIGHT, "origin": "https://evil.example.com"},
    "another scheme": {**PREFLIGHT, "origin": "http://app.example.com"},
    "another port": {**PREFLIGHT, "origin": PAGE + ":444"},
    "one that begins alike": {**PREFLIGHT, "origin": PAGE + ".evil.example"},
    "no origin of its own": {**PREFLIGHT, "origin": "null"},
    "no origin": {"access-control-request-method": "POST"},
    "names that are none": {**PREFLIGHT, "access-control-request-headers": "a;b"},
}


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS.keys())
async def test_a_stranger_is_told_nothing(stand: Make, headers: dict[str, str]) -> None:
    async with stand(**ON) as s:
        response = await s.client.options(CHAT, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert set(said(response)) <= {"access-control-allow-origin", "access-control-expose-headers"}
        assert said(response).get("access-control-allow-origin") in {None, PAGE}
        assert [row["detail"] for row in await s.rows()] == ["origin_not_allowed"]


async def every_kind(s: Stand, origin: str) -> list[httpx2.Response]:
    """An answer of each kind: passed, streamed, refused by policy, by the surface and by HTTP, and an error."""
    found: list[httpx2.Response] = []
    headers = {"origin": origin}
    for stream in (False, True):
        reply = replies.sse(shapes.stream("Hi"), headers=THEIRS) if stream else None
        s.upstream.reply = reply or replies.json(shapes.completion("Hi"), headers=THEIRS)
        for text in ("Hi", "MARK"):
            asked = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
            found.append(await s.client.post(CHAT, json=asked, headers=headers))
    found += [await s.client.get(path, headers=headers) for path in ("/v1/models", "/v1/none", "/v1/files", CHAT)]
    found.append(await s.client.post(CHAT, content=b"{", headers={**headers, "content-type": "text/plain"}))
    s.upstream.reply = replies.error(429, "Later.", headers=THEIRS)
    found.append(await s.client.post(CHAT, json={"model": "m", "messages": []}, headers=headers))
    return found


@pytest.mark.parametrize("origin", [PAGE, "https://evil.example.com"])
async def test_every_answer_says_whose_page_may_read_it(stand: Make, origin: str) -> None:
    async with stand(**ON) as s:
        answers = await every_kind(s, origin)
        assert [answer.status_code for answer in answers] == [200, 400, 200, 400, 200, 404, 404, 405, 415, 429]
        for answer in answers:
            assert said(answer) == (read_by(origin) if origin == PAGE else {})
            assert "Origin" in answer.headers.get_list("vary")


async def test_it_is_off_until_an_origin_is_named(stand: Make) -> None:
    async with stand() as s:
        assert (await s.client.options(CHAT, headers=PREFLIGHT)).status_code == 405
        s.upstream.reply = replies.json(shapes.completion("Hi"), headers=THEIRS)
        answer = await s.client.post(CHAT, json={"model": "m", "messages": []}, headers={"origin": PAGE})
        assert answer.headers["access-control-allow-origin"] == "*"  # the upstream's word, as it came


@pytest.mark.parametrize("origin", ["*", "null", "app.example.com", PAGE + "/", PAGE + ":443", "https://A.example", ""])
def test_what_is_no_origin(origin: str) -> None:
    assert problem_with(origin)


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000", "http://[::1]:80001", "chrome-extension://abc"])
def test_what_is_one(origin: str) -> None:
    assert not problem_with(origin)


async def test_models_are_asked_by_head_too(stand: Make) -> None:
    async with stand() as s:
        for path in ("/v1/models", "/v1/models/gpt-4o-mini"):
            got = await s.client.get(path)
            head = await s.client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))
        assert {request.method for request in s.upstream.requests} == {"GET"}
        other = await s.client.head(CHAT)
        assert (other.status_code, other.headers["allow"], other.content) == (405, "POST", b"")
        assert (await s.client.post("/v1/models")).headers["allow"] == "GET, HEAD"


SCRIPT = """<title>asked</title><pre id=own></pre><pre id=framed></pre><script>
const body = stream => JSON.stringify({model: "m", stream, messages: [{role: "user", content: "Hi"}]});
const ask = stream => fetch("URL/v1/chat/completions", {method: "POST", body: body(stream),
  headers: {"Content-Type": "application/json", "Authorization": "Bearer k"}})
  .then(async r => r.status + " " + r.headers.get("x-request-id") + " " + await r.text());
const show = (id, text) => { document.getElementById(id).textContent = text; };
Promise.all([ask(false), ask(true)]).then(t => t.join(" "), e => "stopped: " + e.name)
  .then(text => parent === self ? show("own", text) : parent.postMessage(text, "*"));
addEventListener("message", e => show("framed", e.data));
</script>"""


async def test_a_page_in_a_browser(stand: Make, tmp_path: Path) -> None:
    """It reads whole answers and streams where its origin is named; a page of another, in a frame, reads none."""
    try:
        chromium = tool("chromium")
    except BenchError as error:
        pytest.skip(str(error))
    pages: dict[bytes, bytes] = {}

    async def show(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:  # a browser connects ahead of its need
            writer.close()
            return
        page = pages.get(asked.split(b" ")[1], b"")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(page) + page)
        writer.close()

    server = await asyncio.start_server(show, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    async with server, stand(settings={"cors_origins": [origin]}) as s:
        script = SCRIPT.replace("URL", s.url)
        frame = f"<iframe src=http://localhost:{port}/framed></iframe>"
        pages.update({b"/": (script + frame).encode(), b"/framed": script.encode()})
        s.upstream.reply = lambda request: (
            replies.sse(shapes.stream("Well streamed."))
            if request.json()["stream"]
            else replies.json(shapes.completion("Well said."))
        )
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        for _ in range(3):  # on a busy machine its virtual time can be up before an answer is there
            s.upstream.requests.clear()
            shown = await asyncio.to_thread(
                subprocess.run, [chromium, *options, "--virtual-time-budget=20000", "--dump-dom", origin],
                check=True, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            own, _, framed = shown.stdout.partition("</pre>")
            if '<pre id="own"></pre>' not in own + "</pre>" and not framed.startswith('<pre id="framed"></pre>'):
                break
        assert "200 req_" in own
        assert "Well said." in own
        assert "[DONE]" in own
        assert framed.startswith('<pre id="framed">stopped: TypeError</pre>')
        assert len(s.upstream.requests) == 2
