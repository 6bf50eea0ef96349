"""The shipped packs keep their own promises, and the ones that every pack makes."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from classifiers.base import Failure, Finding, Message, Report, Role, Silence
from classifiers.embedded import Embedded
from classifiers.judge import Judge
from policies.cases import Outcome
from policies.check import CheckResult, check
from policies.engine import PolicySet, decide
from policies.facts import Account, Facts
from policies.forms import Mode
from policies.load import packs
from policies.model import Action, OnError, Policy, Stage
from policies.plan import Hold, plan, stream_mode


@pytest.fixture(scope="module", params=packs())
def result(request: pytest.FixtureRequest) -> CheckResult:
    return check(f"pack:{request.param}", live=True)


@pytest.fixture
def pack(result: CheckResult) -> PolicySet:
    assert result.policy is not None, result.lines()
    return result.policy


def test_it_is_well_written_and_every_case_passes(result: CheckResult) -> None:
    assert result.lines()[:-1] == []
    assert {case.outcome for case in result.cases} == {Outcome.PASSED}


def test_there_is_a_case_for_every_rule_and_an_honest_one_for_every_rule_that_acts(pack: PolicySet) -> None:
    (policy,) = pack.policies
    named = {case.expect.rule for case in policy.cases}
    acting = {rule.id for rule in policy.rules if rule.action.protects and rule.acts}
    assert acting <= named
    honest = [case for case in policy.cases if case.expect.action in (Action.PASS, Action.LOG) and not case.failed]
    assert len(honest) >= len(acting)


def test_what_an_author_should_say_is_said(pack: PolicySet) -> None:
    (policy,) = pack.policies
    for rule in policy.rules:
        stops = rule.action.protects
        if stops and Stage.OUTPUT in rule.stages:
            assert "stream" in rule.model_fields_set, rule.id
        assert "on_error" in rule.model_fields_set or _asks_only_the_surface(policy, rule.id), rule.id
        assert len(rule.description.split()) >= 5, rule.id


def _asks_only_the_surface(policy: Policy, rule_id: str) -> bool:
    rule = next(rule for rule in policy.rules if rule.id == rule_id)
    parts, _ = rule.conditions
    return all(name.startswith("surface.") for part in parts for name in part.finding)


def test_editors_are_told_of_the_schema() -> None:
    for name in packs():
        text = (resources.files("policies") / "packs" / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# yaml-language-server: $schema=../schema.json\n"), name


def test_observe_never_stops_changes_or_holds_anything() -> None:
    policy = check("pack:observe").policy
    assert policy is not None
    assert stream_mode(policy).hold is Hold.NONE
    assert all(rule.action is Action.LOG and rule.silence is OnError.LOG for rule in policy.rules)
    messages = [Message(role, "text", "/t") for role in Role]
    findings = tuple(
        Finding(name, label, 1.0, at)
        for name, classifier in policy.classifiers.items()
        for label in classifier.labels
        for at in range(len(messages))
    )
    failures = tuple(Failure(name, Silence.CRASH) for name in policy.classifiers)
    for stage in Stage:
        assert decide(policy, stage, messages, Report(findings, failures)).action is Action.LOG


def test_observe_judges_all_that_baseline_judges() -> None:
    observe, baseline = check("pack:observe").policy, check("pack:baseline").policy
    assert observe is not None
    assert baseline is not None
    for stage in Stage:
        read = {reading.classifier: reading.roles for reading in plan(observe, stage)}
        for reading in plan(baseline, stage):
            assert reading.roles <= read[reading.classifier], (stage, reading.classifier)


def test_baseline_holds_back_and_never_a_whole_answer() -> None:
    policy = check("pack:baseline").policy
    assert policy is not None
    assert stream_mode(policy).hold is Hold.HOLD_BACK
    assert all(rule.mode is Mode.ENFORCE for rule in policy.rules)


@pytest.mark.parametrize("name", packs())
def test_thresholds_are_the_ones_that_the_model_card_suggests(name: str) -> None:
    """A newly trained model has other calibrated thresholds; a pack that keeps the old ones would block at random."""
    policy = check(f"pack:{name}").policy
    assert policy is not None
    guard = policy.classifiers["guard"]
    assert isinstance(guard, Embedded)
    for rule in policy.rules:
        parts, _ = rule.conditions
        for part in parts:
            for finding in part.finding:
                classifier, _, label = finding.partition(".")
                if classifier == "guard":
                    head = guard.card.head(label)
                    wanted = {head.block if rule.action.protects or rule.action is Action.ADVISE else head.log}
                    if (name in {"baseline", "strict"}) and rule.id == "injection-in-tool-result":
                        # By `python -m tests.bench.orders`; a head with another threshold is to be measured again.
                        wanted = {0.975} if head.block == 0.9431 else set()
                    # Strict blocks where baseline only notes.
                    wanted |= {head.log} if name == "strict" else set()
                    assert part.at_least in wanted, f"{name}.yaml, rule {rule.id}: the card says {label} {wanted}"


@pytest.mark.parametrize("name", packs())
def test_a_page_says_what_it_is_for_and_what_it_costs(name: str) -> None:
    page = (resources.files("policies") / "packs" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n\n**For** ")
    assert "**What it costs honest users.**" in page
    assert "**What it does not do.**" in page


TIERS = [
    ("cyber", "cyber-prohibited", ["cyber-low", "cyber-high"]),
    ("bio-chem", "bio-chem-prohibited", ["bio-chem-low", "bio-chem-high"]),
]


@pytest.mark.parametrize(("name", "rule", "grants"), TIERS)
def test_no_grant_unlocks_what_is_prohibited(name: str, rule: str, grants: list[str]) -> None:
    policy = check(f"pack:{name}").policy
    assert policy is not None
    label = name.replace("-", "_") + "_prohibited"
    said = [Message(Role.USER, "text", "/t")]
    report = Report((Finding("guard", label, 1.0, 0),))
    for held in ([], grants[:1], grants[1:], [*grants, "admin"]):
        facts = Facts(account=Account("a", tier="gold", grants=frozenset(held)))
        decision = decide(policy.facing(facts), Stage.INPUT, said, report, facts)
        assert (decision.action, decision.rule) == (Action.BLOCK, rule)


def test_self_harm_refuses_nobody_who_speaks_of_it() -> None:
    policy = check("pack:self-harm").policy
    assert policy is not None
    said = [Message(Role.USER, "text", "/t")]
    for report in (Report((Finding("guard", "self_harm", 1.0, 0),)), Report((), (Failure("guard", Silence.CRASH),))):
        assert decide(policy, Stage.INPUT, said, report).action is Action.LOG


@pytest.mark.parametrize("name", ["cyber", "bio-chem"])
def test_a_judge_reads_the_pack_in_words(name: str, tmp_path: Path) -> None:
    folder = Path(str(resources.files("policies") / "packs"))
    words = (folder / "judges" / f"{name}.md").read_text("utf-8")
    (example,) = re.findall(
        r"^```yaml\n(.*?)^```", (folder / f"{name}.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / f"{name}.md").write_text(words, "utf-8")
    (tmp_path / "judged.yaml").write_text(example, "utf-8")
    result = check(str(tmp_path / "judged.yaml"), linted=True)
    own = [case for case in result.cases if not case.base]
    assert (result.problems, result.notices) == ((), ())
    assert {case.outcome for case in own} == {Outcome.PASSED}
    # Those of the pack that nothing mocks wait for the judge.
    assert Outcome.FAILED not in {case.outcome for case in result.cases}
    assert result.policy is not None
    judge = result.policy.classifiers["judge"]
    assert isinstance(judge, Judge)
    codes = re.findall(r"^## (C[0-9]):", words, re.MULTILINE)
    assert codes == ["C1", "C2", "C3"]
    # Both answers that the words ask for are answers that count.
    form = judge._format
    clean, broken = re.findall(r"`(\{.*?\})`", words)
    assert form.read(clean, "", ()).scores == {"violation": 0.0}
    for code, label in zip(codes, ("prohibited", "dual_use_high", "dual_use_low"), strict=True):
        reading = form.read(broken.replace("C1", code), "", ())
        assert (reading.scores, reading.problem) == ({"violation": 1.0, label: 1.0}, "")
