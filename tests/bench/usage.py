"""CPU seconds and memory of a process and all its descendants, from Linux's /proc."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second, in brackets, may hold blanks."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """`pid` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, threads and ended children included. Resolution: one tick, 10 ms."""
    return sum(sum(map(int, _stat(each)[11:15])) for each in tree(pid)) / TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of the tree in MiB; pages that processes share count once for each."""
    total = 0
    for each in tree(pid):
        for line in (PROC / str(each) / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024
