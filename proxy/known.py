"""What follows from a request's head alone, and where its body leads from there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .accounts.claims import claims
from .accounts.holder import Holder
from .accounts.identity import Identity
from .accounts.mentioned import pairs
from .answers import forwarded
from .audit import Key
from .dialects.base import Dialect, Request, Speaker
from .dialects.moderations import Moderations
from .exchange import Exchange
from .paging import Own, own_page, page_of
from .routing import Backend, Routing, Way, no_model
from .upstream import Headers

_STORING = frozenset({"responses", "batches"})
"""Dialects whose answers name what is kept at the provider; in others it must be asked for (`store`)."""


@dataclass(slots=True)
class Known:
    """`family`: an upstream must serve it. `unjudged`: the operator opened
    this route. `exchange` is the way that it goes where it is judged."""

    dialect: Dialect | Moderations | None
    unjudged: bool
    speaker: Speaker
    path: str
    identity: Identity
    routing: Routing
    asked: tuple[bytes, bytes, Headers]
    family: str
    claimed: str
    key: Key
    exchange: type[Exchange] = Exchange
    holder: Holder | None = None
    stores: bool = False
    heads: dict[str, bytes] = field(default_factory=dict)

    def lead(self, request: Request) -> tuple[Way, bytes]:
        """Where `request` goes, and what that upstream gets of its head. Raises NotFound."""
        models = self.identity.models
        if query := self.asked[1].partition(b"?")[2]:
            request.queried = tuple(value for name, value in pairs(query) if name.lower() == "model")
        if models is not None and not request.modelless and request.model not in models:
            raise no_model()
        listing = False
        if self.holder is not None:
            named = self.holder.named()
            self.holder.request(request.tree)
            kept = _compares(request.tree) or (self.stores and (self.speaker.name in _STORING or _stored(request.tree)))
            listing = self.asked[0] == b"GET" and not named
            must = self.speaker.name == "batches"  # what is only stored is lost if it is not found again
            request.own = functools.partial(self.holder.answered, kept=kept, all_of_them=listing, must=must)
        if models is not None and any(name not in models for name in request.helpers()):
            raise no_model()
        way = self.routing.way(self.family, request.model)
        if listing and request.own is not None:
            request.listed = functools.partial(self._listed, request.own, way.backend)
        for other in request.others():
            # Where it would lead elsewhere, or by another name, the provider cannot do what the table says.
            if (models is not None and other not in models) or not self._leads(other, way):
                raise no_model()
        return way, self.head(way.backend)

    async def _listed(self, own: Callable[[Any], bool], backend: Backend, raw: bytes, most: int) -> Own:
        """The page that the caller gets of a list. Raises Malformed, Unwritten and UpstreamError."""

        async def page(target: bytes) -> bytes:
            return await page_of(backend, self.head(backend, b"GET", target), most)

        return await own_page(own, raw, self.asked[1], self.family, page)

    def _leads(self, other: str, way: Way) -> bool:
        """Whether a request for the model `other` goes where `way` goes, under its own name."""
        found = self.routing.find(self.family, other) if other else way
        return found is not None and found.backend is way.backend and (not other or found.model is None)

    def elsewhere(self, model: str) -> tuple[Way, bytes] | None:
        """Where a request goes that a rule routes to `model`, whatever models the caller may use."""
        way = self.routing.find(self.family, model)
        return None if way is None else (way, self.head(way.backend))

    def head(self, backend: Backend, method: bytes = b"", target: bytes = b"") -> bytes:
        """What `backend` gets of this head; of another request by the same caller, where that is told."""
        if target:
            return backend.upstream.head(method, target, self._headers(backend))
        head = self.heads.get(backend.name)
        if head is None:
            method, target, _ = self.asked
            head = self.heads[backend.name] = backend.upstream.head(method, target, self._headers(backend))
        return head

    def claims(self, tree: Any) -> dict[str, str]:
        """What this request says about its end user."""
        found = claims(tree, self.identity.account.id, self.key.keyed_hash)
        if self.claimed:
            found["header"] = self.claimed
        return found

    def _headers(self, backend: Backend) -> Headers:
        return forwarded(self.asked[2], backend.credentials(self.family))


def _stored(tree: Any) -> bool:
    """Whether what is answered can be named later in a dialect that keeps nothing by itself."""
    return isinstance(tree, dict) and bool(tree.get("store") or tree.get("thread"))


def _compares(tree: Any) -> bool:
    """Whether the next request may ask what became of the cache of this one."""
    return isinstance(tree, dict) and isinstance(tree.get("diagnostics"), dict)
