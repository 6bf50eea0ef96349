"""What was found in a text before: a long conversation is judged by what is new in it.

INVARIANT: an answer is taken only for the same classifier digest, role, text and context, within the same scope, and
never from a failure. The store holds keyed hashes and findings, no text.

Decision: a scope is one tenant. Why: findings are the same for all, but a quick answer would tell a stranger that a
text was sent before. Cost: tenants do not save each other's work.

Decision: no policy is in a name. Why: what is remembered is a finding, which the classifier's digest and the text make;
each decision falls anew, by the policy of its time. Cost: none.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from .base import Finding, Message

ROOM = 200_000
"""How much is remembered in all: an entry takes 2, and 1 for each finding (about 100 bytes)."""
LARGEST = 1000
"""Findings in one text beyond which it is not remembered."""
KEPT = 600.0
"""Seconds that an answer is good for: the weights behind a remote classifier may change under the same digest."""

MOST_ASKED = 512
"""Names that others are asked about at once."""

Seen = tuple[tuple[str, float, tuple[int, int] | None], ...]
"""(label, score, span) of each finding in one message."""


class Beyond(Protocol):
    """Where others remember what they found. Nothing of it raises, and nothing of it takes long."""

    key: bytes
    """What names are made with there."""

    async def fetch(self, names: Sequence[bytes]) -> Mapping[bytes, tuple[float, Seen]]:
        """For those of `names` that are known: how long ago that was found (seconds), and what."""
        ...

    def tell(self, name: bytes, seen: Seen) -> None:
        """This was found here, now."""
        ...


class Cache:
    """A bounded memory of findings. For one thread. What is not known here may be so `beyond`."""

    def __init__(self, room: int = ROOM, kept: float = KEPT, beyond: Beyond | None = None) -> None:
        self._room, self._kept, self._beyond = room, kept, beyond
        self._key = beyond.key if beyond is not None else secrets.token_bytes(32)
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
        seen = tuple((each.label, each.score, each.span) for each in findings)
        self._keep(name, seen, now)
        if self._beyond is not None:
            self._beyond.tell(name, seen)

    @property
    def asks(self) -> bool:
        """Whether others may know what is not known here."""
        return self._beyond is not None

    async def ask(self, names: Iterable[bytes]) -> None:
        """Take over what others know of `names` and this one does not."""
        missing = list(dict.fromkeys(name for name in names if name not in self._known))[:MOST_ASKED]
        if missing and self._beyond is not None:
            for name, (age, seen) in (await self._beyond.fetch(missing)).items():
                if 0 <= age < self._kept and len(seen) <= LARGEST:
                    self._keep(name, seen, time.monotonic() - age)

    def _keep(self, name: bytes, seen: Seen, now: float) -> None:
        if name in self._known:
            self._forget(name)
        self._known[name] = now, seen
        self._used += 2 + len(seen)
        while self._used > self._room:
            self._forget(next(iter(self._known)))

    def _forget(self, name: bytes) -> None:
        self._used -= 2 + len(self._known.pop(name)[1])
