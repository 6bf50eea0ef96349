"""Answers /v1/moderations with the classifiers of the loaded policy: the upstream is never asked.

INVARIANT: an answer leaves after its record is durable; and where a classifier that was needed is silent there is no
answer, for its silence must not read as a clean text.
"""

from __future__ import annotations

import asyncio
from typing import Any

from classifiers.base import Message, Role
from policies.engine import Decision, PolicySet
from policies.model import Action, Stage

from .answers import Answer, problem, unchecked
from .dialects.base import BadRequest, Body
from .dialects.moderations import Inputs, Moderations, categories_of, category_of, result
from .flight import fate
from .guard import Guard
from .listener import Caller
from .logs import get_logger
from .metrics import Metrics
from .problems import UNRECORDED, Unrecorded
from .record import Notes
from .strict import Malformed, parse
from .telling import Journal, recorded

log = get_logger("penstock.moderate")

TOGETHER = 8
"""Inputs of one request that are judged at once."""
FLAGS = frozenset(action for action in Action if action.protects)
"""What a policy must want done to a text for it to be flagged."""


class Moderation:
    """One request for moderation. `run` answers it; it raises only when it is cancelled."""

    def __init__(
        self, dialect: Moderations, guard: Guard, journal: Journal, metrics: Metrics, caller: Caller, notes: Notes
    ) -> None:
        self._dialect, self._guard, self._journal = dialect, guard, journal
        self._metrics, self._caller, self._notes = metrics, caller, notes

    async def run(self, body: bytes) -> None:
        notes = self._notes
        try:
            answer = await self._answer(body)
        except asyncio.CancelledError:
            notes.ended(fate(self._caller))
            self._journal.append(notes.outcome())
            raise
        except Unrecorded as error:
            answer = self._problem(503, "audit_unavailable", str(error))
            notes.outcome()  # counts it: the audit takes nothing
        else:
            try:
                await recorded(self._journal, notes, self._caller)
            except Exception as error:
                log.error("decision not recorded", decision=notes.id, problem=str(error))
                answer = self._problem(503, "audit_unavailable", UNRECORDED)
        self._caller.answer(answer)

    async def _answer(self, body: bytes) -> Answer:
        """Raises Unrecorded where the audit takes nothing."""
        try:
            if not body:
                raise Malformed("the body is empty: send a JSON object")
            request = self._dialect.read_request(parse(body))
        except Malformed as error:
            return self._problem(400, "invalid_json", f"The body was refused: {error}.")
        except BadRequest as error:
            return self._problem(400, "invalid_request", str(error), error.param)
        self._notes.asked(request)
        if self._guard.asks:
            self._guard = self._guard.facing(request, self._dialect.name)
        if not self._journal.healthy:
            raise Unrecorded(UNRECORDED)
        decisions = await self._judge(request)
        policies = self._guard.policies
        telling = tellers(policies)
        if any(_silent(decision, telling) for decision in decisions):
            self._notes.ended("unavailable")
            return unchecked(self._dialect, self._notes.id)
        told = frozenset().union(*telling.values())
        results = [_result(decision, said, told) for decision, said in zip(decisions, request.inputs, strict=True)]
        self._notes.ended("moderated")
        headers = [(b"content-type", b"application/json"), (b"x-request-id", self._notes.id.encode())]
        return Answer(200, headers, self._dialect.answer(self._notes.id, policies.revision, results))

    async def _judge(self, request: Inputs) -> list[Decision]:
        """The decision on each input, in their order."""
        out: list[Decision] = []
        for start in range(0, len(request.inputs), TOGETHER):
            out += await asyncio.gather(*map(self._check, request.inputs[start : start + TOGETHER]))
        for decision, said in zip(out, request.inputs, strict=True):
            self._notes.decided(decision, said.messages, _places(said))
        return out

    async def _check(self, said: Body) -> Decision:
        places = _places(said)
        name = self._dialect.name
        decision = self._guard.check_now(Stage.INPUT, name, said.messages, places)
        return decision or await self._guard.check(Stage.INPUT, name, said.messages, places)

    def _problem(self, status: int, code: str, message: str, param: str | None = None) -> Answer:
        self._metrics.refused.inc(code)
        self._notes.ended("refused", code)
        return problem(self._dialect, status, code, message, self._notes.id, param=param)


def _places(said: Body) -> list[tuple[Message, str]]:
    return [(Message(Role.USER, "", origin), kind) for origin, kind in said.unscannable]


def tellers(policies: PolicySet) -> dict[str, frozenset[str]]:
    """The classifiers that read what users say, each with the categories that it can tell."""
    out: dict[str, frozenset[str]] = {}
    for reading in policies.tables[Stage.INPUT].readings:
        if Role.USER in reading.roles:
            out[reading.classifier] = categories_of(policies.classifiers[reading.classifier].labels)
    return out


def _silent(decision: Decision, telling: dict[str, frozenset[str]]) -> bool:
    """Whether a classifier was silent that categories or the policy's decision needed."""
    if decision.action in FLAGS and decision.fired[0].not_evaluated:
        return True
    return any(telling.get(failure.classifier) for failure in decision.failures)


def _result(decision: Decision, said: Body, told: frozenset[str]) -> dict[str, Any]:
    scores: dict[str, float] = {}
    for finding in decision.findings:
        if category_of(finding.label) is None:
            name = f"{finding.classifier}.{finding.label}"
            scores[name] = round(max(scores.get(name, 0.0), finding.score), 4)
    flagged = decision.action in FLAGS
    decisive = [finding for fired in decision.fired if fired.action in FLAGS for finding in fired.findings]
    more = {"action": str(decision.action), "policy": decision.policy, "reason": decision.reason, "scores": scores}
    read = told if said.messages else frozenset[str]()
    return result(flagged, read, decision.findings, decisive, more)
