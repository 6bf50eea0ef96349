"""Uploads are judged row by row and refused whole; results are judged row by row and replaced one by one (T12)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from proxy.batches.form import boundary_of, read_form
from proxy.strict import Malformed
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand, _canary, stand  # noqa: F401 - pytest finds fixtures by name
from tests.upstream import End, messages, replies, responses, shapes

ON = {"judge_batches": True}
TYPE = "multipart/form-data; boundary=edge"
FILE = {"id": "file-1", "object": "file", "bytes": 9, "created_at": 1, "filename": "in.jsonl", "purpose": "batch"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "WORD"}]},
    "/v1/responses": {"model": "m", "input": "WORD"},
    "/v1/completions": {"model": "m", "prompt": "WORD"},
    "/v1/embeddings": {"model": "m", "input": ["Hi", "WORD"]},
}
MESSAGE = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "WORD"}]}


def row(word: str, url: str = "/v1/chat/completions", number: int = 1, **more: Any) -> bytes:
    body = json.loads(json.dumps(BODIES[url]).replace("WORD", word))
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": url, "body": body, **more}).encode()


def form(content: bytes, purpose: str = "batch", name: str = 'name="file"; filename="in.jsonl"') -> bytes:
    head = f'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--edge\r\n'.encode()
    kind = b"\r\nContent-Type: application/octet-stream\r\n\r\n"
    return head + b"Content-Disposition: form-data; " + name.encode() + kind + content + b"\r\n--edge--\r\n"


def field(name: str, value: bytes) -> bytes:
    return b'--edge\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)


async def upload(s: Stand, body: bytes, kind: str = TYPE, **headers: str) -> httpx2.Response:
    return await s.client.post("/v1/files", content=body, headers={"content-type": kind, **headers})


@pytest.mark.parametrize("url", BODIES)
async def test_a_row_with_the_word_refuses_the_file(stand: Make, url: str) -> None:  # noqa: F811
    async with stand(settings=ON) as s:
        s.upstream.reply = replies.json(FILE)
        rows = [row("Hello", url), row("MARK", url, 2), *(row("Hi", url, n) for n in range(3, 30))]
        refused = await upload(s, form(b"\n".join(rows)))
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_prompt", "file")
        assert "Row 2;" in error["message"]
        assert error["penstock"]["reason"] == "content_policy_violation"
        assert b"MARK" not in refused.content
        assert s.upstream.requests == []

        del rows[1]
        body = form(b"\n".join(rows) + b"\n")
        passed = await upload(s, body)
        assert (passed.status_code, passed.json()) == (200, FILE)
        (sent,) = s.upstream.requests
        assert (sent.body, sent.header("content-type")) == (body, TYPE)
        assert [(item["status"], item["detail"]) for item in await s.rows()] == [
            ("blocked", "row 2"),
            ("released", None),
        ]


@pytest.mark.parametrize(
    ("why", "content"),
    [
        ("what its result is found by, masked", json.dumps({**json.loads(row("Hi")), "custom_id": "SECRET"}).encode()),
        ("unscannable", row("Hi", body={"model": "m", "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]})),
        ("custom_id", json.dumps({**json.loads(row("Hi")), "custom_id": "MARK"}).encode()),
        ("unknown field", row("Hi", more={"x": ["MARK"]})),
        ("key", row("Hi", MARK=None)),
        ("escaped", row("Hi").replace(b"Hi", b"M\\u0041RK")),
        ("last of many", b"\n".join([row("Hi")] * 99 + [row("MARK")])),
        ("without a line end", row("Hi") + b"\n" + row("MARK")),
        ("crlf", row("Hi") + b"\r\n" + row("MARK") + b"\r\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_what_stops_a_file(stand: Make, why: str, content: bytes) -> None:  # noqa: F811
    policy = None
    if why == "unscannable":
        policy = UNSCANNABLE
    async with stand(policy, settings=ON) as s:
        refused = await upload(s, form(content))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_prompt"), refused.text
        assert b"MARK" not in refused.content
        assert b"SECRET" not in refused.content
        assert s.upstream.requests == []
        (item,) = await s.rows()
        assert item["status"] == "blocked"


UNSCANNABLE = """
id: test
version: 1
owner: tests
description: Parts that nobody can read are blocked.
rules:
  - id: unscannable
    description: Parts that nobody can read are blocked.
    stages: [input, output]
    when: {finding: surface.unscannable, at_least: 0.5}
    action: block
    stream: {hold_back: 8}
"""


TWINS: list[tuple[str, dict[str, Any]]] = [
    ("body", {"Body": MESSAGE}),
    ("body", {"BODY": None}),
    ("params", {"Params": {}}),
    ("url", {"Url": "/v1/images/edits"}),
    ("method", {"Method": "GET"}),
    ("custom_id", {"cu\u017ftom_id": "r2"}),
]
"""What a server in Go would take for the row's own."""


@pytest.mark.parametrize(
    ("why", "content"),
    [
        ("Row 2 was refused: not valid JSON", row("Hi") + b"\nMARK"),
        ("Row 1 was refused: an object has the same key twice", b'{"url":"a","url":"MARK"}'),
        ("Row 1 was refused: not valid JSON", b"[" * 200 + b"MARK"),
        ("Row 1 was refused: 'url' must be one of", row("Hi", url2=1).replace(b"chat/completions", b"images/edits")),
        ("Row 1 was refused: 'url' must be one of", b'["MARK"]'),
        ("Row 1 was refused: 'method' must be POST", row("Hi").replace(b'"POST"', b'"GET"')),
        ("Row 1 was refused: 'custom_id' must be a string", row("Hi").replace(b'"r1"', b"7")),
        ("Row 1 was refused: The body must be a JSON object", row("Hi", body="MARK")),
        ("Row 1 was refused: 'previous_response_id'", row("Hi", "/v1/responses", body={
            "model": "m", "input": "x", "previous_response_id": "resp_MARK"})),
        *[(f"Row 1 was refused: A field is spelled so that some servers read it as '{meant}'", row("Hi", **twin))
          for meant, twin in TWINS],
        ("Row 1 was refused: it holds a carriage return", row("Hi").replace(b'"body"', b'\r"body"')),
        ("Row 1 was refused: The request holds more than 40 texts", row("Hi", body={
            "model": "m", "messages": [{"role": "user", "content": ["a"] * 41}]})),
        ("The upload holds more than 3 rows", b"\n".join([row("Hi")] * 4)),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
async def test_rows_that_cannot_be_read(stand: Make, why: str, content: bytes) -> None:  # noqa: F811
    async with stand(settings={**ON, "max_batch_rows": 3, "max_texts": 40}) as s:
        refused = await upload(s, form(content))
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["message"].startswith(why), refused.text
        assert refused.json()["error"]["code"] == "invalid_request"
        assert b"MARK" not in refused.content
        assert s.upstream.requests == []
        (item,) = await s.rows()
        assert (item["status"], item["detail"]) == ("refused", "invalid_request")


ONE = form(row("Hi"))
FORMS = {
    "preamble": b"MARK\r\n" + ONE,
    "epilogue": ONE + b"MARK",
    "no end": ONE.removesuffix(b"--edge--\r\n"),
    "bare line feeds": ONE.replace(b"\r\n", b"\n"),
    "two files": ONE.replace(b"--edge--", ONE[ONE.rindex(b"--edge\r\n") :]),
    "purpose twice": ONE.replace(b"--edge\r\n", field("purpose", b"x") + b"--edge\r\n", 1),
    "no file": ONE.replace(b'; filename="in.jsonl"', b""),
    "file elsewhere": ONE.replace(b'name="file"', b'name="document"'),
    "filename*": ONE.replace(b'filename="in.jsonl"', b"filename*=utf-8''in.jsonl"),
    "two names": ONE.replace(b'name="file"', b'name="x"; name="file"'),
    "unquoted": ONE.replace(b'name="file"', b"name=file"),
    "escaped quote": ONE.replace(b'"in.jsonl"', b'"in\\"; name=\\"x"'),
    "percent": ONE.replace(b'"in.jsonl"', b'"in%22.jsonl"'),
    "folded header": ONE.replace(b"Content-Type: app", b"Content-Type:\r\n app"),
    "transfer encoding": ONE.replace(b"Content-Type:", b"Content-Transfer-Encoding: base64\r\nContent-Type:"),
    "disposition twice": ONE.replace(b"Content-Type:", b'Content-Disposition: form-data; name="x"\r\nContent-Type:'),
    "boundary in the file": form(row("Hi") + b"\n--edge\nMARK"),
    "boundary as a prefix": form(row("Hi") + b"\r\n--edgeMARK"),
    "long field": form(row("Hi"), "batch" + " " * 2000),
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
async def test_forms_with_two_readings(stand: Make, name: str) -> None:  # noqa: F811
    async with stand(settings=ON) as s:
        refused = await upload(s, FORMS[name])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_json"), refused.text
        assert s.upstream.requests == []


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=edge",
        'multipart/form-data; boundary="ed ge"',
        "multipart/form-data; boundary=edge; boundary=x",
        "multipart/form-data; charset=utf-16; boundary=edge",
        "multipart/form-data; boundary*=edge",
    ],
)
async def test_types_that_are_no_form(stand: Make, kind: str) -> None:  # noqa: F811
    async with stand(settings=ON) as s:
        refused = await upload(s, ONE, kind)
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")
        refused = await upload(s, ONE, **{"content-encoding": "gzip"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_encoding")
        assert s.upstream.requests == []


def test_what_a_form_says() -> None:
    assert boundary_of(b'multipart/form-data; boundary="edge"') == b"edge"
    read = read_form(form(b"a\r\n\r\nb\n"), b"edge")
    assert (read.fields, read.filename, read.content) == ({"purpose": "batch"}, "in.jsonl", b"a\r\n\r\nb\n")
    with pytest.raises(Malformed, match="begin and end"):
        read_form(form(b"a"), b"other")


async def test_fields_of_the_form_are_judged(stand: Make) -> None:  # noqa: F811
    async with stand(settings=ON) as s:
        for body in (ONE.replace(b"in.jsonl", b"MARK.jsonl"), field("expires_after[anchor]", b"MARK") + ONE):
            refused = await upload(s, body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_prompt")
            assert "Row" not in refused.json()["error"]["message"]
        other = await upload(s, form(b"%PDF", "assistants"))
        assert (other.status_code, other.json()["error"]["param"]) == (400, "purpose")
        assert s.upstream.requests == []


@pytest.mark.parametrize("fault", ["crash", "hang"])
async def test_a_silent_classifier(stand: Make, fault: str) -> None:  # noqa: F811
    async with stand(settings=ON, options=f"fault: {fault}, deadline_ms: 100") as s:
        refused = await upload(s, ONE)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "guard_unavailable")
        assert refused.headers["x-should-retry"] == "false"
        assert s.upstream.requests == []


async def test_a_policy_that_answers_in_words_refuses_uploads_with_an_error(stand: Make) -> None:  # noqa: F811
    async with stand(settings=ON, on_block="message") as s:
        assert (await upload(s, form(row("MARK")))).status_code == 400


async def test_the_upstream_fails(stand: Make) -> None:  # noqa: F811
    async with stand(settings=ON) as s:
        s.upstream.reply = [End.RESET]
        assert (await upload(s, ONE)).status_code == 502
        s.upstream.reply = replies.json(
            {"error": {"message": "no MARK", "code": "x", "type": "y", "param": None}}, status=429
        )
        assert b"MARK" not in (await upload(s, ONE)).content


async def test_a_list_of_messages(stand: Make) -> None:  # noqa: F811
    def items(*words: str) -> list[Any]:
        return [{"custom_id": f"r{n}", "params": json.loads(json.dumps(MESSAGE).replace("WORD", w))}
                for n, w in enumerate(words)]  # fmt: skip

    async with stand(settings=ON) as s:
        s.upstream.reply = replies.json({"id": "b", "type": "message_batch", "results_url": None})
        for tree, words in (
            ({"requests": items("Hi", "MARK")}, "Row 2;"),
            ({"requests": items("Hi"), "x": "MARK"}, "blocked"),
            ({"requests": [*items("Hi"), {**items("Hi")[0], "custom_id": "SECRET"}]}, "Row 2;"),
            ({"requests": [{"custom_id": "a", "params": {"model": "m"}}]}, "Row 1 was refused"),
            (
                {"requests": [*items("Hi"), {**items("Hi")[0], "Params": MESSAGE}]},
                "Row 2 was refused: A field is spelled",
            ),
            ({"requests": ["MARK"]}, "Row 1 was refused"),
            ({"requests": []}, "'requests' must be"),
        ):
            refused = await s.client.post("/v1/messages/batches", json=tree)
            assert refused.status_code == 400
            assert refused.json()["type"] == "error"
            assert words in refused.json()["error"]["message"], refused.text
            assert b"MARK" not in refused.content
        assert s.upstream.requests == []
        body = json.dumps({"requests": items("Hi", "Ho")}).encode()
        passed = await s.client.post("/v1/messages/batches", content=body, headers={"content-type": "application/json"})
        assert passed.status_code == 200
        assert s.upstream.requests[0].body == body
        big = [*items("Hi", "my SECRET", "Ho"), {"custom_id": "r", "params": {**MESSAGE, "seed": 10**30}}]
        assert (await s.client.post("/v1/messages/batches", json={"requests": big})).status_code == 200
        wanted = json.loads(json.dumps({"requests": big}).replace("SECRET", "[VEILED]"))
        assert json.loads(s.upstream.requests[1].body) == wanted


@pytest.mark.parametrize("url", BODIES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_a_masked_row_goes_as_the_rule_made_it(stand: Make, url: str, end: bytes) -> None:  # noqa: F811
    """The others go byte for byte, and nothing of what was masked is in the record."""
    odd = row("Ho", url, 2).replace(b'": ', b'"  : ').replace(b"Ho", b"H\\u006f")
    rows = [row("Hi", url), odd, row("my SECRET, \u2028 1", url, 3), b"", row("Hi", url, 4), row("SECRET", url, 5)]
    async with stand(settings=ON) as s:
        s.upstream.reply = replies.json(FILE)
        # A field that says what the file says is not taken for it.
        body = field("expires_after[anchor]", row("Hi", url)) + form(end.join(rows))
        passed = await upload(s, body)
        assert (passed.status_code, passed.json()) == (200, FILE), passed.text
        (sent,) = s.upstream.requests
        assert len(sent.body) == int(sent.header("content-length") or 0)
        read = read_form(sent.body, b"edge")
        assert read.fields == read_form(body, b"edge").fields
        got = read.content.split(end)
        assert [got[0], got[1], got[3], got[4]] == [rows[0], odd, b"", rows[4]]
        for at in (2, 5):
            assert json.loads(got[at]) == json.loads(rows[at].replace(b"SECRET", b"[VEILED]"))
        assert len(got[2].decode().splitlines()) == 1  # other readers end lines elsewhere
        assert b"SECRET" not in sent.body
        (item,) = await s.rows()
        assert (item["status"], item["action"], item["rule"]) == ("released", "mask", "veil-secret")


async def test_what_a_rule_makes_of_a_row_does_not_end_the_form(stand: Make) -> None:  # noqa: F811
    policy = RULES.format(**DEFAULTS).replace("[VEILED]", "--edge")
    async with stand(policy, settings=ON) as s:
        refused = await upload(s, form(row("Hi") + b"\n" + row("SECRET")))
        assert refused.status_code == 400
        assert "Row 2 was refused: the form's boundary" in refused.json()["error"]["message"]
        assert s.upstream.requests == []


ACTS = {
    "advise": "advice: Be kind.",
    "rewrite": "rewrite_with: No.",
    "review": "on_error: block",
    "route": "route_to: small",
}


@pytest.mark.parametrize("act", ACTS)
async def test_what_else_a_rule_may_ask_for(stand: Make, act: str) -> None:  # noqa: F811
    """A note to the model goes with the row. A row waits for nobody, and goes nowhere else."""
    policy = f"""{RULES.format(**DEFAULTS).partition("  - id: veil-secret")[0]}
  - id: other
    description: The word SECRET asks for more.
    stages: [input]
    when: {{finding: veil.mark, at_least: 0.5}}
    action: {act}
    {ACTS[act]}
"""
    async with stand(policy, settings=ON) as s:
        s.upstream.reply = replies.json(FILE)
        answer = await upload(s, form(row("Hi") + b"\n" + row("my SECRET")))
        if act == "advise":
            assert answer.status_code == 200, answer.text
            first, second = (
                json.loads(line) for line in read_form(s.upstream.requests[0].body, b"edge").content.split(b"\n")
            )
            assert first == json.loads(row("Hi"))
            assert [turn["content"] for turn in second["body"]["messages"]] == ["Be kind.", "my SECRET"]
        else:
            assert answer.status_code == 400
            assert "Row 2;" in answer.json()["error"]["message"]
            assert s.upstream.requests == []


def result(body: Any, number: int = 1, status: int = 200) -> bytes:
    answer = {"status_code": status, "request_id": "q", "body": body}
    return json.dumps({"id": f"b{number}", "custom_id": f"r{number}", "response": answer, "error": None}).encode()


RESULTS: dict[str, Callable[[str], Any]] = {
    "chat": lambda word: shapes.completion(f"It is {word}."),
    "responses": lambda word: responses.response(responses.message(responses.text(f"It is {word}."))),
    "error": lambda word: {"error": {"message": f"It is {word}.", "code": None}},
    "unheard": lambda word: {"object": "new", "said": [{"x": f"It is {word}."}]},
}


@pytest.mark.parametrize("kind", RESULTS)
async def test_results(stand: Make, kind: str) -> None:  # noqa: F811
    """T12's other half: a row that may not leave is an error of its own, the others leave as they came."""
    say = RESULTS[kind]
    clean, marked, secret = result(say("well")), result(say("MARK"), 2), result(say("SECRET"), 3)
    async with stand(settings=ON) as s:
        raw = b"\n".join([clean, marked, secret, *[clean] * 40]) + b"\n"
        s.upstream.reply = replies.content(raw, content_type="application/octet-stream")
        got = await s.client.get("/v1/files/file-1/content", headers={"range": "bytes=9-"})
        assert got.status_code == 200
        assert got.headers["content-type"] == "application/octet-stream"
        assert s.upstream.requests[0].header("range") is None
        rows = got.content.split(b"\n")
        assert [rows[0], *rows[3:]] == [clean, *[clean] * 40, b""]
        refused = json.loads(rows[1])
        assert (refused["custom_id"], refused["response"], refused["error"]["code"]) == ("r2", None, "invalid_prompt")
        assert "I'm sorry, but I can't help with that" in refused["error"]["message"]
        assert json.loads(rows[2]) == json.loads(secret.replace(b"SECRET", b"[VEILED]"))
        assert b"MARK" not in got.content
        (item,) = await s.rows()
        assert (item["status"], item["action"]) == ("blocked", "block")

        s.upstream.reply = replies.content(clean, content_type="application/jsonl")
        assert (await s.client.get("/v1/files/file-1/content")).content == clean


async def test_odd_rows_of_results(stand: Make) -> None:  # noqa: F811
    async with stand(settings=ON) as s:
        fine = result(RESULTS["chat"]("well"))
        named = result(RESULTS["chat"]("MARK")).replace(b'"r1"', b'"MARK"')
        odd = [fine, named, *[fine] * 8, b'{"a":1,"a":"MARK"}', b"MARK", b'"MARK"', row("MARK"), b""]
        s.upstream.reply = replies.content(b"\n".join(odd), content_type="application/jsonl")
        got = await s.client.get("/v1/files/file-1/content")
        assert b"MARK" not in got.content
        rows = [json.loads(line) for line in got.content.splitlines()]
        assert [row["custom_id"] for row in rows] == ["r1", None, *["r1"] * 8, None, None, None, "r1"]
        assert [row["error"] and row["error"]["code"] for row in rows[9:]] == [
            None, "guard_unavailable", "guard_unavailable", "invalid_prompt", "invalid_prompt"
        ]  # fmt: skip
        (known,) = {row.id for row in await s.rows()}
        assert rows[10]["error"]["message"].endswith(f"Please tell the operator: {known}.")

        for raw in (b"%PDF MARK", b'{"a":1,"a":"MARK"}\n' + fine):
            s.upstream.reply = replies.content(raw, content_type="application/pdf")
            refused = await s.client.get("/v1/files/file-1/content")
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unreadable_file")
            assert b"MARK" not in refused.content


async def test_results_that_break_off(stand: Make) -> None:  # noqa: F811
    """What has left stays, and nobody takes the rest for whole."""
    async with stand(settings=ON) as s:
        raw = b"\n".join([result(RESULTS["chat"]("well"))] * 50)
        whole = replies.content(raw, content_type="application/jsonl")
        left = asyncio.Event()
        *begun, end = replies.cut(whole, len(raw) // 2, End.CLOSE)
        s.upstream.reply = [*begun, left, end]

        async def fetch() -> None:
            async with s.client.stream("GET", "/v1/files/file-1/content") as answer:
                async for _ in answer.aiter_raw():
                    left.set()

        with pytest.raises(httpx2.RemoteProtocolError):
            await fetch()
        while s.running.plane.in_flight:
            await s.running.audit.probe()
        (item,) = await s.rows()
        assert item["status"] == "upstream_fault"


async def test_objects_are_judged(stand: Make) -> None:  # noqa: F811
    async with stand(settings=ON) as s:
        s.upstream.reply = replies.json({"object": "list", "data": [{**FILE, "filename": "MARK.jsonl"}]})
        for path in ("/v1/files", "/v1/files/file-1", "/v1/batches?limit=1", "/v1/batches/b-1"):
            got = await s.client.get(path)
            assert (got.status_code, got.json()["error"]["code"]) == (400, "invalid_prompt")
            assert b"MARK" not in got.content
        s.upstream.reply = replies.json(FILE)
        assert (await s.client.get("/v1/files/file-1")).json() == FILE
        assert (await s.client.delete("/v1/files/file-1")).status_code == 200
        assert (await s.client.post("/v1/batches/b-1/cancel")).status_code == 200
        assert [(r.method, r.body) for r in s.upstream.requests[-3:]] == [("GET", b""), ("DELETE", b""), ("POST", b"")]
        s.upstream.requests.clear()
        batch = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert (await s.client.post("/v1/batches", json=batch)).status_code == 200
        for more in ({"metadata": {"x": "MARK"}}, {"endpoint": "/v1/videos"}, {"endpoint": ["/v1/responses"]}):
            assert (await s.client.post("/v1/batches", json={**batch, **more})).status_code == 400
        for path in ("/v1/files/a/b", "/v1/files/{id}", "/v1/files/%2e", "/v1/batches/a/results"):
            assert (await s.client.get("/", extensions={"target": path.encode()})).status_code == 404
        assert len(s.upstream.requests) == 1


async def test_anthropics_own_client(stand: Make) -> None:  # noqa: F811
    """It follows `results_url`, which as the provider writes it leads past Penstock."""
    url = "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"
    counts = {"canceled": 0, "errored": 0, "expired": 0, "processing": 0, "succeeded": 2}
    batch = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "ended", "request_counts": counts,
             "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z", "results_url": url,
             "archived_at": None, "cancel_initiated_at": None, "ended_at": None}  # fmt: skip
    rows = [{"custom_id": f"r{n}", "result": {"type": "succeeded", "message": messages.message(messages.text(word))}}
            for n, word in enumerate(("Well.", "MARK"))]  # fmt: skip
    async with stand(settings=ON) as s:

        def reply(request: Any) -> Any:
            if request.path.endswith("/results"):
                raw = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
                return replies.content(raw, content_type="application/x-jsonl")
            return replies.json(batch)

        s.upstream.reply = reply
        async with anthropic.AsyncAnthropic(base_url=s.url, api_key="k", max_retries=0) as client:
            made = await client.messages.batches.create(
                requests=[{"custom_id": "r0", "params": {**MESSAGE, "messages": [{"role": "user", "content": "Hi"}]}}]  # type: ignore[typeddict-item]
            )
            assert made.results_url == "/v1/messages/batches/msgbatch_1/results"
            found = [item async for item in await client.messages.batches.results("msgbatch_1")]
        assert [item.custom_id for item in found] == ["r0", "r1"]
        first, second = (item.result for item in found)
        assert first.type == "succeeded"
        assert second.type == "errored"
        assert second.error.error.type == "invalid_request_error"
        assert "I'm sorry" in second.error.error.message


async def test_openais_own_client(stand: Make) -> None:  # noqa: F811
    openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")
    async with stand(settings=ON) as s:
        s.upstream.reply = replies.json(FILE)
        async with openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="k", max_retries=0) as client:
            made = await client.files.create(file=("in.jsonl", row("Hi")), purpose="batch")
            assert made.id == "file-1"
            with pytest.raises(openai.BadRequestError, match="Row 1;"):
                await client.files.create(file=("in.jsonl", row("MARK")), purpose="batch")
            s.upstream.reply = replies.content(result(RESULTS["chat"]("MARK")), content_type="application/octet-stream")
            content = await client.files.content("file-1")
        assert json.loads(content.text)["error"]["code"] == "invalid_prompt"


async def test_a_row_whose_model_leads_elsewhere(stand: Make) -> None:  # noqa: F811
    """A file goes to one upstream, whatever models its rows name: no row may ask what it would not get by itself."""
    chosen = {"upstream": "", "upstreams": {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2"}},
              "routes": [{"models": ["m"], "upstream": "a"}, {"models": ["n*"], "upstream": "b"},
                         {"models": ["r"], "upstream": "a", "rename": "secret"}], "default_upstream": "a"}  # fmt: skip
    async with stand(settings={**ON, **chosen}) as s:
        refused = await upload(s, form(row("Hi") + b"\n" + row("Hi").replace(b'"m"', b'"n1"')))
        assert refused.json()["error"]["message"] == "Row 2 was refused: its model is not served in batches."
        refused = await upload(s, form(row("Hi").replace(b'"m"', b'"r"')))
        assert refused.json()["error"]["message"] == "Row 1 was refused: its model is not served in batches."
        assert (await upload(s, form(row("Hi")))).status_code == 502  # it is sent, and nobody is there


async def test_a_row_whose_model_another_api_serves(stand: Make) -> None:  # noqa: F811
    """The file's upstream does not stand in for the one that a route names."""
    claude = {"url": "http://127.0.0.1:2", "serves": ["anthropic"]}
    chosen = {"upstream": "", "upstreams": {"a": {"url": "http://127.0.0.1:1"}, "b": claude},
              "routes": [{"models": ["c*"], "upstream": "b"}], "default_upstream": "a"}  # fmt: skip
    async with stand(settings={**ON, **chosen}) as s:
        refused = await upload(s, form(row("Hi").replace(b'"m"', b'"c1"')))
        assert refused.json()["error"]["message"].startswith("Row 1 was refused: This model is not served in this API")


async def test_a_row_asks_what_its_key_may(stand: Make) -> None:  # noqa: F811
    async with stand(settings=ON, keys={"ci": {"models": ["m"], "scopes": ["batches"]}}) as s:
        s.upstream.reply = replies.json(FILE)
        key = {"authorization": f"Bearer {s.keys['ci']}"}
        for other in (b'"n"', b'""', b"7"):
            refused = await upload(s, form(row("Hi") + b"\n" + row("Hi").replace(b'"m"', other)), **key)
            assert refused.status_code == 400
            assert refused.json()["error"]["message"].startswith("Row 2 was refused: ")
        assert s.upstream.requests == []
        assert (await upload(s, form(row("Hi")), **key)).status_code == 200
        batch = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        s.upstream.reply = replies.json({"id": "batch_1", "object": "batch"})
        assert (await s.client.post("/v1/batches", json=batch, headers=key)).status_code == 200
        listed = {"requests": [{"custom_id": "a", "params": {**MESSAGE, "model": "n"}}]}
        assert (await s.client.post("/v1/messages/batches", json=listed, headers=key)).status_code == 400
