"""A flood of one short text costs what reading it costs, whether something is found in it or not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from classifiers.base import Message, Role
from classifiers.panel import Panel
from policies.engine import Action, PolicySet, Stage
from policies.model import Policy
from proxy.guard import Guard
from proxy.metrics import Metrics
from proxy.record import Seen
from tests.policies.words import Words

LABELS = {f"l{number}": "MARK" for number in range(20)}
COPIES = 4000


@dataclass
class Slow(Words):
    """As a learned classifier: not inline, so that what it found is remembered."""

    inline: bool = False


async def seconds(guard: Guard, text: str, action: Action) -> float:
    """CPU of the judgement and the record of a flood of `text`, at best."""
    messages = [Message(Role.USER, text, f"/messages/{place}/content") for place in range(COPIES)]
    best = float("inf")
    for scope in ("a", "b", "c"):
        began = time.process_time()
        decision = await guard.check(Stage.INPUT, "openai_chat", messages, scope=scope)
        Seen().add(decision, messages)
        best = min(best, time.process_time() - began)
        assert decision.action is action
        assert {place for finding in decision.findings for place in finding.places} == (
            set(range(COPIES)) if decision.findings else set()
        )
    return best


async def test_what_is_found_in_copies_is_found_once() -> None:
    whens = [{"finding": f"w.l{number}", "at_least": 0.5} for number in range(5)]
    policy = Policy.model_validate(
        {
            "id": "p",
            "version": 1,
            "owner": "o",
            "description": "d",
            "classifiers": {"w": {"kind": "words"}},
            "rules": [
                {"id": f"r{number}", "description": "d", "stages": ["input"], "action": "log", "when": when}
                for number, when in enumerate(whens)
            ],
        },
        strict=False,
    )
    panel = Panel(1)
    try:
        guard = Guard(PolicySet.build([policy], {"w": Slow("w", LABELS)}), panel, Metrics())
        clean = await seconds(guard, "an honest text", Action.PASS)
        found = await seconds(guard, "a text with MARK", Action.LOG)
    finally:
        panel.close()
    # With a finding for each of them it were a hundred times as much.
    assert found < 4 * clean
