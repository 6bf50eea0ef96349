"""How many cores this process may use: those that it may run on, and what its control group allows."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time, and in how many: of the control group that a container sees as its own."""


def cores(quota: Path = QUOTA) -> int:
    """At least one."""
    may = len(os.sched_getaffinity(0))
    try:
        allowed, _, period = quota.read_text("ascii").strip().partition(" ")
        return min(may, max(1, math.ceil(int(allowed) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # none, or `max`
        return may
