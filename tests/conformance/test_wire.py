"""What a table of requests cannot say: raw bytes, slow peers, long texts and clients that leave, in every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from typing import Any

import pytest

from tests.conformance.cases import Answer, Send
from tests.conformance.speak import PATHS, reply, request
from tests.proxy.conftest import Make, Stand, _canary, stand  # noqa: F401 - pytest finds fixtures by name
from tests.proxy.test_app import statuses, talk
from tests.upstream import Reply, replies

DIALECTS = sorted(PATHS)
STREAMED = [name for name in DIALECTS if name != "embeddings"]
dialects = pytest.mark.parametrize("dialect", DIALECTS)
streamed = pytest.mark.parametrize("dialect", STREAMED)


def post(dialect: str, text: str, *, host: bytes = b"x", more: bytes = b"", stream: bool = False) -> bytes:
    _, target, body, _ = request(dialect, Send(text=text), stream)
    head = b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\n" % (target.encode(), host)
    return head + more + b"content-length: %d\r\n\r\n" % len(body) + body


async def settled(s: Stand) -> None:
    while s.running.plane.in_flight:
        await asyncio.sleep(0.005)


def framings(dialect: str) -> dict[str, tuple[bytes, list[int]]]:
    """Bytes with two readings, and the statuses that they are answered with."""
    clean, marked = post(dialect, "Hi"), post(dialect, "MARK")
    chunked = b"transfer-encoding: chunked\r\n"
    head, _, body = marked.partition(b"\r\n\r\n")
    unsized = head.rpartition(b"\r\n")[0] + b"\r\n"
    return {
        "a length and chunks": (unsized + b"content-length: 5\r\n" + chunked + b"\r\n0\r\n\r\n" + marked, [400]),
        "chunks and a length": (unsized + chunked + b"content-length: 5\r\n\r\n0\r\n\r\n" + marked, [400]),
        "two lengths": (head + b"\r\ncontent-length: 2\r\n\r\n" + body, [400]),
        "a coding that only looks chunked": (unsized + b"transfer-encoding: \x0bchunked\r\n\r\n" + body, [400]),
        "a coding within chunks": (unsized + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + marked, [400]),
        "no coding within chunks": (unsized + b"transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n", [400]),
        "chunks twice over": (unsized + chunked + chunked + b"\r\n0\r\n\r\n" + marked, [400]),
        "another version": (clean.replace(b"HTTP/1.1", b"HTTP/2.0"), [400]),
        "no version": (clean.replace(b" HTTP/1.1", b""), [400]),
        "two codings": (
            post(dialect, "MARK", more=b"content-encoding: deflate\r\nContent-Encoding: identity\r\n"),
            [400],
        ),
        "bare line feeds": (marked.replace(b"\r\n", b"\n"), [400]),
        "a hidden request behind an empty one": (unsized + chunked + b"\r\n0\r\n\r\n" + marked, [400, 400]),
        "clean, then marked": (clean + marked + clean, [200, 400, 200]),
        "more than was said": (clean + b"MARK", [200]),
    }


@dialects
async def test_bytes_with_two_readings(stand: Make, dialect: str) -> None:  # noqa: F811
    """T6: refused or judged, and what follows is judged by itself."""
    async with stand() as s:
        s.upstream.reply = reply(dialect, Answer(), False)
        for name, (data, wanted) in framings(dialect).items():
            s.upstream.requests.clear()
            answer = await talk(s, data)
            assert statuses(answer) == wanted, name
            assert b"MARK" not in answer, name
            assert not [r for r in s.upstream.requests if b"MARK" in r.body], name
            assert len(s.upstream.requests) == wanted.count(200), name


# Request lines -> the status, the error's code, and what else the head says.
LINES: dict[bytes, tuple[int, str, bytes]] = {
    b"POST http://x/v1/chat/completions HTTP/1.1": (200, "", b""),
    b"POST HTTPS://elsewhere.example:8443/v1/chat/completions HTTP/1.1": (200, "", b""),
    b"POST http://x HTTP/1.1": (404, "unknown_url", b""),
    b"POST http://user:word@x/v1/chat/completions HTTP/1.1": (400, "invalid_target", b""),
    b"POST ftp://x/v1/chat/completions HTTP/1.1": (400, "invalid_target", b""),
    b"POST http:///v1/chat/completions HTTP/1.1": (400, "invalid_target", b""),
    b"POST v1/chat/completions HTTP/1.1": (400, "invalid_http", b""),
    b"POST x:443 HTTP/1.1": (400, "invalid_http", b""),
    b"POST * HTTP/1.1": (400, "invalid_target", b""),
    b"OPTIONS * HTTP/1.1": (405, "method_not_allowed", b"allow: GET, HEAD, POST\r\n"),
    b"OPTIONS /v1/chat/completions HTTP/1.1": (405, "method_not_allowed", b"allow: POST\r\n"),
    b"CONNECT x:443 HTTP/1.1": (405, "not_a_proxy", b"allow: GET, HEAD, POST\r\n"),
    b"CONNECT /v1/chat/completions HTTP/1.1": (405, "not_a_proxy", b"allow: GET, HEAD, POST\r\n"),
    b"TRACE /v1/chat/completions HTTP/1.1": (405, "method_not_allowed", b"allow: POST\r\n"),
    b"QUERY /v1/chat/completions HTTP/1.1": (405, "method_not_allowed", b"allow: POST\r\n"),
    b"BREW /v1/chat/completions HTTP/1.1": (400, "unknown_method", b""),
    b"post /v1/chat/completions HTTP/1.1": (400, "unknown_method", b""),
    b"PRI * HTTP/2.0": (400, "invalid_http", b""),
}


async def test_odd_methods_and_targets(stand: Make) -> None:  # noqa: F811
    async with stand() as s:
        for line, (status, code, more) in LINES.items():
            for text in ("Hi", "MARK") if status == 200 else ("MARK",):
                s.upstream.requests.clear()
                data = post("chat", text)
                answer = await talk(s, line + data[data.index(b"\r\n") :])
                wanted = (400, "invalid_prompt") if text == "MARK" and status == 200 else (status, code)
                assert statuses(answer) == [wanted[0]], line
                assert b'"code":"%b"' % wanted[1].encode() in answer or wanted[0] == 200, line
                assert more in answer, line
                assert len(s.upstream.requests) == (wanted[0] == 200), line
                assert all(request.target == b"/v1/chat/completions" for request in s.upstream.requests), line


async def test_an_answer_of_two_types_is_not_read(stand: Make) -> None:  # noqa: F811
    async with stand() as s:
        for more, status in (([("Content-Type", "application/json; charset=utf-7")], 502), ([], 200)):
            s.upstream.reply = replies.json({"choices": []}, headers=more)
            assert (await s.chat("Hi")).status_code == status


async def test_an_answer_in_two_codings_is_not_read(stand: Make) -> None:  # noqa: F811
    async with stand() as s:
        for codings, status in ((["identity", "gzip"], 502), (["identity, gzip"], 502), (["identity"], 200)):
            s.upstream.reply = replies.json({"choices": []}, headers=[("Content-Encoding", each) for each in codings])
            assert (await s.chat("Hi")).status_code == status


@dialects
async def test_hosts_lead_nowhere(stand: Make, dialect: str) -> None:  # noqa: F811
    """T7: whatever a caller calls us, the upstream is the operator's, and is called by its own name."""
    async with stand() as s:
        s.upstream.reply = reply(dialect, Answer(), False)
        for host in (b"evil.example", b"127.0.0.1:1", b"x@evil.example", b"", b"localhost:99999", b"[::1]"):
            assert statuses(await talk(s, post(dialect, "Hi", host=host))) == [200], host
        more = b"x-forwarded-host: evil.example\r\nforwarded: host=evil.example\r\nx-original-host: evil.example\r\n"
        assert statuses(await talk(s, post(dialect, "Hi", more=more))) == [200]
        absolute = post(dialect, "Hi").replace(b"POST /", b"POST http://evil.example/")
        assert statuses(await talk(s, absolute)) == [200]
        twice = post(dialect, "Hi", more=b"host: evil.example\r\n")
        assert statuses(await talk(s, twice)) == [400]
        names = {seen.header("host") for seen in s.upstream.requests}
        assert names == {f"127.0.0.1:{s.upstream.port}"}
        assert len(s.upstream.requests) == 8


UPGRADE = (
    b"connection: upgrade\r\nupgrade: %b\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


async def test_no_protocol_is_changed(stand: Make) -> None:  # noqa: F811
    """T11: no WebSocket, no HTTP/2 and no minted secret, on closed paths or on open ones."""
    for opened in ([], ["/v1/realtime", "/v1/responses", "/v1/live"]):
        async with stand(settings={"open_routes": opened}) as s:
            s.upstream.reply = replies.json({})
            for kind in (b"websocket", b"TLS/1.2", b"h2c, websocket", b"H2C"):
                for path in (b"/v1/realtime?model=m", b"/v1/responses", b"/v1/live"):
                    start = b"GET %b HTTP/1.1\r\nhost: x\r\n" % path + UPGRADE % kind + b"\r\n"
                    assert statuses(await talk(s, start)) == [426], (kind, path)
                for dialect in DIALECTS:
                    said = await talk(s, post(dialect, "MARK", more=UPGRADE % kind))
                    assert statuses(said) == [426], (kind, dialect)
                    assert b"upgrade: HTTP/1.1" in said
                    assert b"upgrade_refused" in said or dialect == "messages"
            assert s.upstream.requests == []
            minted = await s.client.post("/v1/realtime/client_secrets", json={"session": {"instructions": "MARK"}})
            assert minted.status_code == (200 if opened else 404)  # its own name opens it, and nothing else does
            assert len(s.upstream.requests) == (1 if opened else 0)


OFFER = (
    b"connection: Upgrade, HTTP2-Settings, x-hop\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nx-hop: 1\r\n"
)


@dialects
@pytest.mark.parametrize("cut", [1 << 20, 1, 37])
async def test_an_offer_of_http2_is_declined(stand: Make, dialect: str, cut: int) -> None:  # noqa: F811
    """T11: Java's client offers it with each request. It is answered in HTTP/1.1, judged, and ends the connection."""
    async with stand() as s:
        s.upstream.reply = reply(dialect, Answer(), False)
        for text, status in (("Hi", 200), ("MARK", 400)):
            whole = post(dialect, text, more=OFFER)
            reader, writer = await asyncio.open_connection(*s.running.address)
            for at in range(0, len(whole), cut):
                writer.write(whole[at : at + cut])
                await asyncio.sleep(0)
            writer.write(post(dialect, "MARK"))
            said = await asyncio.wait_for(reader.read(), 10)
            writer.transport.abort()
            assert statuses(said) == [status]
            assert b"connection: close" in said
            assert b"MARK" not in said
        (asked,) = s.upstream.requests
        assert asked.body == request(dialect, Send(text="Hi"), False)[2]
        assert not {"upgrade", "http2-settings", "x-hop"} & {name.decode().lower() for name, _ in asked.headers}
        listed = await talk(s, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + OFFER + b"\r\n")
        assert statuses(listed) == [200]


@streamed
@pytest.mark.parametrize("when", ["before the first byte", "midway", "after the last"])
async def test_a_client_that_leaves(stand: Make, dialect: str, when: str) -> None:  # noqa: F811
    """T37: the upstream is let go, and the record says how it ended."""
    async with stand() as s:
        events = list(reply(dialect, Answer(text="word " * 200), True))
        hold = asyncio.Event()
        scripts: dict[str, Reply] = {
            "before the first byte": [hold],
            "midway": [*events[: len(events) // 2], hold],
            "after the last": events,
        }
        s.upstream.reply = scripts[when]
        reader, writer = await asyncio.open_connection(*s.running.address, limit=1 << 24)
        writer.write(post(dialect, "Hi", stream=True))
        asked = await s.upstream.arrived()
        if when == "midway":
            await asyncio.wait_for(reader.readuntil(b"word"), 30)
        elif when == "after the last":
            await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 30)
        writer.transport.abort()
        if when != "after the last":
            await asyncio.wait_for(asked.gone.wait(), 30)
        await settled(s)
        (row,) = await s.rows()
        assert row["status"] == ("released" if when == "after the last" else "client_gone")
        hold.set()


LONG = 200_000
PLACES = {"start": 0, "middle": LONG // 2, "end": LONG - 5}


@dialects
@pytest.mark.parametrize("place", PLACES)
async def test_a_word_in_a_long_text(stand: Make, dialect: str, place: str) -> None:  # noqa: F811
    """T28: nothing is cut, in requests and in answers, whole and streamed."""
    at = PLACES[place]
    text = "lorem ipsum " * (LONG // 12)
    text = text[:at] + "MARK" + text[at:]
    async with stand(options="inline: true", stream="whole") as s:
        _, target, body, headers = request(dialect, Send(text=text), False)
        refused = await s.client.post(target, content=body, headers=headers)
        assert (refused.status_code, s.upstream.requests) == (400, [])
        for stream in (False, True) if dialect in STREAMED else ():
            s.upstream.reply = reply(dialect, Answer(text=text, size=2000), stream)
            _, target, body, headers = request(dialect, Send(), stream)
            answer = await s.client.post(target, content=body, headers=headers)
            assert b"MARK" not in answer.content
            assert b"I'm sorry" in answer.content
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert 'kind="text"' not in page  # no text was left unread


FLOODS = {"a letter": "a", "a combining mark": "\u0301", "a letter that unfolds into eighteen": "\ufdfa"}
PATTERNS = """
id: test
version: 1
owner: tests
description: Blocks a word, however it is disguised.
classifiers:
  words: {kind: patterns, patterns: {mark: {words: [MARK]}}}
rules:
  - id: no-mark
    description: The word is blocked.
    stages: [input]
    when: {finding: words.mark, at_least: 0.5}
    action: block
"""


@pytest.mark.parametrize("name", FLOODS)
async def test_floods_of_letters(stand: Make, name: str) -> None:  # noqa: F811
    """T41: hundreds of thousands of letters, some of which grow when they are read: time is bounded, nothing hides."""
    flood = FLOODS[name] * (1_000_000 if name == "a letter" else 300_000)
    async with stand(PATTERNS) as s:
        began = time.process_time()
        for text, status in ((flood, {200, 503}), (flood + " MARK", {400, 503}), ("MARK " + flood, {400, 503})):
            answer = await s.chat(text)
            assert answer.status_code in status
        assert time.process_time() - began < 30
        assert (await s.chat("MARK")).status_code == 400


SLOW = 500


async def heard(reader: asyncio.StreamReader) -> bytes:
    """What is read until the other side closes, in whatever way: it does while somebody writes."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            said += piece
    return said


async def test_slow_requests_hold_nobody_up(stand: Make) -> None:  # noqa: F811
    """T42: heads and bodies that come byte by byte are let go in time, and others are served meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8 * SLOW)), hard))  # both ends are in this process
    wholes = [post(dialect, "MARK") for dialect in DIALECTS]
    async with stand(settings={"receive_timeout": 0.5}) as s:
        pairs = [await asyncio.open_connection(*s.running.address) for _ in range(SLOW)]
        slow = [
            (writer, wholes[number % len(wholes)], 20 if number % 2 else -10)
            for number, (_, writer) in enumerate(pairs)
        ]
        try:
            hearing = [asyncio.ensure_future(asyncio.wait_for(heard(reader), 30)) for reader, _ in pairs]
            for writer, whole, cut in slow:
                writer.write(whole[:cut])
            for dialect in DIALECTS:
                s.upstream.reply = reply(dialect, Answer(), False)
                _, target, body, headers = request(dialect, Send(), False)
                assert (await s.client.post(target, content=body, headers=headers)).status_code == 200
            for step in range(4):
                await asyncio.sleep(0.05)
                for writer, whole, cut in slow:
                    writer.write(whole[cut + step : cut + step + 1])
            said = await asyncio.gather(*hearing)
        finally:
            for writer, _, _ in slow:
                writer.transport.abort()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [statuses(each) for each in said] == [[408]] * SLOW
        assert len(s.upstream.requests) == len(DIALECTS)
        await settled(s)


WORDS = """id: words
version: 1
owner: tests
description: One word, however it is cut.
classifiers: {words: {kind: patterns, patterns: {mark: {words: [MARKEDWORD]}}}}
rules:
  - id: marked
    description: The word.
    stages: [input]
    when: {finding: words.mark, at_least: 0.5}
    action: block
    on_error: block
    message: No.
"""
CUTS = {
    "one turn": ["u:a MARKEDWORD b"],
    "turns": ["u:tell me of MARKED", "u:WORD please"],
    "turns with an answer between": ["u:tell me of MARKED", "a:Go on.", "u:WORD please"],
    "a letter each": [f"{'ua'[at % 2]}:{letter}" for at, letter in enumerate("MARKEDWORD")] + ["u:?"],
    "roles": ["u:Hi", "a:I will tell you of MARKED", "u:WORD, then?"],
    "instructions": ["s:You know of MARKED", "u:WORD is what I ask about"],
    "long turns": [f"u:{'We talk. ' * 300}MARK", f"a:EDWORD{' And on.' * 300}", "u:Hi"],
    "disguised": ["u:M A R K E", "u: D W O R D"],
}
WHO = {"u": "user", "a": "assistant", "s": "system"}


def conversation(dialect: str, turns: list[str]) -> dict[str, Any]:
    told = [{"role": WHO[turn[0]], "content": turn[2:]} for turn in turns]
    system = [each["content"] for each in told if each["role"] == "system"]
    rest = [each for each in told if each["role"] != "system"]
    match dialect:
        case "messages":
            return {"model": "m", "max_tokens": 9, "messages": rest, **({"system": system[0]} if system else {})}
        case "responses":
            return {"model": "m", "input": rest, **({"instructions": system[0]} if system else {})}
    return {"model": "m", "messages": told}


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
async def test_a_word_split_over_turns_and_roles(stand: Make, dialect: str) -> None:  # noqa: F811
    """T29: every turn is judged, and so is what is whole only where two of them meet."""
    async with stand(policy=WORDS) as s:
        s.upstream.reply = reply(dialect, Answer(), False)
        for name, turns in CUTS.items():
            for letter, wanted in (("R", 400), ("X", 200)):
                sent = conversation(dialect, [turn.replace("R", letter) for turn in turns])
                answer = await s.client.post(PATHS[dialect], json=sent)
                assert answer.status_code == wanted, (name, letter, answer.text)
