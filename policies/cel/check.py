"""Everything that is wrong with a rule's condition, at all of its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..model import Action, Rule
from .condition import Condition, Flaw, NoCondition, Spoken, compiled
from .constant import constants

Unknown = Callable[[Spoken], tuple[str, str] | None]


def flaws(rule: Rule, unknown: Unknown) -> list[Flaw]:
    """The mistakes in `rule.when`, sorted by place; the same at two stages is told once. `unknown` says what is wrong
    with a finding that is named, and the mend."""
    assert isinstance(rule.when, str)
    found: set[Flaw] = set()
    for stage in rule.stages:
        try:
            condition = compiled(rule.when, stage, frozenset(rule.roles))
        except NoCondition as error:
            found.update(error.flaws)
        else:
            found.update(_flaws(rule, condition, unknown))
    return sorted(found)


def _flaws(rule: Rule, condition: Condition, unknown: Unknown) -> Iterator[Flaw]:
    wrong = [(each.at, problem) for each in condition.spoken if (problem := unknown(each))]
    for at, (what, mend) in wrong:
        yield Flaw(at, what, mend)
    yield from constants(condition)
    if rule.action is Action.MASK and not condition.shown:
        what = "a rule that masks must say what is to be masked"
        yield Flaw(0, what, 'add && score("classifier.label") >= 0.8')
