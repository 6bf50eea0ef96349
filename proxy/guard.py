"""Asks the classifiers what is in a list of messages, then the policy what to do about it.

One Guard holds one policy revision and never changes: an exchange keeps the guard that it began with, so all that it
judges is judged by one revision.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from classifiers.asked import Asked, asked_of
from classifiers.base import SAID_BY_MODEL, Classifier, Finding, Message, Report
from classifiers.cache import Cache
from classifiers.panel import Panel
from policies.engine import Decision, PolicySet, decide
from policies.facts import ANONYMOUS, Account, Call, Facts
from policies.marks import memory_of
from policies.model import NUMBER, Action, Stage
from policies.plan import Hold, plan, stream_mode
from policies.ready import MOST_FACES

from .begun import Joint, crossing
from .dialects.base import Request
from .facts import calls_in, calls_of, facts_of
from .located import located
from .metrics import Metrics

Recall = Callable[[], Coroutine[Any, Any, Account]]
"""The account, with what is remembered of it."""
SURFACE = "surface"
"""The built-in source of findings that are facts about a body's form, not opinions of a classifier."""
OPAQUE = frozenset({"encrypted", "recalled"})
"""Kinds of parts that a provider sealed, or keeps, and that must come back unchanged: a finding of their own."""


class Guard:
    """`policies` and what asking by them takes. `policies`, its `classifiers` where they work, `hold`, and whether any
    mask has `numbers` are for reading."""

    def __init__(self, policies: PolicySet, panel: Panel, metrics: Metrics) -> None:
        self.policies = policies
        self.classifiers = panel.placed(policies.classifiers)
        self.hold = stream_mode(policies)
        self._panel = panel
        self._metrics = metrics
        self._asked: dict[Stage, list[Asked]] = {
            stage: asked_of(self.classifiers, plan(policies, stage)) for stage in Stage
        }
        self._added = metrics.added
        self.asks = policies.asks
        self.numbers = any(NUMBER in rule.mask_with for rule in policies.rules)
        self.memory = memory_of(policies.policies)
        self._asking: tuple[Account, Callable[[str], str]] | None = None
        self._facts: Facts | None = None
        self._recall: Recall | None = None
        self._recalling: asyncio.Future[Account] | None = None
        self._calls: tuple[Call, ...] | None = None
        self._wide: Guard | None = None  # the one for every request, of which this is for one
        self._faces: dict[PolicySet, Guard] = {policies: self}

    def asked_by(self, account: Account, hashed: Callable[[str], str], recall: Recall | None = None) -> Guard:
        """The guard for what this account asks. `hashed` is a keyed hash in hex digits, `recall` tells what is
        remembered of the account. Only where `asks` says so."""
        made = copy(self)
        made._asking, made._recall = (account, hashed), recall
        return made

    def facing(self, request: Request, dialect: str) -> Guard:
        """The guard for one request: with its facts, and the policies that are for it. Only where `asks` says so."""
        account, hashed = self._asking or (ANONYMOUS, _unhashed)
        return self.stating(facts_of(request, dialect, account, hashed))

    def stating(self, facts: Facts) -> Guard:
        """The guard for a request with these facts."""
        policies = self.policies.facing(facts)
        face = self._faces.get(policies)
        if face is None:
            face = self.of(policies)
            if len(self._faces) < MOST_FACES:
                self._faces[policies] = face
        made = copy(face)
        made._asking, made._facts, made._recall = self._asking, facts, self._recall
        made._wide = self
        return made

    def asked_of(self, model: str) -> Guard | None:
        """The guard for the same request, asked of another model; None where the model makes no difference."""
        if self._wide is None or self._facts is None:
            return None
        made = self._wide.stating(replace(self._facts, model=model, memo={}))
        made._recall = self._recall
        return made

    def asking(self, wanted: Callable[[Classifier], bool]) -> Guard:
        """The guard that asks of its classifiers only some."""
        made = copy(self)
        made._asked = {
            stage: [each for each in asked if wanted(each.classifier)] for stage, asked in self._asked.items()
        }
        return made

    def answering(self, tree: Any) -> Guard:
        """The guard for an answer in one piece."""
        made = copy(self)
        made._calls = calls_of(tree)
        return made

    def prepare(self, policies: PolicySet) -> None:
        """Before `of`, in a thread: get to know their classifiers."""
        self._panel.prepare(policies.classifiers.values())

    def of(self, policies: PolicySet) -> Guard:
        """A guard for other policies, with the same panel and metrics."""
        return Guard(policies, self._panel, self._metrics)

    def known(self, stage: Stage, messages: Sequence[Message]) -> Facts | None:
        """What a decision on `messages` knows of their request."""
        facts = self._facts
        if facts is None or stage is not Stage.OUTPUT:
            return facts
        calls = self._calls if self._calls is not None else calls_in(messages)
        return facts.answered(calls) if calls else facts

    @property
    def hold_back(self) -> int | None:
        """Characters of a streamed answer that wait; None for all of them."""
        return None if self.hold.hold is Hold.WHOLE else self.hold.characters

    @property
    def enforcing(self) -> bool:
        """Whether any rule could stop or change an answer."""
        return self.hold.hold is not Hold.NONE

    def check_now(
        self,
        stage: Stage,
        dialect: str,
        messages: list[Message],
        unscannable: Sequence[tuple[Message, str]] = (),
        joints: Sequence[Joint] = (),
    ) -> Decision | None:
        """As `check`, at once, where every classifier that is asked answers in microseconds; else None."""
        if self._recall is not None and self._facts is not None:
            return None
        report = self._panel.report_now(messages, self._asked[stage])
        return None if report is None else self._decided(stage, dialect, messages, unscannable, report, joints)

    async def check(
        self,
        stage: Stage,
        dialect: str,
        messages: list[Message],
        unscannable: Sequence[tuple[Message, str]] = (),
        before: str = "",
        scope: str | None = None,
        memory: Cache | None = None,
        joints: Sequence[Joint] = (),
    ) -> Decision:
        """The decision on `messages`. `unscannable` are parts that are no text, and their kinds: they join the
        messages as empty ones, with a finding each. `before` is the context of what the model says, and `joints` are
        where it goes on from what the request began. What slow classifiers found for `scope`, an account, or what
        `memory` holds, is not asked again. Raises nothing for a fault of a classifier."""
        if before:
            messages = [replace(m, context=before) if m.role in SAID_BY_MODEL else m for m in messages]
        recalling = self._begin_recall()
        report = await self._panel.report(messages, self._asked[stage], scope, memory)
        if report.queued:
            self._added.observe(report.queued, "queue")
        if recalling is not None:
            await self._end_recall(recalling)
        return self._decided(stage, dialect, messages, unscannable, report, joints)

    def _begin_recall(self) -> asyncio.Future[Account] | None:
        """Ask what is remembered of the account, once: together with what the panel asks of other machines."""
        if self._recall is not None and self._recalling is None and self._facts is not None:
            self._recalling = asyncio.ensure_future(self._recall())
        return self._recalling

    async def _end_recall(self, recalling: asyncio.Future[Account]) -> None:
        account = await asyncio.shield(recalling)
        if self._facts is not None and self._recall is not None:
            self._facts = replace(self._facts, account=account, memo={})
        self._recall = self._recalling = None

    def _decided(
        self,
        stage: Stage,
        dialect: str,
        messages: list[Message],
        unscannable: Sequence[tuple[Message, str]],
        report: Report,
        joints: Sequence[Joint],
    ) -> Decision:
        if self._asked[stage]:  # else nobody judged, and an alert looks for just that
            self._added.observe(report.seconds - report.queued, "classify")
        if joints:
            quick = [each for each in self._asked[stage] if each.at_once]
            report = crossing(messages, joints, report, functools.partial(self._panel.report_now, asked=quick))
        if report.findings:
            report = located(messages, report)
        if unscannable:
            first = len(messages)
            messages = messages + [message for message, _ in unscannable]
            found = tuple(
                Finding(SURFACE, "opaque" if kind in OPAQUE else "unscannable", 1.0, first + i)
                for i, (_, kind) in enumerate(unscannable)
            )
            report = report._replace(findings=report.findings + found)
            for _, kind in unscannable:
                self._metrics.unscanned.inc(dialect, stage, kind)
        if report.unread:
            self._metrics.unscanned.inc(dialect, stage, "text", by=len(report.unread))
        decision = decide(self.policies, stage, messages, report, self.known(stage, messages))
        self._count(decision, dialect)
        return decision

    def _count(self, decision: Decision, dialect: str) -> None:
        for failure in decision.failures:
            self._metrics.failures.inc(failure.classifier, failure.reason)
        if decision.failures and decision.action is not Action.BLOCK:
            self._metrics.fail_open.inc(decision.stage)


def _unhashed(value: str) -> str:
    """Nobody is drawn for a canary where nobody said who asks."""
    return ""
