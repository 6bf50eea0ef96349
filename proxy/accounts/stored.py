"""Where the ids of stored things stand: in paths, in requests, in answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_VERB = re.compile(r"[a-z_]{1,40}")
"""A segment of a path that names no thing but what is to be done with one: ids have figures in them."""
_HOLDS = frozenset({dict, list})
_COMPARED = (
    ("thread", "previous_message_id"),
    ("diagnostics", "previous_message_id"),
    ("prompt_cache_options", "comparison_response_id"),
)
"""Where else an earlier answer is named: (field, the name in it)."""
_CITES = frozenset({"file_citation", "container_file_citation", "file_path"})
"""What an answer said of files, sent back with its turn: nobody is given them for it."""
_KEPT = ("id", "conversation", "output_file_id", "error_file_id")


def first_id(path: str, family: str) -> str | None:
    """The first segment below `family` that is an id; None where the path names none."""
    for segment in path.removeprefix(family).split("/"):
        if segment and not _VERB.fullmatch(segment):
            return segment
    return None


def minted(tree: Any, *, kept: bool) -> Iterator[str]:
    """The ids that an answer gives away: of the containers that it worked in, and if it is `kept` at the provider its
    own, and those of what came to be with it."""
    if not isinstance(tree, dict):
        return
    output = [item.get("container_id") for item in _list(tree.get("output")) if isinstance(item, dict)]
    output += _written(tree.get("content"))
    for value in [tree.get("container"), *output, *(tree.get(name) for name in (_KEPT if kept else ()))]:
        found = value.get("id") if isinstance(value, dict) else value
        if isinstance(found, str):
            yield found


def _written(content: Any) -> list[Any]:
    """The ids of files that code has written, in the blocks of a message that tell of it."""
    ends = [block.get("content") for block in _list(content) if isinstance(block, dict)]
    files = [file for end in ends if isinstance(end, dict) for file in _list(end.get("content"))]
    return [file.get("file_id") for file in files if isinstance(file, dict)]


def referred(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(id, the field that holds it) of each stored thing that a request leads to."""
    for name in ("previous_response_id", "conversation", "container", "input_file_id", "thread"):
        yield from _named(tree.get(name), name)
    for index, tool in enumerate(_list(tree.get("tools"))):
        if isinstance(tool, dict):
            for name in ("vector_store_ids", "container", "file_ids"):
                for value in _list(tool.get(name)) or [tool.get(name)]:
                    yield from _named(value, f"tools[{index}].{name}")
            inner = tool.get("container")
            if isinstance(inner, dict):
                for value in _list(inner.get("file_ids")):
                    yield from _named(value, f"tools[{index}].container.file_ids")
            inner = tool.get("environment")
            if isinstance(inner, dict):
                yield from _named(inner.get("container_id"), f"tools[{index}].environment.container_id")
    for index, item in enumerate(_list(tree.get("input"))):
        if isinstance(item, dict) and item.get("type") in (None, "item_reference") and "content" not in item:
            yield from _named(item.get("id"), f"input[{index}].id")
    for outer, inner_name in _COMPARED:
        inner = tree.get(outer)
        if isinstance(inner, dict):
            yield from _named(inner.get(inner_name), f"{outer}.{inner_name}")
    yield from _files(tree)


def _named(value: Any, field: str) -> Iterator[tuple[str, str]]:
    found = value.get("id") if isinstance(value, dict) else value
    if isinstance(found, str) and found not in {"", "auto"}:
        yield found, field


def _files(tree: Any) -> Iterator[tuple[str, str]]:
    """Files may stand anywhere but in what a tool is called with, which is between the caller and its tools."""
    stack = [tree]
    while stack:
        value = stack.pop()
        if type(value) is list:
            stack += [inner for inner in value if type(inner) in _HOLDS]
            continue
        found = value.get("file_id")
        if type(found) is str and found and str(value.get("type")) not in _CITES:
            yield found, "file_id"
        called = str(value.get("type")).endswith("tool_use")
        stack += [inner for key, inner in value.items() if type(inner) in _HOLDS and not (called and key == "input")]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
