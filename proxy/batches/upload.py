"""An upload of many requests: judged row by row, then forwarded as it came, or refused whole.

INVARIANT: what is forwarded is what was judged, byte for byte; and it is forwarded only once every row was judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from classifiers.base import Role
from policies.engine import Decision
from policies.model import Action, OnBlock, Stage

from ..dialects.base import BadRequest, Body, Dialect, NotFound, Refusal, Request
from ..exchange import Exchange
from ..strict import Malformed
from .form import read_form
from .records import Recorded, Records
from .rows import Row, lines, listed, placed, uploaded

TOGETHER = 8
"""Rows of one upload that are judged at once: it must leave room for others."""


@dataclass(slots=True)
class Upload(Request):
    """An upload, read as far as it takes to know its rows. `rows` reads them one by one, and raises BadRequest."""

    rows: Iterator[Row] = field(default_factory=lambda: iter(()))


class Files(Records):
    """POST /v1/files with a file of requests. `dialects` are those that a row may ask, by path; `most` rows are
    taken."""

    def __init__(self, speaker: Dialect, boundary: bytes, dialects: Mapping[str, Dialect], most: int) -> None:
        super().__init__(speaker)
        self._boundary, self._dialects, self._most = boundary, dialects, most

    def read_body(self, body: bytes) -> Upload:
        """Raises Malformed and BadRequest."""
        form = read_form(body, self._boundary)
        purpose = form.fields.pop("purpose", None)
        if purpose != "batch":
            raise BadRequest("'purpose' must be batch: no other file can be judged.", "purpose")
        upload = Upload(tree=None, modelless=True, rows=_counted(self._rows(form.content), self._most))
        for name, text in form.fields.items():
            upload.add(Role.SETTING, name, f"/{name}#key")
            upload.add(Role.SETTING, text, f"/{name}")
        upload.add(Role.SETTING, form.filename, "/file#filename")
        return upload

    def _rows(self, content: bytes) -> Iterator[Row]:
        for number, line in lines(content):
            yield uploaded(number, line, self._dialects)


class Lists(Records):
    """POST /v1/messages/batches. `dialect` is what each item asks; `most` items are taken."""

    def __init__(self, speaker: Dialect, dialect: Dialect, most: int) -> None:
        super().__init__(speaker)
        self._dialect, self._most = dialect, most

    def read_request(self, tree: Any) -> Upload:
        requests = tree.get("requests") if isinstance(tree, dict) else None
        if not isinstance(requests, list) or not requests:
            raise BadRequest("'requests' must be a list of requests.", "requests")
        rows = (listed(number, item, self._dialect) for number, item in enumerate(requests, 1))
        upload = Upload(tree=tree, modelless=True, rows=_counted(rows, self._most))
        rest = super().read_request({key: value for key, value in tree.items() if key != "requests"})
        upload.messages = rest.messages
        return upload


class Uploaded(Recorded):
    """An exchange that uploads requests."""

    row: int | None = None
    """The row that refused it."""

    def read(self, body: bytes | None) -> Request:
        if isinstance(self.dialect, Files):
            if not body:
                raise Malformed("the body is empty: send a form")
            return self.dialect.read_body(body)
        return Exchange.read(self, body)  # a list has a body

    async def judge(self, request: Request) -> Decision:
        """The first decision that stops the upload, or the last one."""
        assert isinstance(request, Upload)
        decision = await super().judge(request)
        if _changes(decision):
            return _stopped(decision)
        row: Row | None = None
        group: list[Row] = []
        while True:
            row = next(request.rows, None)
            if row is not None:
                self._allow(row, request)
                group.append(row)
            if len(group) == TOGETHER or (row is None and group):
                for judged, found in zip(group, await self._judge(group), strict=True):
                    if _changes(found):
                        self.row = judged.number
                        self.notes.ended("blocked", f"row {judged.number}")
                        return _stopped(found)
                group.clear()
                await asyncio.sleep(0)  # reading a row takes time that others are to have, too
            if row is None:
                return decision

    def _allow(self, row: Row, upload: Upload) -> None:
        """Raises BadRequest where a row asks for a model that is not for this account, or that this upload's upstream
        does not serve by that name."""
        try:
            (own, _), (way, _) = self._lead(upload), self._lead(row.request)
        except NotFound as error:
            raise BadRequest(f"Row {row.number} was refused: {error}", "file") from None
        if way.backend is not own.backend or way.model is not None:
            raise BadRequest(f"Row {row.number} was refused: its model is not served in batches.", "file")

    async def _judge(self, rows: list[Row]) -> list[Decision]:
        """The decision on each row."""
        return list(await asyncio.gather(*(self._judge_one(row.said) for row in rows)))

    async def _judge_one(self, said: Body) -> Decision:
        return await self.decide(Stage.INPUT, said.messages, placed(said, Role.USER))

    def refusal(self, decision: Decision) -> Refusal:
        refusal = super().refusal(decision)
        if self.row is None or decision.stage is not Stage.INPUT:
            return refusal
        return replace(refusal, message=f"{refusal.message} (Row {self.row}; nothing was uploaded.)")


def _changes(decision: Decision) -> bool:
    """Whether a row could not leave as it is."""
    return decision.action.severity > Action.LOG.severity


def _stopped(decision: Decision) -> Decision:
    """A decision that refuses, with an error: a file cannot be changed, and its upload not be answered in words."""
    first = replace(decision.fired[0], action=Action.BLOCK, on_block=OnBlock.ERROR)
    return replace(decision, action=Action.BLOCK, fired=(first, *decision.fired[1:]), masks=())


def _counted(rows: Iterator[Row], most: int) -> Iterator[Row]:
    for count, row in enumerate(rows, 1):
        if count > most:
            raise BadRequest(f"The upload holds more than {most} rows.", "file")
        yield row
