"""The objects around batches: files and batches, created, listed, cancelled, deleted. JSON, every leaf of it judged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from classifiers.base import Role

from ..accounts.holder import Unwritten, noted
from ..answers import problem
from ..dialects.base import BadRequest, Body, Dialect, Refusal, Request, StreamReader
from ..dialects.names import one_spelling
from ..exchange import Exchange, Lead
from ..paging import Own
from ..routing import Way
from ..strict import Malformed, parse
from ..upstream import Response

_WORDS = frozenset(
    """
    id object data first_id last_id has_more after limit order deleted created_at expires_at completed_at failed_at
    cancelled_at cancelling_at expired_at finalizing_at in_progress_at archived_at cancel_initiated_at ended_at
    input_file_id output_file_id error_file_id endpoint completion_window metadata model status processing_status
    status_details errors error code message line param request_counts total completed failed processing succeeded
    errored canceled expired results_url type usage input_tokens output_tokens total_tokens input_tokens_details
    cached_tokens output_tokens_details reasoning_tokens bytes filename purpose anchor seconds output_expires_after
    expires_after list file batch message_batch message_batch_deleted batch_output validating in_progress finalizing
    cancelling cancelled ended canceling uploaded processed 24h custom_id requests
    """.split()  # noqa: SIM905
)


class Records:
    """A dialect whose requests and answers are records. `speaker` says errors and refusals. `endpoints` are the paths
    that a batch may be for."""

    name = "batches"

    def __init__(self, speaker: Dialect, endpoints: Collection[str] = ()) -> None:
        self._speaker, self._endpoints = speaker, endpoints

    def read_request(self, tree: Any) -> Request:
        """`tree` is None where there is no body. Raises BadRequest."""
        request = Request(tree=tree, modelless=True)
        if tree is None:
            return request
        if not isinstance(tree, dict):
            raise BadRequest("The body must be a JSON object.")
        known = ", ".join(sorted(self._endpoints))
        if known and not any(tree.get("endpoint") == path for path in self._endpoints):
            raise BadRequest(f"'endpoint' must be one of {known}.", "endpoint")
        request.leaves(tree, Role.SETTING, "", _WORDS | frozenset(self._endpoints))
        return request

    def read_response(self, tree: Any) -> Body:
        body = Body()
        body.leaves(tree, Role.SETTING, "", _WORDS)
        return body

    def reader(self, request: Request) -> StreamReader:
        raise Malformed("it is a stream, and records are never streamed")

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        return self._speaker.error(status, code, message, param, decision)

    def refused(self, refusal: Refusal) -> bytes:
        return self._speaker.refused(replace(refusal, param="file") if refusal.param == "messages" else refusal)

    def answered(self, refusal: Refusal, request: Request) -> bytes | None:
        return None

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        return self.refused(refusal)


class Recorded(Exchange):
    """An exchange about records, with the upstream that takes what has no model's name. Its rows are requests of their
    own: without facts of each, every policy is for it, and what asks for them is not known."""

    one_request = False

    async def run(self, lead: Lead, query: bytes, body: bytes | None) -> None:
        self._lead = lead
        await super().run(self.way, query, body)

    def way(self, request: Request) -> tuple[Way, bytes]:
        """As `lead`; nothing is renamed."""
        way, head = self._lead(request)
        return replace(way, model=None), head

    def read(self, body: bytes | None) -> Request:
        return self.dialect.read_request(one_spelling(parse(body)) if body else None)

    async def whole(self, request: Request, response: Response) -> None:
        raw = await response.read(self.max_answer)
        try:
            kept, tree = await self._own(request, raw)
        except Unwritten as error:
            self.notes.ended("refused", error.code)
            await self.send(problem(self.dialect, 503, error.code, str(error), self.notes.id))
            return
        changed = at_home(tree) or kept is None
        await self.release(response, orjson.dumps(tree) if changed else raw, tree, altered=changed)

    async def _own(self, request: Request, raw: bytes) -> Own:
        """What of it is the caller's."""
        if request.listed is not None:
            return await request.listed(raw, self.max_answer)
        tree = parse(raw)
        changed = request.own is not None and await noted(request.own, tree)
        return (None if changed else raw), tree


def at_home(tree: Any) -> bool:
    """Make the addresses of results relative, wherever in `tree` they stand; whether there were any.

    Anthropic's clients follow them, and as the provider writes them they lead past Penstock."""
    found = False
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            stack.extend(value.values())
            address = value.get("results_url")
            if isinstance(address, str):
                value["results_url"] = urlsplit(address).path
                found = True
    return found
