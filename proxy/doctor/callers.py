"""Who may ask here, and on whose account?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from ..accounts.file import KeyFile, KeysUnavailable, hashing
from ..config import Settings
from .base import Finding, Place, State

NAME = "callers"
SOON = 7 * 86_400.0
"""Seconds before its end from which a key is worth a word."""
HERE = frozenset({"127.0.0.1", "::1", "localhost"})


def check_callers(place: Place) -> Iterator[Finding]:
    """Keys, where callers need one; else what it means that they need none."""
    settings = place.settings
    if settings.credentials == "keys":
        yield from _keys(settings)
        return
    paid = [name for name, each in settings.all_upstreams.items() if each.keyed]
    mend = "set `credentials: keys` and make a key for each caller: `penstock keys create NAME`"
    if paid and settings.host not in HERE:
        detail = f"whoever reaches {settings.host} asks {', '.join(paid)} with the operator's key"
        yield Finding(NAME, State.WARNING, detail, mend)
    elif len(settings.all_upstreams) > 1 and len(paid) < len(settings.all_upstreams):
        detail = "a caller's own key goes to whichever provider the model's name leads to"
        yield Finding(NAME, State.WARNING, detail, mend)
    else:
        yield Finding(NAME, State.WELL, "anybody may ask" if paid else "callers' own keys are passed through")


def _keys(settings: Settings) -> Iterator[Finding]:
    try:
        records = KeyFile(settings.keys_path).read()
        if os.path.exists(settings.keys_secret_path):
            hashing(settings.keys_secret_path)
        elif records:
            raise KeysUnavailable(f"{settings.keys_secret_path} is missing: no key can be known without it")
    except KeysUnavailable as error:
        yield Finding(NAME, State.WRONG, str(error), "put both files back: without them nobody can ask")
        return
    now = time.time()
    active = [record for record in records if record.state(now) == "active"]
    lost = [record for record in active if record.policy and record.policy not in settings.policies]
    for record in lost:
        detail = f"{record.id} ({record.name}) is under the policy {record.policy!r}, which is not configured"
        yield Finding(
            NAME, State.WRONG, detail, "name it under `policies`, or revoke the key: its requests are refused"
        )
    for record in active:
        if record.expires is not None and record.expires - now < SOON:
            hours = (record.expires - now) / 3600
            detail = f"{record.id} ({record.name}) expires in {hours:.0f} h"
            yield Finding(NAME, State.WARNING, detail, "make its account another one: `penstock keys create`")
    if not active:
        yield Finding(NAME, State.WARNING, "no key works: nobody can ask", "make one: `penstock keys create NAME`")
    elif not lost:
        yield Finding(NAME, State.WELL, f"{len(active)} of {len(records)} keys work")
