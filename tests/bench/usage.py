"""CPU seconds and memory of a process and all its descendants, from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

T = TypeVar("T")


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
    """Resident memory of the tree in MiB, what its processes share once: pages of a file that several have in memory
    (as many as whoever has most of them), and those of a parent that a fork has not written to."""
    own = 0
    files: dict[tuple[str, str], int] = {}
    for anonymous, mapped in _of_tree(pid, _memory):
        own += anonymous
        for place, size in mapped:
            files[place] = max(files.get(place, 0), size)
    return (own + sum(files.values())) / 1024


def _memory(pid: int) -> tuple[int, list[tuple[tuple[str, str], int]]]:
    """KiB of no file, of what is shared with a fork its share; and (file, offset) with how many KiB of it are there."""
    rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    anonymous = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
    mapped: list[tuple[tuple[str, str], int]] = []
    place: tuple[str, str] | None = None
    resident = 0
    for line in (PROC / str(pid) / "smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if " " in name:  # a new mapping: addresses, permissions, offset, device, inode, path
            fields = line.split(maxsplit=5)
            place = (fields[5], fields[2]) if len(fields) > 5 and fields[5].startswith("/") else None
        elif name == "Rss":
            resident = int(rest.split()[0])
        elif name == "Anonymous" and place is not None:
            mapped.append((place, resident - int(rest.split()[0])))
    return anonymous, mapped


def _of_tree(pid: int, read: Callable[[int], T]) -> Iterator[T]:
    """`read` of each process of the tree. Raises FileNotFoundError where `pid` itself has ended."""
    yield read(pid)
    for each in tree(pid)[1:]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a child that ended while we looked
            yield read(each)
