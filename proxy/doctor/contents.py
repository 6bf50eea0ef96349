"""Can what is to be kept be kept, and read again?"""

from __future__ import annotations

import os
from collections.abc import Iterator

from .base import Finding, Place, State

NAME = "content"


def check_content(place: Place) -> Iterator[Finding]:
    """The master key, and the stores where they are there already."""
    settings = place.settings
    if settings.keep_content == "off":
        policies = place.policy.policy if place.policy is not None else None
        asking = [rule.id for rule in policies.rules if rule.keep is not None] if policies is not None else []
        if asking:
            detail = f"{len(asking)} rules say `keep: content` ({asking[0]} ...), and nothing is kept"
            yield Finding(NAME, State.WARNING, detail, "set keep_content to rules, and content_key_file")
        else:
            yield Finding(NAME, State.WELL, "none is kept")
        return
    try:
        from ..content.places import master_of, opened
        from ..content.seal import ContentUnavailable, NothingKept
    except ImportError:
        detail = "the package cryptography is not installed"
        yield Finding(NAME, State.WRONG, detail, "pip install 'penstock[content]', or leave keep_content out")
        return
    state = "opens with the master key"
    try:
        opened(settings, master_of(settings)).close()
    except NothingKept as error:
        if os.path.exists(settings.content_path) or os.path.exists(settings.content_keys_path):
            yield Finding(NAME, State.WRONG, error.problem, "put it back: each is worth nothing without the other")
            return
        state = "begins with the first exchange"
    except ContentUnavailable as error:
        yield Finding(NAME, State.WRONG, error.problem, error.mend)
        return
    yield Finding(NAME, State.WELL, f"{settings.keep_content} for {settings.content_keep}; {state}")
