"""/v1/moderations as its callers know it: OpenAI's shape, the policy's decision, and never the upstream."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from classifiers import catalog
from classifiers.base import Finding, Message
from classifiers.training.labels import LABELS as TRAINED
from proxy.dialects.base import BadRequest
from proxy.dialects.moderations import APPROXIMATED, CATEGORIES, LABELS, Moderations, categories_of, category_of, result
from tests.proxy.conftest import Make, Stand

ENCODER = {label.name for label in TRAINED}
OPINION = """
id: test
version: 1
owner: tests
description: Blocks hate, masks personal words, notes self-harm.
classifiers:
  opinion: {{kind: opinion, fault: {fault}}}
rules:
  - id: hate
    description: Hate is blocked.
    stages: [input]
    roles: [user]
    when: {{finding: opinion.hate, at_least: 0.4}}
    action: block
    on_error: {on_error}
  - id: self-harm
    description: Self-harm is noted.
    stages: [input]
    when: {{finding: opinion.self_harm, at_least: 0.4}}
    action: log
    on_error: log
  - id: other
    description: A label that is no category.
    stages: [input]
    when: {{finding: opinion.rude, at_least: 0.4}}
    action: block
    on_error: log
  - id: unreadable
    description: What nobody can read.
    stages: [input]
    when: {{finding: surface.unscannable, at_least: 0.5}}
    action: {unreadable}
"""


class Opinion:
    """Finds a label where its name stands in the text, with the score behind it: ``hate=0.7``."""

    labels = frozenset({"hate", "self_harm", "minors", "rude"})
    inline = True

    def __init__(self, name: str, fault: str) -> None:
        self.name, self._fault = name, fault
        self.digest = hashlib.sha256(fault.encode()).hexdigest()

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Opinion:
        return cls(name, options.get("fault", "none"))

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        if self._fault == "crash" and messages[0].text != "penstock readiness canary":
            raise RuntimeError("no")
        return [
            Finding(self.name, label, float(score), index)
            for index, message in enumerate(messages)
            for label, _, score in (word.partition("=") for word in message.text.split())
            if label in self.labels and score
        ]


@pytest.fixture(autouse=True)
def _opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.KINDS, "opinion", "tests.proxy.test_moderations:Opinion")


def policy(*, fault: str = "none", on_error: str = "block", unreadable: str = "log") -> str:
    return OPINION.format(fault=fault, on_error=on_error, unreadable=unreadable)


async def ask(s: Stand, value: Any, **more: Any) -> Any:
    response = await s.client.post("/v1/moderations", json={"input": value, **more})
    assert response.status_code == 200, response.text
    assert s.upstream.requests == []
    return response.json()


async def test_the_shape(stand: Make) -> None:
    async with stand(policy()) as s:
        tree = await ask(s, "hate=0.7 minors=0.2", model="omni-moderation-latest")
        assert set(tree) == {"id", "model", "results"}
        assert tree["id"].startswith("modr-")
        (result,) = tree["results"]
        assert result["flagged"] is True
        for field in ("categories", "category_scores", "category_applied_input_types"):
            assert tuple(result[field]) == CATEGORIES
        assert {name for name, there in result["categories"].items() if there} == {"hate"}
        assert result["category_scores"] == {**dict.fromkeys(CATEGORIES, 0.0), "hate": 0.7, "sexual/minors": 0.2}
        told = {name for name, kinds in result["category_applied_input_types"].items() if kinds == ["text"]}
        assert told == {"hate", "self-harm", "sexual/minors"}


CASES: dict[str, tuple[Any, list[bool], list[set[str]]]] = {
    "clean": ("Hi", [False], [set()]),
    "empty": ("", [False], [set()]),
    "below the policy's threshold": ("hate=0.3", [False], [set()]),
    "only noted": ("self_harm=1.0", [False], [set()]),
    "for another reason": ("rude=1.0 self_harm=0.95 hate=0.3", [True], [{"self-harm"}]),
    "one of three": (["Hi", "hate=0.7", "self_harm=0.99"], [False, True, False], [set(), {"hate"}, set()]),
    "parts": ([{"type": "text", "text": "Hi"}, {"type": "text", "text": "hate=0.7"}], [True], [{"hate"}]),
    "split over parts": ([{"type": "text", "text": "hate="}, {"type": "text", "text": "0.7"}], [True], [{"hate"}]),
}


@pytest.mark.parametrize(("value", "flagged", "categories"), CASES.values(), ids=CASES.keys())
async def test_what_is_flagged(stand: Make, value: Any, flagged: list[bool], categories: list[set[str]]) -> None:
    async with stand(policy()) as s:
        results = (await ask(s, value))["results"]
        assert [result["flagged"] for result in results] == flagged
        assert [{name for name, there in result["categories"].items() if there} for result in results] == categories
        (row,) = await s.rows()
        assert (row["status"], row["dialect"], row["path"]) == ("moderated", "moderations", "/v1/moderations")
        assert (row["action"] == "block") is any(flagged)


@pytest.mark.parametrize("unreadable", ["log", "block"])
async def test_images_are_not_judged_and_that_is_said(stand: Make, unreadable: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    async with stand(policy(unreadable=unreadable)) as s:
        for value, kinds in (([image], []), ([{"type": "text", "text": "Hi"}, image], ["text"])):
            (result,) = (await ask(s, value))["results"]
            assert result["flagged"] is (unreadable == "block")
            assert result["category_applied_input_types"]["hate"] == kinds
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert 'penstock_unscanned_parts_total{dialect="moderations",kind="image",stage="input"} 2.0' in page


async def test_a_policy_without_categories(stand: Make) -> None:
    async with stand() as s:
        results = (await ask(s, ["Hi", "MARK", "SECRET"]))["results"]
        assert [result["flagged"] for result in results] == [False, True, True]
        for result in results:
            assert set(result["category_scores"].values()) == {0.0}
            assert set(map(str, result["category_applied_input_types"].values())) == {"[]"}


@pytest.mark.parametrize("on_error", ["block", "log"])
async def test_silence_is_no_clean_text(stand: Make, on_error: str) -> None:
    async with stand(policy(fault="crash", on_error=on_error)) as s:
        response = await s.client.post("/v1/moderations", json={"input": "Hi"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "guard_unavailable")
        assert response.headers["x-should-retry"] == "false"
        (row,) = await s.rows()
        assert row["status"] == "unavailable"


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "invalid_json"),
    "duplicate keys": (b'{"input":"a","input":"b"}', "invalid_json"),
    "no object": (b"[]", "invalid_request"),
    "no input": (b"{}", "invalid_request"),
    "input a number": (b'{"input":1}', "invalid_request"),
    "input empty": (b'{"input":[]}', "invalid_request"),
    "numbers of tokens": (b'{"input":[1,2]}', "invalid_request"),
    "an unknown part": (b'{"input":[{"type":"audio"}]}', "invalid_request"),
    "strings and parts": (b'{"input":["a",{"type":"text","text":"b"}]}', "invalid_request"),
    "too many": (orjson.dumps({"input": [""] * 2049}), "invalid_request"),
    "model a number": (b'{"input":"a","model":1}', "invalid_request"),
}


@pytest.mark.parametrize(("body", "code"), WRONG.values(), ids=WRONG.keys())
async def test_wrong_requests(stand: Make, body: bytes, code: str) -> None:
    async with stand(policy()) as s:
        headers = {"content-type": "application/json"}
        response = await s.client.post("/v1/moderations", content=body, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, code)
        (row,) = await s.rows()
        assert row["status"] == "refused"
        for method in ("GET", "PUT", "DELETE"):
            assert (await s.client.request(method, "/v1/moderations")).status_code == 405
        assert s.upstream.requests == []


def test_every_label_leads_to_a_category_that_exists() -> None:
    assert set(LABELS.values()) == set(CATEGORIES)
    assert category_of("self_harm_intent") == category_of("self-harm/intent") == "self-harm/intent"
    with pytest.raises(BadRequest):
        Moderations().read_request({"input": None})


async def test_the_official_client(stand: Make) -> None:
    openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")
    async with stand(policy()) as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="sk-test") as client:
        answer = await client.moderations.create(input=["Hi", "hate=0.7"])
        assert [result.flagged for result in answer.results] == [False, True]
        assert answer.results[1].categories.hate is True
        assert answer.results[1].category_scores.hate == 0.7
        assert answer.results[1].category_applied_input_types.hate == ["text"]
        assert answer.results[1].categories.sexual_minors is False
        assert answer.results[1].categories.illicit_violent is False
    async with stand(policy(fault="crash")) as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key="k") as client:
        with pytest.raises(openai.InternalServerError):
            await client.moderations.create(input="Hi")
        assert [row["status"] for row in await s.rows()].count("unavailable") == 1


async def test_the_shipped_policy_and_model(stand: Make) -> None:
    pytest.importorskip("onnxruntime")
    pack = Path(__file__).parent.parent.parent / "policies" / "packs" / "baseline.yaml"
    bad = "Explain step by step how to build a pipe bomb at home that kills as many people as possible."
    async with stand(pack.read_text("utf-8")) as s:
        clean, flagged = (await ask(s, ["What is the capital of France?", bad]))["results"]
        assert (clean["flagged"], flagged["flagged"]) == (False, True)
        assert flagged["categories"]["violence"] is True
        assert flagged["category_scores"]["violence"] > clean["category_scores"]["violence"] + 0.5
        assert flagged["penstock"]["reason"] == "harmful_content"


def test_categories_that_are_approximated_need_both_labels() -> None:
    """The lower score counts, and a classifier without one of the labels tells nothing of the category."""
    for category, (one, other) in APPROXIMATED.items():
        findings = [Finding("c", one, 0.9, 0), Finding("c", other, 0.6, 0), Finding("c", other, 0.7, 0)]
        assert result(True, [], findings, [], {})["category_scores"][category] == 0.7
        assert result(True, [], findings[:1], [], {})["category_scores"][category] == 0.0
        assert category in categories_of([one, other])
        assert category not in categories_of([one])
    assert not set(APPROXIMATED) & {LABELS[label] for label in LABELS if label in ENCODER}
    assert {label for parts in APPROXIMATED.values() for label in parts} <= ENCODER


def test_the_shape_is_the_official_clients_own() -> None:
    openai = pytest.importorskip("openai", reason="the official client comes with the demo extra")
    tree = orjson.loads(Moderations().answer("pn_1", "abc", [result(False, ["hate"], [], [], {})]))
    read = openai.types.ModerationCreateResponse.model_validate(tree, strict=True)
    (told,) = read.results
    by_alias = told.model_dump(by_alias=True)
    for name in ("categories", "category_scores", "category_applied_input_types"):
        assert set(by_alias[name]) == set(CATEGORIES), name
    assert set(tree) == set(read.model_dump())
    assert set(tree["results"][0]) == {*by_alias, "penstock"}
