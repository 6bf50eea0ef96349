"""Everything that `penstock check` knows: is this set well written, and does it keep its own promises?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cases import CaseResult, Outcome, run_cases
from .document import PolicyError, Problem, read
from .engine import PolicySet
from .lint import Grade, Notice, lint, placed
from .load import load, sources

_COMMENT = re.compile(rb"\S[ \t]+#[^\s#]")
"""A comment behind something that is not written like one: only then a file is read again to look closer."""
_FEW = 3
"""Cases that are told one by one."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`policy` is None where there are problems; then no case was run. `notices` are empty unless they were asked
    for."""

    source: str
    policy: PolicySet | None
    problems: tuple[Problem, ...] = ()
    cases: tuple[CaseResult, ...] = ()
    notices: tuple[tuple[Notice, Problem], ...] = ()

    @property
    def ok(self) -> bool:
        """No problem, no notice of the grade error, and no case failed. Skipped cases do not count: `skipped` says how
        many there were."""
        wrong = any(notice.grade is Grade.ERROR for notice, _ in self.notices)
        return not self.problems and not wrong and all(case.outcome is not Outcome.FAILED for case in self.cases)

    @property
    def skipped(self) -> int:
        return sum(case.outcome is Outcome.SKIPPED for case in self.cases)

    def lines(self) -> list[str]:
        """One line for each problem, notice and case that did not pass, then a summary."""
        lines = [str(problem) for problem in self.problems]
        lines += [f"{problem.place}: {each.grade}: {problem.said} [{each.id}]" for each, problem in self.notices]
        lines += [f"{place}: {said}" for place, _, said in self.told()]
        return [*lines, self.summary()]

    def told(self) -> list[tuple[str, Outcome, str]]:
        """(place, outcome, words) of the cases that did not pass: those that failed, then those that were skipped, of
        which many in one file for one reason are told together."""
        said: list[tuple[str, Outcome, str]] = [
            (case.place, case.outcome, str(case)) for case in self.cases if case.outcome is Outcome.FAILED
        ]
        skipped: dict[tuple[str, str], list[CaseResult]] = {}
        for case in self.cases:
            if case.outcome is Outcome.SKIPPED:
                skipped.setdefault((case.place.rsplit(":", 2)[0], case.why), []).append(case)
        for (file, why), cases in skipped.items():
            if len(cases) > _FEW:
                said.append((file, Outcome.SKIPPED, f"{len(cases)} cases skipped: each {why}"))
            else:
                said += [(case.place, case.outcome, str(case)) for case in cases]
        return said

    def summary(self) -> str:
        """The last line."""
        if self.policy is None:
            return f"{self.source}: {_many(len(self.problems), 'problem')}"
        count = Counter(case.outcome for case in self.cases)
        policies, rules = len(self.policy.policies), len(self.policy.rules)
        told = ", ".join(f"{count[outcome]} {outcome}" for outcome in Outcome if count[outcome]) or "none"
        sizes = f"{policies} {'policy' if policies == 1 else 'policies'}, {_many(rules, 'rule')}"
        grades = Counter(notice.grade for notice, _ in self.notices)
        noted = "".join(f", {_many(grades[grade], grade.value)}" for grade in Grade if grades[grade])
        return f"{self.source}: revision {self.policy.revision}: {sizes}, cases: {told}{noted}"


def check(
    path_or_pack: str, live: bool = False, linted: bool = False, instead: Mapping[str, bytes] | None = None
) -> CheckResult:
    """Loads the set and runs its cases; `live` opens and asks slow classifiers too, `linted` looks for likely mistakes,
    `instead` is as `load` has it: what is to be written is checked before it is. Raises nothing for what an author
    wrote.
    """
    try:
        policy = load(path_or_pack, live, instead)
        notices = _notices(policy, sources(path_or_pack, instead)) if linted else ()
    except PolicyError as error:
        return CheckResult(path_or_pack, None, error.problems)
    return CheckResult(path_or_pack, policy, (), tuple(run_cases(policy, live)), notices)


def _notices(policy: PolicySet, files: Sequence[tuple[str, bytes]]) -> tuple[tuple[Notice, Problem], ...]:
    """Files are read a second time, for the places, only where there may be something to show."""
    notices = lint(policy)
    remarked = [(name, raw) for name, raw in files if _COMMENT.search(raw)]
    read_again = {name: read(raw, name) for name, raw in (files if notices else remarked)}
    documents = {str(each.value.get("id")): each for each in read_again.values() if isinstance(each.value, dict)}
    found = placed(notices, documents)
    for owner, document in documents.items():
        for each in document.remarks:
            found.append((Notice("comment", Grade.WARNING, owner, (), each.what, each.mend), each))
    return tuple(sorted(found, key=lambda pair: (pair[1], pair[0].id)))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
