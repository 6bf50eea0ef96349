"""Penstock with keys of its own, on real sockets and with the vendors' clients: who may ask, what, and under which
policy."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.accounts.file import KeyFile, Stamp
from proxy.app import DIALECTS, SERVED
from proxy.config import load as load_settings
from proxy.logs import captured
from proxy.reloading import reload
from proxy.server import CannotServe, serving
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand
from tests.proxy.keyring import change, give
from tests.proxy.served import command
from tests.upstream import Upstream, messages, replies, shapes

BODY: dict[str, Any] = {
    "model": "m", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "max_tokens": 9,
}  # fmt: skip
PATHS = [path.decode() for path, _ in (*DIALECTS, *SERVED)]
PROVIDER = {"upstream_key": "sk-provider"}


def body(path: str, **more: Any) -> dict[str, Any]:
    return {**BODY, **({"prompt": "Hi"} if path == "/v1/completions" else {}), **more}


async def ask(s: Stand, key: str, path: str = "/v1/chat/completions", **more: Any) -> httpx2.Response:
    headers = {"x-api-key" if "messages" in path else "authorization": key if "messages" in path else f"Bearer {key}"}
    if path.startswith("/v1/models"):
        return await s.client.get(path, headers=headers)
    return await s.client.post(path, json=body(path, **more), headers=headers)


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/m", "/v1/files", "/v1/none", "/"])
async def test_without_a_key_nobody_gets_in(stand: Make, path: str) -> None:
    async with stand(settings=PROVIDER, keys={"ci": {}}) as s:
        headers: list[dict[str, str]] = [{}, {"authorization": "Bearer sk-provider"}, {"x-api-key": s.keys["ci"][:-1]}]
        for sent in headers:
            for method in ("GET", "POST"):
                response = await s.client.request(method, path, json=body(path), headers=sent)
                assert response.status_code == 401, (method, path)
                error = response.json()["error"]
                kind = "authentication_error" if path.startswith("/v1/messages") else "invalid_request_error"
                assert (error["type"], error["code"]) == (kind, "invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
        assert s.upstream.requests == []
        rows = await s.rows()
        assert len(rows) == 6
        assert {(row["status"], row["detail"], row["account"]) for row in rows} == {
            ("refused", "invalid_api_key", "anonymous")
        }


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/m"])
async def test_with_a_key_the_upstream_gets_the_operators(stand: Make, path: str) -> None:
    """T45: a caller's Penstock key goes nowhere."""
    async with stand(settings={**PROVIDER, "decision_headers": True}, keys={"ci": {"account": "team-a"}}) as s:
        key = s.keys["ci"]
        s.upstream.reply = lambda request: replies.error(500, repr(request.headers))
        response = await ask(s, key, path)
        assert response.status_code == (200 if path == "/v1/moderations" else 500)
        for request in s.upstream.requests:
            assert key not in repr(request.headers)
            assert request.header("x-api-key" if "messages" in path else "authorization") in {
                "sk-provider", "Bearer sk-provider",
            }  # fmt: skip
            assert request.header("authorization" if "messages" in path else "x-api-key") is None
        (row,) = await s.rows()
        assert (row["account"], row["key"][:4]) == ("team-a", "key_")
        files = b"".join(path.read_bytes() for path in s.data.rglob("*") if path.is_file())
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
        for place in (files.decode("latin-1"), metrics, repr(response.headers)):
            assert key not in place
            assert "sk-provider" not in place


async def test_without_the_operators_key_the_upstream_gets_none(stand: Make) -> None:
    async with stand(keys={"ci": {}}) as s:
        assert (await ask(s, s.keys["ci"])).status_code == 200
        assert not {b"authorization", b"x-api-key", b"api-key"} & {n.lower() for n, _ in s.upstream.requests[0].headers}


async def test_a_revoked_key_ends_at_once(stand: Make) -> None:
    """On the connection that it used before, without a restart."""
    async with stand(keys={"ci": {}, "other": {}}) as s:
        assert (await ask(s, s.keys["ci"])).status_code == 200
        change(s.data, "ci", revoked=time.time())
        late = give(s.data, "late")
        async with asyncio.timeout(30):
            while (await ask(s, s.keys["ci"])).status_code != 401:
                await asyncio.sleep(0.05)
        assert (await ask(s, s.keys["other"])).status_code == 200
        assert (await ask(s, late)).status_code == 200


async def test_a_broken_file_is_told_and_changes_nothing(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.outside.LOOK", 0.05)
    monkeypatch.setattr("proxy.accounts.keys.LOOK", 0.05)
    async with stand(keys={"ci": {}}) as s:
        await metric(s, 'penstock_part_up{part="keys"} 1.0')
        good = (s.data / "keys.json").read_text()
        with captured() as lines:
            (s.data / "keys.json").write_text("{")
            await metric(s, 'penstock_part_up{part="keys"} 0.0')
            ready = await s.client.get(s.admin_url + "/readyz")
            assert (ready.status_code, ready.json()["checks"]) == (200, {})
            assert ready.json()["parts"]["keys"].startswith(f"unreadable: {s.data / 'keys.json'}: ")
            assert (await ask(s, s.keys["ci"])).status_code == 200
            (line,) = [line for line in lines if line["level"] == "error"]
            assert (line["part"], "penstock keys revoke" in line["mend"]) == ("keys", True)
        (s.data / "keys.json").write_text(good)
        await metric(s, 'penstock_part_up{part="keys"} 1.0')
        (s.data / "keys.json").unlink()
        await metric(s, 'penstock_part_up{part="keys"} 0.0')
        ready = await s.client.get(s.admin_url + "/readyz")
        assert ready.json()["parts"]["keys"] == "missing: there is no file of keys"
        assert (await ask(s, s.keys["ci"])).status_code == 401


async def test_a_file_server_that_hangs_holds_up_nobody(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("outside.LOOK", 0.05), ("accounts.keys.LOOK", 0.05), ("accounts.keys.LATE", 0.1)):
        monkeypatch.setattr(f"proxy.{name}", value)
    hangs, comes, stamp = threading.Event(), threading.Event(), KeyFile.stamp

    def slow(file: KeyFile) -> Stamp:
        hangs.set()
        assert comes.wait(60)
        return stamp(file)

    async with stand(keys={"ci": {}}) as s:
        with captured() as lines:
            monkeypatch.setattr(KeyFile, "stamp", slow)
            await metric(s, 'penstock_part_up{part="keys"} 0.0')
            assert hangs.is_set()
            assert (await ask(s, s.keys["ci"])).status_code == 200
            parts = (await s.client.get(s.admin_url + "/readyz")).json()["parts"]
            assert parts["keys"].startswith("slow: their files have not answered")
            change(s.data, "ci", revoked=time.time())
            comes.set()
            await metric(s, 'penstock_part_up{part="keys"} 1.0')
        told = [line["event"] for line in lines if line.get("part") == "keys"]
        assert told == ["part is not well", "part is well again"]
        async with asyncio.timeout(30):
            while (await ask(s, s.keys["ci"])).status_code != 401:
                await asyncio.sleep(0.02)


async def metric(s: Stand, line: str) -> None:
    """Once the page of metrics says so."""
    async with asyncio.timeout(30):
        while line not in (await s.client.get(s.admin_url + "/metrics")).text:
            await asyncio.sleep(0.02)


SCOPES = {
    "/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/completions": "completions",
    "/v1/embeddings": "embeddings", "/v1/messages": "messages", "/v1/messages/count_tokens": "messages",
    "/v1/moderations": "moderations", "/v1/models": "models", "/v1/models/m": "models", "/v1/files": "open",
}  # fmt: skip


@pytest.mark.parametrize("scope", sorted(set(SCOPES.values())))
async def test_a_scope_is_all_that_a_key_may_use(stand: Make, scope: str) -> None:
    async with stand(settings={"open_routes": ["/v1/files"]}, keys={"ci": {"scopes": [scope]}, "usual": {}}) as s:
        s.upstream.reply = replies.error(418, "reached")
        for path, needed in SCOPES.items():
            for key, may in ((s.keys["ci"], needed == scope), (s.keys["usual"], needed != "open")):
                before = len(s.upstream.requests)
                response = await ask(s, key, path)
                if may:
                    assert response.status_code in {200, 418}, path
                else:
                    assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied"), path
                    assert response.json()["error"]["type"] == "permission_error"
                assert len(s.upstream.requests) - before == (may and path != "/v1/moderations"), path


async def test_a_key_has_its_models(stand: Make) -> None:
    async with stand(keys={"ci": {"models": ["gpt-4o", "mini-*"]}}) as s:
        key = s.keys["ci"]
        names = ("gpt-4o", "gpt-4o-mini", "mini-x", "gpt-4.1-mini")
        s.upstream.reply = replies.json({"object": "list", "data": [shapes.model_card(name) for name in names]})
        listed = (await ask(s, key, "/v1/models")).json()
        assert [card["id"] for card in listed["data"]] == ["gpt-4o", "mini-x"]
        assert (await ask(s, key, "/v1/models/gpt-4o")).status_code == 200
        assert len(s.upstream.requests) == 2
        denied = [await ask(s, key, "/v1/models/gpt-4o-mini")]
        denied += [await ask(s, key, path, model="gpt-4.1-mini") for path in PATHS if path != "/v1/moderations"]
        assert len(s.upstream.requests) == 2
        for response in denied:
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "model_not_found"
            assert "mini" not in response.text
        s.upstream.reply = replies.json(shapes.completion())
        assert (await ask(s, key, model="mini-3")).status_code == 200


def other(tmp_path: Path, word: str) -> str:
    """A policy that blocks another word."""
    path = tmp_path / f"{word}.yaml"
    path.write_text(
        RULES.format(**{**DEFAULTS, "options": f"inline: true, word: {word}"}).replace(
            "id: test", f"id: {word.lower()}"
        )
    )
    return str(path)


async def test_a_key_has_its_policy(stand: Make, tmp_path: Path) -> None:
    """One request is under one policy, and no request chooses it."""
    settings = {"policies": {"strict": other(tmp_path, "LEMON")}}
    async with stand(
        settings=settings, keys={"usual": {}, "tight": {"policy": "strict"}, "lost": {"policy": "gone"}}
    ) as s:
        steering = {
            "policy": "strict",
            "metadata": {"policy": "strict", "guardrails": []},
            "extra_body": {"policy": ""},
        }
        for more in (dict[str, Any](), steering):
            for name, word, status in (
                ("usual", "LEMON", 200), ("usual", "MARK", 400), ("tight", "LEMON", 400), ("tight", "MARK", 200),
            ):  # fmt: skip
                response = await ask(s, s.keys[name], messages=[{"role": "user", "content": word}], **more)
                assert response.status_code == status, (name, word)
        revisions = {row["account"]: row["revision"] for row in await s.rows()}
        assert revisions["usual"] == s.running.plane.guard.policies.revision
        assert revisions["tight"] == s.running.plane.guards["strict"].policies.revision != revisions["usual"]
        gone = await ask(s, s.keys["lost"])
        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "policy_unavailable")
        moderated = [
            (await ask(s, s.keys[name], "/v1/moderations", input="LEMON")).json() for name in ("usual", "tight")
        ]
        assert [tree["results"][0]["flagged"] for tree in moderated] == [False, True]
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
        for revision in revisions.values():
            assert f'revision="{revision}"' in metrics


async def test_each_policy_is_reloaded_by_itself(stand: Make, tmp_path: Path) -> None:
    path = other(tmp_path, "LEMON")
    settings = {"policies": {"strict": path}}
    async with stand(settings=settings, keys={"usual": {}, "tight": {"policy": "strict"}}) as s:
        text = (tmp_path / "policy.yaml").read_text()
        Path(path).write_text("no policy")
        (tmp_path / "policy.yaml").write_text(text.replace("inline: true}", "inline: true, word: PLUM}", 1))
        before = s.running.plane.guards["strict"]
        assert not await reload(s.running)
        assert s.running.plane.guards["strict"] is before
        for name, word, status in (("usual", "PLUM", 400), ("usual", "MARK", 200), ("tight", "LEMON", 400)):
            response = await ask(s, s.keys[name], messages=[{"role": "user", "content": word}])
            assert response.status_code == status, (name, word)


async def test_a_policy_that_is_none_is_no_start(tmp_path: Path) -> None:
    settings = load_settings(
        None, upstream="http://127.0.0.1:1", data_dir=tmp_path, port=0, admin_port=0, policies={"x": "/none"}
    )
    with pytest.raises(CannotServe, match="/none"):
        async with serving(settings):
            pass


async def test_who_asks_is_no_field_and_no_header(stand: Make) -> None:
    """T43: nobody speaks for another account."""
    async with stand(keys={"a": {}, "b": {}}) as s:
        key = s.keys["a"]
        for headers in (
            {"x-forwarded-for": "10.0.0.1"}, {"x-real-ip": "10.0.0.1"}, {"forwarded": "for=b"}, {"x-account": "b"},
            {"x-penstock-account": "b"}, {"openai-organization": "b"}, {"openai-project": "b"}, {"x-user-id": "b"},
            {"authorization_": "Bearer b"}, {"x_api_key": s.keys["b"]}, {"cookie": f"key={s.keys['b']}"},
        ):  # fmt: skip
            sent = {"authorization": f"Bearer {key}", **headers}
            more = {"user": "b", "account": "b", "metadata": {"account": "b", "user_id": "b"}}
            response = await s.client.post("/v1/chat/completions?api_key=b&user=b", json=body("", **more), headers=sent)
            assert response.status_code == 200
        assert {row["account"] for row in await s.rows()} == {"a"}
        for request in s.upstream.requests:
            names = {name.lower() for name, _ in request.headers}
            assert (
                not {b"x-forwarded-for", b"forwarded", b"x-penstock-account", b"x_api_key", b"authorization_"} & names
            )


async def test_claims_are_recorded_and_not_believed(stand: Make) -> None:
    settings = {"end_user_header": "X-End-User"}
    async with stand(settings=settings, keys={"a": {}, "b": {}}) as s:
        for name in ("a", "a", "b"):
            headers = {"authorization": f"Bearer {s.keys[name]}", "x-end-user": "alice-h"}
            more = {"user": "alice-u", "safety_identifier": "alice-s", "metadata": {"user_id": "alice-m"}}
            assert (
                await s.client.post("/v1/chat/completions", json=body("", **more), headers=headers)
            ).status_code == 200
            assert (await ask(s, s.keys[name], "/v1/messages", metadata={"user_id": "alice-m"})).status_code == 200
        rows = [row for row in await s.rows() if row["dialect"] == "chat"]
        first, again, stranger = (row["claims"] for row in rows)
        assert set(first) == {"user", "safety_identifier", "metadata.user_id", "header"}
        assert first == again
        assert not set(first.values()) & set(stranger.values())
        assert len(set(first.values())) == 4
        for row in await s.rows():
            assert row["account"] in {"a", "b"}
            assert "alice" not in repr(row)
        theirs = [row["claims"] for row in await s.rows() if row["dialect"] == "messages"]
        assert theirs[0] == {"metadata.user_id": first["metadata.user_id"]}


async def test_an_answer_that_echoes_a_key_is_the_upstreams(stand: Make) -> None:
    """T45: nothing that Penstock itself says holds what was sent as a credential."""
    async with stand(settings=PROVIDER, keys={"ci": {}}) as s:
        canary = "sk-canary-0123456789"
        sent = {"authorization": f"Bearer {canary}", "x-other": canary}
        answers = [await s.client.request(m, p, headers=sent) for m, p in (
            ("GET", f"/v1/models?key={canary}"), ("POST", f"/v1/{canary}"), (canary[:12], "/v1/models"),
        )]  # fmt: skip
        s.upstream.reply = replies.content(canary.encode(), status=500, content_type="text/html")
        answers.append(await ask(s, s.keys["ci"], user=canary))
        for answer in answers:
            assert canary not in answer.text
            assert canary not in repr(answer.headers)
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
        assert canary not in metrics


# The vendors' own clients


async def test_openai_raises_and_does_not_try_again(stand: Make) -> None:
    openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")
    async with stand(keys={"ci": {"models": ["m"], "scopes": ["chat", "models"]}}) as s:
        async with openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="sk-wrong", max_retries=3) as wrong:
            for call in (
                lambda: wrong.chat.completions.create(model="m", messages=[]),
                lambda: wrong.responses.create(model="m", input="Hi"),
                lambda: wrong.embeddings.create(model="m", input="Hi"),
                lambda: wrong.moderations.create(input="Hi"),
                wrong.models.list,
            ):
                with pytest.raises(openai.AuthenticationError) as caught:
                    await call()
                assert caught.value.code == "invalid_api_key"
        rows = await s.rows()
        assert len(rows) == 5
        async with openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.keys["ci"], max_retries=3) as right:
            answer = await right.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
            assert answer.choices[0].message.content
            with pytest.raises(openai.NotFoundError) as missing:
                await right.chat.completions.create(model="other", messages=[])
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.PermissionDeniedError):
                await right.embeddings.create(model="m", input="Hi")
        assert len(await s.rows()) == len(rows) + 3
        assert len(s.upstream.requests) == 1


async def test_anthropic_raises_and_does_not_try_again(stand: Make) -> None:
    anthropic = pytest.importorskip("anthropic", reason="the official client comes with the dev extra")
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    async with stand(keys={"ci": {"models": ["m"], "scopes": ["messages"]}}) as s:
        for how in ({"api_key": "sk-ant-wrong"}, {"auth_token": "wrong"}):
            async with anthropic.AsyncAnthropic(base_url=s.url, max_retries=3, **how) as wrong:
                for call in (
                    lambda made=wrong: made.messages.create(**asked),
                    lambda made=wrong: made.messages.count_tokens(model="m", messages=asked["messages"]),
                    lambda made=wrong: made.models.list(),
                ):
                    with pytest.raises(anthropic.AuthenticationError) as caught:
                        await call()  # type: ignore[no-untyped-call]
                    assert caught.value.body["error"]["type"] == "authentication_error"
        assert len(await s.rows()) == 6
        s.upstream.reply = replies.json(messages.message(messages.text("Hello"), model="m"))
        for how in ({"api_key": s.keys["ci"]}, {"auth_token": s.keys["ci"]}):
            async with anthropic.AsyncAnthropic(base_url=s.url, max_retries=3, **how) as right:
                assert (await right.messages.create(**asked)).content[0].text == "Hello"
                with pytest.raises(anthropic.NotFoundError):
                    await right.messages.create(**{**asked, "model": "other"})
                with pytest.raises(anthropic.PermissionDeniedError):
                    await right.models.list()
        assert len(s.upstream.requests) == 2


async def test_each_upstream_gets_its_own_key_and_no_callers(stand: Make) -> None:
    async with Upstream() as first, Upstream() as second:
        settings = {
            "upstreams": {"one": {"url": first.url, "key": "sk-one"}, "two": {"url": second.url}},
            "routes": [{"models": ["a"], "upstream": "one"}, {"models": ["b"], "upstream": "two"}],
        }
        async with stand(settings=settings, keys={"ci": {"models": ["a"]}, "all": {}}) as s:
            for key, model, status in (("ci", "a", 200), ("ci", "b", 404), ("all", "b", 200)):
                assert (await ask(s, s.keys[key], model=model)).status_code == status
            assert (len(first.requests), len(second.requests)) == (1, 1)
            assert first.requests[0].header("authorization") == "Bearer sk-one"
            assert second.requests[0].header("authorization") is None


async def test_keys_without_their_secret_are_no_start(tmp_path: Path) -> None:
    """A new secret in the place of the one that is missing would know no key, and say nothing."""
    data = tmp_path / "data"
    give(data)
    (data / "keys.key").unlink()
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS))
    settings = {"upstream": "http://127.0.0.1:9", "policy": str(tmp_path / "policy.yaml"), "port": 0, "admin_port": 0}
    with pytest.raises(CannotServe, match=r"keys\.key is missing.*put it back"):
        async with serving(load_settings(None, **settings, credentials="keys", data_dir=data)):
            pass
    made = command("keys", "create", "another", "--data-dir", str(data))
    assert made.returncode == 1
    assert "put it back" in made.stderr
    assert not (data / "keys.key").exists()
