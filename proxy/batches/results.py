"""What became of a batch: a file of results, judged row by row on its way to the caller.

INVARIANT: no row leaves before a decision covers it, and none before the intent is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from classifiers.base import Message, Role
from policies.engine import Decision
from policies.model import Action, Stage

from ..answers import problem, relayed
from ..changes import masked
from ..dialects.base import Body, Dialect, Refusal, Request
from ..headers import kind_of
from ..problems import unavailable
from ..strict import Malformed, parse
from ..upstream import Response, UpstreamError
from .records import Recorded, Records
from .rows import LONGEST_ROW, answered, placed

TOGETHER = 8
"""Rows that are judged at once."""


class Results(Records):
    """GET of a file. `dialects` are known by what their answers call themselves."""

    def __init__(self, speaker: Dialect, dialects: Mapping[str, Dialect], anthropic: bool) -> None:
        super().__init__(speaker)
        self._dialects, self._anthropic = dialects, anthropic

    def read_row(self, tree: Any) -> Body:
        return answered(tree, self._dialects)

    def failed(self, custom_id: str | None, refusal: Refusal | None, decision: str) -> bytes:
        """A row that takes the place of another: refused, or (None) not to be read. Ends in a line feed."""
        told = unavailable(decision)
        spoken = self.refused(refusal) if refusal else self.error(503, "guard_unavailable", told, decision=decision)
        error = orjson.loads(spoken)
        if self._anthropic:
            row = {"custom_id": custom_id, "result": {"type": "errored", "error": error}}
        else:
            told = error["error"]
            row = {"id": None, "custom_id": custom_id, "response": None}
            row["error"] = {"code": told["code"], "message": told["message"]}
        return orjson.dumps(row) + b"\n"


class Fetched(Recorded):
    """An exchange that fetches results."""

    dialect: Results
    _replaced = 0

    async def answer(self, request: Request, response: Response) -> None:
        coding = b", ".join(response.all(b"content-encoding")).strip().lower() or b"identity"
        if response.status != 200 or coding != b"identity" or kind_of(response.all(b"content-type"))[1]:
            await super().answer(request, response)
            return
        try:
            await self._relay(response)
        except (UpstreamError, Malformed) as error:
            if not self.caller.started:
                if isinstance(error, UpstreamError):
                    raise
                response.abort()
                self.notes.ended("refused", "unreadable_file")
                text = f"Only files of results can be judged and fetched; this one is none: {error}."
                await self.send(problem(self.dialect, 400, "unreadable_file", text, self.notes.id))
                return
            # What has left cannot be taken back, and the rest will not come: the connection ends without an end.
            response.abort()
            self.fault(error)

    async def _relay(self, response: Response) -> None:
        head = relayed(response)
        async for group in _groups(response):
            rows = await asyncio.gather(*map(self._row, group))
            await self.durable()
            if not self.caller.started:
                self.caller.start(200, head, response.reason)
            self.caller.send(b"".join(rows))
            drained = self.caller.drained
            if drained is not None:
                await drained
        await self.durable()
        if not self.caller.started:
            self.caller.start(200, head, response.reason)
        self.caller.finish()
        self.notes.ended("blocked" if self._replaced else "released")

    async def _row(self, line: bytes) -> bytes:
        """What leaves in the place of `line`, which is a row with its line end, or blank."""
        if not line.strip():
            return line
        try:
            tree = parse(line)
        except Malformed as error:
            if not self.caller.started:
                raise Malformed(f"a row is {error}") from None
            self._replaced += 1
            return self.dialect.failed(None, None, self.notes.id)
        said = self.dialect.read_row(tree)
        decision = await self.decide(Stage.OUTPUT, said.messages, placed(said, Role.ASSISTANT))
        if decision.way is None:
            return masked(line, said, decision) if decision.masks else line
        self._replaced, decision = self._replaced + 1, decision.stopped() or decision.denied()
        silent = decision.fired[0].not_evaluated
        return self.dialect.failed(await self._name(tree), None if silent else self.refusal(decision), self.notes.id)

    async def _name(self, tree: Any) -> str | None:
        """The row's own name for itself, where that may be told."""
        name = tree.get("custom_id") if isinstance(tree, dict) else None
        if not isinstance(name, str):
            return None
        decision: Decision = await self.decide(Stage.OUTPUT, [Message(Role.SETTING, name, "/custom_id")])
        return name if decision.action in {Action.PASS, Action.LOG} else None


async def _groups(response: Response) -> AsyncIterator[list[bytes]]:
    """The answer's lines, a few at a time, each with its end. Raises UpstreamError, and Malformed where one is too
    long."""
    rest = b""
    while (piece := await response.next()) is not None:
        *whole, rest = (rest + piece).split(b"\n")
        for start in range(0, len(whole), TOGETHER):
            yield [line + b"\n" for line in whole[start : start + TOGETHER]]
        if len(rest) > LONGEST_ROW:
            raise Malformed(f"a row is longer than {LONGEST_ROW} bytes")
    if rest:
        yield [rest]
