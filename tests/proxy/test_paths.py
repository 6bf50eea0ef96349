"""Paths with escapes: clients put ids into them, and what is allowed reaches the upstream as it was spelled."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.surface import FAMILIES, family_of, plain
from tests.proxy.conftest import Make
from tests.proxy.test_routing import two
from tests.upstream import replies

openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")

READS: dict[str, tuple[bytes, bytes | None]] = {
    "as it is": (b"/v1/files/file-1", b"/v1/files/file-1"),
    "no family": (b"/v1/unheard", b"/v1/unheard"),
    "a letter": (b"/v1/files/file%2D1/content", b"/v1/files/file-1/content"),
    "a slash": (b"/v1/models/org%2Fname", b"/v1/models/org/name"),
    "a slash, in small letters": (b"/v1/models/a%2fb%2fc", b"/v1/models/a/b/c"),
    "base64": (b"/v1/responses/resp_YQ==", b"/v1/responses/resp_YQ=="),
    "base64, escaped": (b"/v1/responses/resp_YQ%3D%3D", b"/v1/responses/resp_YQ=="),
    "in the family": (b"/v1/%66iles/file-1", None),
    "the family's slash": (b"/v1%2Ffiles/file-1", None),
    "the slash behind the family": (b"/v1/files%2Ffile-1", None),
    "of no family": (b"/v1/unheard/%41", None),
    "a family inside another": (b"/v1/chat%2Fcompletions/x", None),
    "dots": (b"/v1/files/%2e%2e", None),
    "dots behind a slash": (b"/v1/files/a%2F..%2Fb", None),
    "one dot": (b"/v1/files/a%2f%2e", None),
    "two slashes": (b"/v1/models/a%2F%2Fb", None),
    "a slash at the end": (b"/v1/models/a%2F", None),
    "a slash at the beginning": (b"/v1/models/%2Fa", None),
    "twice": (b"/v1/models/a%252Fb", None),
    "thrice": (b"/v1/models/a%25252Fb", None),
    "a percent sign": (b"/v1/models/a%25", None),
    "cut short": (b"/v1/models/a%2", None),
    "no digits": (b"/v1/models/a%zz", None),
    "a parameter": (b"/v1/files/a;b", None),
    "a parameter, escaped": (b"/v1/files/a%3Bb", None),
    "a backslash": (b"/v1/files/a%5C..%5Cb", None),
    "a question mark": (b"/v1/models/a%3Fb", None),
    "a number sign": (b"/v1/models/a%23b", None),
    "a line end": (b"/v1/models/a%0d%0ab", None),
    "nothing": (b"/v1/models/a%00", None),
    "a long form of a dot": (b"/v1/models/%c0%ae", None),
    "no path": (b"", None),
    "the root": (b"/", None),
}


@pytest.mark.parametrize(("path", "read"), READS.values(), ids=READS.keys())
def test_how_paths_are_read(path: bytes, read: bytes | None) -> None:
    assert plain(path) == read


ODD = st.sampled_from(
    ["%2F", "%2f", "%2e", "%2E%2E", "..", ".", "/", "//", ";", "%3b", "%25", "%252F", "a", "%61", "="]
)
PATHS = st.builds(
    lambda family, pieces: family.path + "".join(pieces),
    st.sampled_from(FAMILIES),
    st.lists(ODD | st.text(max_size=4).map(quote), max_size=8),
)


@given(PATHS)
def test_whoever_reads_a_path_finds_the_same(path: str) -> None:
    """Undone once or as often as one likes, before or after slashes are looked for, with dots heeded or not."""
    raw = path.encode("ascii")
    read = plain(raw)
    if read is None:
        return
    assert read == unquote_to_bytes(raw) == unquote_to_bytes(read)
    assert posixpath.normpath(read) == read
    assert "%" not in path or any(path.startswith(family.path + "/") for family in FAMILIES)
    assert "%" not in path or family_of(read) is family_of(raw) is not None
    assert not set(read) & set(b"%;?#\\ ")


async def test_a_models_name_with_a_slash(stand: Make) -> None:
    async with stand() as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="sk-test") as client:
        s.upstream.reply = replies.json({"id": "org/name", "object": "model", "created": 0, "owned_by": "org"})
        assert (await client.models.retrieve("org/name")).id == "org/name"
        spelled = (b"/v1/models/org%2Fname", b"/v1/models/org%2fname", b"/v1/models/o%72g%2Fname?a=%2F")
        for target in spelled:
            assert (await s.client.get("/", extensions={"target": target})).status_code == 200
        assert [each.target for each in s.upstream.requests] == [spelled[0], *spelled]
        closed = await s.client.get("/", extensions={"target": b"/v1/models/org/name"})
        assert (closed.status_code, closed.json()["error"]["code"]) == (404, "route_closed")


async def test_a_key_for_some_models(stand: Make) -> None:
    async with stand(keys={"a": {"models": ["org/*"]}}) as s:
        s.upstream.reply = replies.json({"id": "x"})
        headers = {"authorization": f"Bearer {s.keys['a']}"}
        wanted = {b"org%2Fname": 200, b"%6Frg%2fname": 200, b"other%2Fname": 404, b"name": 404, b"org%252Fname": 404}
        for name, status in wanted.items():
            target = b"/v1/models/" + name
            found = await s.client.get("/", headers=headers, extensions={"target": target})
            assert (name, found.status_code) == (name, status)
        assert len(s.upstream.requests) == 2


async def test_a_model_of_another_name(stand: Make) -> None:
    routes = [{"models": ["org/fast"], "upstream": "two", "rename": "org/mini@1 b"}]
    async with two(stand, routes=routes) as t:
        t.second.reply = replies.json({"id": "org/mini"})
        found = await t.stand.client.get("/", extensions={"target": b"/v1/models/org%2Ffast"})
        assert (found.status_code, found.json()["id"]) == (200, "org/fast")
        assert t.second.requests[-1].target == b"/v1/models/org%2Fmini@1%20b"


# the path, words of the refusal
MISLED: dict[str, str] = {
    "/chat/completions": "Does the base URL of your client end in /v1?",
    "/v1/v1/messages": "It begins with /v1 twice",
    "/v1/v1/messages/batches": "Leave it out of its base URL",
    "/v1/v1/chat/completions": "It begins with /v1 twice",
}


@pytest.mark.parametrize(("path", "words"), MISLED.items(), ids=MISLED.keys())
async def test_a_wrong_base_url_is_known_by_its_paths(stand: Make, path: str, words: str) -> None:
    async with stand() as s:
        refused = await s.client.post(path, json={})
        assert (refused.status_code, words in refused.text) == (404, True)
        elsewhere = await s.client.post("/v1/v1/elsewhere", json={})
        assert (elsewhere.status_code, "/v1" in elsewhere.json()["error"]["message"]) == (404, False)


OPEN: dict[str, Any] = {"open_routes": ["/v1"]}


async def test_open_routes_take_ids_as_they_are_spelled(stand: Make) -> None:
    async with stand(settings=OPEN) as s:
        s.upstream.reply = replies.json({})
        spelled = [
            ("DELETE", b"/v1/models/org%2Fname"),
            ("GET", b"/v1/responses/resp_YQ=="),
            ("GET", b"/v1/responses/resp_YQ%3D%3D?a=%3D"),
            ("GET", b"/v1/files/file%2d1/content"),
            ("POST", b"/v1/containers/a/files/b%2Fc"),
        ]
        for method, target in spelled:
            sent = await s.client.request(method, "/", json={}, extensions={"target": target})
            assert (target, sent.status_code) == (target, 200)
        assert [(each.method.encode(), each.target) for each in s.upstream.requests] == [
            (method.encode(), target) for method, target in spelled
        ]
        for path in (
            "/v1/files/a%2f..%2fb",
            "/v1/files/a;b",
            "/v1/files/%252e",
            "/v1/threads%2ft",
            "/v1/filesystem%2fx",
        ):
            refused = await s.client.get("/", extensions={"target": path.encode()})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_url")
        assert len(s.upstream.requests) == len(spelled)


@pytest.mark.parametrize("batches", [False, True])
async def test_what_is_judged_has_no_spelling_that_is_not(stand: Make, batches: bool) -> None:
    async with stand(settings={**OPEN, "judge_batches": batches}) as s:
        s.upstream.reply = replies.json({"said": "MARK"})
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "MARK"}]}
        for target in (b"/v1/messages/count%5ftokens", b"/v1/messages/count_token%73", b"/v1/responses%2f"):
            refused = await s.client.post("/", json=body, extensions={"target": target})
            assert refused.status_code == 404
        judged = [b"/v1/files/file%2d1", b"/v1/files/a.b:c=", b"/v1/batches/b%5f1", b"/v1/messages/b%61tches/m_1"]
        for target in judged:
            found = await s.client.get("/", extensions={"target": target})
            assert found.status_code == (400 if batches else 200)
            assert (b"MARK" in found.content) is not batches
        assert [each.target for each in s.upstream.requests] == judged


async def test_a_key_has_its_models_in_paths_of_open_routes(stand: Make) -> None:
    keys = {"a": {"scopes": ["open"], "models": ["gpt_x"]}}
    async with stand(settings={"open_routes": ["/v1/models", "/v1/engines"]}, keys=keys) as s:
        s.upstream.reply = replies.json({})
        headers = {"authorization": f"Bearer {s.keys['a']}"}
        wanted = {
            "/v1/engines": 200,
            "/v1/engines/gpt_x": 200,
            "/v1/engines/gpt_x/completions": 200,
            "/v1/engines/gp%74_x/completions": 200,
            "/v1/engines/other": 404,
            "/v1/engines/other/completions": 404,
            "/v1/engines/oth%65r/completions": 404,
            "/v1/models/gpt_x/predictions": 404,
            "/v1/models/other": 404,
        }
        for path, status in wanted.items():
            found = await s.client.post(
                "/", json={"prompt": "Hi"}, headers=headers, extensions={"target": path.encode()}
            )
            assert (path, found.status_code) == (path, status)


async def test_a_slash_in_an_id_leads_to_nobodys(stand: Make) -> None:
    """Some servers undo it before they look for slashes: whose a/b is, is not whose a is."""
    keys: dict[str, Any] = {"a": {"scopes": ["open"]}, "b": {"scopes": ["open"]}}
    async with stand(settings={"open_routes": ["/v1/files"]}, keys=keys) as s:
        s.upstream.reply = lambda request: replies.json({"id": request.body.decode() or "x1"})
        of = {name: {"authorization": f"Bearer {key}"} for name, key in s.keys.items()}
        for who, made in (("a", "file-1"), ("b", "file-1/2"), ("b", "file-3")):
            assert (await s.client.post("/v1/files", content=made, headers=of[who])).status_code == 200

        async def get(who: str, target: bytes) -> int:
            return (await s.client.get("/", headers=of[who], extensions={"target": target})).status_code

        assert await get("a", b"/v1/files/file%2D1") == 200
        assert await get("b", b"/v1/files/file%2D1") == 404
        assert await get("a", b"/v1/files/file-1%2F2") == 404
        assert await get("b", b"/v1/files/file-1%2F2") == 404
        assert await get("a", b"/v1/files/file%2D3/content") == 404
        assert [each.target for each in s.upstream.requests[3:]] == [b"/v1/files/file%2D1"]
