"""Moderations: what OpenAI's own classifier is asked, and the shape of its answer. No model is behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from classifiers.base import Finding, Role

from .base import BadRequest, Body, Request
from .chat_body import error_of
from .prompts import MOST

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""The categories of an answer, all of them always there."""

LABELS: Mapping[str, str] = {
    # the labels of our own encoder
    "self_harm": "self-harm",
    "minors": "sexual/minors",
    "violence_weapons": "violence",
    "fraud": "illicit",
    "illegal_goods": "illicit",
    "cyber_prohibited": "illicit",
    "bio_chem_prohibited": "illicit",
    # the categories themselves, as another classifier may spell them
    **{name: name for name in CATEGORIES},
    **{name.replace("/", "_").replace("-", "_"): name for name in CATEGORIES},
}
"""A classifier's label -> the category that it speaks for. A category that no label leads to has a score of 0."""

APPROXIMATED: Mapping[str, tuple[str, str]] = {
    "harassment/threatening": ("harassment", "violence_weapons"),
    "hate/threatening": ("hate", "violence_weapons"),
    "illicit/violent": ("harmful", "violence_weapons"),
    "self-harm/instructions": ("harmful", "self_harm"),
}
"""A category for which no label stands -> two of our own encoder's labels; the lower of their scores is its score.
Nothing tells `self-harm/intent` and `violence/graphic`: they are 0."""

SURE = 0.9
"""The score from which a category of a flagged input is said to be there, although no rule fired for it."""


@dataclass(slots=True)
class Inputs(Request):
    """A request, read. Each of `inputs` gets a result of its own."""

    inputs: list[Body] = field(default_factory=list)


class Moderations:
    """POST /v1/moderations."""

    name = "moderations"

    def read_request(self, tree: Any) -> Inputs:
        """Raises BadRequest where the shape is wrong."""
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        model, value = tree.get("model"), tree.get("input")
        if not isinstance(model, str | None):
            raise BadRequest("'model' must be a string.", "model")
        inputs = Inputs(tree=tree, model=model or "")
        if isinstance(value, str):
            inputs.inputs.append(_text(value, "/input"))
        elif not isinstance(value, list) or not value:
            raise BadRequest("'input' must be a string, a list of strings or a list of parts.", "input")
        elif len(value) > MOST:
            raise BadRequest(f"'input' holds {len(value)} texts: send {MOST} at most.", "input")
        elif all(isinstance(item, str) for item in value):
            inputs.inputs.extend(_text(item, f"/input/{index}") for index, item in enumerate(value))
        else:
            inputs.inputs.append(_parts(value))
        return inputs

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        return orjson.dumps({"error": error_of(status, code, message, param, decision)})

    def answer(self, decision: str, revision: str, results: list[dict[str, Any]]) -> bytes:
        """The whole answer. `model` names the policies that judged."""
        return orjson.dumps({"id": f"modr-{decision}", "model": f"penstock-{revision}", "results": results})


def category_of(label: str) -> str | None:
    return LABELS.get(label)


def categories_of(labels: Iterable[str]) -> frozenset[str]:
    """The categories that a classifier with these labels can tell, or come close to."""
    known = frozenset(labels)
    told = {category for category, parts in APPROXIMATED.items() if known.issuperset(parts)}
    return frozenset(told.union(LABELS[label] for label in known if label in LABELS))


def result(
    flagged: bool,
    told: Iterable[str],
    findings: Iterable[Finding],
    decisive: Iterable[Finding],
    more: dict[str, Any],
) -> dict[str, Any]:
    """One input's result. `told` are the categories that somebody read the text for, `decisive` the findings for
    which it was flagged."""
    named = {LABELS.get(finding.label) for finding in decisive}
    scores = dict.fromkeys(CATEGORIES, 0.0)
    highest: dict[str, float] = {}
    for finding in findings:
        highest[finding.label] = max(highest.get(finding.label, 0.0), finding.score)
    for label, score in highest.items():
        category = LABELS.get(label)
        if category is not None:
            scores[category] = max(scores[category], score)
    for category, (one, other) in APPROXIMATED.items():
        scores[category] = max(scores[category], min(highest.get(one, 0.0), highest.get(other, 0.0)))
    read = frozenset(told)
    return {
        "flagged": flagged,
        "categories": {name: flagged and (score >= SURE or name in named) for name, score in scores.items()},
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] if name in read else [] for name in CATEGORIES},
        "penstock": more,
    }


def _text(text: str, origin: str) -> Body:
    body = Body()
    body.add(Role.USER, text, origin)
    return body


def _parts(parts: list[Any]) -> Body:
    body = Body()
    texts: list[str] = []
    for index, part in enumerate(parts):
        place = f"/input/{index}"
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
            body.add(Role.USER, part["text"], place + "/text")
        elif isinstance(part, dict) and part.get("type") == "image_url":
            body.unscannable.append((place, "image"))
        else:
            name = f"input[{index}]"
            raise BadRequest(f"'{name}' must be a part of type text or image_url, or all items strings.", name)
    if len(texts) > 1:
        body.add(Role.USER, "".join(texts), "/input#joined")
    return body
