"""Does the guard still stop what it must, and pass what it must? Asked every minute, by the policy's own cases.

A case that a classifier must not miss, and one that must pass, go through each dialect's reading and through the guard
that callers have at that moment: the same workers, deadlines and breakers. They reach no upstream and no audit, their
counters are thrown away and nothing of them is remembered: what they show is `penstock_guard_heartbeat` alone.

Decision: the cases of the policy are the probes. Why: they are what its author says must hold, and they follow each
change of it. Cost: a classifier that no case catches is not probed; it is named at the start, and by `penstock doctor`.

Decision: of several workers the first asks all of it; each other asks only the classifiers that work in its own
process, in the words of one API each. Why: the reading of the APIs is the same code in all of them, and a judge is paid
by the question; weights, patterns and threads are each worker's own. Cost: where the first worker cannot start, judges
are not probed until it does (PenstockWorkersMissing). A series is 1 where it is so in every worker that asks it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Literal

from classifiers.base import Classifier
from classifiers.panel import Panel
from policies.cases import Outcome, run_case
from policies.engine import Decision, PolicySet
from policies.model import Action, Case, Policy, Stage

from . import probes
from .dialects.base import Body, Dialect
from .dialects.moderations import Moderations
from .guard import Guard
from .logs import get_logger
from .metrics import Metrics
from .strict import parse

log = get_logger("penstock.heartbeat")

Kind = Literal["bad", "good"]
Caught = Iterable[tuple[Case, frozenset[str]]]
"""Cases, each with the classifiers that find what makes a rule fire."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A case in a dialect's words. `classifier` is who must find something in it; empty where nobody must."""

    dialect: Dialect | Moderations
    kind: Kind
    classifier: str
    case: Case
    raw: bytes

    @property
    def labels(self) -> tuple[str, str, str, str]:
        """Of its series: dialect, stage, classifier, probe."""
        return self.dialect.name, str(self.case.stage), self.classifier, self.kind


class Heartbeat:
    """Of one policy: `run` beats every `interval` seconds until it is cancelled. `guard` tells the one in force;
    `policy` is the name under which keys have it, empty for the default. Without `whole` it is that of a worker beside
    another that asks all."""

    def __init__(
        self,
        guard: Callable[[], Guard],
        panel: Panel,
        metrics: Metrics,
        dialects: Iterable[Dialect | Moderations],
        interval: float,
        policy: str = "",
        whole: bool = True,
    ) -> None:
        self._guard, self._metrics, self._interval, self._policy = guard, metrics, interval, policy
        self._whole = whole
        self._panel = panel.apart()
        self._dialects = tuple(dialects)
        self._revision = ""
        self._mine: Guard | None = None
        self._probes: tuple[Probe, ...] = ()
        self._well: dict[tuple[str, str, str, str], bool] = {}
        self._success: dict[tuple[str, str, str, str], float] = {}

    async def run(self) -> None:
        while True:
            try:
                await self.beat()
            except Exception:
                log.exception("heartbeat failed")
            await asyncio.sleep(self._interval)

    async def beat(self) -> None:
        """Ask each probe once, and show what became of it."""
        await self._follow(self._guard().policies)
        guard = self._mine
        assert guard is not None
        for probe in self._probes:
            decision = await _asked(guard, probe, self._whole)
            self._show(probe, _trouble(probe, decision))
            await asyncio.sleep(0)

    async def _follow(self, policies: PolicySet) -> None:
        """Take the probes from the policies in force."""
        if policies.digest == self._revision:
            return
        caught = await asyncio.to_thread(caught_by, policies)
        # Counters of its own, which nobody reads.
        self._mine = Guard(policies, self._panel, Metrics())
        for probe in self._probes:
            self._metrics.heartbeat.remove(self._policy, *probe.labels)
            self._metrics.heartbeat_success.remove(self._policy, *probe.labels)
        outside = {name for name, each in self._mine.classifiers.items() if not here(each)}
        asked = caught if self._whole else by_themselves(policies, caught, outside)
        probes = chosen(policies, asked, self._dialects)
        self._probes = tuple(probes if self._whole else once(probes))
        self._revision = policies.digest
        kept = {probe.labels for probe in self._probes} & self._success.keys()
        self._success = {labels: self._success[labels] for labels in kept}
        for labels, when in self._success.items():
            self._metrics.heartbeat_success.set(when, self._policy, *labels)
        self._well.clear()
        if self._whole and (missing := uncovered(policies, caught)):
            log.warning(
                "no case of the policy shows that these classifiers work: the heartbeat cannot probe them",
                classifiers=missing,
            )

    def _show(self, probe: Probe, trouble: str) -> None:
        labels, well = probe.labels, not trouble
        self._metrics.heartbeat.set(1 if well else 0, self._policy, *labels)
        if well:
            self._success[labels] = now = time.time()
            self._metrics.heartbeat_success.set(now, self._policy, *labels)
        if self._well.get(labels, True) is not well:
            told = dict(
                zip(("policy", "dialect", "stage", "classifier", "probe"), (self._policy, *labels), strict=True)
            )
            if well:
                log.info("heartbeat is well again", **told)
            else:
                log.error("heartbeat missed: run `penstock check` and look at /readyz", case=probe.case.name,
                          trouble=trouble, **told)  # fmt: skip
        self._well[labels] = well


async def _asked(guard: Guard, probe: Probe, whole: bool) -> Decision:
    """The decision on a probe, on the way of a caller's body."""
    if guard.asks:
        guard = guard.stating(probe.case.facts)
    if not whole:
        guard = guard.asking(here)
    return await guard.check(probe.case.stage, probe.dialect.name, _read(probe).messages)


def _read(probe: Probe) -> Body:
    tree = parse(probe.raw)
    if isinstance(probe.dialect, Moderations):
        return probe.dialect.read_request(tree).inputs[0]
    if probe.case.stage is Stage.INPUT:
        return probe.dialect.read_request(tree)
    return probe.dialect.read_response(tree)


def _trouble(probe: Probe, decision: Decision) -> str:
    """What is wrong with a decision, or nothing. A rule that fired because a classifier was silent found nothing."""
    if decision.failures:
        return "; ".join(f"{failure.classifier}: {failure.reason}" for failure in decision.failures)
    expect = probe.case.expect
    if decision.action is not expect.action:
        return f"expected {expect.action}, decided {decision.action}"
    if probe.kind == "bad" and probe.classifier not in _finders(decision, expect.rule):
        return f"{probe.classifier} found nothing"
    return ""


def _finders(decision: Decision, rule: str | None) -> set[str]:
    """The classifiers whose findings made the rule (or any) fire; what only a shadow rule sees is seen, too."""
    fired = [each for each in decision.fired if rule in {None, each.rule}]
    seen = [each for each in (*fired, *decision.shadow) if not each.not_evaluated]
    return {finding.classifier for each in seen for finding in each.findings}


def caught_by(policies: PolicySet) -> list[tuple[Case, frozenset[str]]]:
    """The cases that ask real classifiers, each with those that find what makes a rule fire; of a case that does not
    hold at this moment, those that its rule asks. Blocks while they work."""
    found = []
    for policy in policies.policies:
        if policy.applies_to is not None:
            continue  # its cases hold for the requests that it is for
        inherited = [(each.case, each.base) for each in policy.inherited_cases]
        for case, base in [*((case, "") for case in policy.cases), *inherited]:
            if case.scores is not None or case.failed or case.request is not None or case.calls:
                continue
            result = run_case(policies, case, policy.id, policy.id, True, base)
            if result.decision is not None:
                holds, rule = result.outcome is Outcome.PASSED, case.expect.rule
                found.append((case, frozenset(_finders(result.decision, rule) if holds else _needed(policy, rule))))
    return found


def here(classifier: Classifier) -> bool:
    """Whether it does its work in this process."""
    return not getattr(classifier, "waits", False)


def by_themselves(policies: PolicySet, caught: Caught, outside: Set[str]) -> Iterator[tuple[Case, frozenset[str]]]:
    """The cases that are decided as they say where those `outside` are not asked."""
    for case, finders in caught:
        rules = [_needed(policy, case.expect.rule) for policy in policies.policies]
        if not outside & finders.union(*rules):
            yield case, finders


def once(probes: Iterable[Probe]) -> Iterator[Probe]:
    """Each classifier, stage and kind in the words of one API."""
    seen: set[tuple[str, ...]] = set()
    for probe in probes:
        if probe.labels[1:] not in seen:
            seen.add(probe.labels[1:])
            yield probe


def _needed(policy: Policy, rule: str | None) -> set[str]:
    parts = [part for each in policy.rules if each.id == rule for part in each.conditions[0]]
    return {name.partition(".")[0] for part in parts for name in part.finding}


def chosen(policies: PolicySet, caught: Caught, dialects: Iterable[Dialect | Moderations]) -> Iterator[Probe]:
    """For each dialect and stage: the first case that it can say for each classifier, and the first in which none may
    find anything."""
    cases = [
        (case, who, kind)
        for case, finders in caught
        for kind, who in _roles(case, finders & policies.classifiers.keys())
    ]
    for dialect in dialects:
        seen: set[tuple[str, str, str, str]] = set()
        for case, who, kind in cases:
            say = probes.request if case.stage is Stage.INPUT else probes.response
            raw = say(dialect.name, probes.said(case))
            if raw is None:
                continue
            probe = Probe(dialect, kind, who, case, raw)
            if probe.labels not in seen:
                seen.add(probe.labels)
                yield probe


def _roles(case: Case, finders: Iterable[str]) -> Iterator[tuple[Kind, str]]:
    for name in sorted(finders):
        yield "bad", name
    if not finders and case.expect.action is Action.PASS:
        yield "good", ""


def uncovered(policies: PolicySet, caught: Caught) -> list[str]:
    """The classifiers that rules ask, and that find something in no case."""
    asked = {name for table in policies.tables.values() for name in table.dependents if name in policies.classifiers}
    return sorted(asked.difference(*(finders for _, finders in caught)))
