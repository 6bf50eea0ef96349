"""Where the ids of stored things stand: in paths, in requests, in answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_VERB = re.compile(r"[a-z_]{1,40}")
"""A segment of a path that names no thing but what is to be done with one: ids have figures in them."""
_KINDS = (
    "agent|asst|audio|batch|cfile|chatcmpl|cntr|container|conv|cthr|dream|env|envr|eval|evalrun|file|ftjob|memstore|msg|"
    "msgbatch|pmpt|resp|run|sesn|session|sess|skill|step|thread|tunnel|upload|video|vlt|vault|voice|vs|vsfb"
)
"""How ids of what is stored begin at the providers."""
_SHAPE = re.compile(rf"(?:{_KINDS})[-_](?:[a-z_-]*[0-9A-Z=][\w=-]*|[a-z_-]*[a-z]{{16}}[a-z_-]*)", re.ASCII)
_LEADS = re.compile(
    r"(?:.*[_\[.])?(?:ids?|files?|agents?|assistant|batch|container|conversation|environment|evals?|skills?|thread|uploads?|"
    r"vector_stores?|voice)\]?(?:\[\d*\])?",
    re.IGNORECASE | re.DOTALL,
)
"""How a field is called that leads to what is stored, in JSON and in forms (`file_ids[]`)."""
NOTED = frozenset({"metadata", "attributes", "item", "item_schema"})
"""What callers note beside things, and rows of their own data: no provider follows an id in them."""
_HOLDS = frozenset({dict, list})
_COMPARED = (
    ("thread", "previous_message_id"),
    ("diagnostics", "previous_message_id"),
    ("prompt_cache_options", "comparison_response_id"),
)
"""Where else an earlier answer is named: (field, the name in it)."""
_CITES = frozenset({"file_citation", "container_file_citation", "file_path"})
"""What an answer said of files, sent back with its turn: nobody is given them for it."""
_KEPT = ("id", "conversation", "output_file_id", "error_file_id", "thread_id")
_BEGUN = ("response", "thread")
"""What an event of a stream tells of, where it is not that itself."""


def first_id(path: str, family: str) -> str | None:
    """The first segment below `family` that is an id; None where the path names none."""
    for segment in path.removeprefix(family).split("/"):
        if segment and not _VERB.fullmatch(segment):
            return segment
    return None


def shaped(word: str) -> bool:
    """Whether a word looks like the id of something that a provider stored for somebody: a beginning that they give
    such ids, and behind it figures, capitals or more letters than a word has. `file_search` is none."""
    return _SHAPE.fullmatch(word) is not None


def leads(field: str) -> bool:
    """Whether a field that is called so leads to what is stored, and holds no word of the caller's own."""
    return _LEADS.fullmatch(field) is not None


def quiet(tree: dict[str, Any]) -> frozenset[str]:
    """The fields of an object that lead nowhere, whatever stands in them: what a caller notes, what an answer said of
    files, what a tool is called with."""
    kind = str(tree.get("type"))
    if kind in _CITES:
        return NOTED | {"file_id", "container_id"}
    return NOTED | {_said(kind)}


def _said(kind: str) -> str:
    """Where an item of this kind holds what was only said: between the caller and its tools, or found by a search."""
    return "input" if kind.endswith("tool_use") else "results" if kind == "file_search_call" else ""


def minted(tree: Any, *, kept: bool) -> Iterator[str]:
    """The ids that an answer gives away: of the containers that it worked in, of its thoughts, and if it is `kept` at
    the provider its own, and those of what came to be with it."""
    if not isinstance(tree, dict):
        return
    items = [item for item in _list(tree.get("output")) if isinstance(item, dict)]
    output = [item.get("container_id") for item in items]
    output += [_inner(item, "environment", "container_id") for item in items]
    output += [item.get("id") for item in items if item.get("type") == "reasoning"]
    output += _written(tree.get("content"))
    output += [_spoken(choice.get("message")) for choice in _list(tree.get("choices")) if isinstance(choice, dict)]
    if kept:  # files that came of an upload in parts, or of a training
        file = tree.get("file")
        output += [file if isinstance(file, dict) else None, *_list(tree.get("result_files"))]
        output += _list(_inner(tree.get("tool_resources") or {}, "file_search", "vector_store_ids"))
    for value in [tree.get("container"), *output, *(tree.get(name) for name in (_KEPT if kept else ()))]:
        found = value.get("id") if isinstance(value, dict) else value
        if isinstance(found, str):
            yield found


def told(event: Any) -> Iterator[str]:
    """The ids that an event of a stream gives away which nobody judges."""
    for tree in [event, *(event.get(name) for name in _BEGUN)] if isinstance(event, dict) else []:
        yield from minted(tree, kept=True)


def _written(content: Any) -> list[Any]:
    """The ids of files that code has written, in the blocks of a message that tell of it."""
    ends = [block.get("content") for block in _list(content) if isinstance(block, dict)]
    files = [file for end in ends if isinstance(end, dict) for file in _list(end.get("content"))]
    return [file.get("file_id") for file in files if isinstance(file, dict)]


def refers(item: dict[str, Any]) -> bool:
    """Whether an item of a request's input stands for one that is stored, whatever else it holds."""
    match item.get("type"):
        case "item_reference":
            return True
        case "image_generation_call":  # an image that was drawn before is named, or sent again
            return not item.get("result")
        case None:
            return item.get("content") is None
    return False


def recalls(item: dict[str, Any]) -> bool:
    """Whether an item is thoughts that do not travel with it: where the provider keeps answers it finds them by their
    id, whatever summary stands beside it. Clients send them back so with every turn."""
    return item.get("type") == "reasoning" and bool(item.get("id")) and not _sealed(item.get("encrypted_content"))


def _sealed(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def referred(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(id, the field that holds it) of each stored thing that a request leads to."""
    for name in ("previous_response_id", "conversation", "container", "input_file_id", "thread"):
        yield from _named(tree.get(name), name)
    yield from _worked_with(tree)
    for index, item in enumerate(_list(tree.get("input"))):
        if isinstance(item, dict) and refers(item):
            yield from _named(item.get("id"), f"input[{index}].id")
    yield from _heard(tree)
    for outer, inner_name in _COMPARED:
        yield from _named(_inner(tree, outer, inner_name), f"{outer}.{inner_name}")
    yield from _files(tree)


def recalled(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """As `referred`, of thoughts: clients that store nothing on purpose send their ids, too."""
    for index, item in enumerate(_list(tree.get("input"))):
        if isinstance(item, dict) and recalls(item):
            yield from _named(item.get("id"), f"input[{index}].id")


def _worked_with(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What tools work with, and where."""
    for place, tool in tools(tree):
        for name in ("vector_store_ids", "container", "file_ids", "tunnel_id"):
            for value in _list(tool.get(name)) or [tool.get(name)]:
                yield from _named(value, f"{place}.{name}")
        for name in ("container", "environment"):
            yield from _mounted(tool.get(name), f"{place}.{name}")
    yield from _mounted(tree.get("container"), "container")
    for index, item in enumerate(_list(tree.get("input"))):
        if isinstance(item, dict):
            yield from _mounted(item.get("environment"), f"input[{index}].environment")


def _heard(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A voice of one's own, and what a model said aloud before."""
    voice = _inner(tree, "audio", "voice")
    if isinstance(voice, dict):  # else it is the name of one that all have
        yield from _named(voice, "audio.voice")
    for index, message in enumerate(_list(tree.get("messages"))):
        if isinstance(message, dict):
            yield from _named(_spoken(message), f"messages[{index}].audio.id")


def tools(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tools of a request, each with its place: those of all of it, and those that an item brings."""
    brought = [(f"input[{index}].", item) for index, item in enumerate(_list(tree.get("input")))]
    for place, holder in [("", tree), *brought]:
        if isinstance(holder, dict):
            for index, tool in enumerate(_list(holder.get("tools"))):
                if isinstance(tool, dict):
                    yield f"{place}tools[{index}]", tool


def _mounted(place: Any, field: str) -> Iterator[tuple[str, str]]:
    """What stands in the machine that a tool works in: one that is there, files and skills. Skills of the provider's
    own are for everybody."""
    if not isinstance(place, dict):
        return
    yield from _named(place.get("container_id"), f"{field}.container_id")
    for value in _list(place.get("file_ids")):
        yield from _named(value, f"{field}.file_ids")
    for skill in _list(place.get("skills")):
        if isinstance(skill, dict) and skill.get("type") != "anthropic":
            yield from _named(skill.get("skill_id"), f"{field}.skills")


def _inner(tree: Any, name: str, inner: str) -> Any:
    value = tree.get(name) if isinstance(tree, dict) else None
    return value.get(inner) if isinstance(value, dict) else None


def _spoken(message: Any) -> Any:
    """The id under which what a model said aloud is kept at the provider."""
    return _inner(message, "audio", "id") if isinstance(message, dict) else None


def _named(value: Any, field: str) -> Iterator[tuple[str, str]]:
    found = value.get("id") if isinstance(value, dict) else value
    if isinstance(found, str) and found not in {"", "auto"}:
        yield found, field


def _files(tree: Any) -> Iterator[tuple[str, str]]:
    """Files may stand anywhere but in what a tool is called with, which is between the caller and its tools, and in
    what a search found, which an answer told and gives nobody anything."""
    stack = [tree]
    while stack:
        value = stack.pop()
        if type(value) is list:
            stack += [inner for inner in value if type(inner) in _HOLDS]
            continue
        found = value.get("file_id")
        if type(found) is str and found and str(value.get("type")) not in _CITES:
            yield found, "file_id"
        kind = str(value.get("type"))
        told = _said(kind)
        stack += [inner for key, inner in value.items() if type(inner) in _HOLDS and key != told]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
