"""T17, T44, T45, T46: what travels with a request and an answer, what is remembered of them, and what is counted."""

from __future__ import annotations

import secrets as chance
from typing import Any

import pytest

from proxy.answers import forwarded, relayed, status_line
from proxy.audit import Key
from proxy.dialects.base import Request
from proxy.headers import Names
from proxy.metrics import Metrics
from proxy.record import Notes
from proxy.reloading import reload
from proxy.upstream import Response
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand
from tests.upstream import replies, shapes

OURS = [(b"authorization", b"Bearer ours")]
# sent, with the operator's key; what arrives of it
FORWARDED: dict[str, tuple[list[tuple[bytes, bytes]], bool, list[tuple[bytes, bytes]]]] = {
    "plain": ([(b"x-other", b"a")], False, [(b"x-other", b"a")]),
    "the caller's key": ([(b"authorization", b"Bearer a")], False, [(b"authorization", b"Bearer a")]),
    "nominated": ([(b"connection", b"X-Other, close"), (b"x-other", b"a")], False, []),
    "nominated twice": (
        [(b"connection", b"a"), (b"x-other", b"a"), (b"connection", b"keep-alive ,\tx-other")], False, [],
    ),
    "nominated, our key": ([(b"connection", b"authorization"), (b"authorization", b"Bearer a")], True, OURS),
    "underscores": ([(b"x_other", b"a"), (b"content_length", b"9"), (b"authorization_", b"a")], False, []),
    "origin": ([(b"x-forwarded-for", b"a"), (b"x-forwarded-host", b"a"), (b"forwarded", b"a"), (b"via", b"a")], False,
               []),
    "hop by hop": ([(b"te", b"trailers"), (b"trailer", b"a"), (b"proxy-authorization", b"a"), (b"upgrade", b"a"),
                    (b"keep-alive", b"a"), (b"proxy-connection", b"a"), (b"transfer-encoding", b"chunked")], False, []),
    "Penstock's own": ([(b"x-penstock-policy", b"a")], False, []),
    "all that says who asks": (
        [(name, b"a") for name in (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie",
                                   b"ocp-apim-subscription-key", b"openai-organization", b"openai-project")],
        True, OURS,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "keyed", "arrives"), FORWARDED.values(), ids=FORWARDED.keys())
def test_what_a_request_takes_with_it(sent: Any, keyed: bool, arrives: Any) -> None:
    got = forwarded(sent, OURS if keyed else None)
    assert [pair for pair in got if pair != (b"Accept-Encoding", b"identity")] == arrives


def test_names_travel_in_their_own_case_and_order() -> None:
    sent = [(b"X-Odd", b"a"), (b"accept-ENCODING", b"gzip"), (b"x-oDD", b"b"), (b"Accept-Encoding", b"br"), (b"A", b"")]
    kept = [(b"X-Odd", b"a"), (b"accept-ENCODING", b"identity"), (b"x-oDD", b"b"), (b"A", b"")]
    assert forwarded(sent, None) == kept
    hidden = [(b"X-Forwarded-For", b"a"), (b"Connection", b"x-HOP"), (b"X-Hop", b"a"), (b"VIA", b"a"), (b"X_a", b"a"),
              (b"X-PENSTOCK-Policy", b"a"), (b"Authorization", b"Bearer a"), (b"X-API-Key", b"a"), (b"COOKIE", b"a"),
              (b"X-Method-Override", b"PUT"), (b"X-Mine", b"pk_penstock_")]  # fmt: skip
    kept = [(b"Via-Me", b"a"), (b"Accept-Encoding", b"identity"), *OURS]
    assert forwarded([*hidden, *kept[:1]], OURS) == kept


def test_what_an_answer_takes_with_it() -> None:
    headers = [
        (b"content-type", b"application/json"), (b"x-request-id", b"r"), (b"connection", b"x-secret"),
        (b"x-secret", b"a"),
        (b"keep-alive", b"timeout=5"), (b"alt-svc", b"h3=\":443\""), (b"x-penstock-decision", b"forged"),
        (b"content-length", b"3"), (b"trailer", b"a"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"),
    ]  # fmt: skip
    for spelled in (bytes.lower, bytes.title, bytes.upper):
        names = Names(tuple(spelled(name) for name, _ in headers))
        response = Response(None, 200, names, [value for _, value in headers])  # type: ignore[arg-type]
        kept = [(spelled(n), v) for n, v in headers if n in {b"content-type", b"x-request-id", b"set-cookie"}]
        assert relayed(response) == kept
        assert sorted(relayed(response, keep_length=True)) == sorted([*kept, (spelled(b"content-length"), b"3")])


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, b"OK", b"HTTP/1.1 200 OK\r\n"),
        (200, None, b"HTTP/1.1 200 OK\r\n"),
        (200, b"", b"HTTP/1.1 200 \r\n"),
        (404, b"No such\tmodel \xe9", b"HTTP/1.1 404 No such\tmodel \xe9\r\n"),
        (404, b"a\x00b", b"HTTP/1.1 404 Not Found\r\n"),
        (404, b"a\rb", b"HTTP/1.1 404 Not Found\r\n"),
        (599, b"\x1b[31m", b"HTTP/1.1 599 \r\n"),
        (599, b"Gone fishing", b"HTTP/1.1 599 Gone fishing\r\n"),
    ],
)
def test_status_lines_are_the_upstreams_own_where_they_can_be_printed(status: int, reason: Any, line: bytes) -> None:
    assert status_line(status, reason) == line


async def test_a_decision_is_named_where_it_was_asked_for_only(stand: Make) -> None:
    for asked in (False, True):
        async with stand(settings={"decision_headers": asked}) as s:
            s.upstream.reply = replies.json(shapes.completion(), headers=[("X-Penstock-Decision", "forged")])
            for word in ("Hi", "MARK"):
                response = await s.chat(word)
                named = [value for name, value in response.headers.items() if name.startswith("x-penstock-")]
                assert len(named) == asked
                assert "forged" not in named
            assert not asked or {named[0]} <= {row.id for row in await s.rows()}


async def test_the_operators_key_comes_back_to_nobody(stand: Make) -> None:
    """T45: an upstream that repeats what it was sent."""
    settings = {"upstream_key": "sk-operator-canary", "open_routes": ["/v1/files"]}
    async with stand(settings=settings) as s:
        page = b'{"id": "x", "error": {"message": "key sk-operator-canary"}, "object": "list", "data": []}'
        for status in (200, 401):
            s.upstream.reply = replies.content(page, status=status, headers=[("X-Echo", "Bearer sk-operator-canary")])
            answers = [await s.chat("Hi"), await s.client.get("/v1/models"), await s.client.get("/v1/files")]
            for answer in answers:
                assert answer.status_code == status
                assert "sk-operator" not in answer.text
                assert len(answer.content) == len(page)
                if status >= 400:
                    assert "sk-operator" not in repr(answer.headers)


def test_random_names_make_no_series() -> None:
    """T46, for ten thousand models, paths, accounts and ids: through the notes, which alone count exchanges."""
    metrics, key = Metrics(["known"]), Key(b"k" * 32)

    def series() -> set[str]:
        lines = metrics.page()[1].decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if line.startswith("penstock_")}

    def exchange(model: str, path: str) -> None:
        account = key.keyed_hash(path)
        notes = Notes(metrics, "chat", "POST", path, account, "r1", "key_" + path[:6], lambda tree: {"user": path})
        notes.asked(Request(tree={"user": path}, model=model))
        notes.sent("upstream", b"")
        notes.answered(200)
        notes.ended("released")
        notes.outcome()

    for model in ("known", "other"):
        exchange(model, "/v1/x")
    before = series()
    for _ in range(10_000):
        exchange(chance.token_hex(8), "/v1/" + chance.token_hex(8))
    assert series() == before


async def _read(s: Stand) -> int:
    """How many of the texts in question the classifier has read so far."""
    guards = s.running.plane.guards.values()
    canaries = {id(c): c for guard in guards for c in guard.policies.classifiers.values() if c.name == "canary"}
    return sum(message.text == "the same text" for c in canaries.values() for message in c.read)  # type: ignore[attr-defined]


async def test_what_was_found_is_known_to_its_account_only(stand: Make) -> None:
    """T17: a quick answer tells nobody that somebody else sent a text before."""
    async with stand(options="inline: false", keys={"a": {}, "b": {}}) as s:

        async def ask(who: str) -> int:
            before = await _read(s)
            headers = {"authorization": f"Bearer {s.keys[who]}"}
            body = {"model": "m", "messages": [{"role": "user", "content": "the same text"}]}
            assert (await s.client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
            return await _read(s) - before

        assert [await ask(who) for who in ("a", "a", "b", "b", "a")] == [1, 0, 1, 0, 0]
        path = s.data.parent / "policy.yaml"
        path.write_text(RULES.format(**{**DEFAULTS, "options": "inline: false, word: LEMON"}))
        assert await reload(s.running)
        assert await ask("a") == 1  # another classifier has not read it
