"""Everything that `penstock check` knows: is this set well written, and does it keep its own promises?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .cases import CaseResult, Outcome, run_cases
from .document import PolicyError, Problem
from .engine import PolicySet
from .load import load


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`policy` is None where there are problems; then no case was run."""

    source: str
    policy: PolicySet | None
    problems: tuple[Problem, ...] = ()
    cases: tuple[CaseResult, ...] = ()

    @property
    def ok(self) -> bool:
        """No problem, and no case failed. Skipped cases do not count: `skipped` says how many there were."""
        return not self.problems and all(case.outcome is not Outcome.FAILED for case in self.cases)

    @property
    def skipped(self) -> int:
        return sum(case.outcome is Outcome.SKIPPED for case in self.cases)

    def lines(self) -> list[str]:
        """One line for each problem and for each case that did not pass, then a summary."""
        lines = [str(problem) for problem in self.problems]
        lines += [
            f"{case.place}: case '{case.name}' {case.outcome}: {case.why}"
            for case in self.cases
            if case.outcome is not Outcome.PASSED
        ]
        return [*lines, self.summary()]

    def summary(self) -> str:
        """The last line."""
        if self.policy is None:
            return f"{self.source}: {_many(len(self.problems), 'problem')}"
        count = Counter(case.outcome for case in self.cases)
        policies, rules = len(self.policy.policies), len(self.policy.rules)
        told = ", ".join(f"{count[outcome]} {outcome}" for outcome in Outcome if count[outcome]) or "none"
        sizes = f"{policies} {'policy' if policies == 1 else 'policies'}, {_many(rules, 'rule')}"
        return f"{self.source}: revision {self.policy.revision}: {sizes}, cases: {told}"


def check(path_or_pack: str, live: bool = False) -> CheckResult:
    """Loads the set and runs its cases; `live` asks slow classifiers too. Raises nothing for what an author
    wrote.
    """
    try:
        policy = load(path_or_pack)
    except PolicyError as error:
        return CheckResult(path_or_pack, None, error.problems)
    return CheckResult(path_or_pack, policy, (), tuple(run_cases(policy, live)))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
