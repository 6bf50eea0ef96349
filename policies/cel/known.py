"""What is known of a condition's parts while a decision falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from classifiers.base import Finding, Message, Role
from classifiers.readings import seen_in

from ..facts import Facts, Turn
from ..model import Stage
from .parts import Atom, Fact, Follows, Truth, both, either
from .variables import activation


@dataclass(frozen=True, slots=True)
class Known:
    """`bits` are the atoms that a finding meets, `unsure` those of which a classifier that failed might have met more.
    Without facts nothing that asks for them is known."""

    atoms: tuple[Atom, ...]
    bits: int
    unsure: int
    stage: Stage
    messages: Sequence[Message]
    findings: Sequence[Finding]
    facts: Facts | None

    def met(self, bit: int) -> Truth:
        if self.bits >> bit & 1:
            return True
        return None if self.unsure >> bit & 1 else False

    def counted(self, bit: int) -> tuple[int, float]:
        atom = self.atoms[bit]
        met = [finding for finding in self.findings if self.meets(atom, finding)] if self.bits >> bit & 1 else []
        count = len(met) + sum([len(finding.twins) for finding in met])
        return count, math.inf if self.unsure >> bit & 1 else count

    def meets(self, atom: Atom, finding: Finding) -> bool:
        """Whether this is a finding that the atom asks for."""
        wanted = atom.finding in (f"{finding.classifier}.{finding.label}", f"{finding.classifier}.*")
        # Not `score >= at_least`: NaN must not pass for a low score.
        if not wanted or finding.score < atom.at_least:
            return False
        if atom.reading and not seen_in(finding.view, atom.reading):
            return False
        here = 0 <= finding.message < len(self.messages)
        return not here or self.messages[finding.message].role in atom.roles

    def fact(self, part: Fact) -> Truth:
        facts = self.facts
        if facts is None:
            return None
        if part not in facts.memo:
            facts.memo[part] = _evaluated(part, self.stage, facts)
        known: Truth = facts.memo[part]
        return known

    def follows(self, part: Follows) -> Truth:
        if self.facts is None:
            return None
        found: Truth = False
        before: Truth = False
        for turn in self.facts.turns:
            found = either(found, both(before, _is(turn, part.later)))
            before = either(before, _is(turn, part.earlier))
        return found


def _evaluated(part: Fact, stage: Stage, facts: Facts) -> Truth:
    """What the library makes of it; None for an error, and for what is neither true nor false."""
    try:
        found = part.program.eval(activation(stage, _counted(part, facts)))
        value = found.value() if found.type().name() == "BOOL" else None
    except Exception:  # a value that the library does not take, such as half of a surrogate pair
        return None
    return value if isinstance(value, bool) else None


def _counted(part: Fact, facts: Facts) -> Facts:
    """The facts, with 0 for each count that the part looks up and nobody has."""
    missing = part.counts.difference(facts.account.history)
    if not missing:
        return facts
    known = facts.memo.get(missing)
    if known is None:
        history = {**dict.fromkeys(missing, 0), **facts.account.history}
        known = facts.memo[missing] = replace(facts, account=replace(facts.account, history=history), memo={})
    return known


def _is(turn: Turn, step: tuple[Role, str]) -> Truth:
    """Whether a turn is such a step; not known where it is that of a tool whose name nobody said."""
    role, name = step
    if turn.role is not role:
        return False
    return True if not name or turn.name == name else False if turn.name else None
