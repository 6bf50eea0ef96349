"""Facts of a request that are no text. Whoever asks for a decision states them; they come from state that the proxy
owns, never from what a caller writes about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks. `id` is what the records name it by: an account of the operator's, or a keyed hash of a credential that
    is only passed on. `name` is the key's, for people; `tier` and `grants` are the operator's words for what this
    account is trusted with, and hold no grant that has expired."""

    id: str
    name: str = ""
    tier: str = ""
    grants: frozenset[str] = frozenset()


ANONYMOUS = Account("anonymous")
"""Nobody said who asks."""
