"""CPU seconds and memory of a process and all its descendants, from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
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
    return sum(_of_tree(pid, lambda each: sum(map(int, _stat(each)[11:15])))) / TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of the tree in MiB; pages that processes share count once for each."""
    return sum(_of_tree(pid, _resident_kib)) / 1024


def _resident_kib(pid: int) -> int:
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0  # it has ended, and its parent has not noticed


def _of_tree(pid: int, read: Callable[[int], int]) -> Iterator[int]:
    """`read` of each process of the tree. Raises FileNotFoundError where `pid` itself has ended."""
    yield read(pid)
    for each in tree(pid)[1:]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a child that ended while we looked
            yield read(each)
