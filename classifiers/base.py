"""The words that every floor shares: what is judged, what was seen, and what could not be seen.

A classifier answers one question, "what is in this text?", and knows nothing of HTTP, policies or metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable


class Role(StrEnum):
    """Who speaks, or what kind of part a text is. Policies choose by it which rules look where."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL_DEFINITION = "tool_definition"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    REASONING = "reasoning"
    REFUSAL = "refusal"
    ERROR = "error"
    SETTING = "setting"
    """Any other text that can reach the model or the client: names, metadata, unknown fields and keys."""


@dataclass(frozen=True, slots=True)
class Message:
    """One text to judge.

    `origin` is a JSON pointer (RFC 6901) into the body that it came from, so that what was judged can be shown
    and masked. A pointer that ends in ``#key`` names an object key instead of a value, and one with another word behind
    a ``#`` a text that was derived from what stands there; a ``#`` in a key is written ``~2``.

    `context` is what was said before it in the conversation (the last turns of the user and texts of tools), for
    classifiers that judge an answer by its question. It is never judged itself, and no finding points into it.
    """

    role: Role
    text: str
    origin: str
    context: str = ""


SAID_TO_MODEL = frozenset({Role.USER, Role.TOOL_RESULT})
SAID_BY_MODEL = frozenset({Role.ASSISTANT, Role.REASONING, Role.REFUSAL, Role.TOOL_CALL})
LONGEST_CONTEXT = 8000
"""Code points of a context: its end, since what was said last explains an answer best."""


def said_before(messages: Iterable[Message]) -> str:
    """The context of an answer to `messages`: what the user and the tools said, a line each, without readings derived
    from other texts (their origins say so behind a '#')."""
    said = [m.text for m in messages if m.role in SAID_TO_MODEL and "#" not in m.origin]
    return "\n".join(said)[-LONGEST_CONTEXT:]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something seen, not judged: policies decide what it means.

    `score` is in [0, 1]. `message` is the index in the list that was judged. `span` is [start, end) in code
    points of that message's text, or None where the whole text is meant. `view` is the reading of the text in which
    it was seen (`readings`): "raw", or the way to it like "plain.decoded"; empty where the classifier does not tell.
    `twins` are other messages of the same role that say the same, for which it stands as well: a flood of one short
    text must not become a flood of findings. Either all of them are derived texts or none is.
    """

    classifier: str
    label: str
    score: float
    message: int
    span: tuple[int, int] | None = None
    view: str = ""
    twins: tuple[int, ...] = ()

    @property
    def places(self) -> tuple[int, ...]:
        """All messages that it stands for."""
        return (self.message, *self.twins)

    def each(self) -> Iterator[Finding]:
        """The same as findings of one message each."""
        for place in self.places:
            yield Finding(self.classifier, self.label, self.score, place, self.span, self.view)


class Silence(StrEnum):
    """Why a classifier gave no answer."""

    TIMEOUT = "timeout"
    CRASH = "crash"
    BAD_ANSWER = "bad_answer"
    QUEUE_FULL = "queue_full"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Failure:
    """A classifier that could not answer: a value, not an exception, so that a policy decides what silence
    means. `detail` is for operators and never holds judged text. `roles` are those of the messages that it left unread,
    where it read some; None: it left all of them."""

    classifier: str
    reason: Silence
    detail: str = ""
    roles: frozenset[Role] | None = None


class NoAnswer(Exception):
    """Raised by a classifier that knows why it cannot answer: the panel makes it a Failure of that reason.

    `findings` is what it found before, in other messages or other parts: it is reported beside the failure, so that
    one text that cannot be judged hides nothing of the others. `detail` never holds judged text.
    """

    def __init__(self, reason: Silence, detail: str = "", findings: Sequence[Finding] = ()) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail, self.findings = reason, detail, findings


class Report(NamedTuple):
    """All that the panel saw of one list of messages.

    `unread` holds the indices of messages that no classifier was asked to read or could read.
    `seconds` is wall time in the panel; `queued` is the part of it spent waiting for a free worker.
    """

    findings: tuple[Finding, ...] = ()
    failures: tuple[Failure, ...] = ()
    unread: tuple[int, ...] = ()
    seconds: float = 0.0
    queued: float = 0.0


@runtime_checkable
class Classifier(Protocol):
    """Reads messages, returns findings.

    `name` is the name that a policy gave it. `labels` is every label that it can find. `digest` (sha256, hex)
    identifies weights and configuration: equal digests mean equal findings for equal texts and contexts. `inline`
    is True where a call costs microseconds per kB and may run on the event loop; others run in a worker thread, so
    `classify` must be thread-safe. `Finding.message` is an index into the sequence given.

    Exceptions are allowed: the panel turns each into a Failure, NoAnswer into one of its reason. Text is never cut
    silently.
    """

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> frozenset[str]: ...

    @property
    def digest(self) -> str: ...

    @property
    def inline(self) -> bool: ...

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]: ...
