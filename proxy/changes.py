"""A body with what a decision changes of it: masks, notes to the model, and the name that an upstream knows it by.

What is not changed stays byte for byte as it came.
"""

from __future__ import annotations

import json
from typing import Any

from policies.engine import Decision
from policies.in_json import Texts, placed, spelled

from .dialects.base import Body, replaced
from .spelling import respelled


def changed(raw: bytes, body: Body, decision: Decision, model: str | None, dialect: str) -> bytes:
    """The request `raw`, which `body` was read from, with the decision's masks and notes, and asked of `model`."""
    advice = decision.advice
    if not decision.masks and model is None and not advice:
        return raw
    tree = json.loads(raw)
    put(tree, body, decision)
    if model is not None:
        tree["model"] = model
    if advice:
        noted(tree, decision, dialect)
    return respelled(raw, tree)


def masked(raw: bytes, body: Body, decision: Decision) -> bytes:
    """`raw`, which `body` was read from, with the decision's masks applied."""
    tree = json.loads(raw)
    put(tree, body, decision)
    return respelled(raw, tree)


def put(tree: Any, body: Body, decision: Decision) -> None:
    """Apply the decision's masks in `tree`, which `body` was read from. What is JSON stays JSON."""
    texts = Texts(body.messages)
    changed_texts: dict[int, list[str]] = {}
    position: dict[int, int] = {}
    for mask in spelled(texts, placed(texts, decision.masks)):
        before = body.messages[mask.message].text[position.get(mask.message, 0) : mask.start]
        changed_texts.setdefault(mask.message, []).extend((before, mask.replacement))
        position[mask.message] = mask.end
    for index, pieces in changed_texts.items():
        message = body.messages[index]
        replaced(tree, message.origin, "".join(pieces) + message.text[position[index] :])


def noted(tree: Any, decision: Decision, dialect: str) -> None:
    """Add the decision's notes to the request `tree`."""
    from .dialects.advice import advise

    advise(tree, dialect, "\n\n".join(decision.advice))
