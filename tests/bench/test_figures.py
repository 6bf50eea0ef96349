"""`make figures` says MISSED where a goal is missed, reads the data as training does, and counts what it says."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from classifiers import catalog
from classifiers.training import corpus
from classifiers.training.corpus import Example
from policies.evaluate.subject import Outcome
from tests.policies.evaluate.graded import KIND

from . import figures as f

POLICY = """
id: graded
version: 1
owner: tests
description: For tests.
classifiers:
  guard: {kind: graded}
rules:
  - id: harm
    description: Harm.
    stages: [input]
    when: {finding: guard.harmful, at_least: 0.8}
    action: block
  - id: suspected
    description: Harm, perhaps.
    stages: [input]
    when: {finding: guard.harmful, at_least: 0.5}
    action: log
"""


def write(folder: Path, name: str, *rows: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "label": label, "role": "prompt", "licence": "MIT"}) for text, label in rows]
    (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "train", "nl2bash", ("List all files harmful=0.9", "benign"))
    honest = [(f"honest {at} harmful=0.{at % 9}", "benign") for at in range(200)]
    write(tmp_path / "dev", "alpaca_harmless", *honest, ("list  all FILES harmful=0.9", "benign"))
    write(tmp_path / "dev", "advbench", *[(f"bad {at} harmful=0.{at % 5 + 5}", "harmful") for at in range(50)])
    return tmp_path


def test_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(catalog.KINDS, "graded", KIND)
    (tmp_path / "p.yaml").write_text(POLICY)
    out = tmp_path / "figures.json"
    assert (
        f.main(["--data", str(data), "--policy", str(tmp_path / "p.yaml"), "--json", str(out), "--workers", "1"]) == 0
    )
    found = {(each["part"], each["name"]): each for each in json.loads(out.read_text())["figures"]}
    # 88 of 200 score .5 to .8, 22 of them .8; what stands in train/ is left out.
    blocked = found["plain honest", "alpaca_harmless: blocked"]
    assert (blocked["reached"], blocked["good"]) == (0.11, False)
    assert found["plain honest", "alpaca_harmless: logged or blocked"]["reached"] == 0.44
    assert (
        found["harmful", "advbench: recall at 1 % FPR"]["reached"] == 0.2
    )  # those with .9: none honest has more than .8
    assert found["harmful", "pooled: recall at 1 % FPR"]["good"] is False
    assert found["look-alikes", "all: blocked"]["good"] is True
    assert found["all", "texts that could not be judged"]["reached"] == 0
    shown = capsys.readouterr().out
    assert "MISSED" in shown
    assert "REACHED" in shown


def test_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f.main(["--data", str(tmp_path)]) == 1
    assert "no *.jsonl.gz files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reached", "goal", "at_least", "good"),
    [
        (0.5, 0.5, True, True),
        (0.49, 0.5, True, False),
        (0.01, 0.01, False, True),
        (0.011, 0.01, False, False),
        (0.5, None, True, None),
        (math.nan, 0.5, True, None),
    ],
)
def test_verdicts(reached: float, goal: float | None, at_least: bool, good: bool | None) -> None:
    figure = f.Figure("p", "n", reached, goal, at_least)
    assert figure.good is good
    assert figure.cells()[4] == {True: "REACHED", False: "MISSED", None: ""}[good]


def judged(suite: str, targets: dict[str, float], score: float, **more: Any) -> f.Judged:
    action = more.pop("action", "pass")
    example = Example("t", targets, more.pop("source", "s"), more.pop("role", "prompt"), suite=suite, **more)
    findings = {f"guard.{name}": score for name in targets}
    outcome = Outcome("1", "s", "user", "x", any(targets.values()), "", "", "", 1, {}, findings, 0.0, action=action)
    return f.Judged(example, outcome)


def test_languages_are_told_one_by_one_and_english_has_no_goal() -> None:
    rows = [
        judged("language", {"harmful": side}, (0.9 if side else 0.1) if lang == "zh" else 0.5, lang=lang, source="x")
        for lang in ("zh", "de", "en", "sw")
        for side in (0.0, 1.0)
        for _ in range(5 if lang == "sw" else 10)
    ]
    found = list(f.languages(rows))
    assert [(each.name, each.reached, each.good) for each in found] == [
        ("de (x): AUROC", 0.5, False),
        ("en (x): AUROC", 0.5, None),
        ("zh (x): AUROC", 1.0, True),
    ]


def test_calibration_asks_heads_that_the_policy_asks() -> None:
    rows = [judged("honest", {"harmful": 0.0, "hate": 0.0}, 0.0) for _ in range(50)]
    rows += [judged("harmful", {"harmful": 1.0, "hate": 1.0}, 1.0) for _ in range(50)]
    assert [(each.name, each.reached) for each in f.calibration(rows)] == [("harmful: ECE", 0.0), ("hate: ECE", 0.0)]
    silent = [judged("honest", {"harmful": 0.0}, 0.0) for _ in range(100)]
    assert list(f.calibration(silent)) == []


def test_the_look_alikes_are_ours_and_not_trained_on() -> None:
    rows = list(corpus.rows(f.LOOK_ALIKES))
    texts = {" ".join(row["text"].casefold().split()) for row in rows}
    assert len(texts) == len(rows) >= 100
    assert {row["label"] for row in rows} == {"benign"}
    train, kept = corpus.handwritten()
    assert not texts & {" ".join(example.text.casefold().split()) for example in (*train, *kept)}
