"""What names of fields mean to servers beyond the API: who speaks there, and which names are taken alike.

Servers in Go match the names of JSON's fields whatever their case, and take the last of several: to them `Messages` is
`messages`, and so is a spelling with the long s or the sign for Kelvin. What they would read is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classifiers.base import Role

from .base import STORED, BadRequest, named_in

_REQUEST = frozenset(
    """
    model models fallbacks messages prompt input inputs system instructions template suffix context images documents
    tools tool_choice functions function_call response_format format text thread conversation previous_response_id
    stream stream_options n max_tokens max_completion_tokens max_output_tokens user metadata store container
    mcp_servers thinking reasoning options raw endpoint requests input_file_id
    """.split()  # noqa: SIM905
)
_TURN = frozenset(
    "role content type text tool_calls tool_call_id".split()  # noqa: SIM905
)
_TURNS = ("messages", "input")
_ROW = frozenset({"custom_id", "method", "url", "body", "params"})
BESIDE: Mapping[str, Role] = {
    **dict.fromkeys(("messages", "prompt", "input", "inputs", "query", "suffix"), Role.USER),
    **dict.fromkeys(("template", "chat_template", "chat_template_kwargs"), Role.USER),
    **dict.fromkeys(("documents", "context"), Role.TOOL_RESULT),
    **dict.fromkeys(("system", "system_prompt", "instructions"), Role.SYSTEM),
}
"""Fields that some server puts before its model, whatever the API: vLLM takes documents, and the template itself. Who
speaks there is the one whose words they stand for."""

UNREADABLE: Mapping[str, str] = {
    **dict.fromkeys(("prompt_token_ids", "input_ids", "token_ids"), "tokens"),
    **dict.fromkeys(("prompt_embeds", "input_embeds", "inputs_embeds"), "embeddings"),
    **dict.fromkeys((*STORED, "cached_content"), "stored"),
}
"""Fields in which some server takes its input as numbers, or the name of a text that is kept there, and how a policy
calls such a part."""


def unreadable(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(origin, kind) of each part of a request that stands beside the API, and is no text."""
    found = [("/model", "stored")] if named_in(tree.get("model")) else []
    holders = [("", tree)]
    if "extra_body" in tree:  # as Gemini's own documentation has it sent
        outer = _held(tree, "extra_body")
        holders += [("/extra_body", outer), ("/extra_body/google", _held(outer, "google"))]
    for place, holder in holders:
        if not UNREADABLE.keys().isdisjoint(holder):
            found += [(f"{place}/{name}", kind) for name, kind in UNREADABLE.items() if holder.get(name)]
    return found


def _held(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def one_spelling(tree: Any) -> Any:
    """`tree`, a request. Raises BadRequest where a field of it, or of a turn in it, is named as another reader of JSON
    would name a field of the API."""
    if isinstance(tree, dict):
        _check(tree, _REQUEST)
        for turns in _TURNS:
            listed = tree.get(turns)
            for turn in listed if isinstance(listed, list) else ():
                if isinstance(turn, dict):
                    _check(turn, _TURN)
    return tree


def one_frame(row: Mapping[str, Any]) -> None:
    """`row`, a request of a batch, in its own frame. Raises BadRequest as `one_spelling` does."""
    _check(row, _ROW)


def _check(fields: Mapping[str, Any], names: frozenset[str]) -> None:
    for name in fields:
        if name not in names and (meant := name.casefold()) in names:
            raise BadRequest(f"A field is spelled so that some servers read it as '{meant}': write it so.", meant)
