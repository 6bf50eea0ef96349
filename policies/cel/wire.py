"""The checked tree of an expression, from the bytes in which CEL's library gives it (cel.expr.CheckedExpr, a protocol
buffer). Only the fields that are needed are read; each node keeps its own bytes, so that a part of an expression can be
given back to the library as a whole one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a node is."""

    CONSTANT = 3
    NAME = 4
    FIELD = 5
    CALL = 6
    LIST = 7
    MAP = 8
    LOOP = 9


@dataclass(frozen=True, slots=True)
class Node:
    """One node. `at` is its place in the text, in code points: for an operator or a call the sign itself. `name` is
    that of a name, field or function (`_&&_`), or what a loop calls each; `value` that of a constant. `of` are the
    nodes below it, a method's target first. `has` marks a field that is not read: it is asked whether it is there."""

    kind: Kind
    at: int
    raw: bytes
    name: str = ""
    value: bool | int | float | str | None = None
    of: tuple[Node, ...] = ()
    has: bool = False

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for node in self.of:
            yield from node.walk()


class Tree:
    """A checked expression. `part` makes one of a node of it."""

    def __init__(self, serialized: bytes) -> None:
        envelope = list(_fields(serialized))
        self._address = next(value for number, value in envelope if number == 1)
        checked = list(_fields(_bytes(next(value for number, value in envelope if number == 2))))
        self._rest = b"".join(_encoded(number, value) for number, value in checked if number != _EXPR)
        self._places: dict[int, int] = {}
        for number, value in checked:
            if number == _SOURCE:
                for place, entry in _fields(_bytes(value)):
                    if place == _POSITIONS:
                        pair = dict(_fields(_bytes(entry)))
                        self._places[int(pair.get(1, 0))] = int(pair.get(2, 0))
        self.root = self._node(_bytes(next(value for number, value in checked if number == _EXPR)))

    def part(self, node: Node) -> bytes:
        """The node as a checked expression of its own, serialized."""
        return _encoded(1, self._address) + _encoded(2, self._rest + _encoded(_EXPR, node.raw))

    def _node(self, raw: bytes) -> Node:
        number, content, identity = 0, b"", 0
        for field, value in _fields(raw):
            if field == _ID:
                identity = int(value)
            else:
                number, content = field, _bytes(value)
        kind, at = Kind(number), self._places.get(identity, 0)
        match kind:
            case Kind.CONSTANT:
                return Node(kind, at, raw, value=_constant(content))
            case Kind.MAP:
                entries = [_bytes(value) for field, value in _fields(content) if field == 2]
                return Node(kind, at, raw, of=tuple(n for entry in entries for n in self._below(entry, (3, 4))))
        named, nodes = _SHAPES[kind]
        name = _text(content, named) if named else ""
        has = kind is Kind.FIELD and any(field == _TEST_ONLY and value for field, value in _fields(content))
        return Node(kind, at, raw, name=name, of=self._below(content, nodes), has=has)

    def _below(self, content: bytes, numbers: tuple[int, ...]) -> tuple[Node, ...]:
        return tuple(self._node(_bytes(value)) for number, value in _fields(content) if number in numbers)


# Numbers of fields in cel/expr/checked.proto and syntax.proto.
_EXPR, _SOURCE, _POSITIONS, _ID = 4, 5, 4, 2
_TEST_ONLY = 3
_SHAPES: dict[Kind, tuple[int, tuple[int, ...]]] = {
    Kind.NAME: (1, ()),
    Kind.FIELD: (2, (1,)),
    Kind.CALL: (2, (1, 3)),
    Kind.LIST: (0, (1,)),
    Kind.LOOP: (1, (2, 4, 5, 6, 7)),
}
"""The field that names a node, and those that hold nodes."""
_Field = tuple[int, int | bytes]


def _fields(data: bytes) -> Iterator[_Field]:
    """(number, value) of each field of a message: whole numbers as such, everything else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, form = tag >> 3, tag & 7
        if form == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size, at = (8, at) if form == 1 else (4, at) if form == 5 else _varint(data, at)
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encoded(number: int, value: int | bytes) -> bytes:
    """A field that holds a whole number or a message."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    return _number(number << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)  # the schema says that it is a message or a text
    return value


def _text(content: bytes, number: int) -> str:
    return next((_bytes(value).decode() for field, value in _fields(content) if field == number), "")


def _constant(content: bytes) -> bool | int | float | str | None:
    """The value of a constant; None for null, bytes and what is not used in conditions."""
    for number, value in _fields(content):
        match number:
            case 2:
                return bool(value)
            case 3:
                return int(value) - (1 << 64) if int(value) >> 63 else int(value)
            case 4:
                return int(value)
            case 5:
                return float(struct.unpack("<d", _bytes(value))[0])
            case 6:
                return _bytes(value).decode()
    return None
