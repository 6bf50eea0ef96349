"""What older APIs take for text: a string, a list of strings, or numbers of tokens that nobody here can read."""

from __future__ import annotations

from typing import Any

from classifiers.base import Role

from .base import BadRequest, Body

MOST = 2048
"""Texts in one request, and answers to them: the APIs take no more, and a refusal says something for each."""


def read_texts(body: Body, value: Any, origin: str) -> int:
    """Read `value` at `origin`; how many texts it is. Lists of token numbers are parts that nobody can read.

    Raises BadRequest where there are too many."""
    if type(value) is str:
        body.add(Role.USER, value, origin)
        return 1
    if type(value) is not list:
        _read_mixed(body, value, origin)
        return 1
    if any(type(item) in {int, float} for item in value):
        body.unscannable.append((origin, "tokens"))
        body.leaves(value, Role.USER, origin, frozenset())
        return 1
    if len(value) > MOST:
        name = origin.removeprefix("/")
        raise BadRequest(f"'{name}' holds {len(value)} texts: send {MOST} at most.", name)
    for index, item in enumerate(value):
        place = f"{origin}/{index}"
        if type(item) is str:
            body.add(Role.USER, item, place)
            continue
        if type(item) is list and any(type(inner) is not str for inner in item):
            body.unscannable.append((place, "tokens"))
        _read_mixed(body, item, place)
    return len(value) or 1


def _read_mixed(body: Body, value: Any, origin: str) -> None:
    """What is neither a text nor a list of them. llama.cpp takes a prompt with images in an object."""
    if type(value) is dict and value.get("multimodal_data"):
        body.unscannable.append((origin, "image"))
    body.leaves(value, Role.USER, origin, frozenset())
