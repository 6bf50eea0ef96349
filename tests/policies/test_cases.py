"""Files that load, and the cases beside their rules."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from classifiers.readings import READINGS
from policies.case_form import Reading
from policies.cases import Outcome
from policies.check import CheckResult, check
from policies.load import PolicyError, load
from policies.model import Action

pytestmark = pytest.mark.usefixtures("words_only")

POLICY = """\
id: demo
version: 1
owner: tests
description: Everything that a file may hold.
classifiers:
  fast: {kind: words}
  slow: {kind: words, inline: false}
rules:
  - id: fast-mark
    description: The word MARK is blocked where it comes from outside.
    stages: [input]
    roles: [user, tool_result]
    when: {finding: fast.mark, at_least: 0.5}
    action: block
  - id: slow-other
    description: The word OTHER is masked in answers.
    stages: [output]
    when: {any: [{finding: "slow.*", at_least: 0.5}]}
    action: mask
    stream: {hold_back: 5}
    mask_with: "<{label}>"
cases:
  - {name: stopped, text: a MARK b, expect: {action: block, rule: fast-mark}}
  - {name: harmless, text: a b, expect: {action: pass}}
  - name: not in the words of the system
    messages: [{role: system, text: MARK}, {role: user, text: hello}]
    expect: {action: pass}
  - name: but in the words of the user after it
    messages: [{role: system, text: hello}, {role: user, text: MARK}]
    expect: {action: block, rule: fast-mark}
  - {name: silence stops, text: a b, failed: [fast], expect: {action: block, rule: fast-mark}}
  - {name: as if, stage: output, text: a b, scores: {slow.mark: 0.5}, expect: {action: mask, rule: slow-other}}
  - {name: as if nearly, stage: output, text: a b, scores: {slow.mark: 0.49}, expect: {action: pass}}
  - {name: slow, stage: output, text: an OTHER b, expect: {action: mask, rule: slow-other}}
"""


def checked(tmp_path: Path, text: str, live: bool = False) -> CheckResult:
    file = tmp_path / "demo.yaml"
    file.write_text(text, encoding="utf-8")
    return check(str(file), live=live)


def test_all_cases_pass_live_and_the_slow_one_is_skipped_otherwise(tmp_path: Path) -> None:
    live = checked(tmp_path, POLICY, live=True)
    assert live.lines()[:-1] == []
    assert [case.outcome for case in live.cases] == [Outcome.PASSED] * 8
    quick = checked(tmp_path, POLICY)
    assert quick.ok
    assert quick.skipped == 1
    assert quick.policy is not None
    line = POLICY[: POLICY.index("{name: slow,")].count("\n") + 1
    assert quick.lines() == [
        f"{tmp_path}/demo.yaml:{line}:5: case 'slow' skipped: needs slow: run with --live, or give 'scores'",
        f"{tmp_path}/demo.yaml: revision {quick.policy.revision}: 1 policy, 2 rules, cases: 7 passed, 1 skipped",
    ]


STOPPED = "text: a MARK b, expect: {action: block, rule: fast-mark}"
WRONG = [
    ("text: a b, expect: {action: pass}", "text: MARK, expect: {action: pass}", "expected pass, decided block"),
    ("text: a MARK b", "text: a b", "expected block by rule 'fast-mark', decided pass; fired: none; seen: nothing"),
    ("slow.mark: 0.5}", "slow.mark: 0.4}", "decided pass; fired: none; seen: slow.mark 0.40"),
    (STOPPED, STOPPED.replace("fast-mark", "slow-other"), "fired: 'fast-mark' (block)"),
    ("[fast], expect: {action: block", "[fast], expect: {action: log", "'fast-mark' (block, not evaluated)"),
    ("fast: {kind: words}", "fast: {kind: words, crash: true}", "not evaluated"),
]


@pytest.mark.parametrize(("before", "after", "told"), WRONG)
def test_a_case_that_fails_says_what_was_seen(tmp_path: Path, before: str, after: str, told: str) -> None:
    assert before in POLICY
    result = checked(tmp_path, POLICY.replace(before, after, 1))
    assert not result.ok
    assert any(told in line and "demo.yaml:" in line for line in result.lines())


BOTH = """\
id: demo
version: 1
owner: tests
description: A fast and a slow classifier on one stage.
classifiers:
  fast: {{kind: words}}
  slow: {{kind: words, inline: false}}
rules:
  - {{id: f, description: d, stages: [input], when: {{finding: fast.mark, at_least: 0.5}}, action: {fast}}}
  - {{id: s, description: d, stages: [input], when: {{finding: slow.other, at_least: 0.5}}, action: {slow}}}
cases:
  - {{name: c, text: {text}, expect: {{action: {expect}}}}}
"""
CERTAIN = [
    ("block", "block", "MARK", "block", "passed"),
    ("log", "block", "MARK", "log", "skipped"),
    ("mask", "log", "MARK", "mask", "passed"),
    ("mask", "mask", "MARK", "mask", "skipped"),
    ("block", "log", "MARK", "pass", "failed"),
    ("block", "block", "nothing", "pass", "skipped"),
    ("block", "pass", "nothing", "pass", "passed"),
]


@pytest.mark.parametrize(("fast", "slow", "text", "expect", "outcome"), CERTAIN)
def test_without_slow_classifiers_only_what_is_certain_is_told(
    tmp_path: Path, fast: str, slow: str, text: str, expect: str, outcome: str
) -> None:
    result = checked(tmp_path, BOTH.format(fast=fast, slow=slow, text=text, expect=expect))
    assert [case.outcome.value for case in result.cases] == [outcome], result.lines()


def test_case_texts_are_not_told(tmp_path: Path) -> None:
    result = checked(tmp_path, POLICY.replace("text: a MARK b", "text: hush-hush", 1))
    assert not result.ok
    assert "hush" not in "\n".join(result.lines())


def test_a_directory_is_one_set(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(POLICY, encoding="utf-8")
    other = POLICY.split("cases:", maxsplit=1)[0].replace("id: demo", "id: another")
    for name in ("fast-mark", "slow-other"):
        other = other.replace(f"id: {name}", f"id: {name}-2")
    (tmp_path / "a.yml").write_text(other, encoding="utf-8")
    (tmp_path / ".hidden.yaml").write_text("not: [a policy", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not: [a policy", encoding="utf-8")
    ready = load(str(tmp_path))
    assert [policy.id for policy in ready.policies] == ["another", "demo"]
    assert sorted(ready.classifiers) == ["fast", "slow"]
    assert ready.places["demo", "rules", 1] == f"{tmp_path}/b.yaml:15:5"


def test_revision_ignores_what_no_reader_of_the_policy_would_see(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    revisions = []
    for text in (
        POLICY,
        "# a comment\n" + POLICY.replace("at_least: 0.5", "at_least:   5.0e-1"),
        POLICY.replace("0.5", "0.6"),
    ):
        file.write_text(text, encoding="utf-8")
        revisions.append(load(str(file)).revision)
    assert revisions[0] == revisions[1] != revisions[2]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY, encoding="utf-8")
    plain = load(str(file)).digest
    file.write_bytes(b"\xef\xbb\xbf" + POLICY.replace("\n", "\r\n").encode())
    assert load(str(file)).digest == plain


def test_words_that_yaml_1_1_reads_as_booleans_are_words(tmp_path: Path) -> None:
    off = POLICY.replace("    action: block\n", "    action: block\n    mode: off\n").split("cases:")[0]
    result = checked(tmp_path, off + "cases:\n  - {name: off, text: MARK, expect: {action: pass}}\n")
    assert result.lines()[:-1] == []
    assert result.cases[0].decision is not None
    assert result.cases[0].decision.action is Action.PASS


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").mkdir()
    with pytest.raises(PolicyError, match=r"p\.yaml: a directory in place of a policy file"):
        load(str(tmp_path))


CASCADE = """\
id: demo
version: 1
owner: tests
description: One is asked after another.
classifiers:
  dear:
    kind: words
    words: {mark: MARK}
    after: {classifier: cheap, labels: [other], band: [0.5, 1.0]}
  cheap: {kind: words}
rules:
  - id: dear-mark
    description: The word MARK is blocked where OTHER left doubt.
    stages: [input]
    when: {finding: dear.mark, at_least: 0.5}
    action: block
cases:
  - {name: sure, text: MARK, expect: {action: pass}}
  - {name: in doubt, text: OTHER MARK, expect: {action: block, rule: dear-mark}}
  - {name: one of two, messages: [{role: user, text: OTHER}, {role: user, text: MARK}], expect: {action: pass}}
  - {name: no answer, text: MARK, failed: [cheap], expect: {action: block, rule: dear-mark}}
  - {name: as if, text: x, scores: {dear.mark: 0.9}, expect: {action: block}}
"""


def test_cases_ask_one_after_another(tmp_path: Path) -> None:
    result = checked(tmp_path, CASCADE)
    assert result.ok, result.lines()
    assert {case.outcome for case in result.cases} == {Outcome.PASSED}
    crashing = CASCADE.replace("cheap: {kind: words}", "cheap: {kind: words, crash: true}")
    assert [case.name for case in checked(tmp_path, crashing).cases if case.outcome is Outcome.FAILED] == [
        "sure",
        "one of two",
    ]


def test_who_waits_for_a_slow_one_is_slow(tmp_path: Path) -> None:
    slow = CASCADE.replace("cheap: {kind: words}", "cheap: {kind: words, inline: false}")
    skipped = [case for case in checked(tmp_path, slow).cases if case.outcome is Outcome.SKIPPED]
    assert [case.name for case in skipped] == ["sure", "in doubt", "one of two"]
    assert "cheap" in skipped[0].why
    assert checked(tmp_path, slow, live=True).ok


HIDDEN = """\
id: demo
version: 1
owner: tests
description: A word counts only where it was hidden.
classifiers:
  seen: {kind: words, readings: [plain, leet, decoded]}
rules:
  - id: hidden
    description: What is found in %s.
    stages: [input]
    when: score("seen.mark", "%s") >= 0.5
    action: block
cases:
  - {name: one, text: x, scores: {seen.mark: %s}, expect: {action: %s}}
"""


@pytest.mark.parametrize(
    ("asked", "mocked", "action"),
    [
        ("leet", "{score: 0.5, reading: leet}", "block"),
        ("leet", "{score: 0.4, reading: leet}", "pass"),
        ("leet", "{score: 1, reading: decoded}", "pass"),
        ("leet", "1", "pass"),
        ("disguised", "{score: 1, reading: decoded}", "block"),
        ("disguised", "1", "pass"),
    ],
)
def test_a_score_is_found_in_the_reading_that_a_case_says(asked: str, mocked: str, action: str, tmp_path: Path) -> None:
    (case,) = checked(tmp_path, HIDDEN % (asked, asked, mocked, action)).cases
    assert case.outcome is Outcome.PASSED, str(case)


def test_a_case_may_name_every_reading_and_no_other() -> None:
    assert set(get_args(Reading)) == set(READINGS)
