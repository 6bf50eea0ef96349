"""What rules' expressions ask, as far as a record can answer them."""

from __future__ import annotations

from .model import Rule, Stage
from .ready import PolicySet


def read_as(policies: PolicySet, stage: Stage) -> frozenset[str]:
    """The findings that a stage's rules ask for in some reading of a text."""
    tests = policies.tables[stage].tests
    return frozenset(
        f"{classifier}.{label}"
        for classifier, labels in tests.items()
        for label, (_, row) in labels.items()
        if any(test.reading for test in row)
    )


def among(name: str, named: frozenset[str]) -> bool:
    """Whether a finding is one of these, of which some end with ".*"."""
    return name in named or f"{name.partition('.')[0]}.*" in named


def answered(rule: Rule, stage: Stage, unasked: set[str], blind: bool) -> bool:
    """Whether a rule's expression asks only for scores, and for those that are known; `blind`: no readings are."""
    from .cel.condition import compiled

    assert isinstance(rule.when, str)
    condition = compiled(rule.when, stage, frozenset(rule.roles))
    if blind and any(each.reading for each in condition.spoken):
        return False
    return not named(rule, stage) & unasked and _scores_only(condition.root)


def named(rule: Rule, stage: Stage) -> set[str]:
    """The classifiers that an expression names."""
    from .cel.condition import compiled

    assert isinstance(rule.when, str)
    return {each.finding.partition(".")[0] for each in compiled(rule.when, stage, frozenset(rule.roles)).spoken}


def _scores_only(part: object) -> bool:
    from .cel.parts import Constant, Score

    if isinstance(part, Constant | Score):
        return True
    # Not, Both, Either and Choice hold parts; a fact, a count and a sequence hold none.
    inner = [value for name in _INNER if (value := getattr(part, name, None)) is not None]
    return bool(inner) and all(map(_scores_only, inner))


_INNER = ("of", "asked", "one", "other")
"""Where parts of an expression hold other parts."""
