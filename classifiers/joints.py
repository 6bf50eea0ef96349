"""Where the texts of a conversation meet: a word that is split over turns or roles is whole only there.

A model reads a conversation as one text, so half a word in one turn and half in the next are a word to it. Each
joint is read once more, with some letters on both sides, along all that was said and along what each role said alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .base import Message, Role

REACH = 128
"""Code points that are read on each side of a joint. Texts of up to twice as many are read whole, so that a word may be
split over any number of short turns."""

_SYSTEM, _USER, _ASSISTANT, _TOOL_RESULT = Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL_RESULT


@dataclass(frozen=True, slots=True)
class Chain:
    """The ends of texts that follow each other, without anything between them. Piece i begins at `starts[i]` of `text`;
    it is of message `indices[i]`, from its code point `offsets[i]` on."""

    text: str
    starts: tuple[int, ...]
    indices: tuple[int, ...]
    offsets: tuple[int, ...]

    def parts(self, start: int, end: int) -> list[tuple[int, tuple[int, int]]]:
        """The messages in which [start, end) lies, and its span in each: one where it crosses no joint."""
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, end - 1) - 1
        found = []
        for piece in range(first, last + 1):
            begin, offset = self.starts[piece], self.offsets[piece]
            stop = end if piece == last else self.starts[piece + 1]
            found.append((self.indices[piece], (max(start, begin) - begin + offset, stop - begin + offset)))
        return found


def chains(messages: Sequence[Message]) -> list[Chain]:
    """The joints of `messages`: none where nothing in them was said to the model, as in an answer."""
    said: list[int] = []
    roles: list[Role] = []  # compared by identity: an enumeration's hash is dear, and this is asked of each request
    for index, message in enumerate(messages):
        role = message.role
        told = role is _USER or role is _ASSISTANT or role is _SYSTEM or role is _TOOL_RESULT
        if told and message.text and "#" not in message.origin:
            said.append(index)
            if role not in roles:
                roles.append(role)
    if len(said) < 2 or roles == [_ASSISTANT]:
        return []
    if len(said) == 2:
        (first, text), (last, more) = [(index, messages[index].text) for index in said]
        if messages[last].role is not _SYSTEM or messages[first].role is _SYSTEM:
            offset = max(0, len(text) - REACH)
            text = text[offset:]
            return [Chain(text + more[:REACH], (0, len(text)), (first, last), (offset, 0))]
    orders = [said]
    # Some APIs carry the instructions apart from the turns: a model reads them first, wherever they were read here.
    led = sorted(said, key=lambda i: messages[i].role is not _SYSTEM)
    if led != said:
        orders.append(led)
    if len(roles) > 1 and len(said) > 2:
        orders += [[i for i in said if messages[i].role is role] for role in roles]
    return [chain for order in orders for chain in _chains(messages, order)]


def _chains(messages: Sequence[Message], indices: Sequence[int]) -> Iterator[Chain]:
    """A long text ends one chain and begins the next."""
    pieces: list[tuple[str, int, int]] = []
    last = len(indices) - 1
    for place, index in enumerate(indices):
        text = messages[index].text
        if 0 < place < last and len(text) <= 2 * REACH:
            pieces.append((text, index, 0))
            continue
        if place:
            pieces.append((text[:REACH], index, 0))
            yield _chain(pieces)
        if place < last:
            offset = max(0, len(text) - REACH)
            pieces = [(text[offset:], index, offset)]


def _chain(pieces: Sequence[tuple[str, int, int]]) -> Chain:
    starts, size = [], 0
    for text, _, _ in pieces:
        starts.append(size)
        size += len(text)
    return Chain(
        "".join([text for text, _, _ in pieces]),
        tuple(starts),
        tuple([index for _, index, _ in pieces]),
        tuple([offset for _, _, offset in pieces]),
    )
