"""Several upstreams: the model's name leads through the operator's table; nothing else of a caller leads anywhere."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from proxy.dialects.base import NotFound
from proxy.routing import LONGEST, REMEMBERED, Backend, Patterns, Routing, Way
from proxy.upstream import Upstream as Pool
from proxy.upstream_settings import UpstreamSettings
from tests.proxy.conftest import Make, Stand
from tests.upstream import End, Request, Upstream, messages, replies, shapes

VERSION = {"anthropic-version": "2023-06-01"}
BOTH = ["openai", "anthropic"]


def backend(name: str, serves: list[str] = BOTH, **more: Any) -> Backend:
    url = f"http://{name}.example"
    return Backend(name, Pool(url), UpstreamSettings(url=url, serves=serves, **more), pass_through=True)


MATCHES = {
    "itself": ("gpt-4o", "gpt-4o", True),
    "a letter more": ("gpt-4o", "gpt-4o-mini", False),
    "a letter less": ("gpt-4o", "gpt-4", False),
    "another case": ("gpt-4o", "GPT-4o", False),
    "a beginning": ("gpt-*", "gpt-4o", True),
    "nothing behind it": ("gpt-*", "gpt-", True),
    "an end": ("*-mini", "gpt-4o-mini", True),
    "a middle": ("a*c", "abbbc", True),
    "a middle with a line end": ("a*c", "a\nc", True),
    "an end with a line end": ("a*c", "abc\n", False),
    "all": ("*", "x", True),
    "all, of nothing": ("*", "", True),
    "a question mark is itself": ("gpt-?", "gpt-4", False),
    "a bracket is itself": ("gpt-[4]*", "gpt-4", False),
    "a bracket found": ("gpt-[4]*", "gpt-[4]o", True),
    "a dot is itself": ("gpt-4.1*", "gpt-4x1", False),
    "too long a name": ("*", "x" * (LONGEST + 1), False),
    "many stars": ("*a*a*a*a*a*a*b", "a" * LONGEST, False),
}


@pytest.mark.parametrize(("pattern", "name", "matches"), MATCHES.values(), ids=MATCHES.keys())
def test_patterns(pattern: str, name: str, matches: bool) -> None:
    assert (name in Patterns([pattern])) is matches
    assert (name in Patterns(["none", pattern])) is matches


def table() -> Routing:
    a, b, c = backend("a", ["openai"]), backend("b", ["anthropic"]), backend("c")
    routes = [
        (["claude-*"], Way(b)),
        (["fast"], Way(a, "gpt-4o-mini")),
        (["gpt-*", "claude-*"], Way(a)),
        (["x*"], Way(c)),
    ]
    return Routing([a, b, c], routes)


# family, model, (upstream, renamed), or None where it is not served
LEADS: dict[str, tuple[str, str, tuple[str, str | None] | None]] = {
    "first of two": ("anthropic", "claude-1", ("b", None)),
    "an upstream of another family is passed over": ("openai", "claude-1", ("a", None)),
    "renamed": ("openai", "fast", ("a", "gpt-4o-mini")),
    "renamed, not for this family": ("anthropic", "fast", None),
    "both families": ("anthropic", "xyz", ("c", None)),
    "in no route": ("openai", "llama", None),
    "no name": ("openai", "", None),
    "endless": ("openai", "gpt-" + "4" * LONGEST, None),
}


@pytest.mark.parametrize(("family", "model", "leads"), LEADS.values(), ids=LEADS.keys())
def test_the_table(family: str, model: str, leads: tuple[str, str | None] | None) -> None:
    routing = table()
    for _ in range(2):  # the second time it is remembered
        if leads is None:
            with pytest.raises(NotFound):
                routing.way(family, model)
        else:
            way = routing.way(family, model)
            assert (way.backend.name, way.model) == leads


def test_what_is_remembered_is_bounded() -> None:
    routing = table()
    for number in range(3 * REMEMBERED):
        routing.way("openai", f"gpt-{number}")
        assert len(routing._known) <= REMEMBERED


def test_a_table_without_a_default_is_all_there_is() -> None:
    a = backend("a")
    routing = Routing([a], [(["x"], Way(a, "y"))])
    assert routing.way("openai", "x").model == "y"
    assert routing.single is None
    with pytest.raises(NotFound):
        routing.way("openai", "y")
    assert Routing([a], [(["x"], Way(a, "y"))], "a").way("openai", "y").model is None
    assert routing.default is a  # what names no model has nowhere else to go


def test_the_rest_has_a_default() -> None:
    a, b = backend("a", ["openai"]), backend("b")
    routing = Routing([a, b], [(["x"], Way(b))], "a")
    assert routing.way("openai", "y").backend is a
    with pytest.raises(NotFound):
        routing.way("anthropic", "y")


# family, model, the upstream or what is said
NAMED: dict[str, tuple[str, str, str]] = {
    "where it is served": ("anthropic", "claude-1", "b"),
    "a default is no stand-in for the route": ("openai", "claude-1", "ask for it in Anthropic's (/v1/messages)"),
    "nor in the other family": ("anthropic", "llama-1", "ask for it in OpenAI's (as /v1/chat/completions)"),
    "a later route": ("openai", "both-1", "c"),
    "the first": ("anthropic", "both-1", "b"),
    "named by none": ("openai", "gpt-4o", "a"),
    "named by none, and not served": ("anthropic", "gpt-4o", "does not exist, or you do not have access"),
    "no name": ("openai", "", "a"),
}


@pytest.mark.parametrize(("family", "model", "leads"), NAMED.values(), ids=NAMED.keys())
def test_what_a_route_names_goes_to_no_default(family: str, model: str, leads: str) -> None:
    a, b, c = backend("a", ["openai"]), backend("b", ["anthropic"]), backend("c")
    routes = [(["claude-*", "both-*"], Way(b)), (["llama-*"], Way(a)), (["both-*"], Way(c))]
    routing = Routing([a, b, c], routes, "a")
    for _ in range(2):  # the second time it may be remembered
        if len(leads) == 1:
            assert routing.way(family, model).backend.name == leads
        else:
            with pytest.raises(NotFound, match=re.escape(leads)):
                routing.way(family, model)
            assert routing.find(family, model) is None


def test_what_names_no_model_is_named_by_no_route() -> None:
    a, b = backend("a", ["openai"]), backend("b", ["anthropic"])
    routing = Routing([a, b], [(["*"], Way(b))], "a")
    assert routing.way("openai", "").backend is a
    assert routing.way("anthropic", "").backend is b
    with pytest.raises(NotFound, match="/v1/messages"):
        routing.way("openai", "gpt-4o")


KEYS: dict[str, tuple[dict[str, Any], str, list[tuple[bytes, bytes]] | None]] = {
    "none": ({}, "openai", None),
    "auto, OpenAI": ({"key": "k"}, "openai", [(b"authorization", b"Bearer k")]),
    "auto, Anthropic": ({"key": "k"}, "anthropic", [(b"x-api-key", b"k")]),
    "bearer": ({"key": "k", "key_header": "bearer"}, "anthropic", [(b"authorization", b"Bearer k")]),
    "x-api-key": ({"key": "k", "key_header": "x-api-key"}, "openai", [(b"x-api-key", b"k")]),
    "api-key": ({"key": "k", "key_header": "api-key"}, "openai", [(b"api-key", b"k")]),
}


@pytest.mark.parametrize(("more", "family", "seen"), KEYS.values(), ids=KEYS.keys())
def test_each_upstream_has_its_key(more: dict[str, Any], family: str, seen: Any) -> None:
    assert backend("a", **more).credentials(family) == seen


# Through a whole Penstock


@dataclass
class Two:
    """A Penstock in front of two upstreams."""

    stand: Stand
    first: Upstream
    second: Upstream

    async def ask(self, model: str, path: str = "/v1/chat/completions", **more: Any) -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "input": "Hi"}
        if path == "/v1/completions":
            body["prompt"] = "Hi"
        return await self.stand.client.post(path, json=body, **more)

    @property
    def calls(self) -> tuple[int, int]:
        return len(self.first.requests), len(self.second.requests)


@contextlib.asynccontextmanager
async def two(
    stand: Make, *, serves: list[str] = BOTH, keys: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Two]:
    async with Upstream() as first, Upstream() as second:
        chosen = {
            "upstreams": {
                "one": {"url": first.url, "key": "sk-one", "serves": ["openai"]},
                "two": {"url": second.url, "key": "sk-two", "serves": serves},
            },
            "routes": [
                {"models": ["fast"], "upstream": "two", "rename": "gpt-4o-mini"},
                {"models": ["claude-*", "gpt-4o"], "upstream": "two"},
                {"models": ["gpt-*"], "upstream": "one"},
            ],
            **settings,
        }
        async with stand(settings=chosen, **({} if keys is None else {"keys": keys})) as s:
            yield Two(s, first, second)


# model, path, calls of both upstreams, status
GOES: dict[str, tuple[str, str, tuple[int, int], int]] = {
    "chat": ("gpt-4.1", "/v1/chat/completions", (1, 0), 200),
    "chat, the other": ("gpt-4o", "/v1/chat/completions", (0, 1), 200),
    "chat with Claude": ("claude-1", "/v1/chat/completions", (0, 1), 200),
    "messages": ("claude-1", "/v1/messages", (0, 1), 200),
    "messages, unserved there": ("gpt-4.1", "/v1/messages", (0, 0), 404),
    "unknown": ("llama", "/v1/chat/completions", (0, 0), 404),
    "unknown, messages": ("llama", "/v1/messages", (0, 0), 404),
    "unknown, responses": ("llama", "/v1/responses", (0, 0), 404),
    "unknown, completions": ("llama", "/v1/completions", (0, 0), 404),
    "unknown, embeddings": ("llama", "/v1/embeddings", (0, 0), 404),
}


@pytest.mark.parametrize(("model", "path", "calls", "status"), GOES.values(), ids=GOES.keys())
async def test_goes_where_the_table_says(
    stand: Make, model: str, path: str, calls: tuple[int, int], status: int
) -> None:
    async with two(stand) as t:
        response = await t.ask(model, path, headers={"x-upstream": "one", "authorization": "Bearer caller"})
        assert (response.status_code, t.calls) == (status, calls)
        (row,) = await t.stand.rows()
        if status == 404:
            error = response.json()["error"]
            assert (
                "not_found_error" in response.text if path.endswith("messages") else error["code"] == "model_not_found"
            )
            assert model not in response.text
            assert (row["status"], row["detail"]) == ("refused", "model_not_found")
            return
        asked = (t.first.requests + t.second.requests)[0]
        assert "caller" not in repr(asked.headers)
        name = "one" if calls[0] else "two"
        assert (row["status"], row["upstream"]) == ("released", name)
        assert f"sk-{name}" in repr(asked.headers)
        assert asked.json()["model"] == model


PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings"]


@pytest.mark.parametrize("path", PATHS)
async def test_another_provider_does_not_get_what_a_route_names(stand: Make, path: str) -> None:
    """The table of the README: Claude is served in Anthropic's API, and in no other by anybody."""
    async with two(stand, serves=["anthropic"], default_upstream="one") as t:
        for _ in range(2):
            response = await t.ask("claude-1", path)
            assert (response.status_code, t.calls) == (404, (0, 0))
            error = response.json()["error"]
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            assert "ask for it in Anthropic's (/v1/messages)" in error["message"]
            assert "claude" not in response.text
        assert {row["detail"] for row in await t.stand.rows()} == {"model_not_found"}
        assert (await t.ask("claude-1", "/v1/messages")).status_code == 200
        await t.ask("llama", path)
        assert t.calls == (1, 1)


async def test_nor_does_a_provider_of_the_other_api(stand: Make) -> None:
    async with two(stand, default_upstream="two") as t:
        response = await t.ask("gpt-4.1", "/v1/messages")
        assert (response.status_code, t.calls) == (404, (0, 0))
        error = response.json()["error"]
        assert error["type"] == "not_found_error"
        assert "ask for it in OpenAI's (as /v1/chat/completions)" in error["message"]
        assert (await t.ask("llama", "/v1/messages")).status_code == 200
        assert t.calls == (0, 1)


async def test_lists_name_what_is_served_in_their_api(stand: Make) -> None:
    """A model that the default has as well is its route's, and nothing is said of it to who may not use it."""
    keys = {"all": {}, "few": {"models": ["gpt-*"]}}
    async with two(stand, serves=["anthropic"], default_upstream="one", credentials="keys", keys=keys) as t:
        t.first.reply = cards("gpt-4.1", "claude-1", "llama")
        t.second.reply = cards("claude-1")
        both, few = ({"authorization": f"Bearer {t.stand.keys[name]}"} for name in keys)
        assert await names(t, both) == ["gpt-4.1", "gpt-4o", "llama"]
        assert await names(t, both | VERSION) == ["claude-1", "fast", "gpt-4o"]
        calls = t.calls
        for headers, said in ((both, "ask for it in Anthropic's"), (few, "does not exist, or you do not have access")):
            missing = await t.stand.client.get("/v1/models/claude-1", headers=headers)
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
            assert said in missing.json()["error"]["message"]
            asked = await t.ask("claude-1", headers=headers)
            assert (asked.status_code, said in asked.text) == (404, True)
        assert t.calls == calls


async def test_a_caller_leads_nowhere(stand: Make) -> None:
    """T16, law 5: fields and headers that steer other proxies steer nothing here."""
    steering = {"api_base": "http://evil.example", "base_url": "x", "custom_llm_provider": "two", "upstream": "two"}
    async with two(stand) as t:
        for more in (steering, {"extra_body": steering}, {"metadata": {"upstream": "two", "guardrails": "off"}}):
            body = {"model": "gpt-4.1", "messages": [], **more}
            headers = {"host": "two", "x-penstock-upstream": "two", "x-litellm-api-base": "http://evil.example"}
            response = await t.stand.client.post("/v1/chat/completions?upstream=two", json=body, headers=headers)
            assert response.status_code == 200
        assert t.calls == (3, 0)
        host = t.first.url.removeprefix("http://")
        assert {request.header("host") for request in t.first.requests} == {host}


async def test_a_model_is_renamed(stand: Make) -> None:
    async with two(stand) as t:
        big = 2**70
        body = {"model": "fast", "messages": [{"role": "user", "content": "the SECRET é"}], "seed": big}
        response = await t.stand.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200
        sent = t.second.requests[0].json()
        assert (sent["model"], sent["messages"][0]["content"]) == ("gpt-4o-mini", "the [VEILED] é")
        assert str(big).encode() in t.second.requests[0].body
        (row,) = await t.stand.rows()
        assert row["model"] == "fast"


async def test_faults_name_the_upstream(stand: Make) -> None:
    async with two(stand) as t:
        t.second.reply = [End.RESET]
        assert (await t.ask("claude-1", "/v1/messages")).status_code == 502
        assert (await t.ask("gpt-4.1")).status_code == 200
        metrics = (await t.stand.client.get(t.stand.admin_url + "/metrics")).text
        assert 'penstock_upstream_faults_total{fault="reset",upstream="two"} 1.0' in metrics
        assert 'penstock_upstream_seconds_count{upstream="one"} 1.0' in metrics
        ready = (await t.stand.client.get(t.stand.admin_url + "/readyz")).json()
        assert ready["upstreams"] == {"one": "answers", "two": "reset"}
        assert ready["status"] == "ready"
        for page in (metrics, str(ready)):
            assert str(t.second.port) not in page
            assert "sk-" not in page


async def test_open_routes_go_to_the_default(stand: Make) -> None:
    async with two(stand, default_upstream="one", open_routes=["/v1/files"]) as t:
        t.first.reply = replies.json({"id": "file-1"})
        response = await t.stand.client.post("/v1/files", content=b"x", headers=VERSION)
        assert (response.status_code, t.calls) == (200, (1, 0))
        assert t.first.requests[0].header("x-api-key") == "sk-one"


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("gpt-image-1", 200),
        ("dall-e-3", 200),
        ("", 200),
        ("claude-1", 404),
        ("fast", 404),
        ("own", 404),
        ("same", 200),
    ],
)
async def test_what_a_route_names_goes_to_no_default_on_open_routes(stand: Make, model: str, status: int) -> None:
    """Who is not judged leads no more than who is: the default gets what is its own, by the name that it has there."""
    routes = [
        {"models": ["fast"], "upstream": "two"},
        {"models": ["claude-*"], "upstream": "two"},
        {"models": ["own"], "upstream": "one", "rename": "theirs"},
        {"models": ["same"], "upstream": "one", "rename": "same"},
        {"models": ["gpt-*"], "upstream": "one"},
    ]
    async with two(stand, default_upstream="one", open_routes=["/v1/images"], routes=routes) as t:
        t.first.reply = replies.json({"data": []})
        form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--x--\r\n' % model.encode()
        kind = {"content-type": "multipart/form-data; boundary=x"}
        for more in ({"json": {"model": model, "prompt": "A cat"}}, {"content": form, "headers": kind}):
            response = await t.stand.client.post("/v1/images/edits", **more)
            assert response.status_code == status, response.text
            if status == 404:
                assert response.json()["error"]["code"] == "model_not_found"
        assert t.calls == ((2, 0) if status == 200 else (0, 0))


# Lists of models


async def names(t: Two, headers: dict[str, str] | None = None) -> list[str]:
    response = await t.stand.client.get("/v1/models", headers=headers or {})
    assert response.status_code == 200
    return [card["id"] for card in response.json()["data"]]


def cards(*ids: str) -> Any:
    return replies.json({"object": "list", "data": [shapes.model_card(name) for name in ids]})


async def test_lists_are_merged(stand: Make) -> None:
    async with two(stand) as t:
        t.first.reply = cards("gpt-4.1", "gpt-4o", "llama", "gpt-4o-mini")
        t.second.reply = cards("claude-1", "gpt-4o", "gpt-4o-mini", "gpt-4.1")
        assert await names(t) == ["claude-1", "fast", "gpt-4.1", "gpt-4o", "gpt-4o-mini"]
        for request, key in ((t.first.requests[0], "sk-one"), (t.second.requests[0], "sk-two")):
            assert request.header("authorization") == f"Bearer {key}"
        response = await t.stand.client.get("/v1/models", headers={"authorization": "Bearer caller"})
        assert response.json()["object"] == "list"
        assert "caller" not in repr([r.headers for r in t.first.requests + t.second.requests])
        t.second.reply = [End.RESET]
        assert await names(t) == ["fast", "gpt-4.1", "gpt-4o", "gpt-4o-mini"]
        for row in await t.stand.rows():
            assert row["status"] == "relayed"


async def test_lists_for_anthropic(stand: Make) -> None:
    pages = {
        "": {"data": [{"type": "model", "id": "claude-1"}], "has_more": True, "last_id": "claude-1"},
        "claude-1": {"data": [{"type": "model", "id": "claude-2"}], "has_more": False, "last_id": "claude-2"},
    }

    def reply(request: Request) -> Any:
        after = request.target.partition(b"after_id=")[2].decode()
        return replies.json(pages[after])

    async with two(stand) as t:
        t.second.reply = reply
        assert await names(t, VERSION) == ["claude-1", "claude-2", "fast", "gpt-4o"]
        assert t.calls == (0, 2)
        assert t.second.requests[0].header("x-api-key") == "sk-two"


async def test_one_model(stand: Make) -> None:
    async with two(stand) as t:
        found = await t.stand.client.get("/v1/models/fast")
        assert (found.status_code, found.json()["id"]) == (200, "fast")
        assert t.second.requests[-1].target == b"/v1/models/gpt-4o-mini"
        t.first.reply = cards("gpt-4.1")
        assert (await t.stand.client.get("/v1/models/gpt-4.1")).status_code == 200
        assert t.calls == (1, 1)
        missing = await t.stand.client.get("/v1/models/llama")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        assert t.calls == (1, 1)


async def test_no_list_at_all(stand: Make) -> None:
    async with two(stand, routes=[], default_upstream="one") as t:
        t.first.reply = t.second.reply = replies.error(500, "SECRET")
        response = await t.stand.client.get("/v1/models")
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")
        assert "SECRET" not in response.text


async def test_messages_through_the_second(stand: Make) -> None:
    """A stream keeps its bytes, whichever way it came."""
    async with two(stand) as t:
        events = messages.stream(messages.text("Hello!"), model="claude-1")
        t.second.reply = replies.sse(events)
        body = {"model": "claude-1", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stream": True}
        response = await t.stand.client.post("/v1/messages", json=body)
        assert response.content == b"".join(events)
