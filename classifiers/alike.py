"""Texts that are nearly the same, found in linear time: min-hash signatures of letter shingles, compared in bands.

Why it matters: two wordings of one template on both sides of a fold make any figure look better than it is.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
HASHES, BAND = 128, 4
NEAR = 0.7
"""Share of equal shingles (Jaccard, as min-hash estimates it) from which two texts count as one wording."""
READ = 20_000
"""Letters of a text that are compared."""

_PRIME = (1 << 31) - 1
_RNG = np.random.default_rng(5)
_A = _RNG.integers(1, _PRIME, HASHES, dtype=np.int64)
_B = _RNG.integers(0, _PRIME, HASHES, dtype=np.int64)


def plain(text: str) -> str:
    """A text as it is compared: case, runs of blanks and digits make no difference."""
    return re.sub(r"\d", "0", " ".join(text[:READ].casefold().split()))


def fingerprint(text: str) -> str:
    """The same for texts that are equal but for case and blanks; nothing of the text can be read from it."""
    said = " ".join(text.casefold().split())
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def signature(text: str) -> NDArray[np.int64]:
    """(HASHES,) of the text's shingles: two texts agree in about as many places as they share shingles."""
    said = plain(text)
    raw = {said[at : at + SHINGLE] for at in range(max(1, len(said) - SHINGLE + 1))}
    hashed = np.fromiter((zlib.crc32(part.encode("utf-8", "surrogatepass")) for part in raw), np.int64, len(raw))
    low = np.full(HASHES, _PRIME, np.int64)
    for start in range(0, len(hashed), 1024):
        part = hashed[start : start + 1024, None] % _PRIME
        low = np.minimum(low, ((part * _A + _B) % _PRIME).min(axis=0))
    return low


def pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(i, j), i < j, of texts that are nearly the same; of a crowd of the same not every pair, but enough to join
    them. Memory and time grow with the number of texts."""
    if not texts:
        return []
    marks = np.stack([signature(text) for text in texts])
    found: set[tuple[int, int]] = set()
    for band in range(0, HASHES, BAND):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for at, mark in enumerate(marks[:, band : band + BAND]):
            buckets[mark.tobytes()].append(at)
        for members in buckets.values():
            # The first stands for all in the crowd, neighbours for those that only resemble each other.
            found.update((members[0], other) for other in members[1:])
            found.update(itertools.pairwise(members))
    return sorted((i, j) for i, j in found if (marks[i] == marks[j]).mean() >= NEAR)


def groups(count: int, joined: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """(count,) the number of each text's group; groups are numbered in the order of their first texts."""
    top = list(range(count))

    def find(at: int) -> int:
        while top[at] != at:
            top[at] = top[top[at]]
            at = top[at]
        return at

    for i, j in joined:
        one, other = sorted((find(i), find(j)))
        top[other] = one
    known: dict[int, int] = {}
    return np.asarray([known.setdefault(find(at), len(known)) for at in range(count)], np.intp)
