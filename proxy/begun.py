"""Where an answer goes on from what the request began: a prompt, or an assistant's turn at its end (a prefill).

Who reads both finds a word that is split over the two whole; the answer alone holds half of it.

Decision: quick classifiers (patterns, secrets, personal data) read the joint once more, with some letters on both
sides, and only what lies across it is found. Why: as in a conversation (`classifiers.joints`); what the request says by
itself was judged as such, and what the answer says is judged anyway. Cost: some microseconds for each look at the
beginning of such an answer; learned classifiers, to which half sentences are noise, do not read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from classifiers.base import Finding, Message, Report, Role
from classifiers.joints import REACH
from classifiers.readings import JOINT, RAW

from .dialects.base import Request
from .dialects.prompts import MOST

_TURNS = {"chat": "messages", "messages": "messages", "responses": "input"}
"""Where a dialect's turns stand. Some servers go on with a last one of the assistant's always, others where a field of
theirs says so (`prefix`, `continue_final_message`): it is read as if they did."""
_SPOKEN = frozenset({Role.ASSISTANT, Role.REASONING})
_CHOICE = re.compile(r"/choices/([0-9]+)/")
_APART = "\n"
"""Where a text was cut, so that no expression takes the cut for its beginning or end."""
TOGETHER = 256
"""Joints that are read at once."""

Ask = Callable[[list[Message]], Report | None]
"""What the quick classifiers see."""


class Joint(NamedTuple):
    """`message` (its index) goes on from `before`, the end of a text."""

    message: int
    before: str


@dataclass(frozen=True, slots=True)
class Begun:
    """The ends of the texts that answers go on from. Choice i goes on from the one at i // `answers`, where there are
    several."""

    ends: tuple[str, ...]
    answers: int = 1

    def joints(self, messages: Sequence[Message], starts: Sequence[int] = ()) -> list[Joint]:
        """The joints of an answer's texts, which begin at `starts` (0 where it does not say)."""
        found = []
        for index, message in enumerate(messages):
            begins = index >= len(starts) or starts[index] == 0
            if begins and message.role in _SPOKEN and "#" not in message.origin and (end := self._end(message.origin)):
                found.append(Joint(index, end))
        return found

    def _end(self, origin: str) -> str:
        if len(self.ends) == 1:
            return self.ends[0]
        choice = _CHOICE.match(origin)
        place = int(choice[1]) // self.answers if choice is not None else len(self.ends)
        return self.ends[place] if place < len(self.ends) else ""


def begun(request: Request, dialect: str) -> Begun | None:
    """What the answer to `request` goes on from; None where it begins anew."""
    tree = request.tree
    if type(tree) is not dict:
        return None
    if dialect == "completions":
        prompt = tree.get("prompt")
        texts = prompt if type(prompt) is list else [prompt]
        if len(texts) > MOST:  # they are no texts, but the numbers of one text's tokens
            return None
        ends = [_end(text) for text in texts]
        return Begun(tuple(ends), tree.get("n") or 1) if any(ends) else None
    turns = tree.get(_TURNS.get(dialect, ""))
    last = turns[-1] if type(turns) is list and turns else None
    if type(last) is not dict or last.get("role") != "assistant":
        return None
    end = _end("".join(_words(last.get("content"))))
    return Begun((end,)) if end else None


def _words(content: Any) -> Iterator[str]:
    """The texts of a turn."""
    for part in content if type(content) is list else [content]:
        text = part.get("text") if type(part) is dict else part
        if type(text) is str:
            yield text


def _end(text: Any) -> str:
    return text[-REACH - 1 :] if type(text) is str else ""


def crossing(messages: Sequence[Message], joints: Sequence[Joint], report: Report, ask: Ask) -> Report:
    """`report` on `messages`, with what is found across `joints`, in the text that goes on. What is known there of the
    same label is not told twice."""
    known: dict[tuple[int, str, str], list[tuple[int, float]]] = {}
    for finding in report.findings:
        for place in finding.places if finding.span is not None else ():
            begin = finding.span[0] if finding.span is not None else 0
            known.setdefault((place, finding.classifier, finding.label), []).append((begin, finding.score))
    findings, failures = list(report.findings), list(report.failures)
    for first in range(0, len(joints), TOGETHER):
        some = joints[first : first + TOGETHER]
        texts = [_read(messages[joint.message], joint.before) for joint in some]
        seen = ask([text for text, _, _ in texts]) or Report()
        failures += [failure for failure in seen.failures if failure not in failures]
        for finding in (one for each in seen.findings for one in each.each()):
            _, seam, size = texts[finding.message]
            start, end = finding.span or (0, 0)
            if not start < seam < end:
                continue
            index = some[finding.message].message
            there = known.setdefault((index, finding.classifier, finding.label), [])
            if any(begin < end - seam and score >= finding.score for begin, score in there):
                continue
            there.append((0, finding.score))
            view = JOINT if finding.view in {RAW, ""} else f"{JOINT}.{finding.view}"
            span = 0, min(end - seam, size)
            findings.append(Finding(finding.classifier, finding.label, finding.score, index, span, view))
    return report._replace(findings=tuple(findings), failures=tuple(failures))


def _read(message: Message, before: str) -> tuple[Message, int, int]:
    """The joint as a text, where the answer begins in it, and how much of the answer it holds."""
    head = before if len(before) <= REACH else _APART + before[-REACH:]
    rest = message.text[:REACH]
    cut = _APART if len(rest) < len(message.text) else ""
    return Message(message.role, head + rest + cut, message.origin + "#begun"), len(head), len(rest)
