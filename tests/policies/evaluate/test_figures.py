"""A run that was counted by hand, and what must hold of any run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from classifiers import statistics as stats
from policies.evaluate.evaluation import Evaluation
from policies.evaluate.figures import ENOUGH, Pool, measure, recall_at
from policies.evaluate.report import render
from policies.evaluate.shares import Json, rate
from policies.evaluate.subject import Outcome

from .conftest import SMALL, walk

EXPECTED = YAML(typ="safe").load(SMALL / "expected.yaml")


@pytest.mark.parametrize("path", EXPECTED)
def test_counted_by_hand(small: Evaluation, path: str) -> None:
    expected, found = EXPECTED[path], walk(small.results, path.split("."))
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        found = {name: found[name] for name in expected}
    if isinstance(expected, float) or (
        isinstance(expected, dict) and all(not isinstance(v, list) for v in expected.values())
    ):
        assert found == pytest.approx(expected, abs=1e-6)
    else:
        assert found == expected


def outcome(at: int = 0, **more: Any) -> Outcome:
    made = Outcome(
        f"{at}", "s", "user", "harmful", True, "", "", "", 1, {"block": -1.0, "log": 1.0}, {}, 0.001, action="log"
    )
    return replace(made, **more)


SCORES = st.sampled_from([-math.inf, -3.0, -0.1, 0.0, 0.5, 4.0])
SOURCES, LABELS = st.sampled_from(["s", "t"]), st.sampled_from(["harmful", "benign"])


@st.composite
def outcomes(draw: st.DrawFn) -> list[Outcome]:
    made = []
    for at in range(draw(st.integers(1, 40))):
        block, label = draw(SCORES), draw(LABELS)
        log = max(block, draw(SCORES))
        more: dict[str, Any] = {
            "scores": {"block": block, "log": log},
            "action": "block" if block >= 0 else "log" if log >= 0 else "pass",
            "failures": draw(st.sampled_from([(), (), (), ("guard: crash",)])),
            "findings": {"guard.harmful": draw(st.sampled_from([0.0, 0.3, 0.95, 1.0]))},
            "surface": draw(st.sampled_from(["user", "user", "assistant"])),
            "fired": tuple(draw(st.sets(st.sampled_from(["a", "b"])))),
            "family": draw(st.sampled_from(["", "", "f"])),
            "category": draw(st.sampled_from(["", "Self harm", "x"])),
        }
        made.append(outcome(at, source=draw(SOURCES), label=label, bad=label == "harmful", **more))
    return made


@settings(max_examples=10)
@given(outcomes())
def test_any_run_has_figures_and_a_page(made: list[Outcome]) -> None:
    """One side, one row, nothing but failures: it is told as what it is, and JSON without NaN."""
    found = measure(made, ("block", "log"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == measure(made, ("block", "log"))
    sides = found["rows"]
    assert sides["bad"] + sides["honest"] == sides["judged"] == len(made)
    assert sum(row["bad"] + row["honest"] for row in found["sources"]) == len(made)
    for surface, figures in found["surfaces"].items():
        rows = [each for each in made if each.surface == surface]
        for name, row in figures["decisions"].items():
            for side, bad in (("bad", True), ("honest", False)):
                taken = [each.scores[name] >= 0 for each in rows if each.bad is bad]
                assert (row[side]["k"], row[side]["n"]) == (sum(taken), len(taken))
        for name, ranking in figures["ranking"].items():
            judged = [each for each in rows if not each.failures]
            both = len({each.bad for each in judged}) == 2
            assert (ranking is not None) is both
            if both:
                truth = [each.bad for each in judged]
                assert ranking["auroc"] == pytest.approx(stats.auroc([e.scores[name] for e in judged], truth), abs=1e-6)
    assert render(MANIFEST, found).startswith("<!doctype html>")


MANIFEST: dict[str, Any] = {
    "penstock": {"version": "0", "commit": None, "changed": None},
    "subject": {"kind": "policy", "title": "p", "digest": "0" * 64, "classifiers": {}, "actions": ["log", "block"]}
    | {"rules": [{"rule": rule, "action": "block", "mode": "enforce", "roles": []} for rule in "ab"]},
    "data": {"files": [], "left_out": {}, "sources": {}, "labels": {"bad": [], "honest": []}}
    | {"repeated": 0, "contradictory": 0},
    "settings": {"workers": 1},
    "machine": {"cpu": "c", "cores": 1, "python": "3"},
    "started": "now",
    "seconds": 1.0,
    "late": None,
}


def test_a_failure_is_no_pass_and_no_score() -> None:
    """A classifier that fails on half of the honest texts must not look better for it."""
    made = [outcome(at, scores={"block": float(at), "log": float(at)}, action="block") for at in range(20)]
    honest = [
        outcome(100 + at, label="benign", bad=False, scores={"block": -1.0, "log": -1.0}, action="pass")
        for at in range(20)
    ]
    failed = [replace(each, failures=("guard: timeout",), action="block") for each in honest[:10]]
    found = measure([*made, *failed, *honest[10:]], ("block", "log"))
    assert found["rows"]["failed_honest"] == 10
    assert found["rows"]["failures"] == {"guard: timeout": 10}
    assert found["surfaces"]["user"]["decisions"]["block"]["honest"]["k"] == 10
    assert found["surfaces"]["user"]["ranking"]["block"]["honest"] == 10
    assert found["surfaces"]["user"]["failed"] == 10


def test_a_family_is_one_in_the_interval() -> None:
    rng = np.random.default_rng(0)
    alone, together = [], []
    for at in range(40):
        bad = at % 2 == 0
        score = float(rng.normal() + bad)
        for copy in range(5):
            each = outcome(at * 5 + copy, bad=bad, label="x", scores={"block": score}, action="pass")
            alone.append(each)
            together.append(replace(each, family=str(at)))

    def width(made: Sequence[Outcome]) -> float:
        low, high = measure(made, ("block",))["surfaces"]["user"]["ranking"]["block"]["auroc_95"]
        return float(high - low)

    assert width(together) > 1.5 * width(alone)


def test_a_family_is_one_in_every_interval_and_bound() -> None:
    """The same rows, once each for itself and once as families of five: as twenty rows of each side at most."""

    def made(family: bool, copies: int = 5) -> Json:
        rows = []
        for at in range(40):
            bad = at % 2 == 0
            score = float(at % 7) - 2
            more: dict[str, Any] = {"bad": bad, "label": "x" if bad else "benign", "scores": {"block": score}}
            more |= {"action": "block" if score >= 0 else "pass", "fired": ("r",) if score >= 0 else ()}
            more |= {"findings": {"g.x": (at % 7) / 7}, "category": "c"}
            rows += [outcome(at * 5 + copy, family=str(at) if family else "", **more) for copy in range(copies)]
        return measure(rows, ("block",))

    def told(found: Json) -> list[Json]:
        user = found["surfaces"]["user"]
        rates = [user["decisions"]["block"]["bad"], user["decisions"]["block"]["honest"]]
        rates += [
            found["rules"][0]["bad"],
            found["rules"][0]["honest"],
            found["sources"][0]["decisions"]["block"]["bad"],
        ]
        rates += [row["decisions"]["block"] for row in found["categories"]]
        rates += [each for row in found["categories"] for each in row["recall_at"]]
        rates += user["ranking"]["block"]["recall_at"]
        rates += [each for row in found["findings"] for each in row["ranking"]["recall_at"]]
        return [{name: row[name] for name in ("low", "high", "at_most") if name in row} for row in rates]

    once, together, alone = told(made(False, 1)), told(made(True)), told(made(False))
    assert len(once) == len(together) == len(alone) > 15
    for one, many, apart in zip(once, together, alone, strict=True):
        assert many == pytest.approx(one, abs=1e-6)
        assert many != pytest.approx(apart, abs=1e-3)
    rows = made(True)
    assert (rows["rows"]["judged"], rows["rows"]["units"]) == (200, 40)
    few, many = (found["findings"][0]["ranking"]["auroc_95"] for found in (rows, made(False)))
    assert few[1] - few[0] > 1.5 * (many[1] - many[0])
    assert (
        rows["surfaces"]["user"]["decisions"]["block"]["precision_when_rare_at_least"]
        == made(False, 1)["surfaces"]["user"]["decisions"]["block"]["precision_when_rare_at_least"]
    )
    assert "40 families or single texts" in render(MANIFEST | {"subject": SUBJECT}, rows)


SUBJECT: dict[str, Any] = {"kind": "classifier", "title": "c", "digest": "0" * 64, "classifiers": {}}


def test_a_policy_that_found_nothing_has_figures() -> None:
    """Nothing in so many honest texts is what a safety case is made of."""
    nothing: dict[str, Any] = {"scores": {"block": -math.inf, "log": -math.inf}, "action": "pass"}
    made = [outcome(at, label="benign", bad=False, **nothing) for at in range(299)]
    made += [outcome(300 + at, category="c", **nothing) for at in range(20)]
    found = measure(made, ("block", "log"))
    user = found["surfaces"]["user"]
    for name in ("block", "log"):
        assert (user["decisions"][name]["bad"]["k"], user["decisions"][name]["bad"]["n"]) == (0, 20)
        assert user["decisions"][name]["honest"]["at_most"] == pytest.approx(1 - 0.05 ** (1 / 299), abs=1e-6)
        assert found["sources"][0]["decisions"][name]["honest"]["n"] == 299
        assert [row["decisions"][name]["n"] for row in found["categories"]] == [20, 20]
    assert user["ranking"] == {}
    assert found["curves"]["user"] == {}
    assert [row["kind"] for row in found["worst"]] == ["miss"] * 15
    page = render(MANIFEST, found)
    assert "user: 0 of 299, at most 1.00 %" in page
    assert "block, log" in page
    assert "Bad texts caught, by category" in page
    assert "no rule of this policy" not in page


def test_what_a_page_says_where_no_rule_acts() -> None:
    made = [replace(each, scores={}, action="pass") for each in (outcome(0), outcome(1, bad=False, label="benign"))]
    found = measure(made, ())
    assert found["surfaces"]["user"]["decisions"] == {}
    subject = {**MANIFEST["subject"], "actions": [], "rules": [{"rule": "a", "action": "block", "mode": "shadow"}]}
    page = render({**MANIFEST, "subject": subject}, found)
    assert "No rule of this policy stops, changes or notes a text" in page
    assert "1 in shadow" in page


def test_calibration_of_a_perfect_and_of_a_bold_score() -> None:
    def made(shift: float) -> list[Outcome]:
        rows = []
        for at in range(1000):
            probability = at % 10 / 10 + 0.05
            bad = (at // 10) % 100 < 100 * probability
            findings = {"guard.harmful": min(1.0, probability + shift)}
            rows.append(outcome(at, bad=bad, label="harmful" if bad else "benign", findings=findings))
        return rows

    (good,), (bold,) = (measure(made(shift), ("block", "log"))["findings"] for shift in (0.0, 0.3))
    assert (good["finding"], good["surface"]) == ("guard.harmful", "user")
    assert good["ece_as_is"] < 0.01
    assert bold["ece_as_is"] == pytest.approx(0.25, abs=0.03)  # the topmost bins cannot go on
    assert good["ranking"]["auroc"] == pytest.approx(bold["ranking"]["auroc"], abs=0.02)


def test_findings_are_matched_by_label_or_category() -> None:
    honest = [outcome(at, label="benign", bad=False, findings={"g.self_harm": 0.1}) for at in range(ENOUGH)]
    bad = [outcome(100 + at, category="Self-harm", findings={"g.self_harm": 0.9}) for at in range(ENOUGH)]
    other = [outcome(200 + at, category="fraud", findings={"g.self_harm": 0.0}) for at in range(ENOUGH)]
    (row,) = measure([*honest, *bad, *other], ("block", "log"))["findings"]
    assert (row["finding"], row["bad"], row["ranking"]["auroc"]) == ("g.self_harm", ENOUGH, 1.0)


def test_small_sources_are_set_against_all_honest_texts() -> None:
    honest = [
        outcome(at, source="h", label="benign", bad=False, scores={"block": at / 10, "log": at / 10})
        for at in range(100)
    ]
    bad = [outcome(200 + at, source="b", scores={"block": 9.85, "log": 9.85}) for at in range(10)]
    found = measure([*honest, *bad], ("block", "log"))
    by = {row["source"]: row for row in found["sources"]}
    assert by["b"]["own"] is None
    assert by["h"]["against_all"] is None
    assert by["b"]["against_all"]["recall_at"][2]["recall"] == 1.0
    assert by["b"]["against_all"]["recall_at"][2]["enough"] is True
    assert by["b"]["against_all"]["recall_at"][1]["enough"] is False
    assert by["b"]["against_all"]["recall_at"][1]["recall"] == 0.0


def test_equal_scores_are_never_split() -> None:
    """All honest texts score alike: one false alarm is all of them."""
    scores = np.array([0.5] * 100 + [0.5] * 50 + [0.6] * 50)
    bad = np.arange(200) >= 100
    assert recall_at(scores, bad, 0.01)["recall"] == 0.5
    assert recall_at(scores, bad, 0.01)["false_alarms"] == 0


def test_a_rate_of_nothing_is_none() -> None:
    assert rate(0, 0) == {"k": 0, "n": 0, "n_effective": 0, "rate": None, "low": 0.0, "high": 1.0, "at_most": 1.0}


def test_ranks_that_say_nothing_are_left_out() -> None:
    rows = [outcome(at, scores={"block": -math.inf, "mask": 1.0 * at, "log": 1.0 * at}) for at in range(3)]
    assert Pool.of(rows, ("block", "mask", "log")).telling() == ["mask"]
