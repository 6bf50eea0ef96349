"""The way to other services: it always ends, follows no one, verifies, and forgets its connections."""

from __future__ import annotations

import asyncio
import gc
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from classifiers.base import NoAnswer, Silence
from classifiers.catalog import OptionError
from classifiers.options import Options
from classifiers.service import CONNECTIONS, OPTIONS, Question, Service, parse
from tests.servers.names import hanging
from tests.upstream import End, Upstream, replies

GOOD = {"answer": "x" * 200}


async def ask(service: Service, *questions: Question) -> list[Any]:
    return await asyncio.to_thread(service.ask, questions or [Question("/ask", {"a": 1})])


async def test_an_answer_is_its_json() -> None:
    async with Upstream(replies.json(GOOD)) as up:
        service = Service(up.url + "/base", 5, key="k1")
        assert await ask(service, Question("/ask", {"a": "\ud800é"}), Question("/look")) == [GOOD, GOOD]
        posted = next(request for request in up.requests if request.method == "POST")
        assert (posted.path, posted.json()) == ("/base/ask", {"a": "?é"})
        assert posted.header("authorization") == "Bearer k1"
        assert posted.header("accept-encoding") == "identity"
        assert [(request.path, request.body) for request in up.requests if request.method == "GET"] == [
            ("/base/look", b"")
        ]


def test_no_questions_ask_nobody() -> None:
    assert Service("http://127.0.0.1:9", 1).ask([]) == []


async def test_questions_share_some_connections_and_one_deadline() -> None:
    async with Upstream(replies.json(GOOD)) as up:
        answers = await ask(Service(up.url, 30), *[Question(f"/{n}", n) for n in range(50)])
        assert answers == [GOOD] * 50
        assert up.connections <= CONNECTIONS
        up.reply = lambda request: replies.json(GOOD) if request.json() == 1 else [60.0]
        answers = await ask(Service(up.url, 0.5), *[Question("/", n) for n in range(CONNECTIONS)])
        late = [answer for answer in answers if isinstance(answer, NoAnswer)]
        assert len(late) == CONNECTIONS - 1
        assert {answer.reason for answer in late} == {Silence.TIMEOUT}


async def test_a_name_that_hangs_keeps_no_other_service_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream(replies.json(GOOD)) as up:
        slow = Service("http://slow.example:9", 0.3, connections=50)
        fast = Service("http://fast.example:" + up.url.rpartition(":")[2], 10)
        with hanging(monkeypatch, "slow.example", "fast.example"):
            late = await ask(slow, *[Question("/", n) for n in range(50)])
            assert {answer.reason for answer in late} == {Silence.TIMEOUT}
            assert await ask(fast) == [GOOD]


async def test_a_kept_connection_that_was_closed_is_opened_again() -> None:
    async with Upstream([*replies.json(GOOD), End.CLOSE]) as up:
        service = Service(up.url, 5)
        for _ in range(5):
            assert await ask(service) == [GOOD]


@pytest.mark.parametrize("broken", [1, 2])
async def test_a_connection_that_breaks_before_an_answer_is_tried_twice(broken: int) -> None:
    async with Upstream(replies.in_turn(*[[End.RESET]] * broken, replies.json(GOOD))) as up:
        [answer] = await ask(Service(up.url, 5))
        assert len(up.requests) == 2
        assert answer == GOOD if broken == 1 else answer.reason is Silence.UNAVAILABLE


async def test_an_answer_that_breaks_off_is_not_asked_for_again() -> None:
    async with Upstream(replies.cut(replies.json(GOOD), 5)) as up:
        [answer] = await ask(Service(up.url, 5))
        assert (answer.reason, len(up.requests)) == (Silence.BAD_ANSWER, 1)


async def test_nobody_listens() -> None:
    async with Upstream() as up:
        url = up.url
    [answer] = await ask(Service(url, 5))
    assert answer.reason is Silence.UNAVAILABLE


async def test_a_name_that_nobody_has() -> None:
    [answer] = await ask(Service("http://no-such-host.invalid", 5))
    assert answer.reason in (Silence.UNAVAILABLE, Silence.TIMEOUT)


async def test_redirects_lead_nowhere() -> None:
    async with Upstream(replies.json(GOOD)) as other, Upstream(replies.redirect(other.url)) as up:
        [answer] = await ask(Service(up.url, 5, key="k1"))
        assert "redirects are not followed" in answer.detail
        assert other.requests == []


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream(replies.json(GOOD)) as up, Upstream(replies.json({})) as proxy:
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        assert await ask(Service(up.url, 5)) == [GOOD]
        assert proxy.requests == []


async def test_connections_close_when_the_service_is_forgotten() -> None:
    async with Upstream(replies.json(GOOD)) as up:
        service = Service(up.url, 5)
        await ask(service)
        assert len(up.open) == 1
        del service
        gc.collect()
        async with asyncio.timeout(30):
            while up.open:
                await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        *(tool, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(folder / "key.pem"), "-out", str(folder / "own.pem")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "own.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return folder


async def test_certificates_are_verified(certificate: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "both.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        [stranger] = await ask(Service(url, 5), Question("/"))
        assert stranger.reason is Silence.UNAVAILABLE
        assert await ask(Service(url, 5, ca_file=str(certificate / "own.pem")), Question("/")) == [{}]
    finally:
        server.close()


def made(options: Mapping[str, Any]) -> Service:
    return Service.from_options(Options(options, OPTIONS), "/chat/completions")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "url: is missing"),
        ({"url": 7}, "url: must be a text"),
        ({"url": "judge.example"}, "must be an http or https URL"),
        ({"url": "ftp://judge.example"}, "must be an http or https URL"),
        ({"url": "http:///v1"}, "must be an http or https URL"),
        ({"url": "http://[::1"}, "is no URL"),
        ({"url": "http://host:99999/"}, "is no URL"),
        ({"url": "https://me:secret@host/"}, "holds a name or a password"),
        ({"url": "https://host/?a=b"}, "must end with its path"),
        ({"url": "https://host/a b"}, "must end with its path"),
        ({"url": "https://hö.example/"}, "must be an http or https URL"),
        ({"url": "https://host", "timeout_ms": 0}, "timeout_ms: must be a whole number"),
        ({"url": "https://host", "timeout_ms": True}, "timeout_ms: must be a whole number"),
        ({"url": "https://host", "ca_file": "no/such.pem"}, "ca_file: no certificates there"),
        ({"url": "https://host", "ca_file": __file__}, "ca_file: no certificates there"),
        ({"url": "https://host", "key_env": "PENSTOCK_NO_KEY"}, "the environment has no PENSTOCK_NO_KEY"),
        ({"url": "https://host", "key_env": "PENSTOCK_BAD_KEY"}, "holds what no key is"),
        ({"url": "http://judge.example", "key_env": "PENSTOCK_KEY"}, "the key would travel unencrypted"),
        ({"url": "http://8.8.8.8", "key_env": "PENSTOCK_KEY"}, "the key would travel unencrypted"),
        ({"url": "https://host", "uri": "x"}, "uri: no such option"),
    ],
)
def test_wrong_options(options: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KEY", "secret-1")
    monkeypatch.setenv("PENSTOCK_BAD_KEY", "secret-1\nHost: x")
    with pytest.raises(OptionError, match=complaint) as caught:
        made(options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://judge.example/v1", "http://127.0.0.1:8000", "http://10.0.0.7", "http://judge:8000", "http://a.b.svc"],
)
def test_where_a_key_may_go(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KEY", "k1")
    assert made({"url": url + "/", "key_env": "PENSTOCK_KEY"}).url == url
    assert made({"url": url + "/chat/completions", "timeout_ms": 1500}).seconds == 1.5


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": 1, "a": 2}', '{"a": 1, "\\u0061": 2}', "{}x", "", "[" * 99999]
)
def test_json_with_two_readings_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)
