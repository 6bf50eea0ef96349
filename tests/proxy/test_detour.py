"""A rule sends a request to another model, where it is judged again by the policy that is for that one (T57)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config import load as load_settings
from proxy.reloading import reload
from proxy.server import CannotServe, serving
from tests.conformance.cases import Answer, Send
from tests.proxy.conftest import Make
from tests.proxy.test_exchange import settled
from tests.proxy.test_restoring import PROSE, STREAM, ask, heard
from tests.upstream import Upstream, replies, shapes

POLICY = """
id: capable
version: 1
owner: tests
description: Questions about locks go to a model that knows little of them.
classifiers:
  words: {{kind: patterns, patterns: {{lock: {{words: [LOCK]}}, mark: {{words: [MARK]}}, pin: {{words: [PIN]}}}}}}
rules:
  - id: locks
    description: A question about locks.
    stages: [input]
    when: {{finding: words.lock, at_least: 0.5}}
    action: route
    route_to: {to}
  - id: pins
    description: A mask beside it.
    stages: [input]
    when: {{finding: words.pin, at_least: 0.5}}
    action: mask
  - id: no-mark
    description: Answers are judged as ever.
    stages: [output]
    when: {{finding: words.mark, at_least: 0.5}}
    action: block
    stream: whole
"""
SMALL = """
id: small-model
version: 1
owner: tests
description: What is for the small model alone.
applies_to: {models: [small]}
classifiers:
  words: {kind: patterns, patterns: {lock: {words: [LOCK]}, mark: {words: [MARK]}, pin: {words: [PIN]}}}
rules:
  - id: small-pins
    description: It may not know of some locks.
    stages: [input]
    when: score("words.lock") >= 0.5 && score("words.mark") >= 0.5 && request.model == "small"
    action: block
  - id: small-note
    description: A note for it.
    stages: [input]
    when: {finding: words.lock, at_least: 0.5}
    action: advise
    advice: You know little of locks.
"""


def together(folder: Path, **others: str) -> dict[str, Any]:
    """Settings with POLICY, which leads to `small`, and other policies by the names of their files."""
    (folder / "set").mkdir()
    for name, text in {"capable": POLICY.format(to="small"), **others}.items():
        (folder / "set" / f"{name}.yaml").write_text(text)
    return {"policy": str(folder / "set")}


@PROSE
@STREAM
async def test_another_model_is_asked(stand: Make, dialect: str, stream: bool) -> None:
    async with stand(POLICY.format(to="small")) as s:
        send = Send(text="How does a LOCK work? PIN", body={"model": "big"})
        response = await ask(s, dialect, stream, send, Answer(text="By a key."))
        assert heard(response, dialect, stream) == "By a key."
        (asked,) = s.upstream.requests
        assert json.loads(asked.body)["model"] == "small"
        assert b"[PIN]" in asked.body
        (row,) = await settled(s)
        assert row["routed"] == {"from": "big", "to": "small", "rule": "locks"}
        assert (row["model"], row["action"], row["rule"], row["status"]) == ("big", "route", "locks", "released")
        response = await ask(s, dialect, stream, Send(text="LOCK"), Answer(text="MARK"))
        assert "MARK" not in response.text
        assert json.loads(s.upstream.requests[-1].body)["model"] == "small"


async def test_who_asks_for_it_already_is_not_routed(stand: Make) -> None:
    async with stand(POLICY.format(to="m")) as s:
        await s.chat("LOCK")
        (row,) = await settled(s)
        assert row["routed"] is None
        assert (row["action"], row["status"]) == ("route", "released")


async def test_the_table_says_where_it_goes(stand: Make, tmp_path: Path) -> None:
    async with Upstream() as other:
        other.reply = replies.json(shapes.completion("From the other."))
        settings = {
            "upstreams": {"one": {"url": "http://127.0.0.1:1"}, "two": {"url": other.url}},
            "routes": [{"models": ["small"], "upstream": "two", "rename": "tiny-1"}],
            "default_upstream": "one",
        }
        async with stand(POLICY.format(to="small"), settings=settings) as s:
            response = await s.chat("LOCK")
            assert response.json()["choices"][0]["message"]["content"] == "From the other."
            assert json.loads(other.requests[0].body)["model"] == "tiny-1"
            (row,) = await settled(s)
            assert (row["upstream"], row["routed"]["to"]) == ("two", "small")


async def test_a_rule_leads_to_no_other_provider_than_the_table(stand: Make) -> None:
    """Where the upstream of the model does not serve this API, the default does not stand in for it."""
    async with Upstream() as default, Upstream() as other:
        settings = {
            "upstreams": {"one": {"url": default.url}, "two": {"url": other.url, "serves": ["anthropic"]}},
            "routes": [{"models": ["small"], "upstream": "two"}],
            "default_upstream": "one",
        }
        async with stand(POLICY.format(to="small"), settings=settings) as s:
            response = await s.chat("LOCK")
            assert (response.status_code, response.json()["error"]["code"]) == (503, "policy_unavailable")
            assert "not served in this API" in response.json()["error"]["message"]
            assert (default.requests, other.requests) == ([], [])
            assert (await s.chat("Hi")).status_code == 200
            assert len(default.requests) == 1


async def test_a_detour_is_no_fallback(stand: Make) -> None:
    """Who is sent to a model that knows less has not named the other one to stand in for it."""
    async with stand(POLICY.format(to="small")) as s:
        for more in ({"fallbacks": [{"model": "big"}]}, {"models": ["big"]}, {"fallbacks": "default"}):
            refused = await s.chat("LOCK", model="big", **more)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
            assert (await s.chat("Hi", model="big", **more)).status_code == 200
        assert len(s.upstream.requests) == 3


async def test_a_fallback_has_the_same_policies(tmp_path: Path, stand: Make) -> None:
    """T57: what a provider would have another model answer is judged by the policies of the one that was asked."""
    async with stand(settings=together(tmp_path, small=SMALL)) as s:
        for model, other, status in (
            ("big", "small", 400),
            ("small", "big", 400),
            ("big", "huge", 200),
            ("m", "m", 200),
        ):
            answer = await s.chat("Hi", model=model, fallbacks=[{"model": "big"}, {"model": other}])
            wanted = 400 if model == "small" else status
            assert answer.status_code == wanted, (model, other, answer.text)
        assert len(s.upstream.requests) == 2


async def test_the_callers_own_list_of_models_does_not_bind_the_policy(stand: Make) -> None:
    async with stand(POLICY.format(to="small"), keys={"ann": {"models": ("big",)}}) as s:
        headers = {"authorization": f"Bearer {s.keys['ann']}"}
        body = {"model": "big", "messages": [{"role": "user", "content": "LOCK"}]}
        assert (await s.client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        body["model"] = "small"
        assert (await s.client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 404


async def test_it_is_judged_again_by_the_policy_that_is_for_it(tmp_path: Path, stand: Make) -> None:
    """T57."""
    async with stand(settings=together(tmp_path, small=SMALL)) as s:
        assert (await s.chat("LOCK MARK", model="big")).status_code == 400
        assert not s.upstream.requests
        await s.chat("LOCK PIN", model="big")
        sent = json.loads(s.upstream.requests[-1].body)
        assert sent["model"] == "small"
        assert [turn["content"] for turn in sent["messages"]] == ["You know little of locks.", "LOCK [PIN]"]
        first, second = sorted(await settled(s), key=lambda row: row["status"])
        assert (first["status"], first["rule"], first["routed"]["to"]) == ("blocked", "small-pins", "small")
        assert (second["status"], second["action"]) == ("released", "route")
        assert set(second["input"]["rules"]) == {"locks", "pins", "small-note"}


async def test_two_rules_that_send_it_to_each_other_end(tmp_path: Path, stand: Make) -> None:
    back = SMALL.replace(
        "    action: advise\n    advice: You know little of locks.\n", "    action: route\n    route_to: big\n"
    )
    async with stand(settings=together(tmp_path, small=back)) as s:
        assert (await s.chat("LOCK", model="big")).status_code == 200
        assert json.loads(s.upstream.requests[-1].body)["model"] == "small"


async def test_a_model_that_nobody_serves_is_no_start_and_no_reload(stand: Make, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "upstreams": {"one": {"url": "http://127.0.0.1:1"}},
        "routes": [{"models": ["m", "small"], "upstream": "one"}],
    }
    path = tmp_path / "other.yaml"
    path.write_text(POLICY.format(to="nobody"))
    more = {"policy": str(path), "port": 0, "admin_port": 0, "data_dir": tmp_path / "d", **settings}
    with pytest.raises(CannotServe, match="rule 'locks' of 'capable' routes to 'nobody', which no upstream serves"):
        async with serving(load_settings(None, **more)):
            pass
    async with stand(POLICY.format(to="small"), settings=settings) as s:
        before = s.running.plane.guard.policies.revision
        (tmp_path / "policy.yaml").write_text(POLICY.format(to="nobody"))
        assert not await reload(s.running)
        assert s.running.plane.guard.policies.revision == before


WORDS = """
id: words
version: 1
owner: tests
description: Words in place of an answer.
{applies}classifiers:
  words: {{kind: patterns, patterns: {{lock: {{words: [LOCK]}}, mark: {{words: [MARK]}}, pin: {{words: [PIN]}}}}}}
rules:
  - id: words
    description: Our words.
    stages: [input]
    when: {{finding: words.lock, at_least: 0.5}}
    action: rewrite
    rewrite_with: Our words.
"""


@pytest.mark.parametrize("alone", [True, False])
async def test_words_go_before_a_route(tmp_path: Path, stand: Make, alone: bool) -> None:
    """`alone`: no policy looks at more than the texts, so nothing is judged again."""
    others = {} if alone else {"tiny": SMALL.replace("[small]", "[tiny]")}
    async with stand(settings=together(tmp_path, words=WORDS.format(applies=""), **others)) as s:
        for model in ("big", "small"):
            assert "Our words." in (await s.chat("LOCK", model=model)).text
        assert not s.upstream.requests
        assert [row["routed"] for row in await settled(s)] == [None, None]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("model", ["big", "small", "tiny"])
async def test_of_two_routes_the_first_decides(tmp_path: Path, stand: Make, model: str, alone: bool) -> None:
    """Wherever the request comes from, and whether it is judged again or not."""
    second = POLICY.format(to="tiny").replace("id: capable", "id: z-last").replace("- id: ", "- id: z-")
    others = {} if alone else {"other": SMALL.replace("[small]", "[other]").replace("- id: ", "- id: o-")}
    async with stand(settings=together(tmp_path, second=second, **others)) as s:
        await s.chat("LOCK", model=model)
        assert [json.loads(each.body)["model"] for each in s.upstream.requests] == ["small"]


async def test_words_of_the_other_models_policy(tmp_path: Path, stand: Make) -> None:
    words = WORDS.format(applies="applies_to: {models: [small]}\n")
    async with stand(settings=together(tmp_path, words=words)) as s:
        assert "Our words." in (await s.chat("LOCK", model="big")).text
        assert not s.upstream.requests
        (row,) = await settled(s)
        assert (row["status"], row["routed"]["to"]) == ("rewritten", "small")
