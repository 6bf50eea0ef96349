"""How many files this process may have open, and how many exchanges find room in that.

Decision: where fewer files may be open than `max_in_flight` needs, fewer exchanges are taken at once, and the log says
so at the start. Why: who is one too many is told so (503, Retry-After); without a file left a client is cut off or
waits without a word, and health and metrics do not answer either. Cost: a setting that is not what stands in the file.
"""

from __future__ import annotations

import contextlib
import resource

from .config import Settings
from .logs import get_logger

log = get_logger("penstock.files")

SPARE = 128
"""Open files besides those of exchanges: the log, the models, the loop, and clients that rest."""


def needed(settings: Settings) -> int:
    """By one process: each exchange holds two connections, each a file."""
    return settings.max_in_flight + min(settings.max_in_flight, settings.max_connections) + SPARE


def fitted(settings: Settings) -> Settings:
    """Open as many files as may be: shells and service managers give fewer for the sake of programs that use select.
    The settings, with no more exchanges at once than find room."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= needed(settings):
        return settings
    room = max(1, min(settings.max_in_flight, (most - min(SPARE, most // 2)) // 2))
    log.warning(
        "few files may be open: fewer exchanges are taken at once",
        files=most,
        max_in_flight=room,
        mend=f"raise the limit (LimitNOFILE={needed(settings)}, ulimit -Hn), or lower max_in_flight",
    )
    return settings.model_copy(update={"max_in_flight": room})
