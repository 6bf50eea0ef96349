"""Where each dialect has a place for a note of the operator's to the model.

The note joins what the request has of the kind already, behind it: some servers take one system message and no more,
some only in front, and what providers cache of a prompt is its beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_Tree = dict[str, Any]


def advise(tree: Any, dialect: str, note: str) -> bool:
    """Add `note` to the request `tree` of `dialect`. False where such a request has no place for it."""
    place = _PLACES.get(dialect)
    return place is not None and place(tree, note)


def _chat(tree: _Tree, note: str) -> bool:
    messages = tree["messages"]
    first = messages[0] if messages else {}
    if first.get("role") in {"system", "developer"} and (told := _joined(first.get("content"), note)) is not None:
        first["content"] = told
    else:
        messages.insert(0, {"role": "system", "content": note})
    return True


def _messages(tree: _Tree, note: str) -> bool:
    told = _joined(tree.get("system"), note)
    if told is None:
        told = note
    tree["system"] = told
    return True


def _responses(tree: _Tree, note: str) -> bool:
    """As the first item of the input: `instructions` come back in the answer, and would be found changed."""
    asked = tree.get("input")
    items = asked if isinstance(asked, list) else [{"role": "user", "content": asked}] if asked is not None else []
    tree["input"] = [{"role": "developer", "content": note}, *items]
    return True


def _completions(tree: _Tree, note: str) -> bool:
    """In front of each prompt, for there is no other place; prompts that are numbers have none."""
    prompt = tree.get("prompt")
    if isinstance(prompt, str):
        tree["prompt"] = f"{note}\n\n{prompt}"
    elif isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt):
        tree["prompt"] = [f"{note}\n\n{text}" for text in prompt]
    else:
        return False
    return True


def _joined(content: Any, note: str) -> Any:
    """A text, or a list of parts, with the note behind it; None for what is neither."""
    if isinstance(content, str):
        return f"{content}\n\n{note}" if content else note
    if isinstance(content, list):
        return [*content, {"type": "text", "text": note}]
    return None


_PLACES: dict[str, Callable[[_Tree, str], bool]] = {
    "chat": _chat,
    "completions": _completions,
    "count_tokens": _messages,
    "messages": _messages,
    "responses": _responses,
}
