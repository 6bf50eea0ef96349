"""What was found in a text before: a long conversation is judged by what is new in it.

INVARIANT: an answer is taken only for the same classifier digest, role, text and context, within the same scope, and
never from a failure. The store holds keyed hashes and findings, no text.

Decision: a scope is one tenant. Why: findings are the same for all, but a quick answer would tell a stranger that a
text was sent before. Cost: tenants do not save each other's work.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Sequence

from .base import Finding, Message

ROOM = 200_000
"""How much is remembered in all: an entry takes 2, and 1 for each finding (about 100 bytes)."""
LARGEST = 1000
"""Findings in one text beyond which it is not remembered."""
KEPT = 600.0
"""Seconds that an answer is good for: the weights behind a remote classifier may change under the same digest."""

Seen = tuple[tuple[str, float, tuple[int, int] | None], ...]
"""(label, score, span) of each finding in one message."""


class Cache:
    """A bounded memory of findings. For one thread."""

    def __init__(self, room: int = ROOM, kept: float = KEPT) -> None:
        self._room, self._kept = room, kept
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[float, Seen]] = OrderedDict()
        self._used = 0

    def __len__(self) -> int:
        return len(self._known)

    def name(self, scope: str, digest: str, message: Message) -> bytes:
        """What `message` is called here when a classifier with `digest` reads it for `scope`."""
        texts = [part.encode("utf-8", "surrogatepass") for part in (scope, digest, message.text, message.context)]
        hashed = hashlib.blake2b(key=self._key, digest_size=32, person=message.role.encode()[:16])
        for text in texts:
            # The lengths keep one part from running into the next.
            hashed.update(len(text).to_bytes(8, "little"))
            hashed.update(text)
        return hashed.digest()

    def get(self, name: bytes, now: float) -> Seen | None:
        """What was found under `name`, unless that is too long ago. `now` in seconds of any steady clock."""
        known = self._known.get(name)
        if known is None:
            return None
        if now - known[0] > self._kept:
            self._forget(name)
            return None
        self._known.move_to_end(name)
        return known[1]

    def put(self, name: bytes, findings: Sequence[Finding], now: float) -> None:
        """Remember `findings`, which are all of one message; forget what was not asked for the longest."""
        if len(findings) > LARGEST:
            return
        if name in self._known:
            self._forget(name)
        self._known[name] = now, tuple((each.label, each.score, each.span) for each in findings)
        self._used += 2 + len(findings)
        while self._used > self._room:
            self._forget(next(iter(self._known)))

    def _forget(self, name: bytes) -> None:
        self._used -= 2 + len(self._known.pop(name)[1])
