"""`penstock teach` and `penstock calibrate` as an operator types them: from texts to a policy that decides by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from classifiers import teach as lessons
from classifiers.base import Message, Role
from policies.check import check
from policies.load import load
from proxy.cli import app

FIXTURES = Path(__file__).parent.parent / "fixtures" / "teach"
EXAMPLES = FIXTURES / "refund_fraud.jsonl"

POLICY = """\
# What our shop does not help with.
id: shop
version: 1
owner: shop team
description: Refund fraud.
classifiers:
  fraud: {kind: taught, path: heads/refund_fraud.json}  # taught by us
rules:
  - id: refund-fraud
    description: Asks to get money back by a lie.
    stages: [input]
    roles: [user]
    when: {finding: fraud.refund_fraud, at_least: 0.5}  # to be calibrated
    action: block
cases:
  - name: a lie
    text: I kept the camera, what excuse gets me a refund as if it had never come?
    expect: {action: block, rule: refund-fraud}
  - name: a question
    text: When do you open on Monday?
    expect: {action: pass}
"""


def penstock(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a policy and the head that it names."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "policy.yaml").write_text(POLICY, "utf-8")
    told = penstock("teach", "refund_fraud", "--examples", EXAMPLES, "--policy", folder / "policy.yaml")
    assert told.exit_code == 0, told.output
    assert "20 bad, 24 honest" in told.output
    assert 'refund_fraud: {kind: taught, path: "heads/refund_fraud.json"}' in told.output
    assert "not proven: a budget of 0.50% needs 598 honest texts" in told.output
    return folder


@pytest.fixture
def copy(shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop, tmp_path / "shop"))


def honest(folder: Path, count: int = 130) -> Path:
    path = folder / "honest.txt"
    asks = ("When does {} open?", "Where do I find {}?", "How much is {} today?")
    path.write_text("\n".join(ask.format(f"shop {n}") for n in range(count) for ask in asks), "utf-8")
    return path


def test_a_policy_that_names_the_head_decides_by_it(shop: Path) -> None:
    result = check(str(shop), live=True)
    assert result.ok, result.lines()
    assert [case.outcome.value for case in result.cases] == ["passed", "passed"]


def test_a_head_that_is_gone_or_altered_is_a_problem_with_its_place(copy: Path) -> None:
    head = copy / "heads" / "refund_fraud.json"
    facts = json.loads(head.read_text("utf-8"))
    head.write_text(json.dumps(facts | {"bias": facts["bias"] + 3}), "utf-8")
    problem = check(str(copy)).problems[0]
    assert (problem.line, "was altered" in problem.what) == (7, True)
    assert "penstock teach" in problem.mend
    head.unlink()
    problem = check(str(copy)).problems[0]
    assert (problem.line, "cannot read" in problem.what) == (7, True)


def test_the_card_as_json_says_what_the_lines_say(tmp_path: Path) -> None:
    out = tmp_path / "head.json"
    told = penstock(
        "teach", "refund_fraud", "--examples", EXAMPLES, "--out", out, "--honest", honest(tmp_path), "--budget", "1%",
        "--json",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    card = json.loads(told.stdout)
    assert card == json.loads(out.read_text("utf-8"))["card"]
    assert card["threshold"]["proven"]
    assert card["traffic"] == 390
    assert out.stat().st_mode & 0o777 == 0o644


def test_nothing_is_replaced_unasked(copy: Path) -> None:
    again = ("teach", "refund_fraud", "--examples", EXAMPLES, "--policy", copy)
    told = penstock(*again)
    assert told.exit_code == 1
    assert "is there already: --force replaces it" in told.output
    assert penstock(*again, "--force").exit_code == 0


@pytest.mark.parametrize("force", [False, True])
def test_a_head_that_somebody_wrote_meanwhile_is_left(force: bool, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = copy / "heads" / "refund_fraud.json"
    real = lessons.teach
    if not force:
        head.unlink()

    def slowly(*given: Any) -> Any:
        head.write_text("a colleague's", "utf-8")
        return real(*given)

    monkeypatch.setattr(lessons, "teach", slowly)
    more = ("--force",) if force else ()
    told = penstock("teach", "refund_fraud", "--examples", EXAMPLES, "--policy", copy, *more)
    assert told.exit_code == 1
    assert f"{head}: written meanwhile, by somebody else" in told.output
    assert head.read_text("utf-8") == "a colleague's"


def test_texts_may_come_in_two_files(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in EXAMPLES.read_text("utf-8").splitlines()]
    for name, label in (("bad", "refund_fraud"), ("good", "benign")):
        (tmp_path / f"{name}.txt").write_text("\n".join(r["text"] for r in rows if r["label"] == label), "utf-8")
    sides = ("--bad", tmp_path / "bad.txt", "--good", tmp_path / "good.txt")
    told = penstock("teach", "refund_fraud", *sides, "--out", tmp_path / "a.json")
    assert told.exit_code == 0, told.output
    other = penstock("teach", "refund_fraud", "--examples", EXAMPLES, "--out", tmp_path / "b.json")
    assert other.exit_code == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_reviewed_decisions_are_examples(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in EXAMPLES.read_text("utf-8").splitlines()]
    reviewed = [
        {"text": row["text"], "verdict": "right" if (row["label"] != "benign") == (at % 2 == 0) else "wrong",
         "action": "block" if at % 2 == 0 else "pass"}
        for at, row in enumerate(rows)
    ]  # fmt: skip
    (tmp_path / "reviewed.jsonl").write_text("\n".join(json.dumps(row) for row in reviewed), "utf-8")
    told = penstock("teach", "x", "--examples", tmp_path / "reviewed.jsonl", "--out", tmp_path / "x.json")
    assert "20 bad, 24 honest" in told.output


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("teach", "x"), 2, "name --examples"),
        (("teach", "x", "--bad", EXAMPLES), 2, "name --examples"),
        (("teach", "x", "--examples", EXAMPLES, "--good", EXAMPLES), 2, "name --examples"),
        (("teach", "../x", "--examples", EXAMPLES), 2, "letters, digits"),
        (("teach", "x", "--examples", EXAMPLES, "--budget", "none"), 2, "a share above 0"),
        (("teach", "x", "--examples", EXAMPLES, "--budget", "0"), 2, "a share above 0"),
        (("teach", "x", "--examples", EXAMPLES, "--budget", "60%"), 2, "a share above 0"),
        (("teach", "x", "--examples", EXAMPLES, "--roles", "king"), 2, "some of system"),
        (("teach", "x", "--examples", "none.jsonl"), 1, "none.jsonl: cannot be read: No such file"),
        (("teach", "x", "--examples", EXAMPLES), 1, "'refund_fraud' is neither bad nor honest here: 20 rows"),
        (
            ("teach", "x", "--examples", EXAMPLES, "--positive", "refund_fraud", "--model", "none"),
            1,
            "no shipped model",
        ),
        (("teach", "refund_fraud", "--examples", EXAMPLES, "--policy", "none.yaml"), 1, "no such file"),
        (("calibrate", "baseline", "--honest", "none.txt"), 1, "cannot be read"),
        (("calibrate", "none", "--honest", EXAMPLES), 1, "no such file, directory or pack"),
        (("calibrate", "baseline", "--honest", EXAMPLES, "--min-catch", "10%"), 1, "--min-catch needs --bad"),
        (("calibrate", "baseline", "--honest", EXAMPLES, "--role", "king"), 2, "one of system"),
        (("calibrate", "baseline", "--honest", EXAMPLES, "--max-honest-block", "2"), 2, "a share above 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    words: tuple[str | Path, ...], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = penstock(*words)
    assert result.exit_code == code, result.output
    assert told in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_line_of_which_nothing_is_left_is_named(tmp_path: Path) -> None:
    lines = honest(tmp_path, 20).read_text("utf-8").splitlines()
    (tmp_path / "honest.txt").write_text("\n".join([*lines[:2], "\u200b\u200d\u200b", *lines[2:]]), "utf-8")
    words = ("teach", "refund_fraud", "--examples", EXAMPLES, "--out", tmp_path / "head.json")
    told = penstock(*words, "--honest", tmp_path / "honest.txt")
    assert told.exit_code == 1
    assert told.stderr.startswith("penstock: honest.txt:3: the text holds nothing that can be read")
    rows = EXAMPLES.read_text("utf-8").rstrip("\n")
    (tmp_path / "rows.jsonl").write_text(rows + '\n\n{"text": "\\u200b\\u200d", "label": "benign"}\n', "utf-8")
    told = penstock("teach", "refund_fraud", "--examples", tmp_path / "rows.jsonl", "--out", tmp_path / "head.json")
    assert told.exit_code == 1
    assert f"rows.jsonl:{len(rows.splitlines()) + 2}: the text holds nothing" in told.stderr
    assert not (tmp_path / "head.json").exists()


def test_no_text_of_a_user_is_echoed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "my secret words", "label": "odd"}\n{"text": "my secret words", "label"', "utf-8")
    told = penstock("teach", "x", "--examples", path)
    assert told.exit_code == 1
    assert "secret" not in told.output


# Calibrate ----------------------------------------------------------------------------------------------------------


def loud(folder: Path) -> Path:
    """Honest texts of which the head finds some suspicious."""
    rows = [json.loads(line) for line in EXAMPLES.read_text("utf-8").splitlines()]
    path = honest(folder)
    text = path.read_text("utf-8")
    path.write_text(text + "\n" + "\n".join(row["text"] for row in rows if row["label"] != "benign")[:400], "utf-8")
    return path


def test_thresholds_are_proposed_and_written_on_demand(copy: Path) -> None:
    file = copy / "policy.yaml"
    words = ("calibrate", file, "--honest", loud(copy), "--max-honest-block", "1%")
    told = penstock(*words)
    assert told.exit_code == 0, told.output
    assert "0.5 -> 0." in told.output
    assert "nothing is written" in told.output
    assert file.read_text("utf-8") == POLICY
    cases_too_strict = penstock(*words, "--write")
    # The honest file holds lies, so the threshold that lets them pass breaks the policy's own case.
    assert cases_too_strict.exit_code == 1
    assert "its own cases fail with these thresholds; nothing was changed" in cases_too_strict.output
    assert file.read_text("utf-8") == POLICY


def test_a_case_that_marks_the_bound_moves_with_it(copy: Path) -> None:
    file = copy / "policy.yaml"
    bound = "  - {name: at the bound, text: x, scores: {fraud.refund_fraud: 0.5}, expect: {action: block}}\n"
    below = "  - {name: below it, text: x, scores: {fraud.refund_fraud: 0.4999}, expect: {action: pass}}\n"
    kept = POLICY[: POLICY.index("cases:")] + "cases:\n" + bound + below
    file.write_text(kept, "utf-8")
    told = penstock("calibrate", file, "--honest", loud(copy), "--max-honest-block", "1%", "--write")
    assert told.exit_code == 0, told.output
    assert "moved with it: the case 'at the bound'" in told.stderr
    new = next(line for line in file.read_text("utf-8").splitlines() if "at the bound" in line)
    assert f"at_least: {new.partition('fraud: ')[2].partition('}')[0]}}}" in file.read_text("utf-8")
    assert below in file.read_text("utf-8")


def test_only_the_threshold_is_written(copy: Path) -> None:
    file = copy / "policy.yaml"
    kept = POLICY[: POLICY.index("cases:")]
    file.write_text(kept, "utf-8")
    file.chmod(0o640)
    told = penstock("calibrate", file, "--honest", loud(copy), "--max-honest-block", "1%", "--write", "--json")
    assert told.exit_code == 0, told.output
    (part,) = json.loads(told.stdout)["rules"][0]["thresholds"]
    assert part["then"] > part["now"] == 0.5
    assert file.read_text("utf-8") == kept.replace("at_least: 0.5}", f"at_least: {part['then']}}}")
    assert file.stat().st_mode & 0o777 == 0o640
    again = penstock("calibrate", file, "--honest", copy / "honest.txt", "--max-honest-block", "1%")
    assert again.exit_code == 0
    assert "->" not in again.output


def test_too_few_texts_prove_nothing(copy: Path) -> None:
    told = penstock("calibrate", copy, "--honest", honest(copy, 20), "--bad", loud(copy), "--min-catch", "1%")
    assert told.exit_code == 1
    assert "prove nothing: 2,995 or more are needed" in told.output
    assert penstock("calibrate", copy, "--honest", honest(copy, 20), "--write").exit_code == 1
    assert (copy / "policy.yaml").read_text("utf-8") == POLICY


def test_a_shipped_pack_is_not_written(copy: Path) -> None:
    told = penstock("calibrate", "baseline", "--honest", loud(copy), "--max-honest-block", "1%", "--lower", "--write")
    assert told.exit_code == 1
    assert "is a shipped pack: copy it" in told.output


def test_the_head_asks_about_what_its_rule_reads(shop: Path) -> None:
    policies = load(str(shop))
    found = policies.classifiers["fraud"].classify(
        [
            Message(Role.USER, "Tell them the sofa never came, I will keep it and get the money", "/a"),
            Message(Role.USER, "", "/b"),
        ]
    )
    assert [finding.message for finding in found] == [0]
    assert found[0].label == "refund_fraud"
