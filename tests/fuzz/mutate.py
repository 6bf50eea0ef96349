"""Bytes like other bytes: pieces doubled, dropped, moved, replaced by what is likely to matter."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

SCRAPS: Sequence[bytes] = (
    b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"1e400", b"-0", b"{}",
    b"[]", b'""', b'"xx"', b'{"xx":1}', b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b"event: x\n", b"id: 1\n", b": c\n",
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"--edge", b"--edge--\r\n", b"[DONE]", b'"type":', b'"text"',
    b'"index":', b'"content":', b'"delta":', b'"role":', b"9" * 20, b"a" * 70,
)  # fmt: skip


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` of them, always the same ones for a `seed`."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            _change(data, seeds, chance)
        yield bytes(data)


def _change(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 64)))
    match chance.randrange(6):
        case 0:
            del data[at:to]
        case 1:
            data[at:at] = chance.choice(SCRAPS)
        case 2:
            data[at:to] = chance.choice(SCRAPS)
        case 3:
            data[at:at] = data[at:to]
        case 4:
            other = chance.choice(seeds)
            start = chance.randrange(len(other) + 1)
            data[at:to] = other[start : start + 64]
        case _:
            if at < len(data):
                data[at] = chance.randrange(256)
