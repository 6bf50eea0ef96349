"""`penstock eval` as a person uses it: what it prints, what it writes, and that it never leaves half a run."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from classifiers import catalog
from proxy.cli import app
from tests.policies.evaluate.conftest import SMALL
from tests.policies.evaluate.graded import KIND

POLICY, ROWS = str(SMALL / "policy.yaml"), str(SMALL / "rows.jsonl")
GRADED = """
id: graded
version: 1
owner: tests
description: For tests.
classifiers:
  guard: {kind: graded, deadline_ms: 400}
rules:
  - id: harm
    description: Harm.
    stages: [input]
    when: {finding: guard.harmful, at_least: 0.5}
    action: block
"""


def penstock(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def rows(run: Path) -> list[dict[str, Any]]:
    with gzip.open(run / "scores.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, *made: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")
    return path


@pytest.fixture
def graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(catalog.KINDS, "graded", KIND)
    path = tmp_path / "graded.yaml"
    path.write_text(GRADED)
    return str(path)


def test_a_policy_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = penstock(ROWS, "--policy", POLICY, "--out", out)
    assert done.exit_code == 0, done.output
    assert "50.0 %" in done.stdout  # blocked of bad requests, as counted by hand
    assert f"report: {out / 'report.html'}" in done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["subject"]["rules"][0] == {
        "rule": "bombs",
        "action": "block",
        "mode": "enforce",
        "roles": sorted(ROLES),
    }
    assert len(manifest["subject"]["digest"]) == len(manifest["subject"]["classifiers"]["words"]) == 64
    assert manifest["data"]["files"][0]["rows"] == 34
    assert manifest["data"]["sources"] == {"rows": {"bad": 11, "honest": 23}}
    assert manifest["data"]["labels"] == {"bad": ["harmful", "secret"], "honest": ["benign"]}
    assert manifest["machine"]["cores"] >= 1
    assert manifest["settings"]["seed"] == 0
    assert len(rows(out)) == 34
    assert "bath bomb" not in "".join((out / name).read_text("utf-8") for name in ("results.json", "report.html"))
    assert not any("text" in row for row in rows(out))


ROLES = [
    *("assistant", "error", "reasoning", "refusal", "setting", "system", "tool_call", "tool_definition", "tool_result"),
    "user",
]


def test_the_same_run_gives_the_same_figures(tmp_path: Path) -> None:
    found = []
    for name, workers in (("a", 1), ("b", 3)):
        assert penstock(ROWS, "--policy", POLICY, "--out", tmp_path / name, "--workers", workers).exit_code == 0
        results = json.loads((tmp_path / name / "results.json").read_text())
        del results["latency"]
        found.append((results, [{**row, "seconds": 0} for row in rows(tmp_path / name)]))
    assert found[0] == found[1]


def test_texts_are_kept_only_when_asked(tmp_path: Path) -> None:
    assert penstock(ROWS, "--policy", POLICY, "--out", tmp_path / "run", "--keep-texts").exit_code == 0
    assert "bath bomb" in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert rows(tmp_path / "run")[8]["text"] == "Which scent for a bath bomb?"


def test_one_classifier_is_measured(tmp_path: Path, graded: str) -> None:
    data = write(
        tmp_path / "x.jsonl",
        *[{"text": f"harmful=0.{at} injection=0.99 {at}", "label": "harmful"} for at in range(5, 9)],
        *[{"text": f"harmful=0.{at} {at}", "label": "benign"} for at in range(1, 6)],
        {"text": "injection_indirect=0.9", "label": "injection", "role": "document"},
        {"text": "injection=0.9", "label": "benign", "role": "document"},
    )
    done = penstock(data, "--policy", graded, "--classifier", "guard", "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["surfaces"]["user"]["ranking"]["score"]["auroc"] == 0.975  # one tie of twenty pairs
    assert found["surfaces"]["user"]["decisions"] == {}
    assert found["surfaces"]["tool_result"]["ranking"]["score"]["auroc"] == 1.0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["subject"]["labels"] == {"tool_result": ["injection_indirect"], "user": ["harmful"]}
    # By kind, with the findings named.
    done = penstock(
        *(data, "--classifier", "graded", "--finding", "injection", "--out", tmp_path / "other", "--json"),
    )
    assert json.loads(done.stdout)["surfaces"]["tool_result"]["ranking"]["score"]["auroc"] == 0.0


def test_failures_are_counted_and_are_no_passes(tmp_path: Path, graded: str) -> None:
    data = write(
        tmp_path / "x.jsonl",
        {"text": "harmful=0.9", "label": "harmful"},
        {"text": "!crash harmful=0.9", "label": "harmful"},
        {"text": "harmful=0.1", "label": "benign"},
        {"text": "!crash", "label": "benign"},
        {"text": "!wait", "label": "benign"},
    )
    done = penstock(data, "--policy", graded, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    assert "not fully judged, and in no ranking: 2 texts (guard: crash 2)" in done.stderr
    assert [row["action"] for row in rows(tmp_path / "a")] == ["block", "block", "pass", "block", "pass"]
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["surfaces"]["user"]["decisions"]["block"]["honest"]["k"] == 1
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["late"] == 1
    page = (tmp_path / "a" / "report.html").read_text("utf-8")
    assert "2 texts were not fully judged (guard: crash 2)" in page
    # With the policy's own deadlines, waiting is a failure too.
    assert penstock(data, "--policy", graded, "--out", tmp_path / "b", "--deadlines", "--workers", 1).exit_code == 0
    assert rows(tmp_path / "b")[4]["failures"] == ["guard: timeout"]
    assert rows(tmp_path / "b")[4]["action"] == "block"


def test_a_run_in_which_all_fails_is_none(tmp_path: Path, graded: str) -> None:
    data = write(tmp_path / "x.jsonl", {"text": "!crash", "label": "benign"}, {"text": "!crash b", "label": "harmful"})
    done = penstock(data, "--policy", graded, "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert "penstock: not one of 2 texts could be judged (guard: crash)" in done.stderr
    assert not (tmp_path / "run").exists()


def test_compare_says_what_changed(tmp_path: Path) -> None:
    stricter = (SMALL / "policy.yaml").read_text().replace("mode: shadow", "mode: enforce")
    (tmp_path / "stricter.yaml").write_text(stricter)
    for name, policy in (("a", POLICY), ("b", tmp_path / "stricter.yaml")):
        assert penstock(ROWS, "--policy", policy, "--out", tmp_path / name).exit_code == 0
    pair = ("--compare", tmp_path / "a", tmp_path / "b")
    done = penstock(*pair)
    assert done.exit_code == 1
    assert "only 34 rows are in both runs and 100 are wanted" in done.stderr
    done = penstock(*pair, "--min-common", 30)
    assert done.exit_code == 0, done.output
    assert "block: bad texts caught 50.0 % -> 75.0 % (+25.0 points): newly caught 2" in done.stdout
    assert "block: honest texts flagged 5.0 % -> 15.0 %" in done.stdout
    found = json.loads(penstock(*pair, "--min-common", 30, "--json").stdout)
    assert found["rows"]["common"] == 34
    assert found["surfaces"]["user"]["decisions"][0]["p"] == 0.5  # two coins


def test_a_folder_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert penstock(ROWS, "--policy", POLICY, "--out", out).exit_code == 0
    first = (out / "manifest.json").read_bytes()
    done = penstock(ROWS, "--policy", POLICY, "--out", out)
    assert (done.exit_code, "holds a run already" in done.stderr) == (1, True)
    assert (out / "manifest.json").read_bytes() == first
    assert penstock(ROWS, "--policy", POLICY, "--out", out, "--force", "--seed", 5).exit_code == 0
    assert (out / "manifest.json").read_bytes() != first
    (out / "mine.txt").write_text("mine")
    done = penstock(ROWS, "--policy", POLICY, "--out", out, "--force")
    assert (done.exit_code, "holds other files" in done.stderr) == (1, True)
    assert (out / "mine.txt").read_text() == "mine"


def test_a_policy_whose_rules_are_all_in_shadow(tmp_path: Path) -> None:
    """It decides nothing, which is said; the two runs can be compared."""
    shadow = POLICY_TEXT.replace("action: block\n", "action: block\n    mode: shadow\n")
    for name, text in (("shadow", shadow), ("enforced", POLICY_TEXT)):
        (tmp_path / f"{name}.yaml").write_text(text)
        done = penstock(ROWS, "--policy", tmp_path / f"{name}.yaml", "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        said = (
            "no rule of this policy stops, changes or notes a text, so there are no decisions to measure; 1 in shadow"
        )
        assert (said in done.stderr) is (name == "shadow")
        assert "user" in done.stdout
    assert "No rule of this policy stops" in (tmp_path / "shadow" / "report.html").read_text("utf-8")
    done = penstock("--compare", tmp_path / "shadow", tmp_path / "enforced", "--min-common", 30)
    assert done.exit_code == 0, done.output
    assert "acts: it decides and ranks nothing" in done.stdout
    assert "block: bad texts caught 0.0 % -> 50.0 %" in done.stdout


POLICY_TEXT = """
id: one
version: 1
owner: tests
description: One rule.
classifiers:
  words: {kind: patterns, patterns: {harmful: {words: [bomb]}}}
rules:
  - id: bombs
    description: A bomb in a request.
    stages: [input]
    when: {finding: words.harmful, at_least: 0.5}
    action: block
"""


def test_nothing_found_is_a_figure(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(POLICY_TEXT)
    data = write(tmp_path / "x.jsonl", *[{"text": f"hello {at}", "label": "benign"} for at in range(299)])
    done = penstock(data, "--policy", tmp_path / "one.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].split() == ["user", "block", "0", "299", *"–––", "0.0", "%", "1.00", "%"]


def test_halves_of_surrogates_cost_no_run(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(POLICY_TEXT)
    half = "\ud800\x1b[31m"
    rows = [
        {"text": f"bomb {half} {at}", "label": "harmful"} | dict.fromkeys(("id", "source", "category", "lang"), half)
        for at in range(60)
    ]
    for name, more in (("a", {"text": f"bomb {half}", "label": "harmful"}), ("b", rows[0] | {"source": "other"})):
        data = write(tmp_path / f"{name}.jsonl", *rows, more, {"text": "hello", "label": "benign"})
        done = penstock(data, "--policy", tmp_path / "one.yaml", "--out", tmp_path / name, "--keep-texts")
        assert done.exit_code == 0, done.output
        assert "\ufffd" in (tmp_path / name / "report.html").read_text("utf-8")


def test_no_name_from_the_data_gives_the_terminal_orders(tmp_path: Path) -> None:
    for name, word in (("a", "bomb"), ("b", "other")):
        (tmp_path / f"{name}.yaml").write_text(POLICY_TEXT.replace("[bomb]", f"[{word}]"))
        rows = [{"text": f"bomb {at}", "label": "harmful", "source": f"\x1b[3{at % 2}m"} for at in range(60)]
        data = write(tmp_path / "x.jsonl", *rows)
        done = penstock(data, "--policy", tmp_path / f"{name}.yaml", "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    done = penstock("--compare", tmp_path / "a", tmp_path / "b", "--min-common", 30)
    assert "\\x1b[30m (user): block: bad texts caught 100.0 % -> 0.0 %" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_label_that_is_too_long_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"text": "a", "label": 10**400}, {"text": "b", "label": 0})
    done = penstock(path, "--policy", POLICY, "--out", tmp_path / "run")
    assert (done.exit_code, "x.jsonl:1:1: the label is a number" in done.stderr) == (1, True)
    done = penstock(path, "--policy", POLICY, "--out", tmp_path / "run", "--skip-bad-rows")
    assert done.exit_code == 0, done.output
    assert "left out: unusable: the label is a number of more than 300 digits: 1 rows" in done.stderr


def test_families_are_told(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(POLICY_TEXT)
    rows = [{"text": f"hello {at}", "label": "benign", "family": "f"} for at in range(310)]
    done = penstock(write(tmp_path / "x.jsonl", *rows), "--policy", tmp_path / "one.yaml", "--out", tmp_path / "run")
    assert "95.0 %" in done.stdout  # of one family nothing but chance
    assert "the 310 texts are 1 families or single texts; bounds count those" in done.stderr


MISTAKES: list[tuple[list[str], int, str]] = [
    ([], 2, "name the data"),
    (["{data}", "--compare", "a", "b"], 2, "takes two runs, and no data"),
    (["--compare", "{tmp}/a", "{tmp}/b"], 1, "is no run of penstock eval"),
    (["{tmp}/nowhere.jsonl"], 1, "no such file or folder"),
    (["{data}", "--policy", "{tmp}/nowhere"], 1, "no such file, directory or pack"),
    (["{data}", "--policy", "{policy}", "--classifier", "wrods"], 1, "no classifier of"),
    (["{data}", "--policy", "{policy}", "--classifier", "words", "--finding", "x"], 1, "finds no 'x'"),
    (["{data}", "--policy", "{policy}", "--positive", "a", "--negative", "a"], 1, "'a' is named on two sides"),
    (
        ["{data}", "--policy", "{policy}", "--positive", "spam"],
        1,
        "label 'spam': no row has it; there are benign, harmful, secret",
    ),
    (["{data}", "--policy", "{policy}", "--sources", "x"], 1, "--sources x: no such source; there are rows"),
    (["{data}", "--policy", "{policy}", "--out", "{data}"], 1, "is a file"),
    (["{data}", "--limit", "0"], 2, "limit"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    given = [each.format(data=ROWS, tmp=tmp_path, policy=POLICY) for each in arguments]
    if "--out" not in given and "--compare" not in given:
        given += ["--out", str(tmp_path / "run")]
    done = penstock(*given)
    assert done.exit_code == code, done.output
    assert said in done.stderr.replace("\n│ ", "")
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    done = penstock(
        *(
            ROWS,
            "--policy",
            POLICY,
            "--out",
            tmp_path / "run",
            "--positive",
            "harmful",
            "--limit",
            20,
            "--sources",
            "row*",
        )
    )
    assert done.exit_code == 0, done.output
    assert "left out: label 'secret' left out: 3 rows" in done.stderr
    assert "left out: over --limit: 11 rows" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Where classifiers are slow, and where they are so quick that nothing ever waits."""
    quick = write(tmp_path / "quick.jsonl", *[{"text": f"x {at}", "label": "benign"} for at in range(60_000)])
    out = tmp_path / "run"
    # A shell starts what is in the background deaf to it.
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    run = hears + "from proxy.__main__ import main; sys.argv[0] = 'penstock'; main()"
    command = [sys.executable, "-c", run, "eval", str(quick), "--policy", POLICY, "--out", str(out)]
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        assert "60,000 texts" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert said.strip().endswith("penstock: interrupted; nothing was written")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["quick.jsonl"]
