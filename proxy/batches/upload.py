"""An upload of many requests: judged row by row, then forwarded, or refused whole.

INVARIANT: what is forwarded is what was judged, byte for byte, but for rows that a rule masks or adds a note to: they
go as the rule made them. It is forwarded only once every row was judged.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from classifiers.base import Role
from policies.engine import Decision
from policies.model import Action, OnBlock, Stage

from ..dialects.base import BadRequest, Body, Dialect, NotFound, Refusal, Request, TooMany
from ..exchange import Exchange, Shared
from ..guard import Guard
from ..listener import Caller
from ..record import Notes
from ..routing import Way
from ..spelling import respelled
from ..strict import Malformed
from .form import Form, read_form
from .records import Recorded, Records
from .rows import Row, lines, listed, placed, uploaded

TOGETHER = 8
"""Rows of one upload that are judged at once: it must leave room for others."""


@dataclass(slots=True)
class Upload(Request):
    """An upload, read as far as it takes to know its rows. `rows` reads them one by one, and raises BadRequest. A file
    came in `form`."""

    rows: Iterator[Row] = field(default_factory=lambda: iter(()))
    form: Form | None = None


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
        upload = Upload(tree=None, modelless=True, rows=_counted(self._rows(form.content), self._most), form=form)
        for name, text in form.fields.items():
            upload.add(Role.SETTING, name, f"/{name}#key")
            upload.add(Role.SETTING, text, f"/{name}")
        upload.add(Role.SETTING, form.filename, "/file#filename")
        return upload

    def line(self, number: int, tree: Any) -> bytes:
        """Row `tree` as a line that any reader of lines leaves whole. Raises BadRequest where it would end the form."""
        line = json.dumps(tree, separators=(",", ":")).encode()
        if b"--" + self._boundary in line:
            text = f"Row {number} was refused: the form's boundary stands in what a rule has made of it."
            raise BadRequest(text, "file")
        return line

    def altered(self, body: bytes, form: Form, rows: Mapping[int, bytes]) -> bytes:
        """`body`, which `form` was read from, with other lines at some numbers."""
        kept = form.content.split(b"\n")
        for number, line in rows.items():
            kept[number - 1] = line + (b"\r" if kept[number - 1].endswith(b"\r") else b"")
        return body[: form.start] + b"\n".join(kept) + body[form.start + len(form.content) :]

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

    def __init__(self, dialect: Dialect, guard: Guard, shared: Shared, caller: Caller, notes: Notes) -> None:
        super().__init__(dialect, guard, shared, caller, notes)
        self._lines: dict[int, bytes] = {}  # of a file, as rules made them
        self._items: list[tuple[Row, Decision]] = []  # of a list, for rules to change

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
        if decision.action.severity > Action.LOG.severity:
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
                    if found.way is not None or not judged.alterable(found):
                        self.row = judged.number
                        self.notes.ended("blocked", f"row {judged.number}")
                        return _stopped(found)
                    if found.masks or found.advice:
                        self._alter(judged, found)
                group.clear()
                await asyncio.sleep(0)  # reading a row takes time that others are to have, too
            if row is None:
                return decision

    def _alter(self, row: Row, decision: Decision) -> None:
        """What goes in the place of a row. Raises BadRequest."""
        if isinstance(self.dialect, Files):
            tree = json.loads(row.raw)
            row.alter(tree, decision)
            self._lines[row.number] = self.dialect.line(row.number, tree)
        else:
            self._items.append((row, decision))

    def forwarded(self, body: bytes, request: Request, decision: Decision, way: Way) -> bytes:
        assert isinstance(request, Upload)
        if self._lines and request.form is not None and isinstance(self.dialect, Files):
            return self.dialect.altered(body, request.form, self._lines)
        if self._items:
            tree = json.loads(body)
            for row, found in self._items:
                row.alter(tree["requests"][row.number - 1], found)
            return respelled(body, tree)
        return body

    def _allow(self, row: Row, upload: Upload) -> None:
        """Raises BadRequest where a row holds too many texts, or asks for a model that is not for this account, or that
        this upload's upstream does not serve by that name."""
        try:
            self.bounded(row.said)
            (own, _), (way, _) = self._lead(upload), self._lead(row.request)
        except (NotFound, TooMany) as error:
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


def _stopped(decision: Decision) -> Decision:
    """A decision that refuses, with an error: an upload cannot be answered in words, and a row neither waits for a
    person nor goes elsewhere than the others."""
    first = replace(decision.fired[0], action=Action.BLOCK, on_block=OnBlock.ERROR)
    return replace(decision, action=Action.BLOCK, fired=(first, *decision.fired[1:]), masks=())


def _counted(rows: Iterator[Row], most: int) -> Iterator[Row]:
    for count, row in enumerate(rows, 1):
        if count > most:
            raise BadRequest(f"The upload holds more than {most} rows.", "file")
        yield row
