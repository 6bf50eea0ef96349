"""`/v1/models` where there is more to say than one upstream says: the lists of several are merged, and hold what the
caller may use and the table of routes leads to, no more.

Decision: an upstream that gives no list is left out, and the others are told. Why: a list is a convenience, and one
provider's bad hour should not hide the rest. Cost: a list can be short; the log and `penstock_upstream_faults_total`
say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from .logs import get_logger
from .routing import Backend, Patterns, Routing
from .strict import Malformed, parse
from .upstream import UpstreamError

log = get_logger("penstock.models")

PAGES = 10
"""Pages of one list that are asked for at most; a page of Anthropic's holds 1000 models."""

Card = dict[str, Any]
Fetch = Callable[[Backend, bytes], Awaitable[tuple[int, bytes]]]
"""GET a target from an upstream, as this caller: its status and body. Raises UpstreamError."""


async def listed(routing: Routing, family: str, may: Patterns | None, fetch: Fetch) -> bytes | None:
    """The list for a caller of `family` who may use the models in `may` (None: all); None: no upstream gave one."""
    asked = [backend for backend in routing.backends if family in backend.serves]
    lists = await asyncio.gather(*(_cards(backend, family, fetch) for backend in asked))
    found = {backend.name: cards for backend, cards in zip(asked, lists, strict=True) if cards is not None}
    cards: dict[str, Card] = {}
    for backend in asked:
        for name, card in found.get(backend.name, {}).items():
            way = routing.find(family, name)
            if (
                way is not None
                and way.backend is backend
                and way.model in {None, name}
                and (may is None or name in may)
            ):
                cards.setdefault(name, card)
    for name, way in routing.names(family).items():
        if may is None or name in may:
            known = found.get(way.backend.name, {}).get(way.model or name)
            cards[name] = {**(known or _plain(family, way.backend)), "id": name}
    if not cards and not found:
        return None
    return orjson.dumps(_page(family, list(cards.values())))


def renamed(body: bytes, name: str) -> bytes:
    """An upstream's card of one model, under the name that callers know it by."""
    try:
        card = parse(body)
    except Malformed:
        return body
    return orjson.dumps({**card, "id": name}) if isinstance(card, dict) and "id" in card else body


async def _cards(backend: Backend, family: str, fetch: Fetch) -> dict[str, Card] | None:
    """What one upstream lists, by name; None where it does not."""
    target = b"/v1/models?limit=1000" if family == "anthropic" else b"/v1/models"
    cards: dict[str, Card] = {}
    after = b""
    try:
        for _ in range(PAGES):
            status, body = await fetch(backend, target + after)
            if status != 200:
                log.warning("no list of models", upstream=backend.name, status=status)
                return None
            page = parse(body)
            items = page.get("data") if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise Malformed("it holds no list")
            fresh = {card["id"]: card for card in items if isinstance(card, dict) and isinstance(card.get("id"), str)}
            last = page.get("last_id")
            cards.update(fresh)
            if page.get("has_more") is not True or not fresh or not isinstance(last, str) or not _plain_id(last):
                break
            after = b"&after_id=" + last.encode()
    except (UpstreamError, Malformed) as error:
        log.warning("no list of models", upstream=backend.name, problem=str(error))
        return None
    return cards


def _plain_id(text: str) -> bool:
    return text.isascii() and text.replace("-", "").replace(".", "").replace("_", "").isalnum()


def _plain(family: str, backend: Backend) -> Card:
    """A card for a model that only the table of routes names."""
    if family == "anthropic":
        return {"type": "model", "display_name": backend.name, "created_at": "1970-01-01T00:00:00Z"}
    return {"object": "model", "created": 0, "owned_by": backend.name}


def _page(family: str, cards: Iterable[Card]) -> Card:
    data = sorted(cards, key=lambda card: str(card["id"]))
    if family == "anthropic":
        ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {"data": data, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
    return {"object": "list", "data": data}
