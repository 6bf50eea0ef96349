"""Is there memory for as many exchanges as are taken at once?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .base import Finding, Place, State

NAME = "memory"
EACH = 0.75
"""MiB for an exchange whose reader does not read: half a MiB to one, by `make soak`."""
WORKER, MODEL, SUPERVISOR = 60.0, 70.0, 20.0
"""MiB for a worker and its audit's writer, for the weights that all share, for what leads several workers."""
GROUP, MACHINE = Path("/sys/fs/cgroup/memory.max"), Path("/proc/meminfo")


def check_memory(place: Place) -> Iterator[Finding]:
    """Who takes more exchanges than it has memory for is ended by the kernel, where one too many would get a 503."""
    settings = place.settings
    workers, room = place.settings.all_workers, _room()
    if room is None:
        yield Finding(NAME, State.SKIPPED, f"neither {GROUP} nor {MACHINE} says how much there is")
        return
    alone = MODEL + workers * WORKER + (SUPERVISOR if workers > 1 else 0)
    most = alone + workers * settings.max_in_flight * EACH
    told = f"{workers * settings.max_in_flight:,} exchanges whose readers do not read take {_mib(most)} of {_mib(room)}"
    if alone > room:
        mend = "give it more, or fewer workers"
        yield Finding(NAME, State.WRONG, f"{_mib(room)} is not enough: about {_mib(alone)} are needed to begin", mend)
    elif most > room:
        fits = int((room - alone) / EACH / workers)
        mend = f"lower max_in_flight to {max(fits // 100 * 100, 1):,}: one more is told to come again (503)"
        yield Finding(NAME, State.WARNING, told, mend)
    else:
        yield Finding(NAME, State.WELL, told)


def _room() -> float | None:
    """MiB that this process may have: what its control group allows, or what the machine has."""
    found = []
    with contextlib.suppress(OSError, ValueError):  # none, or `max`
        found.append(int(GROUP.read_text("ascii")) / 2**20)
    with contextlib.suppress(OSError, ValueError, IndexError):
        found += [int(line.split()[1]) / 1024 for line in MACHINE.read_text("ascii").splitlines() if "MemTotal" in line]
    return min(found, default=None)


def _mib(number: float) -> str:
    return f"{number / 1024:.1f} GiB" if number >= 1024 else f"{number:.0f} MiB"
