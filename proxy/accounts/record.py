"""What is kept of a key: a keyed hash of it, whose it is, and what it may do."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCOPES = ("chat", "responses", "completions", "embeddings", "messages", "moderations", "models", "batches", "open")
"""What a key may use: the dialects, `models` (their list), and only where it was given: `batches`, and `open`, what an
operator's `open_routes` let pass unjudged."""
USUAL = frozenset(SCOPES) - {"batches", "open"}

ID = r"key_[0-9a-f]{12}"
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@/+-]{0,99}$")]
Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}$")]
Scope = Literal[
    "chat", "responses", "completions", "embeddings", "messages", "moderations", "models", "batches", "open"
]


class KeyRecord(BaseModel):
    """One key. Times are unix seconds; None is never. No `models` are all of them, no `scopes` the usual ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=f"^{ID}$")]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    name: Label
    account: Label
    created: float
    expires: float | None = None
    revoked: float | None = None
    scopes: tuple[Scope, ...] = ()
    models: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    policy: str = ""
    tier: Word | Literal[""] = ""
    grants: dict[Word, float | None] = {}

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    @property
    def allowed(self) -> frozenset[str]:
        """The scopes that it has."""
        return frozenset(self.scopes) if self.scopes else USUAL

    def granted(self, now: float) -> frozenset[str]:
        """The grants that have not expired."""
        return frozenset(name for name, until in self.grants.items() if until is None or until > now)

    def changes(self, now: float) -> float:
        """When what this key may do changes next by itself."""
        times: Iterable[float | None] = (self.expires, *self.grants.values())
        return min((time for time in times if time is not None and time > now), default=float("inf"))


def new_id() -> str:
    return "key_" + secrets.token_hex(6)
