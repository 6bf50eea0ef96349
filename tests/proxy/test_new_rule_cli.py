"""`penstock new-rule`: it holds, and nothing beside it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from policies.check import check
from policies.document import read
from policies.scaffold import ScaffoldError, added, begun, rule_of
from proxy.cli import app

POLICY = """\
# The head of the file.
id: demo
version: 1   # it grows
owner: tests
description: >-
  Folded
  words.
classifiers:
    words: {kind: patterns, patterns: {codename: {words: [bluebird]}}}

# What the rules are about.
rules:
- id: codename   # the first
  description: The code name is blocked.
  stages: [input]
  when: {finding: words.codename, at_least: 0.5}
  action: block
  on_error: block

  # a thought inside


# Cases below.
cases:
  - {name: stopped, text: the bluebird, expect: {action: block, rule: codename}}
  - {name: harmless, text: the bird, expect: {action: pass}}
"""


def run(*args: object) -> Result:
    result = CliRunner().invoke(app, ["new-rule", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_everything_else_stays(tmp_path: Path, newline: str) -> None:
    file = tmp_path / "demo.yaml"
    file.write_bytes(POLICY.replace("\n", newline).encode())
    told = run(
        file, "falcon", "--word", "Project Falcon", "--action", "mask", "--stage", "output",
        "--stop", "It is Project Falcon.", "--pass", "It is a falcon.",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    made = file.read_bytes().decode()
    assert "\r" not in made.replace("\r\n", "") if newline == "\r\n" else "\r" not in made
    kept = iter(made.splitlines())
    assert all(line in kept for line in POLICY.splitlines())  # each old line, in the old order
    result = check(str(file), live=True, linted=True)
    assert result.ok, result.lines()
    assert result.policy is not None
    assert [rule.id for rule in result.policy.rules] == ["codename", "falcon"]
    assert [case.name for case in result.cases] == ["stopped", "harmless", "falcon fires 1", "falcon lets pass 1"]
    assert made.index("# a thought inside") < made.index("id: falcon") < made.index("# Cases below.")


def test_a_file_from_nothing(tmp_path: Path) -> None:
    file = tmp_path / "My Rules.yaml"
    told = run(file, "harm", "--finding", "gard.harmful", "--at-least", "0.9", "--action", "block")
    assert told.exit_code == 1
    assert "no classifier is called 'gard'" in told.output
    assert not file.exists()
    told = run(file, "falcon", "--word", "falcon", "--word", "peregrine", "--action", "block", "--role", "tool_result")
    assert told.exit_code == 0, told.output
    result = check(str(file))
    assert result.ok, result.lines()
    assert result.policy is not None
    assert result.policy.policies[0].id == "my-rules"
    assert len(result.cases) == 2


def test_classifiers_of_the_packs_need_not_be_defined(tmp_path: Path) -> None:
    """A threshold may be a share, and the classifier is defined once."""
    file = tmp_path / "mine.yaml"
    for rule, finding in (("mail", "pii.email"), ("card", "pii.card")):
        told = run(file, rule, "--finding", finding, "--at-least", "80%", "--action", "mask")
        assert told.exit_code == 0, told.output
    policy = check(str(file)).policy
    assert policy is not None
    assert [(name, spec.kind) for name, spec in policy.policies[0].classifiers.items()] == [("pii", "pii")]
    assert all(rule.conditions[0][0].at_least == 0.8 for rule in policy.rules)


def test_what_would_not_hold_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(POLICY)
    for arguments, word in (
        (["codename", "--word", "x"], "already: choose another id"),
        (["x", "--word", "falcon", "--stop", "nothing like it"], "failed"),
        (["x", "--word", "bluebird", "--action", "log", "--stop", "a bluebird"], "decided block"),
        (["x", "--finding", "words.none", "--at-least", "0.5"], "finds no 'none'"),
        (["x", "--finding", "words.codename", "--at-least", "90"], "for 90 % write 0.9"),
        (["My Rule", "--finding", "words.codename", "--at-least", "0.5"], "write my-rule"),
        (["x", "--finding", "words.codename"], "--at-least"),
        (["x"], "--finding"),
        ([], "the rule's ID"),
        (["x", "--taught", tmp_path / "none.json"], "No such file"),
        (["x", "--taught", file], "not a head"),
    ):
        told = run(file, *arguments)
        assert told.exit_code == 1, (arguments, told.output)
        assert word in told.output, (arguments, told.output)
        assert file.read_text() == POLICY
    for option, said, word in (
        ("--action", "blok", "did you mean 'block'"),
        ("--action", "deny", "write block"),
        ("--stage", "outputs", "did you mean 'output'"),
        ("--role", "tool", "write tool_result"),
    ):
        told = run(file, "x", "--finding", "words.codename", "--at-least", "0.5", option, said)
        assert told.exit_code == 2, (option, told.output)
        assert word in told.output, (option, told.output)
        assert file.read_text() == POLICY
    told = run(file, "x", "--word", "falcon", "--print")
    assert told.exit_code == 0
    assert "id: x" in told.output
    assert file.read_text() == POLICY


@pytest.mark.parametrize("block", ["rules: [{id: a}]\n", "{id: x, rules: [{id: a}]}\n", "rules: [\n{id: a}]\n"])
def test_brackets_are_not_added_to(block: str) -> None:
    with pytest.raises(ScaffoldError):
        added(block.encode(), "f.yaml", {"rules": [{"id": "b"}]})


def test_what_is_there_already_is_named() -> None:
    made = added(
        begun("x", "o", "d"), "f", {"rules": [{"id": "r"}], "classifiers": [("r-words", {"kind": "patterns"})]}
    )
    with pytest.raises(ScaffoldError, match="a rule 'r' already: choose another id"):
        added(made, "f", {"rules": [{"id": "r"}]})
    with pytest.raises(ScaffoldError, match="a classifier 'r-words' already"):
        added(made, "f", {"classifiers": [("r-words", {"kind": "patterns"})]})


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
values = st.recursive(
    st.one_of(texts, st.integers(-5, 5), st.booleans(), st.floats(0, 1).map(lambda x: round(x, 3))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.text("abc", min_size=1, max_size=3), values, min_size=1, max_size=3), min_size=1))
def test_any_entry_is_read_back_or_refused(entries: list[dict[str, object]]) -> None:
    base = begun("x", "o", "d")
    try:
        made = added(added(base, "f", {"cases": entries}), "f", {"cases": entries})
    except ScaffoldError:
        return
    assert read(made, "f").value["cases"] == [*entries, *entries]


def test_a_rule_of_several_findings() -> None:
    rule = rule_of("r", "d", [(["a.x", "a.y"], 0.5), (["b.z"], 0.9)], stages=["input"], action="log")
    made = added(begun("x", "o", "d"), "f", {"rules": [rule]}).decode()
    assert "when: {any: [{finding: [a.x, a.y], at_least: 0.5}, {finding: b.z, at_least: 0.9}]}" in made


@pytest.mark.parametrize(
    "blocks",
    [
        "rules: []\n",
        "rules: []\ncases: []\n",
        "classifiers:\n  pii: {kind: pii}\nrules:\n  - {id: a, description: d, stages: [input], "
        "when: {finding: pii.card, at_least: 0.5}, action: log}\n",
        "cases: []\nrules: []\n",
        "",
    ],
    ids=["no rule", "no rule and no case", "no case", "cases first", "nothing"],
)
def test_blocks_that_are_not_there_yet_are_written_behind_the_others(tmp_path: Path, blocks: str) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(f"id: demo\nversion: 1\nowner: tests\ndescription: d\n{blocks}# the end\n")
    told = run(file, "falcon", "--word", "Project Falcon", "--action", "log")
    assert told.exit_code == 0, told.output
    value = read(file.read_bytes(), file.name).value
    assert [rule["id"] for rule in value["rules"]][-1] == "falcon"
    assert "falcon-words" in value["classifiers"]
    assert len(value["cases"]) == 2
    assert "# the end" in file.read_text()
