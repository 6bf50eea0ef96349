"""T13, T14: what is stored at the provider belongs to the account that it was stored for."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import re
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.holder import Holder
from proxy.accounts.owned import Owned
from proxy.accounts.stored import first_id, minted, recalled, referred
from proxy.audit import Key
from proxy.dialects.base import NotFound
from proxy.logs import captured
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand
from tests.upstream import End, Reply, Request, messages, replies, responses, shapes

HASHED = Key(b"k" * 32).keyed_hash


def table(path: Path, **more: Any) -> Owned:
    return Owned(path / "owned.db", HASHED, **more)


def test_an_id_is_whose_it_was_minted_for(tmp_path: Path) -> None:
    owned = table(tmp_path, shared=["vs_everybody"])
    owned.mint("a", ["resp_1", "resp_2"])
    owned.mint("b", ["resp_1", "resp_3"])  # the first one's it stays
    again = table(tmp_path)  # another process, or the next one
    for some in (owned, again):
        assert [some.owns("a", name) for name in ("resp_1", "resp_2", "resp_3", "resp_4")] == [True, True, False, False]
        assert [some.owns("b", name) for name in ("resp_1", "resp_2", "resp_3", "resp_4")] == [
            False,
            False,
            True,
            False,
        ]
        assert [some.foreign("b", [name]) for name in ("resp_1", "resp_3", "resp_4")] == [True, False, False]
    assert owned.owns("b", "vs_everybody")
    assert not again.owns("b", "vs_everybody")
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"resp_1" not in raw
    assert (tmp_path / "owned.db").stat().st_mode & 0o777 == 0o600


def test_what_is_forgotten_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned = table(tmp_path, kept=100.0)
    owned.mint("a", ["resp_1"])
    now, passed = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    assert owned.owns("a", "resp_1")  # the clock has jumped
    monkeypatch.setattr(time, "monotonic", lambda: passed + 101)
    assert not owned.owns("a", "resp_1")
    assert not owned.foreign("b", ["resp_1"])


def test_the_table_is_bounded(tmp_path: Path) -> None:
    owned = table(tmp_path, most=50)
    for number in range(3000):
        owned.mint("a", [f"resp_{number}"])
    owned.mint("a", [f"resp_x{number}" for number in range(1000)])
    (count,) = owned._open().execute("SELECT count(*) FROM owned").fetchone()
    assert count <= 50


def test_a_table_that_is_taken_away_is_begun_anew_by_all(tmp_path: Path) -> None:
    path, aside = tmp_path / "owned.db", tmp_path / "aside.db"
    one, two = table(tmp_path), table(tmp_path)
    one.mint("a", ["resp_1"])
    assert two.owns("a", "resp_1")
    with captured() as lines:
        for name in ("owned.db", "owned.db-wal", "owned.db-shm"):
            if (tmp_path / name).exists():
                (tmp_path / name).rename(tmp_path / name.replace("owned", "aside"))
        assert not one.owns("a", "resp_1")
        one.mint("a", ["resp_2"])
        assert two.owns("a", "resp_2")
        assert not two.owns("a", "resp_1")
    assert [line["event"] for line in lines] == ["the table of who owns which id was taken away or replaced"] * 2
    one.close()
    two.close()
    aside.replace(path)
    (tmp_path / "aside.db-wal").replace(tmp_path / "owned.db-wal")
    assert one.owns("a", "resp_1")
    one.close()


def test_nothing_is_written_for_nothing(tmp_path: Path) -> None:
    table(tmp_path).mint("a", [])
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_read_gives_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "owned.db").write_bytes(b"no database" * 100)
    owned = table(tmp_path)
    owned.mint("a", ["resp_1"])
    assert not owned.owns("a", "resp_1")
    assert owned.foreign("a", ["resp_1"])


PATHS: dict[str, tuple[str, str | None]] = {
    "/v1/files": ("/v1/files", None),
    "/v1/files/file-abc123": ("/v1/files", "file-abc123"),
    "/v1/files/file-abc123/content": ("/v1/files", "file-abc123"),
    "/v1/responses/resp_68ab/input_items": ("/v1/responses", "resp_68ab"),
    "/v1/responses/compact": ("/v1/responses", None),
    "/v1/fine_tuning/jobs/ftjob-1/cancel": ("/v1/fine_tuning", "ftjob-1"),
    "/v1/vector_stores/vs_1/files/file-2": ("/v1/vector_stores", "vs_1"),
    "/v1/messages/batches/msgbatch_01": ("/v1/messages", "msgbatch_01"),
    "/v1/models/gpt-4o": ("/v1/models", "gpt-4o"),
}


@pytest.mark.parametrize(("path", "told"), PATHS.items(), ids=PATHS.keys())
def test_the_id_in_a_path(path: str, told: tuple[str, str | None]) -> None:
    assert first_id(path, told[0]) == told[1]


def test_no_word_of_the_clients_is_taken_for_an_id() -> None:
    """Every path in the vendors' clients, with its ids named: what is left over is words."""
    words: set[str] = set()
    for package in ("openai", "anthropic"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            pytest.skip("the official clients come with the demo extra")
        for file in (Path(spec.origin).parent / "resources").rglob("*.py"):
            for path in re.findall(r'f?"(/[a-z_]+(?:/[^"?\s]*)?)[?"]', file.read_text("utf-8")):
                words.update(word for word in path.removeprefix("/v1").split("/") if word and "{" not in word)
    assert len(words) > 60
    odd = {word for word in words if first_id("/" + word, "") is not None}
    assert odd <= {"fine-tunes", "calls_v1"}


REFERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({"model": "m", "input": "Hi"}, set()),
    "previous": ({"previous_response_id": "resp_1"}, {"resp_1"}),
    "conversation": ({"conversation": "conv_1"}, {"conv_1"}),
    "conversation object": ({"conversation": {"id": "conv_1"}}, {"conv_1"}),
    "item": ({"input": [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_2"}]}, {"msg_1", "msg_2"}),
    "an item of one's own": ({"input": [{"type": "message", "id": "msg_1", "content": "Hi"}]}, set()),
    "stores": ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1", "vs_2"]}]}, {"vs_1", "vs_2"}),
    "container": ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, {"cntr_1"}),
    "container with files": (
        {"tools": [{"container": {"type": "auto", "file_ids": ["file-1"]}}]}, {"file-1"},
    ),
    "a container that is made": ({"tools": [{"container": {"type": "auto"}}], "container": "auto"}, set()),
    "Anthropic's container": ({"container": {"id": "container_1", "skills": []}}, {"container_1"}),
    "file": ({"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]}, {"file-1"}),
    "deep file": ({"messages": [{"content": [{"source": {"type": "file", "file_id": "file_1"}}]}]}, {"file_1"}),
    "what a tool is called with": (
        {"messages": [{"content": [{"type": "tool_use", "name": "f", "input": {"file_id": "mine"}}]}]}, set(),
    ),
    "a file beside a call": (
        {"messages": [{"content": [{"type": "tool_use", "input": {}}, {"type": "document", "file_id": "file_1"}]}]},
        {"file_1"},
    ),
    "a shell's container": (
        {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}}]},
        {"cntr_1"},
    ),
    "a conversation of messages": ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, {"msg_1"}),
    "a new conversation": ({"thread": {"type": "create"}, "diagnostics": {"previous_message_id": None}}, set()),
    "what is compared": (
        {"diagnostics": {"previous_message_id": "msg_1"}, "prompt_cache_options": {"comparison_response_id": "resp_1"}},
        {"msg_1", "resp_1"},
    ),
    "what an answer cited": (
        {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": [
            {"type": "file_citation", "file_id": "file-1"}, {"type": "container_file_citation", "file_id": "cfile_1"},
        ]}]}]},
        set(),
    ),
    "a tool's parameter": ({"tools": [{"parameters": {"properties": {"file_id": {"type": "string"}}}}]}, set()),
    "what a search found": ({"input": [{"type": "file_search_call", "results": [{"file_id": "file-1"}]}]}, set()),
    "a shell's files": (
        {"tools": [{"type": "shell", "environment": {"type": "container_auto", "file_ids": ["file-1"]}}]}, {"file-1"},
    ),
    "a shell's skills": (
        {"tools": [{"environment": {"skills": [{"type": "skill_reference", "skill_id": "skill_1"},
                                               {"type": "inline", "source": {"data": "x"}}]}}]}, {"skill_1"},
    ),
    "Anthropic's skills": (
        {"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}, {"type": "custom", "skill_id": "s_1"}]}},
        {"s_1"},
    ),
    "tools that an item brings": (
        {"input": ["x", {"type": "additional_tools", "tools": [
            {"type": "file_search", "vector_store_ids": ["vs_1"]},
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}},
            {"type": "code_interpreter", "container": "cntr_1"},
            {"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_2"}},
        ]}]},
        {"vs_1", "file-1", "cntr_1", "cntr_2"},
    ),
    "where a shell ran": ({"input": [{"type": "shell_call", "environment": {"container_id": "cntr_1"}}]}, {"cntr_1"}),
    "a way into a network": ({"tools": [{"type": "mcp", "tunnel_id": "tunnel_1"}]}, {"tunnel_1"}),
    "a voice that all have": ({"audio": {"voice": "alloy", "format": "wav"}}, set()),
    "a voice": ({"audio": {"voice": {"id": "voice_1"}, "format": "wav"}}, {"voice_1"}),
    "what was said aloud": ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, {"audio_1"}),
    "odd shapes": (
        {"tools": ["x", {"environment": 1, "container": {"skills": 2, "file_ids": 3}}], "input": [1, {"tools": {}}],
         "conversation": [], "container": 3, "audio": {"voice": 4}, "messages": [5, {"audio": 6}]}, set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tree", "ids"), REFERS.values(), ids=REFERS.keys())
def test_what_a_request_refers_to(tmp_path: Path, tree: dict[str, Any], ids: set[str]) -> None:
    assert {name for name, _ in referred(tree)} == ids
    holder, other = Holder(table(tmp_path), "a"), Holder(table(tmp_path), "b")
    if ids:
        with pytest.raises(NotFound):
            holder.request(tree)
    table(tmp_path).mint("a", ids)
    holder.request(tree)
    if ids:
        with pytest.raises(NotFound):
            other.request(tree)


THOUGHTS = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "reasoning", "summary": []},
    {"type": "reasoning", "id": "rs_2", "summary": [{"text": "x"}], "content": []},
    {"type": "reasoning", "id": "rs_3", "summary": [], "encrypted_content": ""},
    {"type": "reasoning", "id": "rs_4", "summary": [], "encrypted_content": None},
    {"type": "reasoning", "id": "rs_5", "summary": [], "encrypted_content": "gAAAAAB"},
]


def test_thoughts_are_nobodys_until_they_are_known(tmp_path: Path) -> None:
    """Another replica may know them. Then they are one account's, each of them."""
    holder, other, tree = Holder(table(tmp_path), "a"), Holder(table(tmp_path), "b"), {"input": THOUGHTS}
    assert list(recalled(tree)) == [(f"rs_{n}", f"input[{at}].id") for n, at in ((1, 0), (2, 2), (3, 3), (4, 4))]
    assert list(referred(tree)) == []
    table(tmp_path).mint("a", ["rs_5"])
    other.request(tree)
    table(tmp_path).mint("a", ["rs_3"])
    holder.request(tree)
    with pytest.raises(NotFound) as caught:
        other.request(tree)
    assert caught.value.param == "input[3].id"


GIVES: dict[str, tuple[Any, set[str], set[str]]] = {
    "response": ({"id": "resp_1", "conversation": {"id": "conv_1"}}, {"resp_1", "conv_1"}, set()),
    "batch": ({"id": "batch_1", "output_file_id": "file-2", "error_file_id": None}, {"batch_1", "file-2"}, set()),
    "message": ({"type": "message", "id": "msg_1", "container": {"id": "c_1"}}, {"msg_1", "c_1"}, {"c_1"}),
    "container": ({"id": "r", "output": [{"container_id": "c_1"}, {}, "x"]}, {"r", "c_1"}, {"c_1"}),
    "thoughts": (
        {"id": "r", "output": [{"type": "reasoning", "id": "rs_1"}, {"type": "message", "id": "m"}]},
        {"r", "rs_1"},
        {"rs_1"},
    ),
    "files that code wrote": (
        {
            "content": [
                {"type": "text"},
                {
                    "type": "bash_code_execution_tool_result",
                    "content": {
                        "type": "bash_code_execution_result",
                        "content": [{"type": "bash_code_execution_output", "file_id": "file_1"}],
                    },
                },
            ]
        },
        {"file_1"},
        {"file_1"},
    ),
    "where a shell ran": ({"id": "r", "output": [{"environment": {"container_id": "c_1"}}]}, {"r", "c_1"}, {"c_1"}),
    "what was said aloud": ({"choices": [{"message": {"audio": {"id": "audio_1"}}}, 1]}, {"audio_1"}, {"audio_1"}),
    "a run and its thread": ({"id": "run_1", "thread_id": "thread_1"}, {"run_1", "thread_1"}, set()),
    "a file in parts": ({"id": "upload_1", "file": {"id": "file-1"}}, {"upload_1", "file-1"}, set()),
    "a training": (
        {"id": "ftjob-1", "result_files": ["file-1", 3], "training_file": "file-2"}, {"ftjob-1", "file-1"}, set(),
    ),
    "a file that is named only": ({"id": "x", "file": "file-1", "result_files": "file-2"}, {"x"}, set()),
    "list": ([], set(), set()),
    "number": ({"id": 3, "output": 4, "container": []}, set(), set()),
}  # fmt: skip


@pytest.mark.parametrize(("tree", "kept", "not_kept"), GIVES.values(), ids=GIVES.keys())
def test_what_an_answer_gives_away(tree: Any, kept: set[str], not_kept: set[str]) -> None:
    assert set(minted(tree, kept=True)) == kept
    assert set(minted(tree, kept=False)) == not_kept


# Through a whole Penstock

LOGGED = """
  - id: seen
    description: What nobody can read is noted.
    stages: [input]
    when: {finding: surface.unscannable, at_least: 0.5}
    action: log
"""
POLICY = RULES.format(**DEFAULTS) + LOGGED
FIELDS = ["background", "conversation", "item_reference", "previous_response_id", "prompt"]
OPEN: dict[str, Any] = {"open_fields": FIELDS}


def chat(asked: Any) -> Reply:
    """A chat, with the id that its metadata asks for."""
    told = {"id": "chatcmpl-" + asked["metadata"]["n"]}
    if asked.get("stream"):
        # Azure's first chunk has no id yet.
        events = [
            event.replace(b'"chatcmpl-x"', orjson.dumps(told["id"]))
            for event in shapes.stream("Hello there.", id="chatcmpl-x")
        ]
        return replies.sse([shapes.event({"id": "", "choices": []}), *events])
    return replies.json({**shapes.completion("Hello there."), **told})


def provider(request: Request) -> Any:
    """Answers with ids that come from what was asked."""
    if request.path == "/v1/responses" and request.method == "POST":
        asked = request.json()
        tree = responses.response(responses.message(responses.text("Hello.")), id="resp_" + asked["metadata"]["n"])
        tree["conversation"] = {"id": "conv_" + asked["metadata"]["n"]}
        if asked.get("stream"):
            events = responses.stream(responses.message(responses.text("Hello.")), id="resp_" + asked["metadata"]["n"])
            return replies.sse(events)
        return replies.json(tree)
    if request.method == "POST" and request.path == "/v1/files":
        return replies.json({"id": request.body.decode(), "object": "file"})
    if request.method == "GET" and request.path in {"/v1/files", "/v1/conversations"}:
        items = [{"id": "file-1"}, {"id": "file-2"}, {"id": "file-3"}]
        return replies.json({"object": "list", "data": items, "first_id": "file-1", "last_id": "file-3"})
    if request.method == "POST" and request.path in {"/v1/conversations", "/v1/batches"}:
        return replies.json({"id": "batch_1", "output_file_id": "file-out1"})
    return replies.json({"id": request.path.split("/")[3], "data": [{"id": "msg_9"}]})


async def ask(s: Stand, who: str, **more: Any) -> httpx2.Response:
    body = {"model": "m", "input": "Hi", "metadata": {"n": "0"}, **more}
    return await s.client.post("/v1/responses", json=body, headers={"authorization": f"Bearer {s.keys[who]}"})


async def call(s: Stand, who: str, method: str, path: str, **more: Any) -> httpx2.Response:
    return await s.client.request(method, path, headers={"authorization": f"Bearer {s.keys[who]}"}, **more)


@pytest.mark.parametrize("last", ["completed", None])
@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_are_named_by_their_account_only(stand: Make, stream: bool, last: str | None) -> None:
    """Whatever is kept; in a stream from the event on that ends them, for it may be cut."""
    items = [responses.reasoning("Hm.", id="rs_1"), responses.message(responses.text("Hello."))]
    async with stand(settings={"policy": "baseline"}, keys={"a": {}, "b": {}}) as s:
        events = responses.stream(*items)
        s.upstream.reply = replies.json(responses.response(*items))
        if stream:
            s.upstream.reply = replies.sse(events if last else [*events[:-1], End.CLOSE])
        assert (await ask(s, "a", stream=stream)).status_code == 200
        before = len(s.upstream.requests)
        thoughts = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
        for who, item in (
            ("b", thoughts),
            ("b", {**thoughts, "encrypted_content": ""}),
            ("b", {**thoughts, "content": []}),
        ):
            other = await ask(s, who, input=[item, {"role": "user", "content": "Go on."}])
            assert (other.status_code, other.json()["error"]["param"]) == (404, "input[0].id"), other.text
            assert "rs_" not in other.text
        assert len(s.upstream.requests) == before
        s.upstream.reply = replies.json(responses.response(*items))
        for who, item in (("a", thoughts), ("b", {**thoughts, "id": "rs_2"})):  # unknown: another replica's, say
            assert (await ask(s, who, input=[item, {"role": "user", "content": "Go on."}])).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_continued_by_its_account_only(stand: Make, stream: bool) -> None:
    async with stand(policy=POLICY, settings=OPEN, keys={"a": {}, "b": {}}) as s:
        s.upstream.reply = provider
        assert (await ask(s, "a", metadata={"n": "1"}, stream=stream)).status_code == 200
        assert (await ask(s, "a", previous_response_id="resp_1", stream=stream)).status_code == 200
        before = len(s.upstream.requests)
        for who, name in (("b", "resp_1"), ("a", "resp_none"), ("b", "resp_none")):
            other = await ask(s, who, previous_response_id=name, stream=stream)
            assert other.status_code == 400
            error = other.json()["error"]
            assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
            assert name not in other.text
        if not stream:
            assert (await ask(s, "a", conversation="conv_1")).status_code == 200
            for field in ({"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}}):
                other = await ask(s, "b", **field)
                assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")
        item = await ask(s, "b", input=[{"type": "item_reference", "id": "msg_1"}])
        assert item.status_code == 404
        assert len(s.upstream.requests) == before + (not stream)
        rows = [row for row in await s.rows() if row["status"] == "released"]
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
        assert (
            f'penstock_unscanned_parts_total{{dialect="responses",kind="stored",stage="input"}} {len(rows) - 1}'
            in metrics
        )
        assert [row["rule"] for row in rows] == [None] + ["seen"] * (len(rows) - 1)


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_is_open_by_its_own_name_only(stand: Make, field: str) -> None:
    values: dict[str, Any] = {
        "background": True, "conversation": "conv_1", "previous_response_id": "resp_1", "prompt": {"id": "pmpt_1"},
    }  # fmt: skip
    opened: list[dict[str, Any]] = [{name: value} for name, value in values.items()]
    opened.append({"input": [{"type": "item_reference", "id": "msg_1"}]})
    async with stand(policy=POLICY, settings={"open_fields": [field]}) as s:
        s.upstream.reply = provider
        for more in opened:
            own = field in more or (field == "item_reference" and "input" in more)
            response = await s.client.post(
                "/v1/responses", json={"model": "m", "input": "Hi", "metadata": {"n": "0"}, **more}
            )
            assert response.status_code == (200 if own else 400), more
            if not own:
                assert response.json()["error"]["code"] == "invalid_request"
        (row,) = [row for row in await s.rows() if row["status"] == "released"]
        assert row["rule"] == "seen"


async def test_what_is_open_is_for_the_policy_to_refuse(stand: Make) -> None:
    policy = POLICY.replace("action: log\n", "action: block\n")
    async with stand(policy=policy, settings=OPEN) as s:
        for more in (
            {"background": True},
            {"previous_response_id": "resp_1"},
            {"prompt": {"id": "p", "variables": {}}},
        ):
            response = await s.client.post("/v1/responses", json={"model": "m", "input": "Hi", **more})
            assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_prompt")
        assert s.upstream.requests == []


async def test_the_words_of_what_is_open_are_judged(stand: Make) -> None:
    async with stand(policy=POLICY, settings=OPEN) as s:
        for more in ({"prompt": {"id": "p", "variables": {"x": "MARK"}}}, {"previous_response_id": "MARK"}):
            response = await s.client.post("/v1/responses", json={"model": "m", "input": "Hi", **more})
            assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_prompt")


async def test_open_routes_show_each_account_its_own(stand: Make) -> None:
    settings = {"open_routes": ["/v1/files", "/v1/responses", "/v1/conversations"], **OPEN, "shared_ids": ["file-3"]}
    scopes = ["open", "responses"]
    async with stand(policy=POLICY, settings=settings, keys={"a": {"scopes": scopes}, "b": {"scopes": scopes}}) as s:
        s.upstream.reply = provider
        for who, name in (("a", b"file-1"), ("b", b"file-2")):
            assert (await call(s, who, "POST", "/v1/files", content=name)).status_code == 200
        for who, own in (("a", "file-1"), ("b", "file-2")):
            listed = (await call(s, who, "GET", "/v1/files")).json()
            assert [item["id"] for item in listed["data"]] == [own, "file-3"]
            assert (listed["first_id"], listed["last_id"]) == (own, "file-3")
        assert (await ask(s, "a", metadata={"n": "1"})).status_code == 200
        before = len(s.upstream.requests)
        own_calls = [("GET", "/v1/files/file-1"), ("GET", "/v1/files/file-1/content"), ("GET", "/v1/responses/resp_1"),
                     ("GET", "/v1/responses/resp_1/input_items"), ("DELETE", "/v1/responses/resp_1"),
                     ("POST", "/v1/conversations/conv_1/items")]  # fmt: skip
        for method, path in own_calls:
            assert (await call(s, "a", method, path)).status_code == 200, path
        listed = (await call(s, "a", "GET", "/v1/responses/resp_1/input_items")).json()
        assert listed["data"] == [{"id": "msg_9"}]
        assert len(s.upstream.requests) == before + len(own_calls) + 1
        for method, path in own_calls:
            other = await call(s, "b", method, path)
            assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found"), path
        for body in ({"file": "file-1"}, {"deep": [{"x": "file-1"}]}, {"file": "file\\u002d1"}):
            other = await call(
                s, "b", "POST", "/v1/conversations", content=str(body).replace("'", '"').replace("\\\\", "\\")
            )
            assert other.status_code == 404, body
        assert len(s.upstream.requests) == before + len(own_calls) + 1
        assert (await call(s, "b", "POST", "/v1/conversations", json={"file": "file-2"})).status_code == 200


THEIRS = {"object": "list", "data": [{"id": "file-B1", "filename": "b.txt"}], "has_more": False}
TEXT = orjson.dumps(THEIRS)
LISTS: dict[str, tuple[Reply, int]] = {
    "as it should be": (replies.json(THEIRS), 200),
    "compressed": (replies.json(THEIRS, gzip=True), 502),
    "half a letter": (replies.content(TEXT.replace(b"b.txt", b"\\ud800"), content_type="application/json"), 502),
    "a key twice": (
        replies.content(TEXT.replace(b'"object"', b'"object":1,"object"'), content_type="application/json"), 502,
    ),
    "a byte order mark": (replies.content(b"\xef\xbb\xbf" + TEXT, content_type="application/json"), 502),
    "another word for JSON": (replies.content(TEXT, content_type="text/json"), 200),
    "JSON that calls itself text": (replies.content(TEXT, content_type="text/plain"), 200),
    "a list by another name": (replies.json({"files": [{"id": "file-B1"}]}), 502),
    "a list beside the list": (replies.json({**THEIRS, "more": [{"id": "b1"}]}), 502),
    "an id beside the list": (replies.json({**THEIRS, "newest": "file-B1"}), 502),
    "a list and nothing around it": (replies.json([{"id": "file-B1"}]), 502),
    "events": (replies.sse([b"data: " + TEXT + b"\n\n"]), 502),
    "a page": (replies.html("<a>file-B1</a>", status=200), 502),
    "a page that leads elsewhere": (replies.html("<a>file-B1</a>", status=302), 502),
    "a piece": (replies.content(TEXT[1:], content_type="application/json", status=206), 502),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "status"), LISTS.values(), ids=LISTS.keys())
async def test_a_list_that_cannot_be_read_is_not_passed_on(stand: Make, reply: Reply, status: int) -> None:
    keys = {"a": {"scopes": ["open", "batches"]}}
    for settings in ({"open_routes": ["/v1/files"]}, {"judge_batches": True}):
        async with stand(policy=POLICY, settings=settings, keys=keys) as s:
            s.upstream.reply = reply
            answer = await call(s, "a", "GET", "/v1/files")
            if "open_routes" in settings:
                assert answer.status_code == status
            assert answer.status_code in {200, 502}
            assert "B1" not in answer.text
            assert "b.txt" not in answer.text
            if answer.status_code == 200:
                assert answer.json() == {"object": "list", "data": [], "has_more": False}
            else:
                assert answer.json()["error"]["code"] == "upstream_unreadable"


async def test_what_is_in_a_file_is_bytes(stand: Make) -> None:
    """It passes as it is, and gives nobody the ids that somebody wrote into it."""
    keys = {"a": {"scopes": ["open"]}}
    async with stand(policy=POLICY, settings={"open_routes": ["/v1/files"]}, keys=keys) as s:
        s.upstream.reply = replies.json({"id": "file-A1", "object": "file"})
        assert (await call(s, "a", "POST", "/v1/files", content=b"x")).status_code == 200
        for content in (b'{"id": "file-B1", "id": 1', b'{"id":"file-B1"}', b'{"files":[{"id":"file-B1"}]}'):
            s.upstream.reply = replies.content(content, content_type="application/json")
            assert (await call(s, "a", "GET", "/v1/files/file-A1/content")).content == content
        assert (await call(s, "a", "GET", "/v1/files/file-B1/content")).status_code == 404
        s.upstream.reply = replies.json({"id": "file-A1", "object": "file"}, gzip=True)
        assert (await call(s, "a", "GET", "/v1/files/file-A1")).status_code == 502


async def test_what_was_made_is_told_however_it_is_written(stand: Make) -> None:
    """JSON that no strict reader takes comes from honest servers, and a 502 would have clients make the thing again."""
    settings = {"open_routes": ["/v1/threads", "/v1/assistants", "/v1/vector_stores"]}
    keys = {"a": {"scopes": ["open"]}}
    async with stand(policy=POLICY, settings=settings, keys=keys) as s:
        for text in (b'{"id":"thread_A1","x":NaN}', b'{"id":"thread_A1","metadata":{"t":"cut \\ud83d"}}'):
            s.upstream.reply = replies.content(text, content_type="application/json")
            made = await call(s, "a", "POST", "/v1/threads", json={})
            assert (made.status_code, made.content) == (200, text)
            assert (await call(s, "a", "GET", "/v1/threads/thread_A1")).status_code == 200
        stores = {"file_search": {"vector_store_ids": ["vs_AUTO1"]}}
        s.upstream.reply = replies.json({"id": "asst_A1", "tool_resources": stores})
        assert (await call(s, "a", "POST", "/v1/assistants", json={})).status_code == 200
        again = await call(s, "a", "POST", "/v1/assistants/asst_A1", json={"tool_resources": stores})
        assert again.status_code == 200


async def test_what_came_to_be_with_ones_own_is_ones_own(stand: Make) -> None:
    """Results in lists of batches, the file of an upload in parts, the thread of a run, as JSON and as a stream."""
    keys = {"a": {"scopes": ["open", "batches"]}, "b": {"scopes": ["open", "batches"]}}
    async with stand(policy=POLICY, settings={"open_routes": ["/v1"]}, keys=keys) as s:

        async def found(*names: str) -> list[list[int]]:
            """What each account gets for each of these."""
            s.upstream.reply = replies.json({})
            return [[(await call(s, who, "GET", f"/v1/{name}")).status_code for name in names] for who in "ab"]

        batch = {"id": "batch_1", "object": "batch", "status": "validating"}
        s.upstream.reply = replies.json(batch)
        assert (await call(s, "a", "POST", "/v1/batches", json={})).status_code == 200
        done = [{**batch, "output_file_id": "file-O1", "error_file_id": "file-O2"}]
        others = [{"id": "batch_2", "output_file_id": "file-O3"}]
        s.upstream.reply = replies.json({"object": "list", "data": done + others, "has_more": False})
        assert (await call(s, "a", "GET", "/v1/batches")).json()["data"] == done
        assert await found("files/file-O1", "files/file-O2", "files/file-O3") == [[200, 200, 404], [404, 404, 404]]

        s.upstream.reply = replies.json({"id": "upload_1", "object": "upload", "file": None})
        assert (await call(s, "a", "POST", "/v1/uploads", json={})).status_code == 200
        s.upstream.reply = replies.json({"id": "upload_1", "object": "upload", "file": {"id": "file-U1"}})
        assert (await call(s, "a", "POST", "/v1/uploads/upload_1/complete", json={})).status_code == 200
        s.upstream.reply = replies.json({"id": "ftjob-1", "result_files": ["file-R1"], "training_file": "file-U1"})
        assert (await call(s, "a", "POST", "/v1/fine_tuning/jobs", json={"model": "m"})).status_code == 200
        s.upstream.reply = replies.json({"id": "run_1", "thread_id": "thread_1"})
        assert (await call(s, "a", "POST", "/v1/threads/runs", json={})).status_code == 200
        names = ["files/file-U1", "files/file-R1", "threads/thread_1/messages"]
        for name in names[:2]:
            assert await found(name) == [[200], [404]], name
        s.upstream.reply = replies.json({"data": []})
        assert [(await call(s, who, "GET", "/v1/" + names[2])).status_code for who in "ab"] == [200, 404]


@pytest.mark.parametrize("cut", [1, 7, 10_000])
async def test_a_stream_on_an_open_route_tells_what_is_ones_own(stand: Make, cut: int) -> None:
    """However it is cut, and whatever else is in it; what is in a file, nothing."""
    events = [
        {"id": "run_7", "object": "thread.run", "thread_id": "thread_7"},
        {"type": "thread.created", "thread": {"id": "cthr_7"}},
        {"type": "x", "text": "file-B7", "delta": {"id": "file-B8"}},
    ]
    raw = b": hello\n\nevent: x\ndata: {half\n\n" + b"".join(b"data: " + orjson.dumps(e) + b"\n\n" for e in events)
    pieces = [raw[at : at + cut] for at in range(0, len(raw), cut)]
    keys = {"a": {"scopes": ["open"]}, "b": {"scopes": ["open"]}}
    async with stand(policy=POLICY, settings={"open_routes": ["/v1"]}, keys=keys) as s:
        for reply in (replies.sse(pieces), replies.content(raw, content_type="text/event-stream")):
            s.upstream.reply = reply
            assert (await call(s, "a", "POST", "/v1/threads/runs", json={"stream": True})).content == raw
            s.upstream.reply = replies.json({"data": []})
            wanted = {
                "threads/thread_7/runs": 200,
                "chatkit/threads/cthr_7": 200,
                "files/file-B7": 404,
                "files/file-B8": 404,
            }
            for path, status in wanted.items():
                assert (await call(s, "a", "GET", "/v1/" + path)).status_code == status, path
                assert (await call(s, "b", "GET", "/v1/" + path)).status_code == 404, path
            for name in (s.data / "owned.db",):
                with contextlib.closing(sqlite3.connect(name)) as db:
                    db.execute("DELETE FROM owned")
                    db.commit()


FORM = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--b--\r\n'
JSON = "application/json"
MENTIONS: dict[str, tuple[bytes, str, dict[str, str], int]] = {
    "an id that nobody has": (b'{"file_ids":["file-Xy8bQ2"]}', JSON, {}, 404),
    "an id of letters alone": (b'{"file_ids":["file-abcdefghijklmnopqrstuvwx"]}', JSON, {}, 404),
    "an id in JSON in a form": (
        FORM % (b"session", b'{"x":[{"file_id":"file-1"}]}'), "multipart/form-data; boundary=b", {}, 404,
    ),
    "an id that nobody has, in a form": (
        FORM % (b"vector_store_id", b"vs_68ab01"), "multipart/form-data; boundary=b", {}, 404,
    ),
    "an id that nobody has, in a plain form": (b"a=1&ids[]=vs_68ab01", "application/x-www-form-urlencoded", {}, 404),
    "words that begin like ids": (
        b'{"tools":[{"type":"file_search"}],"purpose":"batch_output","event":"thread.run.created","step":"run_tests",'
        b'"format":"json","model":"gpt-4o-2024-08-06","name":"file-1.txt","kind":"file_citation","x":"batch"}',
        JSON, {}, 200,
    ),
    "a message that is sent whole": (
        b'{"items":[{"type":"message","id":"msg_68ab01","role":"user","content":[]}]}', JSON, {}, 200,
    ),
    "a message that is referred to": (b'{"items":[{"type":"item_reference","id":"msg_68ab01"}]}', JSON, {}, 404),
    "a message that is sent whole and named": (
        b'{"message_id":"msg_68ab01","items":[{"type":"message","id":"msg_68ab01","content":[]}]}', JSON, {}, 404,
    ),
    "another's under a whole message": (
        b'{"items":[{"type":"message","id":"file-1","content":[]}]}', JSON, {}, 404,
    ),
    "what a caller notes": (b'{"metadata":{"session":"session-8f3a2c","file_id":"file-Z9"}}', JSON, {}, 200),
    "words of a user": (
        b'{"content":"file-17","name":"agent-v2","suffix":"agent-v2",'
        b'"tool_outputs":[{"output":"run_17"}]}', JSON, {}, 200,
    ),
    "what an answer cited": (
        b'{"items":[{"content":[{"annotations":[{"type":"container_file_citation","file_id":"cfile_F9",'
        b'"container_id":"cntr_C1"}]}]}]}', JSON, {}, 200,
    ),
    "rows of data": (b'{"content":[{"item":{"file_id":"file-Z9","model":"o9"}}]}', JSON, {}, 200),
    "another's in what a caller notes": (b'{"metadata":{"x":"file-1"}}', JSON, {}, 404),
    "a file of words": (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.md"\r\n'
        b'\r\n# A\n\nstep-17\n------\nDo.\r\n--b--',
        "multipart/form-data; boundary=b", {}, 200,
    ),
    "a query in a file": (
        FORM % (b"file", b"GET /?a=1&b=vs_68ab01&c"), "multipart/form-data; boundary=b", {}, 200,
    ),
    "another's in a query in a file": (
        FORM % (b"file", b"GET /?a=1&b=file-1&c"), "multipart/form-data; boundary=b", {}, 404,
    ),
    "a field of a form": (FORM % (b"file_id", b"file-1"), "multipart/form-data; boundary=b", {}, 404),
    "by bare line feeds": (FORM.replace(b"\r", b"") % (b"x", b"file-1"), "multipart/form-data; boundary=b", {}, 404),
    "a form by another name": (FORM % (b"file_id", b"file-1"), "application/octet-stream", {}, 404),
    "one's own in a form": (FORM % (b"file_id", b"file-2"), "multipart/form-data; boundary=b", {}, 200),
    "a text in a form": (FORM % (b"file", b"my file-1 is there"), "multipart/form-data; boundary=b", {}, 200),
    "a plain form": (b"a=1&file_id=file%2D1", "application/x-www-form-urlencoded", {}, 404),
    "a plain form of a thousand fields": (
        b"a=1&" * 1001 + b"file_id=file-1",
        "application/x-www-form-urlencoded",
        {},
        404,
    ),
    "a plain form with another letter": (b"a=\xff&file_id=file-1", "application/x-www-form-urlencoded", {}, 404),
    "a plain form of old": (b"a=1;file_id=file-1", "application/x-www-form-urlencoded", {}, 404),
    "a word with blanks around it": (b'{"file_id":" file-1\\n"}', JSON, {}, 404),
    "a word among thousands": (orjson.dumps([f"x{n}" for n in range(9000)] + ["file-1"]), JSON, {}, 404),
    "more words than are looked up": (orjson.dumps([f"x{n}" for n in range(17000)]), JSON, {}, 413),
    "as many numbers and texts": (orjson.dumps([*range(17000), *[f"a {n}" for n in range(17000)]]), JSON, {}, 200),
    "JSON with two readings": (b'{"file_id":"file-1","a":1,"a":2}', JSON, {}, 400),
    "JSON that calls itself text": (b'{"file_id":"file-1"}', "text/plain", {}, 404),
    "JSON behind a mark": (b'\xef\xbb\xbf{"file_id":"file-1"}', JSON, {}, 400),
    "JSON of wide letters": ('{"file_id":"file-1"}'.encode("utf-16"), JSON, {}, 400),
    "JSON that is squeezed": (gzip.compress(b'{"file_id":"file-1"}'), JSON, {"content-encoding": "gzip"}, 415),
    "bytes": (bytes(range(1, 256)), "application/octet-stream", {}, 200),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "more", "status"), MENTIONS.values(), ids=MENTIONS.keys())
async def test_no_body_on_an_open_route_leads_to_anothers(
    stand: Make, body: bytes, kind: str, more: dict[str, str], status: int
) -> None:
    """Nobody judges it; but a provider that reads it leniently must not find there what we do not."""
    settings = {"open_routes": ["/v1/files", "/v1/conversations"]}
    scopes = ["open"]
    async with stand(policy=POLICY, settings=settings, keys={"a": {"scopes": scopes}, "b": {"scopes": scopes}}) as s:
        s.upstream.reply = provider
        for who, name in (("a", b"file-1"), ("b", b"file-2")):
            assert (await call(s, who, "POST", "/v1/files", content=name)).status_code == 200
        headers = {"authorization": f"Bearer {s.keys['b']}", "content-type": kind, **more}
        answer = await s.client.post("/v1/conversations", content=body, headers=headers)
        assert answer.status_code == status
        for query in ("after=file%2D1", "a=1;after=file-1", "a=1&" * 1001 + "after=file-1"):
            asked = await s.client.get("/v1/conversations?" + query, headers={"authorization": f"Bearer {s.keys['b']}"})
            assert asked.status_code == 404
        assert len(s.upstream.requests) == 2 + (status == 200)


KINDS = ["file-", "file_", "vs_", "resp_", "batch_", "msg_", "conv_", "thread_", "ftjob-", "asst_", "cntr_", "upload_"]


@given(st.sampled_from(KINDS), st.text("0123456789abcdefABCDEFxyz_-", max_size=24), st.sampled_from("09AZ"))
def test_an_id_in_a_body_is_ones_own_or_not_found(kind: str, rest: str, odd: str) -> None:
    """Whatever the table holds of it: an id that is forgotten, or was stored elsewhere, is not everybody's."""
    with tempfile.TemporaryDirectory() as folder:
        owned, name = table(Path(folder)), kind + rest + odd
        owner, other = Holder(owned, "a"), Holder(owned, "b")
        for holder in (owner, other):
            with pytest.raises(NotFound):
                holder.body({"deep": [{"file": f" {name}"}]})
        owned.mint("a", [name])
        owner.body({"deep": [{"file": f" {name}"}]})
        with pytest.raises(NotFound) as refused:
            other.body({"deep": [{"file": name}]})
        assert refused.value.param == "file"
        assert name not in str(refused.value)
        owned.close()


async def test_what_is_forgotten_is_named_by_nobody(stand: Make) -> None:
    settings = {"open_routes": ["/v1/files", "/v1/vector_stores"], "shared_ids": ["file-All1"]}
    keys = {"a": {"scopes": ["open"]}, "b": {"scopes": ["open"]}}
    async with stand(policy=POLICY, settings=settings, keys=keys) as s:
        s.upstream.reply = replies.json({"id": "file-B", "object": "file"})
        assert (await call(s, "b", "POST", "/v1/files", content=b"x")).status_code == 200
        s.upstream.reply = replies.json({"id": "vs_1", "object": "vector_store"})
        for age, status in ((89, 200), (91, 404)):
            with contextlib.closing(sqlite3.connect(s.data / "owned.db")) as db:
                db.execute("UPDATE owned SET at = ?", (time.time() - age * 86_400,))
                db.commit()
            for who, wanted in (("a", 404), ("b", status)):
                asked = await call(s, who, "POST", "/v1/vector_stores", json={"file_ids": ["file-B"]})
                assert asked.status_code == wanted, (age, who)
        asked = await call(s, "a", "POST", "/v1/vector_stores", json={"file_ids": ["file-All1"]})
        assert asked.status_code == 200


@pytest.mark.parametrize("judged", [False, True])
async def test_what_cannot_be_noted_is_not_told(stand: Make, monkeypatch: pytest.MonkeyPatch, judged: bool) -> None:
    """An upload whose owner would not find it again is no success; what was noted before is read all the same."""
    monkeypatch.setattr("proxy.accounts.holder.AGAIN", 0.0)
    settings: dict[str, Any] = {"judge_batches": True} if judged else {"open_routes": ["/v1/files"]}
    keys = {"a": {"scopes": ["open", "batches"]}}
    row = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    row["body"] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}  # type: ignore[assignment]
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("x.jsonl", orjson.dumps(row))}}
    async with stand(policy=POLICY, settings=settings, keys=keys) as s:
        s.upstream.reply = replies.json({"id": "file-1", "object": "file"})
        assert (await call(s, "a", "POST", "/v1/files", **form)).status_code == 200
        with contextlib.closing(sqlite3.connect(s.data / "owned.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            s.upstream.reply = replies.json({"id": "file-2", "object": "file"})
            refused = await call(s, "a", "POST", "/v1/files", **form)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "owner_unavailable")
            assert "file-2" not in refused.text
            s.upstream.reply = replies.json({"id": "file-1", "object": "file"})
            assert (await call(s, "a", "GET", "/v1/files/file-1")).status_code == 200
            db.execute("COMMIT")
        assert (await call(s, "a", "GET", "/v1/files/file-2")).status_code == 404
        refusals = [row["detail"] for row in await s.rows() if row["status"] == "refused"]
        assert sorted(refusals) == ["not_found", "owner_unavailable"]


NAMES: dict[str, tuple[bytes, str, str, int]] = {
    "JSON": (b'{"model":"gpt-9"}', JSON, "", 200),
    "JSON of another": (b'{"prompt":"x","model":"dall-e-3"}', JSON, "", 404),
    "JSON of another, in other letters": (b'{"\\u006dodel":"dall-e-3"}', JSON, "", 404),
    "JSON of another, for a server in Go": (b'{"model":"gpt-9","Model":"other"}', JSON, "", 404),
    "JSON of a session": (b'{"session":{"type":"realtime","model":"other"}}', JSON, "", 404),
    "JSON of a run": (b'{"data_source":{"type":"completions","model":"other"}}', JSON, "", 404),
    "JSON of a grader in a list": (b'{"graders":[{"model":"gpt-9"},{"Model":"other"}]}', JSON, "", 404),
    "JSON of what writes a session down": (
        b'{"session":{"audio":{"input":{"transcription":{"model":"other"}}}}}', JSON, "", 404,
    ),
    "JSON of a thing with attributes": (
        b'{"attributes":{"model":"X200"},"data":[{"item":{"model":"Golf"}}]}', JSON, "", 200,
    ),
    "JSON of a model with settings": (b'{"agent":{"model":{"id":"other","speed":"fast"}}}', JSON, "", 404),
    "JSON of several models": (b'{"x":{"model":["gpt-9","other"]}}', JSON, "", 404),
    "JSON of one's own in the depth": (b'{"x":{"model":{"id":"gpt-9"},"y":[{"model":"gpt-8"}]}}', JSON, "", 200),
    "JSON with a schema": (b'{"schema":{"properties":{"model":{"type":"string"}}}}', JSON, "", 200),
    "a form with a name in another": (FORM % (b"session[model]", b"other"), "multipart/form-data; boundary=b", "", 404),
    "a form with JSON": (
        FORM % (b"session", b'{"audio":{\r\n"model":"other"}}'), "multipart/form-data; boundary=b", "", 404,
    ),
    "a form with JSON of one's own": (
        FORM % (b"session", b'{"model":"gpt-9"}'), "multipart/form-data; boundary=b", "", 200,
    ),
    "a form with JSON of two readings": (
        FORM % (b"session", b'{"model":"gpt-9","model":"other"}'), "multipart/form-data; boundary=b", "", 400,
    ),
    "a form with a text that begins like JSON": (
        FORM % (b"prompt", b"{a cat} by model"), "multipart/form-data; boundary=b", "", 200,
    ),
    "a form with a file of JSON": (
        FORM % (b'file"; filename="x', b'{"model":"other"}'), "multipart/form-data; boundary=b", "", 200,
    ),
    "JSON with two readings": (b'{"model":"gpt-9","model":"other"}', JSON, "", 400),
    "a word that is no model": (b'{"metadata":{"model":"other"}}', JSON, "", 200),
    "a form": (FORM % (b"model", b"gpt-9"), "multipart/form-data; boundary=b", "", 200),
    "a form of another": (FORM % (b"model", b"other"), "multipart/form-data; boundary=b", "", 404),
    "a form without quotes": (
        FORM.replace(b'"', b"") % (b"model", b"other"),
        "multipart/form-data; boundary=b",
        "",
        404,
    ),
    "a form by bare line feeds": (
        FORM.replace(b"\r", b"") % (b"model", b"other"),
        "multipart/form-data; boundary=b",
        "",
        404,
    ),
    "a form with two names": (FORM % (b'x"; name="model', b"other"), "multipart/form-data; boundary=b", "", 400),
    "a form with a name in code": (
        FORM % (b"x\"; name*=utf-8''model; a=\"", b"other"),
        "multipart/form-data; boundary=b",
        "",
        400,
    ),
    "a form with a file": (FORM % (b'file"; filename="model', b"other"), "multipart/form-data; boundary=b", "", 200),
    "a form with more headers": (
        FORM.replace(b"\r\n\r\n", b"\r\nx: y\r\nz:\r\n\r\n") % (b"model", b"other"),
        "multipart/form-data; boundary=b",
        "",
        404,
    ),
    "a form with headers without end": (
        FORM.replace(b"\r\n\r\n", b"\r\nx: y" * 999 + b"\r\n\r\n") % (b"model", b"other"),
        "multipart/form-data; boundary=b",
        "",
        400,
    ),
    "a form with a file's name in code": (
        FORM % (b"file\"; filename*=utf-8''model; a=\"", b"other"),
        "multipart/form-data; boundary=b",
        "",
        200,
    ),
    "a form with a letter in it": (
        FORM % (b"file", b"x\r\nContent-Disposition: attachment; filename=x\r\n\r\nother"),
        "multipart/form-data; boundary=b",
        "",
        200,
    ),
    "thousands of heads": (b"content-disposition: x\r\n" * 100_000, "multipart/form-data; boundary=b", "", 200),
    "a plain form": (b"a=1&model=other", "application/x-www-form-urlencoded", "", 404),
    "a query": (b"{}", JSON, "?model=gpt-9", 200),
    "a query of another": (b"{}", JSON, "?a=1&mod%65l=other", 404),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "query", "status"), NAMES.values(), ids=NAMES.keys())
async def test_a_key_has_its_models_on_open_routes(
    stand: Make, body: bytes, kind: str, query: str, status: int
) -> None:
    keys = {"a": {"scopes": ["open"], "models": ["gpt-*"]}, "b": {"scopes": ["open"]}}
    async with stand(settings={"open_routes": ["/v1/images"]}, keys=keys) as s:
        s.upstream.reply = replies.json({})
        unread = status == 400 and (kind == JSON or b"{" in body)  # by nobody
        for who, wanted in (("a", status), ("b", 400 if unread else 200)):
            headers = {"authorization": f"Bearer {s.keys[who]}", "content-type": kind}
            answer = await s.client.post("/v1/images/edits" + query, content=body, headers=headers)
            assert answer.status_code == wanted
        assert b"other" not in answer.content


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_chat_is_its_accounts(stand: Make, stream: bool) -> None:
    """What `store: true` keeps is found again by whoever had it stored, and by nobody else."""
    settings = {"open_routes": ["/v1/chat/completions"]}
    scopes = ["open", "chat"]
    async with stand(policy=POLICY, settings=settings, keys={"a": {"scopes": scopes}, "b": {"scopes": scopes}}) as s:
        asks = ("POST", "/v1/chat/completions")
        s.upstream.reply = lambda given: chat(given.json()) if (given.method, given.path) == asks else provider(given)
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        for more in ({"metadata": {"n": "k1"}, "store": True}, {"metadata": {"n": "k2"}}):
            asked = await call(s, "a", "POST", "/v1/chat/completions", json={**body, **more})
            assert asked.status_code == 200
        wanted = {("a", "k1"): 200, ("b", "k1"): 404, ("a", "k2"): 404, ("a", "k3"): 404}
        for method, below in (("GET", ""), ("GET", "/messages"), ("POST", ""), ("DELETE", "")):
            for (who, name), status in wanted.items():
                found = await call(s, who, method, f"/v1/chat/completions/chatcmpl-{name}{below}", json={})
                assert found.status_code == status, (method, below, who, name)


async def test_files_in_judged_requests_are_ones_own(stand: Make) -> None:
    """T14, with nothing opened: nobody stored anything through here, so nobody has anything."""
    settings = {"shared_ids": ["vs_all"]}
    async with stand(policy=POLICY, settings=settings, keys={"a": {}}) as s:
        s.upstream.reply = provider
        file = [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]
        assert (await ask(s, "a", input=file)).status_code == 404
        for store, status in (("vs_1", 404), ("vs_all", 200)):
            tools = [{"type": "file_search", "vector_store_ids": [store]}]
            assert (await ask(s, "a", tools=tools)).status_code == status
        assert len(s.upstream.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_said_aloud_is_ones_own(stand: Make, stream: bool) -> None:
    """The id of a spoken answer stands for its words in the next turn: for whoever heard it."""
    aloud = {"id": "audio_1", "transcript": "Hello.", "expires_at": 1}
    async with stand(policy=POLICY, keys={"a": {}, "b": {}}) as s:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        whole = {"id": "c", "choices": [{**choice, "message": {"role": "assistant", "audio": aloud}}]}
        chunk = {"id": "c", "choices": [{**choice, "delta": {"role": "assistant", "audio": aloud}}]}
        s.upstream.reply = replies.sse([shapes.event(chunk), shapes.DONE]) if stream else replies.json(whole)
        again = [{"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "user", "content": "And?"}]
        for who, turns, status in (("a", [], 200), ("a", again, 200), ("b", again, 404)):
            body = {"model": "m", "stream": stream, "messages": turns or [{"role": "user", "content": "Hi"}]}
            assert (await call(s, who, "POST", "/v1/chat/completions", json=body)).status_code == status


@pytest.mark.parametrize("stream", [False, True])
async def test_containers_are_ones_own(stand: Make, stream: bool) -> None:
    """With nothing opened, too: an answer names the container that the next request goes on in."""
    async with stand(policy=POLICY, keys={"a": {}, "b": {}}) as s:
        said = messages.message(messages.text("Hello."), model="m")
        events = messages.stream(messages.text("Hello."), model="m")
        told = b'"container":{"id":"container_1","expires_at":"2030-01-01T00:00:00Z"},'
        events = [event.replace(b'"stop_reason":"end_turn"', told + b'"stop_reason":"end_turn"') for event in events]
        whole = replies.json({**said, "container": {"id": "container_1", "expires_at": "2030-01-01T00:00:00Z"}})
        s.upstream.reply = replies.sse(events) if stream else whole

        async def go_on(who: str, **more: Any) -> int:
            body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
            headers = {"x-api-key": s.keys[who]}
            return (await s.client.post("/v1/messages", json={**body, **more}, headers=headers)).status_code

        assert [await go_on("a"), await go_on("a", container="container_1")] == [200, 200]
        assert [await go_on("b", container="container_1"), await go_on("a", container="container_2")] == [404, 404]
        assert len(s.upstream.requests) == 2


async def message(s: Stand, who: str, **more: Any) -> int:
    """The status of a message that `who` asks for."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **more}
    return (await s.client.post("/v1/messages", json=body, headers={"x-api-key": s.keys[who]})).status_code


@pytest.mark.parametrize("stream", [False, True])
async def test_conversations_of_messages_are_ones_own(stand: Make, stream: bool) -> None:
    """Nobody goes on with what is kept until the operator opens it, then its account does; so with what is compared."""
    said = messages.message(messages.text("Hello."), model="m", id="msg_1")
    events = messages.stream(messages.text("Hello."), model="m", id="msg_1")
    thread: dict[str, Any] = {"thread": {"type": "continue", "previous_message_id": "msg_1"}}
    for opened, own in ((["thread"], 200), ([], 400)):
        async with stand(policy=POLICY, settings={"open_fields": opened}, keys={"a": {}, "b": {}}) as s:
            s.upstream.reply = replies.sse(events) if stream else replies.json(said)
            assert await message(s, "a", stream=stream, thread={"type": "create"}) == 200
            assert await message(s, "a", stream=stream, **thread) == own
            assert await message(s, "b", stream=stream, **thread) == (404 if opened else 400)
            for odd in ({"type": "create", "previous_message_id": "msg_1"}, {"id": "msg_1"}, "msg_1"):
                assert await message(s, "b", stream=stream, thread=odd) == (404 if opened else 400)
            compared: dict[str, Any] = {"diagnostics": {"previous_message_id": "msg_1"}}
            assert await message(s, "b", stream=stream, **compared) == 404
            assert await message(s, "a", stream=stream, diagnostics={"previous_message_id": None}) == 200
            assert [
                await message(s, "a", stream=stream, **compared),
                await message(s, "b", stream=stream, **compared),
            ] == [200, 404]


async def test_batches_are_ones_own(stand: Make) -> None:
    scopes = ["batches"]
    keys = {"a": {"scopes": scopes}, "b": {"scopes": scopes}, "usual": {}}
    async with stand(policy=POLICY, settings={"judge_batches": True}, keys=keys) as s:
        s.upstream.reply = provider
        refused = await call(s, "usual", "GET", "/v1/batches")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
        s.running.plane._owned.mint("a", ["file-in1"])  # type: ignore[union-attr]
        body = {"input_file_id": "file-in1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert (await call(s, "b", "POST", "/v1/batches", json=body)).status_code == 404
        assert (await call(s, "a", "POST", "/v1/batches", json=body)).status_code == 200
        for path in ("/v1/batches/batch_1", "/v1/files/file-out1"):
            assert (await call(s, "a", "GET", path)).status_code == 200
            other = await call(s, "b", "GET", path)
            assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")
        assert (await call(s, "b", "GET", "/v1/files")).json()["data"] == []
