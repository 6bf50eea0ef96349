"""Entries that the log makes by itself: the end of what nobody finished, and notes."""

from __future__ import annotations

import time

from .entry import Entry, Plain


def note(token: str, text: str) -> Entry:
    """What `verify` tells whoever asks. `text` needs no escape in JSON."""
    body = b'{"note":"%b"}' % text.encode()
    return (*_stamped("note-" + token, "note"), body, None, None, None, None, None, None, None, None, None, None)


def aborted(id: str, policy: Plain, model: Plain, account: Plain, body: str) -> Entry:
    """The outcome of an exchange that nobody finished, with what the intent says about where it belongs."""
    plain = (None, None, policy, model, account, "aborted", None, None, None, None)
    return (*_stamped(id, "outcome"), body.encode(), *plain)


def _stamped(id: str, kind: str) -> tuple[bytes, str, str, float]:
    """Ids need no escape, and times of this age are the same in Python and in JSON."""
    at = time.time()
    return f'["{id}","{kind}",{at!r}]'.encode(), id, kind, at
