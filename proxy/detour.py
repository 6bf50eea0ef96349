"""What a rule asks for between the judgement of a request and the model: a person's word, another model.

A request that goes to another model is judged again, by the policies that are for that one, where any of them looks at
more than the texts: by the same texts alone a decision would be the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from policies.decision import Decision
from policies.engine import merge_masks
from policies.model import Action

from .dialects.base import BadRequest, Request
from .problems import Blocked
from .routing import Way

if TYPE_CHECKING:
    from .exchange import Exchange


class NoRoute(BadRequest):
    """A rule routes to a model that no upstream serves in this API."""

    status, code = 503, "policy_unavailable"


async def detour(
    exchange: Exchange, request: Request, decision: Decision, way: Way, head: bytes
) -> tuple[Decision, Way, bytes]:
    """The decision, and where `request` goes, once all was done that the decision asks for. Raises Blocked where no
    model is to be asked, and NoRoute."""
    if not exchange.one_request:  # files neither wait nor go elsewhere
        raise Blocked(decision.stopped() or decision.denied())
    seen = {request.model}
    while True:
        decision = await exchange.resolved(decision.arrived(seen))
        route = decision.way
        if route is None:
            return decision, way, head
        if request.others():
            text = (
                "A rule sends this request to another model: leave out `fallbacks` and `models`, which lead elsewhere."
            )
            raise BadRequest(text)
        seen.add(route.told)
        found = exchange.elsewhere(route.told) if exchange.elsewhere is not None else None
        if found is None:
            raise NoRoute(
                "The policy routes this request to a model that is not served in this API: tell the operator."
            )
        way, head = replace(found[0], model=found[0].model or route.told), found[1]
        exchange.notes.routed(request.model, route.told, route.rule)
        guard = exchange.guard.asked_of(route.told)
        if guard is None:
            return decision, way, head
        exchange.guard = guard
        decision = _both(decision, await exchange.judge(request))


def _both(before: Decision, now: Decision) -> Decision:
    """`now`, with what the decision before it changes of the request."""
    known = {(item.policy, item.rule) for item in now.fired}
    changes = {Action.MASK, Action.ADVISE}
    more = [item for item in before.fired if item.action in changes and (item.policy, item.rule) not in known]
    fired = tuple(sorted((*now.fired, *more), key=lambda item: -item.action.severity))
    if now.action is Action.BLOCK:
        return now
    masks = merge_masks([(mask, 0) for mask in now.masks] + [(mask, 1) for mask in before.masks])
    return replace(now, fired=fired, action=fired[0].action if fired else Action.PASS, masks=masks)
