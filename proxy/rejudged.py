"""Kept exchanges judged again by another policy's classifiers, for a backtest to decide where recorded scores cannot.

Where all that the policy asks for was kept, its decision is the engine's own. Where not (facts of an exchange that is
no single request, what is remembered of accounts), what the classifiers find now is written as a record would have it,
and decided like any other, unknowns included. What the policy of then masked is judged masked: that is what was kept;
where less would be done now, nobody knows whether the mask is why, and it is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from classifiers.base import Message, Role, said_before
from classifiers.panel import Panel
from policies.backtest import PASSED, Again, Backtest, Rows, decided
from policies.changes import milder
from policies.heard import describe
from policies.model import Stage
from policies.ready import PolicySet

from .content.stated import stated
from .content.texts import Look
from .content.vault import Gone
from .dialects.base import Body
from .dialects.escapes import decoded
from .facts import calls_told
from .guard import Guard
from .metrics import Metrics
from .record import Seen
from .recorded import take

if TYPE_CHECKING:
    from policies.changes import Changes

    from .content.vault import Vault

TOGETHER = 8
"""Exchanges that are judged at once."""
SHOWN = 200
"""Letters of an example's text."""
_SHOWN = ((Stage.INPUT, Role.USER), (Stage.OUTPUT, Role.ASSISTANT))
_NOW = "(judged again)"
"""Stands for the revision of such a record: it asked all that the new policy asks."""
_HIDDEN = Again(None, PASSED, why="what was masked then cannot be found again, and less than that was found now")


class Rejudge:
    """`judged` counts the exchanges that were judged again, `masked` those of them that were kept masked, `absent` what
    nothing was kept of, and `left` what there was no more time for. A context manager."""

    def __init__(self, policies: PolicySet, vault: Vault, most: int) -> None:
        """At most so many are judged again."""
        self._vault, self._most = vault, most
        # What rules ask beside texts is asked again where it was kept, and else nobody knows it.
        self._trial = Backtest(policies, {_NOW: {**describe(policies), "rules": {}}}.get)
        self._panel = Panel()
        self._guard = Guard(policies, self._panel, Metrics())
        self._runner = asyncio.Runner()
        self._reached: dict[Stage, frozenset[int]] = {}  # the rows that came to a stage
        self.judged = self.masked = self.absent = self.left = 0

    def __enter__(self) -> Rejudge:
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.close()
        self._panel.close()

    def again(self, rows: Rows, before: Sequence[Again]) -> list[Again]:
        """`before`, with what was unknown judged again where its texts were kept. Raises ContentUnavailable."""
        out = list(before)
        self._reached = {stage: frozenset(part.judged) for stage, part in rows.stages.items()}
        contents = self._kept(rows, [row for row, one in enumerate(out) if one.action is None])
        while group := list(islice(contents, TOGETHER)):
            hidden = {row for row, content in group if masked(content)}
            for row, one in self._runner.run(self._judge(rows, group)):
                gone = row in hidden and one.action is not None and milder(one.action, rows.actions[row])
                out[row] = _HIDDEN if gone else one
        return out

    def texts(self, changes: Changes) -> dict[str, list[str]]:
        """What the examples of changes say, by id: what the user said last and what the model said, their beginnings.
        Raises ContentUnavailable."""
        found: dict[str, list[str]] = {}
        for id in (id for group in changes.groups.values() for id in group.examples):
            with contextlib.suppress(Gone):
                content = self._vault.read(id)
                found[id] = [line for stage, role in _SHOWN for line in _last(messages_of(content, stage), role)]
        return found

    @property
    def counts(self) -> dict[str, int]:
        return {"judged": self.judged, "masked": self.masked, "not_kept": self.absent, "left_out": self.left}

    @property
    def said(self) -> str:
        """For people."""
        said = f"asked the classifiers again about {self.judged:,} kept exchanges"
        if self.masked:
            said += f", {self.masked:,} of them masked"
        if self.absent:
            said += f"; nothing is kept of {self.absent:,}"
        if self.left:
            said += f"; {self.left:,} were left out (--ask {self.judged + self.left})"
        return said

    def _kept(self, rows: Rows, open_: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        for place, row in enumerate(open_):
            if self.judged >= self._most:
                self.left += len(open_) - place
                return
            try:
                content = self._vault.read(rows.ids[row])
            except Gone:
                self.absent += 1
                continue
            self.judged += 1
            self.masked += masked(content)
            yield row, content

    async def _judge(self, rows: Rows, group: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, Again]]:
        """(row, how it is decided now) of some exchanges."""
        every = await asyncio.gather(*(self._looks(rows.scopes[row].dialect, content) for row, content in group))
        out: list[tuple[int, Again]] = []
        fresh, open_ = Rows(), list[int]()
        for (row, content), looks in zip(group, every, strict=True):
            silent = {failure.classifier for look in looks.values() for failure in look.decision.failures}
            if silent:
                why = f"{', '.join(sorted(silent))} gave no answer when it was asked again"
                out.append((row, Again(None, PASSED, why=why)))
            elif self._knows(content, looks):
                first, second = (looks[stage].decision if stage in looks else None for stage in Stage)
                out.append((row, decided(first, second, row in rows.ended, rows.scopes[row].model)))
            else:
                take(fresh, rows.ids[row], rows.actions[row], rows.rules[row], self._record(rows, row, looks))
                open_.append(row)
        return [*out, *zip(open_, self._trial.decide(fresh), strict=True)]

    async def _looks(self, dialect: str, content: dict[str, Any]) -> dict[Stage, Look]:
        """What the policy says now of each stage that was kept."""
        guard = self._guard
        if guard.asks and "facts" in content:
            guard = guard.stating(stated(content["facts"]))
        looks = {}
        before = said_before(messages_of(content, Stage.INPUT))
        for stage in Stage:
            if str(stage) in content:
                messages, places = body_of(content, stage).messages, places_of(content, stage)
                decision = await guard.check(stage, dialect, messages, places, before if stage is Stage.OUTPUT else "")
                looks[stage] = Look([*messages, *(message for message, _ in places)], decision)
        return looks

    def _knows(self, content: dict[str, Any], looks: Mapping[Stage, Look]) -> bool:
        """Whether the decisions had all that the policy asks for."""
        if not self._guard.asks:
            return True
        called = looks[Stage.OUTPUT].messages if Stage.OUTPUT in looks else ()
        return "facts" in content and not self._guard.memory.read and calls_told(called)

    def _record(self, rows: Rows, row: int, looks: Mapping[Stage, Look]) -> dict[str, Any]:
        """What the record of an exchange would say."""
        body: dict[str, Any] = {"revision": _NOW, **rows.scopes[row]._asdict()}
        for stage in Stage:
            if stage in looks:
                seen = Seen()
                seen.add(looks[stage].decision, looks[stage].messages)
                body[str(stage)] = seen.facts()
            elif row in self._reached[stage]:
                body[str(stage)] = {}
        return body


def masked(content: dict[str, Any]) -> bool:
    """Whether the policy of then masked anything in it."""
    return any(content[stage]["masked"] for stage in Stage if stage in content)


def body_of(content: dict[str, Any], stage: Stage) -> Body:
    """What was kept of a stage, as a dialect reads it."""
    messages = messages_of(content, stage)
    places = [(message.origin, kind) for message, kind in places_of(content, stage)]
    return Body(messages if stage is Stage.INPUT else list(_read_out(messages)), places)


def messages_of(content: dict[str, Any], stage: Stage) -> list[Message]:
    """The texts that were kept of a stage."""
    told = content.get(str(stage))
    return [Message(Role(role), text, origin) for role, origin, text in told["texts"]] if told else []


def places_of(content: dict[str, Any], stage: Stage) -> list[tuple[Message, str]]:
    """The parts of a stage that were no text, and their kinds."""
    told = content.get(str(stage))
    return [(Message(Role(role), "", origin), kind) for role, origin, kind in told["places"]] if told else []


def _last(messages: Sequence[Message], role: Role) -> list[str]:
    """The newest text of a role, on one line."""
    texts = [" ".join(message.text.split()) for message in messages if message.role is role and message.text.strip()]
    return [f"{role}: {text if len(text) <= SHOWN else text[:SHOWN] + ' ...'}" for text in texts[-1:]]


def _read_out(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages, and beside the text of a tool call what it reads without JSON's escapes, which of a stream is not
    kept."""
    known = {message.origin for message in messages}
    for message in messages:
        yield message
        origin = message.origin + "#decoded"
        if message.role is Role.TOOL_CALL and "\\" in message.text and origin not in known:
            yield replace(message, text=decoded(message.text), origin=origin)
