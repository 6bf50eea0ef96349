"""Facts of a request that are no text. Whoever asks for a decision states them; those about the account come from state
that the proxy owns, never from what a caller writes about itself. What a caller does write (the model, the settings)
is taken as it is going to be sent upstream.

`None` in place of facts means that nothing is known: then every policy applies and every canary acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from classifiers.base import Role


class Api(StrEnum):
    """The APIs whose requests are judged, by the names that policies use."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks. `id` is what the records name it by: an account of the operator's, or a keyed hash of a credential that
    is only passed on. `name` is the key's, for people; `tier` and `grants` are the operator's words for what this
    account is trusted with, and hold no grant that has expired. `flags` are marks that it has earned, `history` its
    strikes by name (0 where a name is not there)."""

    id: str
    name: str = ""
    tier: str = ""
    grants: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    history: Mapping[str, int] = field(default_factory=dict, hash=False)


ANONYMOUS = Account("anonymous")
"""Nobody said who asks."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the model is to answer. `max_tokens` is 0 where no bound was asked for."""

    effort: str = ""
    n: int = 1
    stream: bool = False
    max_tokens: int = 0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of a conversation: who spoke, and for a tool's call or result the name of the tool, if it is known."""

    role: Role
    name: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool that an answer makes. `arguments` are its parsed JSON, None where they are no JSON."""

    name: str
    arguments: Any = None


@dataclass(frozen=True, slots=True)
class Facts:
    """One request, and at the output stage what is known of its answer.

    `dialect` is the `Api`. `tools` are the names of the tools on offer; `turns` the conversation in its order; `calls`
    those of the answer that is judged. `lot` is a keyed hash of the conversation or the account, by which canaries are
    drawn; empty where neither is known. `memo` belongs to the engine: what follows from these facts alone is worked out
    once.
    """

    dialect: str = ""
    model: str = ""
    settings: Settings = Settings()
    tools: tuple[str, ...] = ()
    account: Account = ANONYMOUS
    turns: tuple[Turn, ...] = ()
    calls: tuple[Call, ...] = ()
    lot: bytes = b""
    memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False, hash=False)

    def answered(self, calls: tuple[Call, ...]) -> Facts:
        """The same request at the output stage, with the calls of its answer as the newest turns."""
        turns = self.turns + tuple(Turn(Role.TOOL_CALL, call.name) for call in calls)
        return replace(self, calls=calls, turns=turns, memo={})

    def drawn(self, rule: str, share: float) -> bool:
        """Whether the canary of `rule` acts on this conversation, for a share in (0, 1]. A larger share draws all that
        a smaller one does. Without a lot it acts: what is not known is treated as the stricter case."""
        if not self.lot:
            return True
        draw = blake2b(rule.encode(), key=self.lot[:64], digest_size=8).digest()
        return int.from_bytes(draw) < share * 2**64
