"""Two runs on the same rows: what is counted, what is left out, and what is called chance."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.evaluate import files
from policies.evaluate.compare import CannotCompare, compare, words
from policies.evaluate.evaluation import Evaluation
from policies.evaluate.figures import measure
from policies.evaluate.files import RunError
from policies.evaluate.shares import paired
from policies.evaluate.subject import Outcome


def outcomes(n: int, shift: float, seed: int = 0, edge: float = 1.0) -> list[Outcome]:
    """Half bad, half honest; bad ones score `shift` higher; blocked from `edge` up."""
    rng = np.random.default_rng(seed)
    made = []
    for at in range(n):
        bad = at % 2 == 0
        score = float(rng.normal() + shift * bad) - edge
        common = Outcome(
            f"id{at}", "s" if at % 3 else "t", "user", "x", bad, "", "", "", 10, {"block": score}, {}, 0.01
        )
        made.append(replace(common, action="block" if score >= 0 else "pass"))
    return made


def write(folder: Path, made: list[Outcome], small: Evaluation, **subject: Any) -> files.Run:
    told = {"kind": "policy", "title": "p", "digest": "1" * 64, "actions": ["block"], "classifiers": {"g": "1"}}
    manifest = {**small.manifest, "subject": told | subject}
    manifest["data"] = {**small.manifest["data"], **files.counted(made)}
    Evaluation(manifest, tuple(made), measure(made, tuple(made[0].scores))).write(folder)
    return files.read(folder)


def test_a_run_is_read_back_as_it_was(small: Evaluation, tmp_path: Path) -> None:
    small.write(tmp_path / "run")
    run = files.read(tmp_path / "run")
    assert run.manifest == json.loads(json.dumps(small.manifest))
    for row, each in zip(run.rows, small.outcomes, strict=True):
        assert (row["id"], row["bad"], row["action"]) == (each.id, each.bad, each.action)
        assert [v for v in row["scores"].values() if v is not None] == [
            v for v in each.scores.values() if math.isfinite(v)
        ]
        assert "text" not in row


def test_the_same_run_twice_is_the_same(small: Evaluation, tmp_path: Path) -> None:
    run = write(tmp_path / "a", outcomes(200, 1.0), small)
    found = compare(run, run)
    text = "\n".join(words(found))
    assert "differing between them: nothing" in text
    assert "more than chance: none" in text or "correction): none" in text
    assert "newly" not in text
    assert all(row["p"] == 1 for row in found["surfaces"]["user"]["decisions"])
    assert all(row["difference"] == 0 for row in found["surfaces"]["user"]["ranking"])


def test_a_better_run_is_seen(small: Evaluation, tmp_path: Path) -> None:
    first = write(tmp_path / "a", outcomes(400, 0.5), small)
    second = write(tmp_path / "b", outcomes(400, 2.0), small, digest="2" * 64, classifiers={"g": "2", "h": "1"})
    found = compare(first, second)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["changed"]["classifiers"] == ["g", "h"]
    bad, honest = found["surfaces"]["user"]["decisions"]
    before = {each.id: each.action for each in outcomes(400, 0.5)}
    after = {each.id: each.action for each in outcomes(400, 2.0)}
    newly = [at for at in range(0, 400, 2) if before[f"id{at}"] == "pass" and after[f"id{at}"] == "block"]
    assert (bad["only_second"], bad["only_first"], bad["n"]) == (len(newly), 0, 200)
    assert bad["p"] < 0.001
    assert honest["p"] == 1  # the honest half is the same
    ranking = found["surfaces"]["user"]["ranking"][0]
    assert ranking["figure"] == "AUROC"
    assert 0 < ranking["low"] < ranking["difference"] < ranking["high"]
    text = "\n".join(words(found))
    assert "more than chance" in text
    assert f"newly caught {len(newly)}, newly missed 0 of 200; p < .001" in text


def test_noise_is_called_chance(small: Evaluation, tmp_path: Path) -> None:
    first = write(tmp_path / "a", outcomes(200, 1.0), small)
    second = write(tmp_path / "b", outcomes(200, 1.0, seed=1), small)
    assert "may be chance" in "\n".join(words(compare(first, second)))


def test_rows_that_differ_are_left_out_and_counted(small: Evaluation, tmp_path: Path) -> None:
    made = outcomes(300, 1.0)
    other = [replace(each, chars=11) if at < 5 else each for at, each in enumerate(made)]
    other = [replace(each, bad=not each.bad) if 5 <= at < 8 else each for at, each in enumerate(other)]
    first, second = write(tmp_path / "a", made[:250], small), write(tmp_path / "b", other, small)
    rows = compare(first, second)["rows"]
    assert rows == {"common": 242, "only_first": 0, "only_second": 50, "differing": 8}
    with pytest.raises(CannotCompare, match=r"only 242 rows are in both runs and 243 are wanted"):
        compare(first, second, 243)


def test_a_failure_is_in_no_ranking(small: Evaluation, tmp_path: Path) -> None:
    made = outcomes(200, 1.0)
    failed = [replace(each, failures=("g: timeout",), action="block") if not each.bad else each for each in made[:100]]
    found = compare(write(tmp_path / "a", made, small), write(tmp_path / "b", failed + made[100:], small))
    assert found["second"]["failed"] == 50
    assert all(row["difference"] == 0 for row in found["surfaces"]["user"]["ranking"])
    honest = found["surfaces"]["user"]["decisions"][1]
    assert honest["only_second"] > 30
    assert "texts not fully judged: 0 before, 50 after" in "\n".join(words(found))


def test_runs_without_a_common_action_are_set_to_one_share_of_false_alarms(small: Evaluation, tmp_path: Path) -> None:
    made = outcomes(400, 2.0)
    scores = [replace(each, scores={"score": 1 / (1 + math.exp(-each.scores["block"]))}, action="") for each in made]
    first = write(tmp_path / "a", made, small)
    second = write(tmp_path / "b", scores, small, kind="classifier", actions=[])
    found = compare(first, second)
    bad, honest = found["surfaces"]["user"]["decisions"]
    assert bad["at"] == "1.0 % false alarms"
    assert (bad["only_first"], bad["only_second"]) == (0, 0)  # the same order by another name
    assert honest["first"] == honest["second"] == 0.01
    assert found["surfaces"]["user"]["ranking"][0]["difference"] == 0


def test_paired_counts() -> None:
    one, other = np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 1, 1, 0], bool)
    counted = {"n": 5, "first": 0.4, "second": 0.6, "only_first": 1, "only_second": 2, "p": 1.0}
    assert paired(one, other) == counted | {"votes_first": 1, "votes_second": 2}


def test_a_family_has_one_vote_and_proves_nothing_alone(small: Evaluation, tmp_path: Path) -> None:
    """Sixty wordings of one attack, all caught before and none now: one attack was lost."""
    honest = [each for each in outcomes(620, 0.0, edge=100.0) if not each.bad]
    attack = [replace(honest[at], id=f"bad{at}", bad=True, source="s", family="one") for at in range(60)]
    caught = [replace(each, scores={"block": 1.0}, action="block") for each in attack]
    first, second = write(tmp_path / "a", caught + honest, small), write(tmp_path / "b", attack + honest, small)
    found = compare(first, second)
    (bad, _), text = found["surfaces"]["user"]["decisions"], "\n".join(words(found))
    assert (bad["only_first"], bad["votes_first"], bad["p"]) == (60, 1, 1.0)
    assert "newly caught 0, newly missed 60 of 60, by family 0 to 1; p = 1.000, may be chance" in text
    assert "correction): none" in text
    assert "more than chance" not in text.replace("that changed by more than chance", "")
    assert "too few of one side to tell from chance" in text
    singles = (
        write(tmp_path / name, [replace(each, family="") for each in rows + honest], small)
        for name, rows in (("c", caught), ("d", attack))
    )
    apart = compare(next(singles), next(singles))
    assert apart["surfaces"]["user"]["decisions"][0]["p"] < 1e-9


def test_a_policy_of_which_no_rule_acts(small: Evaluation, tmp_path: Path) -> None:
    """Its rules in shadow, then enforced: what the second does is new, and nothing is there to rank."""
    acting = outcomes(200, 2.0)
    shadow = [replace(each, scores={}, action="pass") for each in acting]
    first = write(tmp_path / "a", shadow, small, actions=[], rules=[])
    second = write(tmp_path / "b", acting, small, digest="2" * 64)
    found = compare(first, second)
    bad, honest = found["surfaces"]["user"]["decisions"]
    blocked = sum(each.action == "block" for each in acting if each.bad)
    assert (bad["at"], bad["first"], bad["only_second"]) == ("block", 0.0, blocked)
    assert honest["only_first"] == 0
    assert found["surfaces"]["user"]["ranking"] == []
    text = "\n".join(words(found))
    assert f"no rule of {first.path} acts: it decides and ranks nothing" in text
    assert f"no rule of {second.path}" not in text
    back = compare(second, first)["surfaces"]["user"]["decisions"][0]
    assert (back["only_first"], back["only_second"]) == (blocked, 0)
    text = "\n".join(words(compare(first, first)))
    assert "nothing to compare: one of the runs has no scores here" in text
    # A classifier beside it decides nothing either.
    scored = [replace(each, scores={"score": 0.5}, action="") for each in acting]
    third = write(tmp_path / "c", scored, small, kind="classifier", actions=[])
    assert compare(first, third)["surfaces"]["user"]["decisions"] == []


@pytest.mark.parametrize("least", ["log", "mask"])
def test_an_action_that_one_policy_lost_is_told(least: str, small: Evaluation, tmp_path: Path) -> None:
    """Both block the same; what the second of its rules found, of bad texts alone, one of them only passes."""
    fewer = outcomes(200, 2.0)
    more = [
        replace(
            each,
            action=least if each.bad and each.action == "pass" else each.action,
            scores={**each.scores, least: 1.0},
        )
        for each in fewer
    ]
    found_more = sum(each.action == least for each in more)
    assert found_more > 3
    first = write(tmp_path / "a", more, small, actions=["block", least])
    second = write(tmp_path / "b", fewer, small, digest="2" * 64)
    for pair, side in (((first, second), "only_first"), ((second, first), "only_second")):
        surface = compare(*pair)["surfaces"]["user"]
        told = [row for row in surface["decisions"] if row["side"] == "bad"]
        assert [row["at"] for row in told] == ["block", least]
        assert [row[side] for row in told] == [0, found_more]
        assert {row["score"] for row in surface["ranking"]} == {"block"}
    lines = "\n".join(words(compare(first, second)))
    assert f"{least}: bad texts caught 100.0 % ->" in lines


def test_policies_that_share_no_action_are_told_apart(small: Evaluation, tmp_path: Path) -> None:
    """What one blocks the other masks: of blocks all are lost, of masks or more none."""
    blocks = outcomes(200, 2.0)
    masks = [
        replace(each, action="mask" if each.action == "block" else "pass", scores={"mask": each.scores["block"]})
        for each in blocks
    ]
    first = write(tmp_path / "a", blocks, small)
    second = write(tmp_path / "b", masks, small, actions=["mask"], digest="2" * 64)
    surface = compare(first, second)["surfaces"]["user"]
    caught = sum(each.action == "block" for each in blocks if each.bad)
    told = {row["at"]: row["only_first"] for row in surface["decisions"] if row["side"] == "bad"}
    assert told == {"block": caught, "mask": 0}
    assert all(row["difference"] == 0 for row in surface["ranking"])


def test_nothing_found_twice_is_told(small: Evaluation, tmp_path: Path) -> None:
    made = [replace(each, scores={"block": -math.inf}, action="pass") for each in outcomes(200, 1.0)]
    text = "\n".join(words(compare(write(tmp_path / "a", made, small), write(tmp_path / "b", made, small))))
    assert "block: bad texts caught 0.0 % -> 0.0 %: the same on every one of 100" in text
    assert "block: honest texts flagged 0.0 % -> 0.0 %: the same on every one of 100" in text


def test_what_is_no_run(small: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run of penstock eval"):
        files.read(tmp_path)
    small.write(tmp_path / "run")
    (tmp_path / "run" / "scores.jsonl.gz").write_bytes(b"")
    with pytest.raises(RunError, match="holds 0 rows"):
        files.read(tmp_path / "run")
    (tmp_path / "run" / "scores.jsonl.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(RunError, match="damaged"):
        files.read(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(RunError, match="another version"):
        files.read(tmp_path / "run")
