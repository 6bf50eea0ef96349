"""Exchanges that wait for a person: each for a bounded time, no more than a bounded number, and then the rule's own
word. Nobody who does not answer lets anything pass that the rule would not.

INVARIANT: every exchange that waits ends its waiting: by a person's word, when its time is over, when the process is
to end, or when its client is gone. What waits is in no other state: nothing of it was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policies.decision import Decision, Fired
from policies.model import Action
from policies.words import Otherwise

from .metrics import Metrics

if TYPE_CHECKING:
    from .exchange import Exchange

NOBODY = ""
"""Who answered where no person did."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one that waited: `approved` and `denied` by a person, `expired`, `full` (too many waited) and
    `shutdown` by the rule."""

    verdict: str
    passed: bool
    by: str = NOBODY


class Held:
    """One exchange that waits. `about` is what a reviewer is shown of it, JSON-able."""

    def __init__(self, id: str, about: Mapping[str, Any], seconds: int, otherwise: Otherwise) -> None:
        self.id, self._about = id, about
        self.otherwise = otherwise
        self.seconds, self.at = seconds, time.time()
        self._until = time.monotonic() + seconds
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def shown(self) -> dict[str, Any]:
        left = max(0.0, self._until - time.monotonic())
        return {
            "id": self.id,
            "at": self.at,
            "seconds_left": round(left, 1),
            "otherwise": str(self.otherwise),
            **self._about,
        }


class Reviews:
    """All that wait in this process, `most` at once."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most, self._metrics = most, metrics
        self._held: dict[str, Held] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    async def answer(self, held: Held) -> Answer:
        """What becomes of `held`, once that is known."""
        if self._closed:
            return self._by_rule(held, "shutdown")
        if len(self._held) >= self._most:
            return self._by_rule(held, "full")
        self._held[held.id] = held
        try:
            async with asyncio.timeout(held.seconds):
                return await held.answer
        except TimeoutError:
            return self._by_rule(held, "expired")
        finally:
            del self._held[held.id]

    async def listed(self) -> list[dict[str, Any]]:
        """What waits, the longest first."""
        return [held.shown() for held in self._held.values()]

    async def told(self, id: str, *, passed: bool, by: str) -> bool:
        """A person's word. False where nothing of this id waits any more."""
        held = self._held.get(id)
        if held is None or held.answer.done():
            return False
        held.answer.set_result(Answer("approved" if passed else "denied", passed, by))
        return True

    def close(self) -> None:
        """The process is to end: let nothing wait any more."""
        self._closed = True
        for held in self._held.values():
            if not held.answer.done():
                held.answer.set_result(self._by_rule(held, "shutdown"))

    def count(self, stage: str, answer: Answer) -> None:
        self._metrics.reviews.inc(stage, answer.verdict)

    @staticmethod
    def _by_rule(held: Held, why: str) -> Answer:
        return Answer(why, held.otherwise is Otherwise.PASS)


async def reviewed(exchange: Exchange, decision: Decision) -> Decision:
    """`decision` once somebody, or the time, has said what is to become of it. What was approved once in an exchange is
    not asked again for the same rule."""
    known = exchange.approved or set()
    asking = [item for item in decision.fired if item.action is Action.REVIEW and _key(decision, item) not in known]
    if not asking:
        return decision.approved()
    reviews, notes = exchange.reviews, exchange.notes
    passes = all(item.otherwise is Otherwise.PASS for item in asking)
    held = Held(
        notes.id,
        {**notes.shown(), **_about(decision, asking)},
        (max if passes else min)(item.hold for item in asking),
        Otherwise.PASS if passes else Otherwise.BLOCK,
    )
    answer = await reviews.answer(held)
    reviews.count(decision.stage, answer)
    notes.reviewed(
        decision.stage,
        {
            "rule": asking[0].rule,
            "verdict": answer.verdict,
            "passed": answer.passed,
            "by": answer.by or None,
            "at": round(time.time(), 3),
            "seconds": round(time.time() - held.at, 3),
        },
    )
    if not answer.passed:
        return decision.denied()
    exchange.approved = known | {_key(decision, item) for item in asking}
    return decision.approved()


def _key(decision: Decision, item: Fired) -> tuple[str, str, str]:
    return decision.stage, item.policy, item.rule


def _about(decision: Decision, asking: list[Fired]) -> dict[str, Any]:
    """What a reviewer is shown of a decision: no text."""
    first = asking[0]
    scores: dict[str, float] = {}
    for finding in decision.findings:
        name = f"{finding.classifier}.{finding.label}"
        scores[name] = max(round(finding.score, 4), scores.get(name, 0.0))
    return {
        "stage": str(decision.stage),
        "policy": first.policy,
        "rules": [item.rule for item in asking],
        "reason": first.reason,
        "revision": decision.revision,
        "scores": scores,
    }
