"""The way of one exchange on real sockets: masks, late verdicts, slow and vanishing clients, shared connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from policies.decision import Decision
from policies.model import Stage
from proxy import stream
from proxy.audit import Reader
from proxy.guard import Guard
from proxy.logs import captured
from proxy.sse import Decoder
from tests.proxy import kinds
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand
from tests.upstream import End, Reply, replies, shapes

VEILED = "[VEILED]"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
LONG = "Some honest words that go on and on, so that some of them have left by then. "


def trees(response: httpx2.Response) -> list[Any]:
    if response.headers["content-type"].startswith("application/json"):
        return [response.json()]
    return [
        json.loads(event.data) for event in Decoder().feed(response.content) if event.data and event.data != "[DONE]"
    ]


def spoken(response: httpx2.Response, *path: str | int) -> str:
    """What the first choice says under `path`, the pieces of a stream joined."""
    out = []
    for tree in trees(response):
        for choice in tree.get("choices", ()):
            value: Any = choice.get("delta", choice.get("message"))
            with contextlib.suppress(KeyError, IndexError, TypeError):
                for step in path:
                    value = value[step]
                out.append(value or "")
    return "".join(out)


async def settled(s: Stand) -> list[Any]:
    """The audit's rows, once no exchange is in flight."""
    async with asyncio.timeout(30):
        while s.running.plane.in_flight:
            await asyncio.sleep(0.005)
    return await s.rows()


@contextlib.asynccontextmanager
async def hanging(s: Stand, stream: bool = True, **more: Any) -> AsyncIterator[asyncio.StreamReader]:
    """A client on a bare socket that has sent a request, and hangs up at the end of the block."""
    reader, writer = await asyncio.open_connection(*s.running.address)
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **more}
    ).encode()
    writer.write(POST % len(body) + body)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()


# Masks

ARGUMENTS = ("tool_calls", 0, "function", "arguments")
MASKS: dict[str, tuple[dict[str, Any], tuple[str | int, ...], str]] = {
    "one": ({"text": "my SECRET word"}, ("content",), f"my {VEILED} word"),
    "at the start": ({"text": "SECRET it is"}, ("content",), f"{VEILED} it is"),
    "at the end": ({"text": "it is SECRET"}, ("content",), f"it is {VEILED}"),
    "alone": ({"text": "SECRET"}, ("content",), VEILED),
    "two at once": ({"text": "SECRETSECRET"}, ("content",), VEILED * 2),
    "many": ({"text": LONG + "SECRET" + LONG + "SECRET"}, ("content",), LONG + VEILED + LONG + VEILED),
    "behind wide letters": (
        {"text": "\U0001f600\u2028 SECRET \u00e9"},
        ("content",),
        f"\U0001f600\u2028 {VEILED} \u00e9",
    ),
    "quoted": ({"text": 'say "SECRET"\n\\'}, ("content",), f'say "{VEILED}"\n\\'),
    "nearly": ({"text": "SECRE T"}, ("content",), "SECRE T"),
    "refusal": ({"refusal": "no SECRET for you"}, ("refusal",), f"no {VEILED} for you"),
    "reasoning": ({"text": "Hm.", "reasoning": "the SECRET is out"}, ("reasoning_content",), f"the {VEILED} is out"),
    "arguments": ({"tool_calls": [shapes.ToolCall(arguments='{"a":"SECRET"}')]}, ARGUMENTS, '{"a":"[VEILED]"}'),
}


@pytest.mark.parametrize("stream_mode", ["{hold_back: 8}", "whole"])
@pytest.mark.parametrize(("said", "path", "expected"), MASKS.values(), ids=MASKS.keys())
async def test_masks(
    stand: Make, said: dict[str, Any], path: tuple[str | int, ...], expected: str, stream_mode: str
) -> None:
    async with stand(stream=stream_mode) as s:
        s.upstream.reply = replies.json(shapes.completion(**said))
        assert spoken(await s.chat("Hi"), *path) == expected
        for size in (1, 2, 3, 5, 100):
            s.upstream.reply = replies.sse(shapes.stream(**said, size=size))
            response = await s.chat("Hi", stream=True)
            assert spoken(response, *path) == expected, size
            assert b"SECRET" not in response.content
            assert response.content.endswith(b"data: [DONE]\n\n")
        assert {row["action"] for row in await settled(s)} == ({"mask"} if VEILED in expected else {"pass"})


HIDDEN: dict[str, Any] = {
    "escaped arguments": {"tool_calls": [shapes.ToolCall(arguments='{"a":"\\u0053ECRET"}')]},
    "model": {"model": "SECRET"},
    "id": {"id": "SECRET"},
    "finish": {"finish": "SECRET"},
}


@pytest.mark.parametrize("said", HIDDEN.values(), ids=HIDDEN.keys())
async def test_what_cannot_be_masked_does_not_leave(stand: Make, said: dict[str, Any]) -> None:
    async with stand() as s:
        for reply, stream in (
            (replies.json(shapes.completion(**said)), False),
            (replies.sse(shapes.stream(**said)), True),
        ):
            s.upstream.reply = reply
            response = await s.chat("Hi", stream=stream)
            assert b"SECRET" not in response.content
            assert b"0053ECRET" not in response.content
            assert response.status_code == 200


async def test_log_probabilities_of_masked_text_do_not_leave(stand: Make) -> None:
    async with stand() as s:
        for reply, stream in (
            (replies.json(shapes.completion("a SECRET", logprobs=True)), False),
            (replies.sse(shapes.stream("a SECRET", logprobs=True)), True),
        ):
            s.upstream.reply = reply
            response = await s.chat("Hi", stream=stream)
            assert response.status_code == 200
            assert "[VEILED]" in response.text  # masked, not blocked, in one piece as in a stream
            assert "content_filter" not in response.text
            assert b"SECRET" not in response.content
            assert str(list(b"SECRET"))[1:-1].replace(" ", "") not in response.text.replace(" ", "")


# Bodies whose only change is the mask.
INPUT_MASKS: dict[str, str] = {
    "plain": '{"model":"m","messages":[{"role":"user","content":"my SECRET"}]}',
    "one part": '{"model":"m","messages":[{"content":[{"type":"text","text":"SECRET"}]}]}',
    "numbers stay": '{"model":"m","messages":[],"n":1,"x":"SECRET","y":123456789012345678901234567890}',
    "spelled otherwise": (
        '{ "model":"m","t":1.0,"p" : 1E-1,\n"x":"\\u0061\\/","s":-0,"messages":[ {"content":"SECRET"} ]}\n'
    ),
    "odd keys": '{"model":"m","messages":[],"a/b~c":{"0":["SECRET"]}}',
    "two places": '{"model":"m","messages":[{"content":"SECRET"},{"content":"and SECRET SECRET"}]}',
    "a name that means something else elsewhere": '{"model":"m","messages":[],"metadata":{"logprobs":"SECRET"}}',
    "wide letters": '{"model":"m","messages":[{"content":"\u00e9\U0001f600SECRET\u2028"}]}',
}


@pytest.mark.parametrize("body", INPUT_MASKS.values(), ids=INPUT_MASKS.keys())
async def test_masked_requests(stand: Make, body: str) -> None:
    expected = body.replace("SECRET", VEILED).encode()
    async with stand() as s:
        headers = {"content-type": "application/json"}
        response = await s.client.post("/v1/chat/completions", content=body.encode(), headers=headers)
        assert response.status_code == 200
        assert s.upstream.requests[0].body == expected
        assert s.upstream.requests[0].header("content-length") == str(len(expected))


async def test_a_masked_key_is_blocked(stand: Make) -> None:
    async with stand() as s:
        assert (await s.chat("Hi", metadata={"SECRET": "x"})).status_code == 400
        assert s.upstream.requests == []


# Verdicts that take their time


async def test_no_content_before_a_late_verdict(stand: Make) -> None:
    """T31, P2: while the classifier thinks, not a letter of the text has left."""
    async with stand(options="delay: 0.4", stages="[output]") as s:
        for reply, stream in ((replies.json(shapes.completion(LONG)), False), (replies.sse(shapes.stream(LONG)), True)):
            s.upstream.reply = reply
            began = asyncio.get_running_loop().time()
            body = {"model": "m", "messages": [], "stream": stream}
            async with s.client.stream("POST", "/v1/chat/completions", json=body) as response:
                seen = b""
                async for piece in response.aiter_raw():
                    if b"honest" not in seen and b"honest" in seen + piece:
                        assert asyncio.get_running_loop().time() - began >= 0.4
                    seen += piece
            assert b"honest" in seen.replace(b'"content":"', b"") or stream


async def test_verdicts_that_differ_in_time_come_to_the_same(stand: Make) -> None:
    """T30: streamed or not, with and without a wait, the verdict is the same."""
    texts = ["Honest.", LONG + "MARK", "MA" + LONG + "RK", "SECRET", LONG * 3 + "SECRET" + LONG]
    found: list[list[str]] = []
    for options in ("inline: true", "delay: 0.01"):
        async with stand(options=options) as s:
            for text in texts:
                s.upstream.reply = replies.json(shapes.completion(text))
                await s.chat("Hi")
                for size in (3, 50):
                    s.upstream.reply = replies.sse(shapes.stream(text, size=size))
                    await s.chat("Hi", stream=True)
            rows = (await settled(s))[-3 * len(texts) :]
            found.append([row["action"] for row in rows])
    assert found[0] == found[1] == ["pass"] * 3 + ["block"] * 3 + ["pass"] * 3 + ["mask"] * 6


# Clients that leave


JSON = ("Content-Type", "application/json")
UNTIL: dict[str, tuple[bool, Callable[[asyncio.Event], Reply]]] = {
    "before the head": (True, lambda wait: [wait]),
    "before the head, no stream": (False, lambda wait: [wait]),
    "before any text": (True, lambda wait: replies.sse([wait])),
    "in the middle": (True, lambda wait: replies.sse([*shapes.stream(LONG)[:-2], wait])),
    "in the middle of JSON": (False, lambda wait: [replies.head(200, [JSON, ("Content-Length", "9")]), b"{", wait]),
}  # fmt: skip


@pytest.mark.parametrize(
    "rule", [{}, {"stream": "whole"}, {"action": "log", "on_error": "log"}], ids=["hold", "whole", "log"]
)
@pytest.mark.parametrize(("stream", "reply"), UNTIL.values(), ids=UNTIL.keys())
async def test_a_client_that_leaves(stand: Make, stream: bool, reply: Any, rule: dict[str, str]) -> None:
    """T37: the upstream is told at once, and the audit says who ended it."""
    async with stand(**rule) as s:
        s.upstream.reply = reply(asyncio.Event())
        async with hanging(s, stream):
            request = await s.upstream.arrived()
            await asyncio.sleep(0.1)
        await asyncio.wait_for(request.gone.wait(), 30)
        assert [row["status"] for row in await settled(s)] == ["client_gone"]
        s.upstream.reply = replies.json(shapes.completion())
        assert (await s.chat("Hi")).status_code == 200


@pytest.mark.parametrize("cut", ["client", "upstream"])
async def test_a_cut_stream_is_judged_for_the_record(stand: Make, cut: str) -> None:
    """Where rules only log nothing waits for a verdict: what has left must be seen all the same."""
    watching = RULES.format(**{**DEFAULTS, "action": "log", "on_error": "log"}).partition("  - id: veil-secret")[0]
    async with stand(policy=watching) as s:
        events = shapes.stream("the MARK has left", size=4)[:-2]
        left = asyncio.Event()
        end: Any = asyncio.Event() if cut == "client" else End.RESET
        s.upstream.reply = [*replies.sse(events)[:-1], left, end]
        async with hanging(s) as reader:
            await reader.readuntil(b'" lef"')
            left.set()
            if cut == "upstream":
                await settled(s)
        [row] = await settled(s)
        assert row["status"] == ("client_gone" if cut == "client" else "upstream_fault")
        assert (row["action"], row["rule"]) == ("log", "no-mark")


async def begun(s: Stand) -> None:
    """Until a classifier is at work."""
    async with asyncio.timeout(30):
        while not s.running.plane.guard._panel._working.pending:
            await asyncio.sleep(0.005)


async def test_a_client_that_leaves_while_it_is_judged(stand: Make) -> None:
    async with stand(options="fault: hang, deadline_ms: 30000") as s:
        async with hanging(s):
            await begun(s)
        rows = await settled(s)
        kinds.RELEASE.set()
        assert [row["status"] for row in rows] == ["client_gone"]
        assert s.upstream.requests == []


async def test_what_only_a_note_needs_stops_nothing(stand: Make) -> None:
    """A classifier that cannot get through an agent's tools in time has still read what the user says."""
    policy = RULES.format(**{**DEFAULTS, "options": "fault: stuck, deadline_ms: 300"}).replace(
        "    when: {finding: canary.mark",
        "    roles: [user, tool_result]\n    when: {finding: canary.mark",
    )
    policy += (
        "  - {id: tools, description: Noted., stages: [input], roles: [tool_definition], action: log,"
        " when: {finding: canary.mark, at_least: 0.5}}\n"
    )
    tool = {"type": "function", "function": {"name": "one", "description": "stuck", "parameters": {}}}
    async with stand(policy=policy) as s:
        assert (await s.chat("hello", tools=[tool])).status_code == 200
        blocked = await s.chat("MARK", tools=[tool])
        assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "invalid_prompt")
        unread = await s.chat("stuck", tools=[{**tool, "function": {"name": "two"}}])
        assert (unread.status_code, unread.json()["error"]["code"]) == (503, "guard_unavailable")
        seen = [row["input"] for row in await s.rows()]
        assert [item["present"] == ["tool_definition"] for item in seen] == [True, True, False]
        assert seen[0]["rules"] == {"tools": "log"}


async def test_a_client_that_leaves_while_the_answer_is_judged(stand: Make) -> None:
    async with stand(options="fault: hang, deadline_ms: 30000", stages="[output]") as s:
        async with hanging(s, stream=False):
            await s.upstream.arrived()
            await begun(s)
        rows = await settled(s)
        kinds.RELEASE.set()
        assert [row["status"] for row in rows] == ["client_gone"]


async def test_a_client_that_leaves_after_the_end(stand: Make) -> None:
    async with stand() as s:
        s.upstream.reply = replies.sse(shapes.stream(LONG))
        reader, writer = await asyncio.open_connection(*s.running.address)
        body = b'{"model":"m","messages":[],"stream":true}'
        writer.write(POST % len(body) + body)
        await reader.readuntil(b"data: [DONE]\n\n")
        writer.transport.abort()
        assert [row["status"] for row in await settled(s)] == ["released"]


async def test_a_client_that_never_sends_its_body(stand: Make) -> None:
    async with stand(settings={"receive_timeout": 0.2}) as s:
        reader, writer = await asyncio.open_connection(*s.running.address)
        writer.write(POST % 99 + b"{")
        answer = await asyncio.wait_for(reader.read(), 30)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer
        writer.close()
        assert [row["status"] for row in await settled(s)] == ["refused"]


# Connections that are shared


async def test_long_streams_share_one_connection(stand: Make) -> None:
    """Neither the watch for hang-ups nor the end of a stream costs the connection."""
    async with stand() as s:
        events: list[Any] = [*shapes.stream(LONG), 0.02]
        s.upstream.reply = [*replies.sse(events, gap=0.005)[:-1], 0.02, b"0\r\n\r\n"]
        for _ in range(4):
            assert (await s.chat("Hi", stream=True)).content.endswith(b"[DONE]\n\n")
            await settled(s)
            async with asyncio.timeout(30):
                while stream._DRAINS:  # until the end that the upstream sends late has come
                    await asyncio.sleep(0.005)
        assert s.upstream.connections == 1


async def test_a_stream_without_done_takes_nothing_from_the_next(stand: Make) -> None:
    async with stand() as s:
        s.upstream.reply = replies.sse(shapes.stream(LONG, done=False))
        await s.chat("Hi", stream=True)
        first = b'{"choices":[],'
        s.upstream.reply = [
            replies.head(200, [("Content-Type", "application/json"), ("Content-Length", "20")]) + first,
            0.1,
            b'"a":1}',
        ]
        began = asyncio.get_running_loop().time()
        response = await s.chat("Hi")
        assert response.json() == {"choices": [], "a": 1}
        assert asyncio.get_running_loop().time() - began < 10  # nobody waited for bytes that belong to another
        assert s.upstream.connections == 1


async def test_a_late_block_leaves_other_exchanges_alone(stand: Make) -> None:
    """An answer that was read and is still judged has given its connection back: ending it must not end another."""
    async with stand(options="delay: 0.3", stages="[output]") as s:
        s.upstream.reply = replies.json(shapes.completion("MARK"))
        blocked = asyncio.create_task(s.chat("Hi"))
        await s.upstream.arrived()
        await asyncio.sleep(0.1)
        whole = json.dumps(shapes.completion("Fine.")).encode()
        head = replies.head(200, [("Content-Type", "application/json"), ("Content-Length", str(len(whole)))])
        s.upstream.reply = [head + whole[:20], 0.6, whole[20:]]
        honest = await s.chat("Hi")
        assert b"content_filter" in (await blocked).content
        assert (honest.status_code, honest.content) == (200, whole)
        assert s.upstream.connections == 1


async def test_many_at_once_are_not_mixed_up(stand: Make) -> None:
    async with stand() as s:

        def reply(request: Any) -> Reply:
            body = request.json()
            text = f"<{body['messages'][0]['content']}> " * 9
            return (
                replies.sse(shapes.stream(text, size=7), gap=0.001)
                if body["stream"]
                else replies.json(shapes.completion(text))
            )

        s.upstream.reply = reply
        responses = await asyncio.gather(*(s.chat(f"n{number}", stream=number % 2 == 0) for number in range(60)))
        for number, response in enumerate(responses):
            assert spoken(response, "content") == f"<n{number}> " * 9
        rows = await settled(s)
        assert len({row.id for row in rows}) == 60
        assert {row["status"] for row in rows} == {"released"}


# Bounds


async def test_slow_readers_hold_the_upstream_back(stand: Make) -> None:
    """P8: what a client does not take is not fetched; what is kept for it is bounded."""
    piece = shapes.event({"choices": [{"index": 0, "delta": {"content": "word " * 200}, "finish_reason": None}]})
    async with stand(action="log", on_error="log") as s:
        s.upstream.reply = replies.Forever(replies.sse([piece])[:-1], [replies.chunk(piece * 16), 0.0])
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(10):
                await stack.enter_async_context(hanging(s))
            await s.upstream.arrived(10)
            for _ in range(100):
                before = sum(request.sent for request in s.upstream.requests)
                await asyncio.sleep(0.3)
                if sum(request.sent for request in s.upstream.requests) == before:
                    break
            else:
                pytest.fail("the upstream is never told to wait")
            for connection in s.running.plane.routing.backends[0].upstream._busy:
                assert connection._buffered < 1 << 20
        assert {row["status"] for row in await settled(s)} == {"client_gone"}


@pytest.mark.parametrize("stream", ["whole", "{hold_back: 100000}"])
async def test_an_endless_answer_is_not_kept(stand: Make, stream: str) -> None:
    """P8: an answer that must be held and never ends has a limit."""
    piece = shapes.event({"choices": [{"index": 0, "delta": {"content": "x" * 1000}, "finish_reason": None}]})
    async with stand(stream=stream, settings={"max_answer_bytes": 100_000}) as s:
        s.upstream.reply = replies.Forever(replies.sse([piece])[:-1], [replies.chunk(piece), 0.0])
        response = await s.chat("Hi", stream=True)
        assert len(response.content) < 200_000
        assert b"error" in response.content
        await asyncio.wait_for(s.upstream.requests[0].gone.wait(), 30)


async def test_too_many_at_once(stand: Make) -> None:
    wait = asyncio.Event()
    async with stand(settings={"max_in_flight": 2}) as s:
        s.upstream.reply = [wait, *replies.json(shapes.completion())]
        busy = [asyncio.create_task(s.chat("Hi")) for _ in range(2)]
        await s.upstream.arrived(2)
        response = await s.chat("Hi")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.headers.get("x-request-id") != ""  # it has no id, for nothing was written down
        assert response.json()["error"]["code"] == "overloaded"
        wait.set()
        assert [(await task).status_code for task in busy] == [200, 200]
        assert (await s.chat("Hi")).status_code == 200


async def test_no_connection_left(stand: Make) -> None:
    wait = asyncio.Event()
    async with stand(settings={"max_connections": 1}) as s:
        s.upstream.reply = [wait, *replies.json(shapes.completion())]
        busy = asyncio.create_task(s.chat("Hi"))
        await s.upstream.arrived()
        response = await s.chat("Hi")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_saturated")
        assert response.headers["retry-after"] == "1"
        wait.set()
        assert (await busy).status_code == 200


async def test_draining(stand: Make) -> None:
    """What is in flight ends well, what comes is refused, and readiness says so."""
    wait = asyncio.Event()
    async with stand() as s:
        s.upstream.reply = [wait, *replies.json(shapes.completion("Fine."))]
        busy = asyncio.create_task(s.chat("Hi"))
        await s.upstream.arrived()
        s.running.stop()
        assert (await s.chat("Hi")).status_code == 503
        ready = await s.client.get(s.admin_url + "/readyz")
        assert (ready.status_code, list(ready.json()["checks"])) == (503, ["drain"])
        assert (await s.client.get(s.admin_url + "/livez")).status_code == 200
        wait.set()
        assert (await busy).status_code == 200


async def test_a_stream_that_outlives_the_drain_is_written_down(stand: Make) -> None:
    async with stand(settings={"drain_timeout": 0.1}) as s:
        s.upstream.reply = replies.sse([*shapes.stream(LONG)[:-2], asyncio.Event()])
        async with s.client.stream(
            "POST", "/v1/chat/completions", json={"model": "m", "messages": [], "stream": True}
        ) as response:
            await anext(response.aiter_raw())
            for task in list(s.running.plane.in_flight):
                task.cancel()  # as the server does at its end
            assert [row["status"] for row in await settled(s)] == ["cancelled"]


async def test_the_end_of_the_process_ends_a_stuck_stream(stand: Make) -> None:
    async with stand(settings={"drain_timeout": 0.1}) as s:
        s.upstream.reply = replies.sse([*shapes.stream(LONG)[:-2], asyncio.Event()])
        _, writer = await asyncio.open_connection(*s.running.address)
        body = b'{"model":"m","messages":[],"stream":true}'
        writer.write(POST % len(body) + body)
        request = await s.upstream.arrived()
        await asyncio.sleep(0.1)
        data = s.data
    await asyncio.wait_for(request.gone.wait(), 30)
    writer.close()
    with Reader(data / "audit.db") as reader:
        assert [row["status"] for row in reader.latest(10)] == ["cancelled"]


async def test_a_fault_of_ours_says_nothing_of_the_request(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    async with stand() as s:
        monkeypatch.setattr("proxy.dialects.chat.Chat.read_request", broken)
        with captured() as logs:
            response = await s.chat("confidential")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
        assert "broken" not in response.text
        assert [entry["event"] for entry in logs] == ["internal fault"]
        assert "confidential" not in repr(logs)
        assert s.upstream.requests == []


# What is said of it


async def test_an_upstream_that_errs_is_told_without_its_address(stand: Make) -> None:
    async with stand() as s:
        port = str(s.upstream.port)
        s.upstream.reply = [End.RESET]
        for stream in (False, True):
            response = await s.chat("Hi", stream=stream)
            assert response.status_code == 502
            assert port not in response.text
            assert "127.0.0.1" not in response.text


async def test_decisions_are_found_by_the_id_that_a_client_saw(stand: Make) -> None:
    async with stand() as s:
        refused = await s.chat("MARK")
        error = refused.json()["error"]
        id = refused.headers["x-request-id"]
        assert re.fullmatch(r"pn_\w+", id)
        assert error["penstock"]["decision_id"] == id
        assert id in error["message"]
        assert [row.id for row in await settled(s)] == [id]


async def test_the_audit_holds_no_text(stand: Make) -> None:
    async with stand() as s:
        s.upstream.reply = replies.json(shapes.completion("the answer says CONFIDENTIAL and SECRET"))
        await s.chat("the question says CONFIDENTIAL", user="CONFIDENTIAL")
        await settled(s)
    # Only now that all has ended do its files stay as they are.
    kept = [path for path in s.data.rglob("*") if path.is_file() and s.data / "policies" not in path.parents]
    raw = b"".join(path.read_bytes() for path in kept)
    assert b"no-mark" in raw or b"veil-secret" in raw  # rules are named in it, and the policy itself is kept apart
    assert b"CONFIDENTIAL" not in raw
    assert b"SECRET" not in raw


@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_ours_is_in_the_audit(
    stand: Make, monkeypatch: pytest.MonkeyPatch, stage: str, stream: bool
) -> None:
    """Whoever finds a way to make us stumble leaves a trace, under the id that the client was given."""
    check = Guard.check

    async def stumbling(guard: Guard, at: Stage, *more: Any, **rest: Any) -> Decision:
        if at == stage:
            raise RuntimeError("a fault of ours")
        return await check(guard, at, *more, **rest)

    monkeypatch.setattr(Guard, "check", stumbling)
    async with stand(options="inline: false") as s:
        answer = await s.chat("Hi", stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        (row,) = await s.rows()
        assert row.id == answer.headers["x-request-id"]
        assert row["status"] == "failed"
