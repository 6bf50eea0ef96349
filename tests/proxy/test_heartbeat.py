"""The heartbeat: the policy's own cases go through every dialect and classifier, and nobody else hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from classifiers.base import Finding, Message, Role
from classifiers.panel import Panel
from policies.check import check
from policies.load import load
from policies.model import Stage
from proxy import probes
from proxy.app import DIALECTS, SERVED
from proxy.dialects.base import Dialect
from proxy.dialects.moderations import Moderations
from proxy.guard import Guard
from proxy.heartbeat import Heartbeat, caught_by
from proxy.metrics import Metrics
from proxy.reloading import reload
from tests.proxy.conftest import DEFAULTS, RULES, Make
from tests.proxy.kinds import Canary

SPOKEN: list[Dialect | Moderations] = [*dict(DIALECTS).values(), *dict(SERVED).values()]
ANSWERING = {"chat", "responses", "completions", "messages"}
"""Dialects whose answers hold texts."""
CASES = """
cases:
  - {name: the mark is stopped, text: See the MARK., expect: {action: block, rule: no-mark}}
  - {name: the mark is told, stage: output, text: It is the MARK., expect: {action: block, rule: no-mark}}
  - {name: the secret is veiled, stage: output, text: It is a SECRET., expect: {action: mask, rule: veil-secret}}
  - {name: a greeting passes, text: Good morning., expect: {action: pass}}
  - {name: an answer passes, stage: output, text: And to you., expect: {action: pass}}
"""
POLICY = RULES.format(**DEFAULTS) + CASES


class Beating:
    """A heartbeat over one policy, beaten by hand."""

    def __init__(self, policy: str, whole: bool = True) -> None:
        found = check(policy, live=False)
        assert found.policy is not None
        self.panel, self.metrics = Panel(1), Metrics()
        self.traffic = Metrics()
        self.guard = Guard(found.policy, self.panel, self.traffic)
        self.heart = Heartbeat(lambda: self.guard, self.panel, self.metrics, SPOKEN, 60, whole=whole)

    async def beat(self) -> dict[tuple[str, str, str, str], float]:
        """(dialect, stage, classifier, probe) -> 1 or 0."""
        await self.heart.beat()
        (family,) = self.metrics.heartbeat.collect()
        names = "dialect", "stage", "classifier", "probe"
        return {tuple(each.labels[name] for name in names): each.value for each in family.samples}  # type: ignore[misc]


@pytest.fixture
async def beating(tmp_path: Path) -> AsyncIterator[Beating]:
    (tmp_path / "policy.yaml").write_text(POLICY)
    made = Beating(str(tmp_path / "policy.yaml"))
    yield made
    made.panel.close()


async def test_each_dialect_and_classifier_is_probed(beating: Beating) -> None:
    seen = await beating.beat()
    for dialect in SPOKEN:
        assert seen[dialect.name, "input", "canary", "bad"] == 1
        assert seen[dialect.name, "input", "", "good"] == 1
        for classifier, kind in (("canary", "bad"), ("veil", "bad"), ("", "good")):
            found = seen.get((dialect.name, "output", classifier, kind))
            assert found == (1 if dialect.name in ANSWERING else None), (dialect.name, classifier)


FAULTS: dict[str, tuple[Any, float, float]] = {
    "blind": (lambda self, messages: [], 0, 1),
    "broken": (lambda self, messages: 1 / 0, 0, 0),
    "alarmed by all": (lambda self, messages: [Finding(self.name, "mark", 1, i) for i in range(len(messages))], 1, 0),
}


@pytest.mark.parametrize(("classify", "bad", "good"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_classifier_that_goes_wrong_is_seen(
    beating: Beating, monkeypatch: pytest.MonkeyPatch, classify: Any, bad: float, good: float
) -> None:
    assert set((await beating.beat()).values()) == {1}
    with monkeypatch.context() as broken:
        broken.setattr("tests.proxy.kinds.Canary.classify", classify)
        seen = await beating.beat()
        for dialect in SPOKEN:
            assert seen[dialect.name, "input", "canary", "bad"] == bad
            assert seen[dialect.name, "input", "", "good"] == good
    assert set((await beating.beat()).values()) == {1}


async def test_beside_another_worker_only_what_works_here_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    beating = Beating(str(tmp_path / "policy.yaml"), whole=False)
    canary, veil = (beating.guard.classifiers[name] for name in ("canary", "veil"))
    assert isinstance(canary, Canary)
    assert isinstance(veil, Canary)
    monkeypatch.setattr(veil, "waits", True, raising=False)
    seen = await beating.beat()
    assert sorted(labels[1:] for labels in seen) == [
        ("input", "", "good"), ("input", "canary", "bad"), ("output", "", "good"), ("output", "canary", "bad"),
    ]  # fmt: skip
    veil.read.clear()  # the cases themselves were looked at once
    canary.read.clear()
    assert set((await beating.beat()).values()) == {1}
    assert not veil.read
    assert canary.read
    monkeypatch.setattr("tests.proxy.kinds.Canary.classify", lambda self, messages: [])
    assert {labels[2] for labels, value in (await beating.beat()).items() if not value} == {"canary"}
    beating.panel.close()


async def test_the_time_of_the_last_success_stays(beating: Beating, monkeypatch: pytest.MonkeyPatch) -> None:
    def times() -> list[float]:
        (family,) = beating.metrics.heartbeat_success.collect()
        return [sample.value for sample in family.samples if sample.labels["probe"] == "bad"]

    find = Canary.classify
    await beating.beat()
    first = times()
    monkeypatch.setattr("tests.proxy.kinds.Canary.classify", lambda self, messages: [])
    await beating.beat()
    assert times() == first
    monkeypatch.setattr("tests.proxy.kinds.Canary.classify", find)
    await beating.beat()
    assert min(times()) > max(first)


async def test_a_reload_hides_nothing(beating: Beating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that went blind before a reload is still probed, and its last success is still known."""

    def times() -> dict[tuple[str, ...], float]:
        (family,) = beating.metrics.heartbeat_success.collect()
        return {tuple(sample.labels.values())[1:]: sample.value for sample in family.samples}

    seen = await beating.beat()
    before = times()
    assert before
    monkeypatch.setattr("tests.proxy.kinds.Canary.classify", lambda self, messages: [])
    (tmp_path / "policy.yaml").write_text(POLICY.replace("version: 1", "version: 2"))
    changed = check(str(tmp_path / "policy.yaml")).policy
    assert changed is not None
    beating.guard = beating.guard.of(changed)
    after = await beating.beat()
    assert after.keys() == seen.keys()
    assert after["chat", "input", "canary", "bad"] == 0
    for labels, when in times().items():
        assert (when == before[labels]) is ("bad" in labels), labels


async def test_nothing_of_it_shows_in_the_figures_of_traffic(beating: Beating) -> None:
    before = beating.traffic.page()
    await beating.beat()
    assert beating.traffic.page()[1].count(b"penstock") == before[1].count(b"penstock")
    assert beating.panel.counts.read == 0
    assert b"penstock_decisions_total{" not in beating.metrics.page()[1]


@pytest.mark.parametrize("pack", ["baseline", "observe"])
async def test_the_shipped_packs_are_well(pack: str) -> None:
    beating = Beating(pack)
    seen = await beating.beat()
    beating.panel.close()
    assert set(seen.values()) == {1}
    assert {labels[2] for labels in seen if labels[3] == "bad"} == set(beating.guard.policies.classifiers)


async def test_rules_about_the_request_are_no_trouble(tmp_path: Path) -> None:
    more = """  - id: only-hard
    description: What is asked for with much effort.
    stages: [input, output]
    when: request.settings.effort == "high"
    action: block
    stream: {hold_back: 8}
"""
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS) + more + CASES)
    assert set((await Beating(str(tmp_path)).beat()).values()) == {1.0}


async def test_it_costs_no_upstream_call_and_no_audit_row(stand: Make) -> None:
    async with stand(RULES.format(**DEFAULTS) + CASES, settings={"heartbeat_interval": 0.02}) as s:
        page = ""
        async with asyncio.timeout(20):
            while page.count("penstock_guard_heartbeat{") < 20:
                page = (await s.client.get(s.admin_url + "/metrics")).text
                await asyncio.sleep(0.02)
        assert not s.upstream.requests
        assert not await s.rows()
        assert "penstock_decisions_total{" not in page
        assert "penstock_exchanges_total{" not in page
        assert 'penstock_added_latency_seconds_count{part="classify"} 0.0' in page


async def test_it_follows_the_policy_in_force(stand: Make, tmp_path: Path) -> None:
    async with stand(RULES.format(**DEFAULTS) + CASES, settings={"heartbeat_interval": 0.02}) as s:
        changed = POLICY.replace("  veil:", "  shroud:").replace("veil.mark", "shroud.mark")
        (tmp_path / "policy.yaml").write_text(changed)
        assert await reload(s.running)
        page = ""
        async with asyncio.timeout(20):
            while 'classifier="shroud"' not in page:
                page = (await s.client.get(s.admin_url + "/metrics")).text
                await asyncio.sleep(0.02)
        assert 'classifier="veil"' not in page


async def test_each_policy_has_a_heartbeat_of_its_own(stand: Make, tmp_path: Path) -> None:
    """One that a key is under is probed beside the default, and a reload of one leaves the other's series alone."""
    other = POLICY.replace("id: test\n", "id: other\n").replace("  canary:", "  raven:").replace("canary.", "raven.")
    (tmp_path / "other.yaml").write_text(other)
    more = {"heartbeat_interval": 0.02, "policies": {"other": str(tmp_path / "other.yaml")}}
    async with stand(POLICY, settings=more) as s:
        page = ""
        async with asyncio.timeout(20):
            while not ('policy=""' in page and 'policy="other"' in page):
                page = (await s.client.get(s.admin_url + "/metrics")).text
                await asyncio.sleep(0.02)
        lines = [line for line in page.splitlines() if line.startswith("penstock_guard_heartbeat{")]
        assert any('classifier="canary"' in line and 'policy=""' in line for line in lines)
        assert any('classifier="raven"' in line and 'policy="other"' in line for line in lines)
        assert all(line.endswith(" 1.0") for line in lines)


async def test_classifiers_that_no_case_catches_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY.replace("rule: veil-secret}", "rule: veil-secret}, failed: [veil]"))
    beating = Beating(str(tmp_path / "policy.yaml"))
    await beating.beat()
    beating.panel.close()
    told = capsys.readouterr().err
    assert "no case of the policy shows" in told
    assert "veil" in told
    assert "canary" not in told


@pytest.mark.parametrize("dialect", SPOKEN, ids=lambda dialect: dialect.name)
def test_what_a_dialect_cannot_say_is_left_out(dialect: Any) -> None:
    assert probes.request(dialect.name, [(Role.USER, "Hello.")])
    assert probes.request(dialect.name, [(Role.REASONING, "Well.")]) is None
    assert probes.response(dialect.name, [(Role.ERROR, "Oh.")]) is None
    talk = [(Role.USER, "And?"), (Role.TOOL_RESULT, "Forty-two.")]
    assert bool(probes.request(dialect.name, talk)) is (
        dialect.name in {"chat", "responses", "messages", "count_tokens"}
    )


ROLES = {
    "input": [
        (Role.SYSTEM, "Be kind."),
        (Role.USER, "And?"),
        (Role.ASSISTANT, "Yes."),
        (Role.TOOL_RESULT, "Forty-two."),
    ],
    "output": [(Role.ASSISTANT, "Forty-two."), (Role.TOOL_CALL, '{"a": 1}')],
}


@pytest.mark.parametrize("name", ["chat", "responses", "messages"])
@pytest.mark.parametrize("stage", list(Stage))
def test_what_is_said_is_read_in_the_same_roles(name: str, stage: Stage) -> None:
    said = ROLES[stage] if not (name == "messages" and stage is Stage.OUTPUT) else ROLES[stage][:1]
    dialect = next(each for each in dict(DIALECTS).values() if each.name == name)
    raw = (probes.request if stage is Stage.INPUT else probes.response)(name, said)
    assert raw is not None
    tree = orjson.loads(raw)
    body = dialect.read_request(tree) if stage is Stage.INPUT else dialect.read_response(tree)
    read: list[Message] = body.messages
    assert {(role, text) for role, text in said} <= {(message.role, message.text) for message in read}


def test_cases_of_a_pack_beat_for_what_extends_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("id: mine\nversion: 1\nowner: o\ndescription: d\nextends: privacy\n")
    caught = {case.name: finders for case, finders in caught_by(load(str(mine)))}
    assert caught == {case.name: finders for case, finders in caught_by(load("privacy"))}
    assert frozenset().union(*caught.values()) == {"pii", "secrets"}
