"""From the headers of a request to the account that asks, and what it may do."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies.facts import ANONYMOUS, Account

from ..audit import Key
from ..routing import Patterns

if TYPE_CHECKING:
    from .keys import Keys
    from .record import KeyRecord

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
"""Headers that hold a credential, as the vendors' clients send it."""


class Denied(Exception):
    """Who asks is not known. `code` and the message are for the caller, and name no reason that helps to guess."""

    def __init__(self, message: str, code: str = "invalid_api_key", status: int = 401) -> None:
        super().__init__(message)
        self.code, self.status = code, status


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. `key` is the Penstock key's id, `policy` the name of the policy for it; `models` are those it may use,
    None for all; it holds as it is until `until` (unix seconds) and for `version` of the keys."""

    account: Account
    key: str = ""
    policy: str = ""
    models: Patterns | None = None
    scopes: frozenset[str] | None = None
    until: float = float("inf")
    version: int = 0

    def may(self, scope: str) -> bool:
        return self.scopes is None or scope in self.scopes


class Identities:
    """Tells who asks: by Penstock keys, or without them by whatever credential is passed through."""

    def __init__(self, key: Key, keys: Keys | None) -> None:
        self._key, self._keys = key, keys

    @property
    def known(self) -> bool:
        """Whether accounts are known to Penstock: by its own keys."""
        return self._keys is not None

    def holds(self, identity: Identity) -> bool:
        """Whether what was found before is still so."""
        keys = self._keys
        return keys is None or (identity.version == keys.version and time.time() < identity.until)

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> Identity:
        """Raises Denied."""
        presented = _presented(headers)
        keys = self._keys
        if keys is None:
            return Identity(Account(self._key.keyed_hash(presented)) if presented else ANONYMOUS)
        if not presented:
            raise Denied("You did not provide an API key: send a Penstock key as your client's API key.")
        now = time.time()
        found = keys.find(presented)
        if found is None or found.state(now) != "active":
            raise Denied("The API key is not valid: ask the operator of this Penstock for one.")
        return _identity(found, now, keys.version)


def _identity(found: KeyRecord, now: float, version: int) -> Identity:
    account = Account(found.account, found.name, found.tier, found.granted(now))
    models = Patterns(found.models) if found.models else None
    return Identity(account, found.id, found.policy, models, found.allowed, found.changes(now), version)


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The credential that was sent; nothing where there is none. Raises Denied for two that differ: whoever reads only
    one of them would see another caller than we do."""
    found = b""
    for name, value in headers:
        if name in CREDENTIALS:
            scheme, blank, rest = value.partition(b" ")
            token = rest.strip() if blank and scheme.lower() == b"bearer" else value.strip()
            if found and token and token != found:
                raise Denied("Two different credentials were sent: send one.", "ambiguous_credentials", 400)
            found = token or found
    return found
