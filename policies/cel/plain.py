"""What a part of an expression asks in so plain a way that the loader can say more of it: one thing, compared with
something that is written there."""

from __future__ import annotations

from typing import NamedTuple

from .wire import Kind, Node

SIGNS = {"_>=_": ">=", "_>_": ">", "_<=_": "<=", "_<_": "<", "_==_": "==", "_!=_": "!="}
TURNED = {">=": "<=", ">": "<", "<=": ">=", "<": ">", "==": "==", "!=": "!="}
TEXTS = frozenset({"startsWith", "endsWith", "contains"})
IN, HAS = "in", "has"
"""A variable is one of some words; a list holds a word."""

Value = bool | int | float | str | tuple[bool | int | float | str, ...]


class Plain(NamedTuple):
    """`thing` is a variable, `account.history[name]` or `size(tools)`; `sign` is one of SIGNS, of TEXTS,
    IN or HAS."""

    thing: str
    sign: str
    value: Value


def plain(node: Node) -> Plain | None:
    """What the node asks; None where it is not as plain as that."""
    if node.kind is Kind.NAME:
        return Plain(node.name, "==", True)
    if node.kind is Kind.LOOP:
        return _exists(node)
    if node.has and _is_history(node.of[0]):
        return Plain("account.history", HAS, node.name)
    if node.kind is not Kind.CALL or len(node.of) != 2:
        return None
    if node.name == "@in":
        return _in(*node.of)
    return _compared(node.name, *node.of)


def _compared(name: str, one: Node, other: Node) -> Plain | None:
    """A comparison with something that is written there."""
    sign = SIGNS.get(name) or (name if name in TEXTS else "")
    if sign in TURNED and one.kind is Kind.CONSTANT:
        one, other, sign = other, one, TURNED[sign]
    thing, value = _thing(one), other.value
    if not sign or not thing or value is None:
        return None
    if isinstance(value, str):
        # What lies between two texts in their order is not tried.
        return Plain(thing, sign, value) if sign in TEXTS | {"==", "!="} else None
    return Plain(thing, sign, value) if sign in TURNED else None


def _in(one: Node, other: Node) -> Plain | None:
    """A variable among words, or a word in a list that is a variable."""
    if one.kind is Kind.NAME and other.kind is Kind.LIST:
        words = tuple(each.value for each in other.of if each.value is not None)
        return Plain(one.name, IN, words) if len(words) == len(other.of) else None
    return Plain(other.name, HAS, one.value) if other.kind is Kind.NAME and isinstance(one.value, str) else None


def _thing(node: Node) -> str:
    """The name of what is compared, or nothing."""
    if node.kind is Kind.NAME:
        return node.name
    named = counted(node)
    if named:
        return f"account.history[{named}]"
    sized = node.kind is Kind.CALL and node.name == "size" and node.of[0].kind is Kind.NAME
    return f"size({node.of[0].name})" if sized else ""


def counted(node: Node) -> str:
    """The name whose count is looked up in `account.history`, as ["name"] or .name; nothing for any other node."""
    if not node.of or not _is_history(node.of[0]):
        return ""
    if node.kind is Kind.FIELD:
        return "" if node.has else node.name
    return node.of[1].value if node.name == "_[_]" and isinstance(node.of[1].value, str) else ""


def sought(node: Node) -> str:
    """The name that is looked for in `account.history`, by `has` or `in`; nothing for any other node."""
    if node.has and _is_history(node.of[0]):
        return node.name
    if node.name != "@in" or not _is_history(node.of[1]):
        return ""
    return node.of[0].value if isinstance(node.of[0].value, str) else ""


def searched(node: Node) -> bool:
    """Whether `account.history` is asked for anything but the counts of names that are written there."""
    uses = [each for part in node.walk() if not counted(part) for each in part.of if _is_history(each)]
    return bool(uses) or _is_history(node)


def _is_history(node: Node) -> bool:
    return node.kind is Kind.NAME and node.name == "account.history"


def _exists(loop: Node) -> Plain | None:
    """`list.exists(each, each == "word")`, which is `"word" in list`."""
    if len(loop.of) != 5:
        return None
    whole, begun, _, step, _ = loop.of
    if whole.kind is not Kind.NAME or begun.value is not False or step.name != "_||_":
        return None
    asked = step.of[1]
    if asked.name != "_==_":
        return None
    words = [each.value for each in asked.of if isinstance(each.value, str)]
    names = [each for each in asked.of if each.kind is Kind.NAME and "." not in each.name]
    return Plain(whole.name, HAS, words[0]) if len(words) == len(names) == 1 else None


def key(node: Node) -> str:
    """The same for nodes that say the same."""
    has = "has " if node.has else ""
    return f"{has}{node.kind.name} {node.name!r} {node.value!r} ({', '.join(map(key, node.of))})"
