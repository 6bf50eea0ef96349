"""`penstock calibrate --write` on policies that extend others, and what an interrupt leaves: all of it or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from policies import check as checks
from policies import judged
from policies.load import load
from proxy import teach_cli
from proxy.cli import app

HEAD = "id: {}\nversion: 1\nowner: o@example.com\ndescription: d\n"
BASE = (
    HEAD.format("base")
    + """\
classifiers:
  words:
    kind: patterns
    patterns: {alpha: {words: [alpha], score: 0.6}, beta: {words: [beta], score: 0.7}, gamma: {words: [gamma]}}
rules:
  - id: r-alpha
    description: d
    stages: [input]
    when: {finding: words.alpha, at_least: 0.5}
    action: block
  - id: r-beta   # of the second word
    description: d
    stages: [input]
    when: {finding: words.beta, at_least: 0.5}  # by guess
    action: block
"""
)
VARIANT = (
    HEAD.format("variant")
    + """\
extends: base
applies_to: {models: ["gpt-5*"]}
"""
)
OVERRIDE = "override:\n  rules:\n    r-beta: {when: {finding: words.beta, at_least: 0.4}}  # stricter\n"
GAMMA = """\
rules:
  - {id: r-gamma, description: d, stages: [input], when: {finding: words.gamma, at_least: 0.5}, action: block}
"""
CASES = "cases:\n  - {name: at the bound, text: x, scores: {words.beta: 0.5}, expect: {action: block, rule: r-beta}}\n"


def policies(folder: Path, **files: str) -> Path:
    place = folder / "policies"
    place.mkdir()
    for name, text in files.items():
        (place / f"{name}.yaml").write_text(text, "utf-8")
    return place


def contents(place: Path) -> dict[str, str]:
    return {file.name: file.read_text("utf-8") for file in sorted(place.iterdir())}


def calibrate(place: Path, *words: str, count: int = 700, said: str = "beta") -> Result:
    honest = place.parent / "honest.txt"
    honest.write_text("\n".join(f"text {n} " + (said if n < 30 else "hello") for n in range(count)), "utf-8")
    given = ["calibrate", str(place), "--honest", str(honest), "--max-honest-block", "0.5%", *words]
    return CliRunner().invoke(app, given)


def test_what_is_inherited_is_written_in_the_base(tmp_path: Path) -> None:
    place = policies(tmp_path, a=BASE, b=VARIANT + GAMMA + CASES)
    told = calibrate(place, "--write")
    assert told.exit_code == 0, told.output
    assert contents(place) == {
        "a.yaml": BASE.replace("beta, at_least: 0.5", "beta, at_least: 0.700001"),
        "b.yaml": VARIANT + GAMMA + CASES.replace("beta: 0.5", "beta: 0.700001"),
    }
    assert "moved with it: the case 'at the bound'" in told.stderr
    assert "no threshold moves" in calibrate(place, "--write").output


def test_what_is_overridden_is_written_where_it_is_overridden(tmp_path: Path) -> None:
    place = policies(tmp_path, a=BASE, b=VARIANT + OVERRIDE + GAMMA)
    told = calibrate(place, "--write")
    assert told.exit_code == 0, told.output
    assert "r-beta of variant (block" in told.output
    assert contents(place) == {
        "a.yaml": BASE.replace("beta, at_least: 0.5", "beta, at_least: 0.700001"),
        "b.yaml": VARIANT + OVERRIDE.replace("0.4", "0.700001") + GAMMA,
    }


def test_an_override_with_other_parts_is_a_rule_of_its_own(tmp_path: Path) -> None:
    """It was a traceback: operands could not be broadcast together."""
    many = ", ".join(f"{{finding: words.{name}, at_least: 0.5}}" for name in ("alpha", "gamma", "beta"))
    override = f"override:\n  rules:\n    r-beta: {{when: {{any: [{many}]}}}}\n"
    two = "when: {any: [{finding: words.beta, at_least: 0.5}, {finding: words.gamma, at_least: 0.5}]}"
    place = policies(tmp_path, a=BASE.replace("when: {finding: words.beta, at_least: 0.5}", two), b=VARIANT + override)
    told = calibrate(place, "--json")
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert (said["stopped"]["now"]["hits"], said["stopped"]["then"]["hits"]) == (30, 0)
    thens = {(each["policy"], each["rule"]): [part["then"] for part in each["thresholds"]] for each in said["rules"]}
    assert thens["base", "r-beta"] == [0.700001, 0.700001]
    assert len(thens["variant", "r-beta"]) == 3


def test_what_one_policy_needs_is_no_sum_of_another(tmp_path: Path) -> None:
    """The base's rule must move, the variant's looks for another word; 30 of 700 were told to be stopped after all."""
    override = "override:\n  rules:\n    r-beta: {when: {finding: words.gamma, at_least: 0.5}}\n"
    told = calibrate(policies(tmp_path, a=BASE, b=VARIANT + override))
    assert told.exit_code == 0
    assert "all rules that stop  30 of 700 (4.29%, at most 5.77%) -> 0 of 700" in told.output


def test_what_a_pack_has_is_said_and_the_rest_is_written(tmp_path: Path) -> None:
    word = "patterns: {beta: {words: [beta], score: 0.7}}"
    mine = HEAD.format("mine") + f"extends: privacy\nclassifiers:\n  words: {{kind: patterns, {word}}}\n"
    mine += GAMMA.replace("gamma", "beta")
    place = policies(tmp_path, mine=mine)
    told = calibrate(place, "--write", "--max-honest-log", "0.5%", said="beta, or call +44 20 7946 0958,")
    assert told.exit_code == 1
    note = next(line for line in told.output.splitlines() if "shipped pack 'privacy': write by hand override" in line)
    assert contents(place) == {"mine.yaml": mine.replace("at_least: 0.5", "at_least: 0.700001")}
    patch = note.partition("by hand ")[2]
    (place / "mine.yaml").write_text(contents(place)["mine.yaml"] + patch + "\n", "utf-8")
    assert load(str(place))


def test_expressions_and_rules_without_a_score_are_told_apart(tmp_path: Path) -> None:
    rules = """\
  - {id: r-not, description: d, stages: [input], action: block,
     when: 'score("words.beta") >= 0.5 && !(score("words.alpha") >= 0.5)'}
  - {id: r-never, description: d, stages: [input], action: block,
     when: 'score("words.gamma") >= 0.5 && request.model == "never"'}
  - {id: r-rest, description: d, stages: [input], action: block, when: 'account.history["tries"] >= 3'}
"""
    base = BASE[: BASE.index("  - id: r-beta")] + rules
    told = calibrate(policies(tmp_path, a=base), said="alpha beta gamma")
    assert told.exit_code == 1
    lines = [line.strip() for line in told.output.splitlines()]
    assert "honest     0 of 700" in lines[lines.index("r-not (block, enforce, budget 0.50%)") + 2]
    never = lines.index("r-never (block, enforce, budget 0.50%)")
    assert "honest     0 of 700" in lines[never + 2]
    assert "INFEASIBLE" in lines[never + 3]
    assert "in another it may fire on 30 of these texts" in lines[never + 3]
    assert "rules without a score, asked as of a plain request: r-rest" in lines
    assert lines[-2].startswith("all rules that stop  30 of 700 (4.29%, at most 5.77%) -> 0 of 700")


# What is left where it does not come to an end ------------------------------------------------------------------------


def test_nothing_is_written_before_the_cases_have_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that follows the files must not see what fails its own cases."""
    place = policies(tmp_path, a=BASE + "cases:\n  - {name: beta, text: say beta, expect: {action: block}}\n")
    before, seen = contents(place), []
    real: Callable[..., checks.CheckResult] = checks.check

    def watched(*given: object, **more: object) -> checks.CheckResult:
        result = real(*given, **more)
        seen.append(contents(place))
        return result

    monkeypatch.setattr(checks, "check", watched)
    told = calibrate(place, "--write")
    assert told.exit_code == 1
    assert "its own cases fail with these thresholds; nothing was changed" in told.output
    assert "expected block, decided pass" in told.output
    assert seen == [before]
    assert contents(place) == before


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (MemoryError, 1), (OSError(28, "full"), 1)])
def test_what_comes_between_leaves_the_files_as_they_were(
    raised: type[BaseException] | BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = policies(tmp_path, a=BASE, b=VARIANT + OVERRIDE)
    before = contents(place)

    def stopped(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(checks, "check", stopped)
    told = calibrate(place, "--write")
    assert told.exit_code == code
    assert ("interrupted; nothing was written" in told.output) is (code == 130)
    assert contents(place) == before


@pytest.mark.parametrize("when", ["judged", "checked"])
@pytest.mark.parametrize("name", ["a.yaml", "b.yaml", "c.yaml"])
def test_what_somebody_saves_meanwhile_is_left(
    when: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the file that is to be written, in another one, in a new one; while texts are judged and while cases run."""
    place = policies(tmp_path, a=BASE, b=VARIANT + GAMMA)
    module, of = (judged, "judge") if when == "judged" else (checks, "check")
    real, new = getattr(module, of), contents(place).get(name, "") + "# saved by a colleague\n"

    def saved(*given: object, **more: object) -> object:
        found = real(*given, **more)
        (place / name).write_text(new, "utf-8")
        return found

    monkeypatch.setattr(module, of, saved)
    expected = contents(place) | {name: new}
    told = calibrate(place, "--write")
    assert told.exit_code == 1
    said = "changed meanwhile, by somebody else; nothing was written: calibrate again"
    assert f"penstock: {place / name}: {said}" in told.output
    assert contents(place) == expected


def test_what_somebody_saves_over_ours_is_not_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"one")
    real = teach_cli.write

    def write(path: Path, raw: bytes) -> None:
        if path == other:
            one.write_bytes(b"a colleague's")
            raise OSError(28, "No space left on device")
        real(path, raw)

    monkeypatch.setattr(teach_cli, "write", write)
    with pytest.raises(OSError, match="No space"):
        teach_cli.write_all({one: b"ours", other: b"ours"})
    assert one.read_bytes() == b"a colleague's"


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(28, "No space left on device", "b.yaml")])
def test_files_are_written_all_or_none(
    after: int, raised: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = policies(tmp_path, a=BASE, b=VARIANT + OVERRIDE)
    before = contents(place)
    broken(monkeypatch, after, raised)
    told = calibrate(place, "--write")
    assert told.exit_code in {1, 130}
    assert "written: " not in told.output
    assert contents(place) == before


def broken(monkeypatch: pytest.MonkeyPatch, after: int, raised: BaseException, always: bool = False) -> None:
    """Something comes between once this many files are in place."""
    count, real = 0, os.replace

    def replace(source: str, target: Path) -> None:
        nonlocal count
        if always and count >= after:
            raise raised
        real(source, target)
        count += 1
        if count == after:
            raise raised

    monkeypatch.setattr(os, "replace", replace)


def test_a_file_that_cannot_be_put_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = policies(tmp_path, a=BASE, b=VARIANT + OVERRIDE)
    broken(monkeypatch, 1, OSError(5, "Input/output error", "a.yaml"), always=True)
    told = calibrate(place, "--write")
    assert told.exit_code == 1
    assert f"{place / 'a.yaml'}: written, and cannot be put back as it was; restore it by hand" in told.stderr
    assert "b.yaml" not in told.stderr


@pytest.mark.parametrize("there", [None, b"an older head"])
def test_an_interrupted_head_is_not_there(there: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = tmp_path / "heads" / "x.json"
    if there is not None:
        head.parent.mkdir()
        head.write_bytes(there)
    broken(monkeypatch, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        teach_cli.write_all({head: b"a new head"})
    assert (head.read_bytes() if head.exists() else None) == there
    teach_cli.write_all({head: b"a new head"})
    assert head.read_bytes() == b"a new head"
    assert [file.name for file in head.parent.iterdir()] == ["x.json"]
