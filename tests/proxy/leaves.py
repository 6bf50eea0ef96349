"""Variants of a JSON tree that say one word more: in one leaf, under one new key, or beside nothing at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

MARK = "MARK"
NOTHING: tuple[Any, ...] = ("x", None, "", [], {}, 0, False)

UNSCANNABLE = """
id: test
version: 1
owner: tests
description: Parts that nobody can read are blocked.
rules:
  - id: unscannable
    description: Parts that nobody can read are blocked.
    stages: [input, output]
    when: {finding: [surface.unscannable, surface.opaque], at_least: 0.5}
    action: block
    stream: {hold_back: 8}
"""
"""A policy that blocks what nobody can read."""


def places(tree: Any, pointer: str = "") -> Iterator[tuple[str, Any, str | int, Any]]:
    """(JSON pointer, container, key or index, value) of everything below `tree`."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        place = f"{pointer}/{key}"
        yield place, tree, key, value
        yield from places(value, place)


def variants(tree: Any, word: str = MARK) -> Iterator[tuple[str, Any]]:
    """(what was changed, the changed tree): the word as each leaf, and as a key of each object with each kind of
    nothing
    as its value."""
    for number, (place, _, _, value) in enumerate(list(places(tree))):
        if not isinstance(value, dict | list):
            changed = copy.deepcopy(tree)
            _, container, key, _ = list(places(changed))[number]
            container[key] = f"say {word} now" if isinstance(value, str) and len(value) > 20 else word
            yield place, changed
    objects = ["", *(place for place, _, _, value in places(tree) if isinstance(value, dict))]
    for place in objects:
        for kind, empty in enumerate(NOTHING):
            changed = copy.deepcopy(tree)
            target = next((value for at, _, _, value in places(changed) if at == place), changed)
            target[word] = empty
            yield f"{place}#key{kind}", changed
