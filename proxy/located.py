"""Where what was found in a derived text can be masked: a text that was joined, or read without its escapes.

A derived text (its origin says so behind a '#') is sent to nobody, so what is found in it has a place only where the
text that it was derived from has one. Else the finding keeps no span, and a rule that masks blocks.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from classifiers.base import Finding, Message, Report, Role

from .dialects.escapes import Span, Unescaped, decoded

_PARTS = {
    "#joined": re.compile(r"/[0-9]+(?:/text)?"),
    "#thoughts": re.compile(r"/[0-9]+/thinking"),
    "#said": re.compile(r"/[0-9]+/content/[0-9]+/text"),
}
"""How the origin of a joined text ends, and what leads from the list to the text of one of its parts."""
_DECODED = "#decoded"

_Kind = tuple[int, str, str, str]
"""The message, classifier, label and view of a finding."""


def located(messages: Sequence[Message], report: Report) -> Report:
    """The report with a place for each finding that has one. What was found in a part of a joined text as well, or in
    arguments as they are written, is one finding, and it has a place there."""
    writings = [index for index, message in enumerate(messages) if message.origin.endswith(_DECODED)]
    if not writings and not any(f.span is not None and "#" in messages[f.message].origin for f in report.findings):
        return report
    found = [one for each in report.findings for one in (each.each() if each.span and each.twins else (each,))]
    scores = {(f.message, f.span, f.classifier, f.label): f.score for f in found}
    joints: dict[int, list[tuple[int, int]]] = {}
    findings: list[Finding] = []
    for finding in found:
        index, span = finding.message, finding.span
        origin = messages[index].origin
        if "#" not in origin or origin.endswith(_DECODED):
            findings.append(finding)
            continue
        if span is not None and origin.endswith(tuple(_PARTS)):
            if index not in joints:
                joints[index] = _parts(messages, index)
            parts = joints[index]
            offset, part = parts[bisect_right(parts, (span[0], len(messages))) - 1] if parts else (0, index)
            there = (part, (span[0] - offset, span[1] - offset), finding.classifier, finding.label)
            if part != index and scores.get(there, -1.0) >= finding.score:
                continue
        findings.append(replace(finding, span=None))
    return report._replace(findings=tuple(_Writings(messages, writings).placed(findings) if writings else findings))


def _parts(messages: Sequence[Message], joined: int) -> list[tuple[int, int]]:
    """(where it begins in the joined text, its index) of each part; none where it is not made of them exactly."""
    base, _, kind = messages[joined].origin.rpartition("#")
    path = _PARTS["#" + kind]
    # What is read as the user's and as a stranger's stands here twice: the later one is of the text that was joined.
    latest = {
        message.origin: index
        for index, message in enumerate(messages[:joined])
        if message.origin.startswith(base) and path.fullmatch(message.origin, len(base))
        if kind != "said" or message.role is messages[joined].role
    }
    parts: list[tuple[int, int]] = []
    size = 0
    for index in latest.values():
        parts.append((size, index))
        size += len(messages[index].text)
    return parts if "".join([messages[index].text for _, index in parts]) == messages[joined].text else []


class _Writings:
    """Arguments of calls as they are written, and as they read without escapes."""

    def __init__(self, messages: Sequence[Message], readings: Iterable[int]) -> None:
        origins = {message.origin: index for index, message in enumerate(messages) if message.role is Role.TOOL_CALL}
        self._messages = messages
        self._written = {
            index: at
            for index in readings
            if (at := origins.get(messages[index].origin.removesuffix(_DECODED))) is not None
        }
        self._unescaped: dict[int, Unescaped] = {}
        self._same: dict[int, bool] = {}
        self._read = frozenset(self._written.values())

    def placed(self, findings: Sequence[Finding]) -> list[Finding]:
        """What was found in the readings has its place in what is written, where it has one. No span of what is written
        begins or ends inside an escape: what is left of that would say something else."""
        read = {at: one for at, each in enumerate(findings) if (one := self._written_as(each)) is not None}
        places: dict[_Kind, list[tuple[Span, float]]] = {}
        for one in read.values():
            if one.span is not None:
                places.setdefault(_kind(one), []).append((one.span, one.score))
        for spans in places.values():
            spans.sort()
        placed: dict[int, Finding] = {}
        known: dict[tuple[int, Span | None, str, str], float] = {}
        for at, finding in enumerate(findings):
            if at not in read and (whole := self._whole(finding, places.get(_kind(finding), ()))) is not None:
                placed[at] = whole
                known[whole.message, whole.span, whole.classifier, whole.label] = whole.score
        for at, finding in read.items():
            there = (finding.message, finding.span, finding.classifier, finding.label)
            if finding.span is None or known.get(there, -1.0) < finding.score:
                placed[at] = finding
        return [placed[at] for at in sorted(placed)]

    def _written_as(self, finding: Finding) -> Finding | None:
        """A finding in a reading as one in what is written; None where it is no such."""
        if not self._messages[finding.message].origin.endswith(_DECODED):
            return None
        at = self._written.get(finding.message)
        span = None
        if at is not None and finding.span is not None and self._is_read(finding.message, at):
            span = self._reading(at).written(finding.span)
        return replace(finding, span=None) if at is None or span is None else replace(finding, message=at, span=span)

    def _whole(self, finding: Finding, read: Sequence[tuple[Span, float]]) -> Finding | None:
        """A finding, with all of the escapes that it cuts; None where the letters of an escape were taken for what it
        says, and what it says is found in `read`."""
        if finding.span is None or finding.message not in self._read:
            return finding
        reading = self._reading(finding.message)
        start, end = reading.widened(finding.span)
        if (start, end) == finding.span:
            return finding
        for at in range(bisect_left(read, ((start, 0), 0.0)), len(read)):
            (first, last), score = read[at]
            if first >= end:
                break
            if reading.strict and last <= end and score >= finding.score:
                return None
        return replace(finding, span=(start, end))

    def _is_read(self, reading: int, at: int) -> bool:
        """Whether a reading says what is written in the message `at`, asked once: it may be megabytes."""
        if reading not in self._same:
            self._same[reading] = decoded(self._messages[at].text) == self._messages[reading].text
        return self._same[reading]

    def _reading(self, at: int) -> Unescaped:
        known = self._unescaped.get(at)
        if known is None:
            known = self._unescaped[at] = Unescaped(self._messages[at].text)
        return known


def _kind(finding: Finding) -> _Kind:
    return finding.message, finding.classifier, finding.label, finding.view
