"""Classifiers that ask a service, asked from tests: the service is the scripted one of tests/upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from classifiers.base import Classifier, Finding, Message, NoAnswer, Role
from tests.upstream import End, Reply, replies
from tests.upstream.replies import content, cut, drip, html, json, redirect


@dataclass(frozen=True, slots=True)
class Answer:
    """What a classifier found, and why it has no answer, if so."""

    found: list[Finding]
    silence: NoAnswer | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Scores of the first message."""
        return {finding.label: round(finding.score, 6) for finding in self.found if finding.message == 0}

    @property
    def reason(self) -> str:
        return "" if self.silence is None else str(self.silence.reason)


async def ask(classifier: Classifier, *texts: str | Message) -> Answer:
    """Ask in a worker thread, as the panel does. Texts are those of a user."""
    messages = [text if isinstance(text, Message) else Message(Role.USER, text, "/x") for text in texts]
    try:
        return Answer(list(await asyncio.to_thread(classifier.classify, messages)))
    except NoAnswer as silence:
        return Answer(list(silence.findings), silence)


# What a service may do instead of answering, and what that is called. A `good` answer is what it would have said.
FAULTS: dict[str, tuple[Callable[[Any], Reply], str]] = {
    "hangs": (lambda good: [60.0], "timeout"),
    "hangs after the head": (lambda good: [*cut(json(good), 0)[:-1], 60.0], "timeout"),
    "hangs within the body": (lambda good: [*cut(json(good), 9)[:-1], 60.0], "timeout"),
    "a head in drops": (lambda good: drip(json(good), rate=20), "timeout"),
    "a body without end": (lambda good: replies.keepalive([b"{"], comment=b" "), "timeout"),
    "500": (lambda good: json(good, status=500), "unavailable"),
    "503 as a page": (lambda good: html("overloaded", status=503), "unavailable"),
    "429": (lambda good: replies.too_many(), "unavailable"),
    "401": (lambda good: replies.error(401, "no such key"), "unavailable"),
    "400": (lambda good: replies.error(400, "no such parameter"), "unavailable"),
    "204": (lambda good: content(b"", status=204), "unavailable"),
    "a redirect": (lambda good: redirect("/elsewhere"), "unavailable"),
    "a redirect to itself": (lambda good: redirect("", 302), "unavailable"),
    "a page": (lambda good: html("welcome"), "bad_answer"),
    "nothing": (lambda good: content(b""), "bad_answer"),
    "null": (lambda good: json(None), "bad_answer"),
    "a list": (lambda good: json([good]), "bad_answer"),
    "an error with 200": (lambda good: json({"error": {"message": "no"}}), "bad_answer"),
    "closes at once": (lambda good: [End.CLOSE], "unavailable"),
    "resets at once": (lambda good: [End.RESET], "unavailable"),
    "closes within the head": (lambda good: cut(json(good), 20, End.CLOSE, of_body=False), "unavailable"),
    "closes within the body": (lambda good: cut(json(good), 9, End.CLOSE), "bad_answer"),
    "resets within the body": (lambda good: cut(json(good), 9), "bad_answer"),
    "a body that is too long": (lambda good: content(b" " * 4_000_001), "bad_answer"),
    "a compressed body": (lambda good: json(good, gzip=True), "bad_answer"),
    "not UTF-8": (lambda good: json(b'{"a": "\xff"}'), "bad_answer"),
    "a key twice": (lambda good: json(b'{"choices": [], "choices": []}'), "bad_answer"),
    "NaN": (lambda good: json(b'{"choices": NaN}'), "bad_answer"),
    "nested deeply": (lambda good: json(b"[" * 100_000), "bad_answer"),
    "no HTTP": (lambda good: [b"\x16\x03\x01\x00\x05hello", End.CLOSE], "unavailable"),
}
