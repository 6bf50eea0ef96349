"""Responses: what a body says. Every string and every key is read, wherever it stands.

One walk reads requests, answers and events alike: the type of an object and the key of a value say who speaks, and
whatever neither of them tells is read all the same, in the role of what it lies in. Only words of the API's own
vocabulary, standing where the API puts them, are left out.
"""

from __future__ import annotations

from typing import Any

from classifiers.base import Role

from ..accounts.stored import recalls, refers
from .base import BadRequest, Body, escaped, looks_sealed
from .chat_body import OPAQUE, is_bytes, opaque_kind, spelled
from .chat_body import VOCABULARY as CHAT

ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL_RESULT,
}
"""An unknown role is read as the user's."""

VOCABULARY = CHAT | frozenset(
    """
    input instructions output previous_response_id conversation background include truncation max_output_tokens
    max_tool_calls prompt_cache_retention summary effort generate_summary encrypted_content call_id status phase
    item_id output_index content_index summary_index annotation_index sequence_number delta item part response
    created_at completed_at incomplete_details output_text usage input_tokens output_tokens input_tokens_details
    output_tokens_details filename file_id file_data file_url detail action query queries results server_label
    operation commands command output_format quality size result code container_id outputs logs stdout stderr
    annotation annotations start_index end_index text_config grammar syntax definition input_schema background_options
    message reasoning summary_text reasoning_text input_text input_image input_file function_call function_call_output
    custom_tool_call custom_tool_call_output computer_call computer_call_output computer_screenshot web_search_call
    file_search_call code_interpreter_call image_generation_call local_shell_call local_shell_call_output shell_call
    shell_call_output apply_patch_call apply_patch_call_output mcp_call mcp_list_tools mcp_approval_request
    mcp_approval_response item_reference compaction in_progress completed incomplete failed queued cancelled searching
    interpreting generating final_answer commentary max_output_tokens content_filter disabled url_citation
    file_citation container_file_citation file_path in_memory 24h detailed concise web_search web_search_preview
    file_search code_interpreter image_generation computer_use_preview local_shell shell apply_patch mcp
    """.split()  # noqa: SIM905
)

_TYPES = {
    "reasoning": Role.REASONING,
    "reasoning_text": Role.REASONING,
    "summary_text": Role.REASONING,
    "mcp_list_tools": Role.TOOL_DEFINITION,
    "additional_tools": Role.TOOL_DEFINITION,
    "program": Role.TOOL_CALL,
    "mcp_approval_request": Role.TOOL_CALL,
}
_KEYS = {
    "refusal": Role.REFUSAL,
    "output": Role.TOOL_RESULT,
    "outputs": Role.TOOL_RESULT,
    "results": Role.TOOL_RESULT,
    "stdout": Role.TOOL_RESULT,
    "stderr": Role.TOOL_RESULT,
    "error": Role.ERROR,
    **dict.fromkeys(("type", "id", "call_id", "status", "role", "phase", "item_id"), Role.SETTING),
}
"""Keys whose values speak in a role of their own, in whatever they lie (but not inside of definitions)."""
_OPAQUE = {
    "input_image": "image",
    "computer_screenshot": "image",
    "input_file": "file",
    "input_audio": "audio",
    "output_audio": "audio",
    "input_video": "video",
}
_LINKED = {name: kind for name, kind in OPAQUE.items() if name.endswith(("_url", "_embeds", "_pil"))}
"""Parts of Chat's that vLLM takes here as well."""
_ENCODED = {
    "encrypted_content": "encrypted",
    "file_data": "file",
    "partial_image_b64": "image",
}
"""Keys whose strings no classifier can read."""
_CODE = frozenset({"arguments", "input", "code"})
_HOLDS = frozenset({str, dict, list})
_FIXED = frozenset({Role.TOOL_DEFINITION, Role.SETTING})


def check_shape(body: Body, tree: dict[str, Any], opened: frozenset[str]) -> None:
    """The few types that the way of an exchange depends on, and what must not be asked for (T13, T14) but for what the
    operator `opened`: of that nobody can read what it leads to."""
    if not isinstance(tree.get("model"), str | None):  # whether one is needed is the upstream's to say
        raise BadRequest("'model' must be a string.", "model")
    if not isinstance(tree.get("input"), str | list | None):
        raise BadRequest("'input' must be a string or an array of items.", "input")
    if not isinstance(tree.get("stream"), bool | None):
        raise BadRequest("'stream' must be true or false.", "stream")
    for key, why in _ELSEWHERE.items():
        if tree.get(key) in (None, False):
            continue
        if key not in opened:
            raise BadRequest(f"'{key}' is not served here: {why}", key)
        body.unscannable.append((f"/{key}", "background" if key == "background" else "stored"))
    for index, item in enumerate(tree["input"] if isinstance(tree.get("input"), list) else ()):
        if not isinstance(item, dict):
            raise BadRequest(f"'input[{index}]' must be an object.", f"input[{index}]")
        if recalls(item):
            body.unscannable.append((f"/input/{index}", "recalled"))
        elif refers(item):
            if "item_reference" in opened:
                body.unscannable.append((f"/input/{index}", "stored"))
                continue
            raise BadRequest(f"'input[{index}]' refers to an item that {_STORED}", f"input[{index}]")


_STORED = "is stored at the provider and was not judged here: send its content instead."
_ELSEWHERE = {
    "background": "its answer would be fetched later, unjudged. Leave it out and wait for the answer.",
    "previous_response_id": "it refers to a response that " + _STORED,
    "conversation": "it refers to turns whose text " + _STORED,
    "prompt": "it refers to a template whose text " + _STORED,
}


def read_value(body: Body, value: Any, role: Role, place: str, key: str = "") -> None:
    """Every string leaf and object key of `value`, which stood under `key`."""
    kind = type(value)
    if kind is str:
        _text(body, value, role, place, key)
    elif kind is dict:
        _object(body, value, role, place)
    elif kind is list:
        texts: list[str] = []
        for index, inner in enumerate(value):
            read_value(body, inner, role, f"{place}/{index}", key)
            text = inner.get("text") if type(inner) is dict else inner
            if type(text) is str:
                texts.append(text)
        if len(texts) > 1 and role not in _FIXED:
            # What is split over parts is one text to the model.
            body.add(role, "".join(texts), place + "#joined")


def _object(body: Body, value: dict[str, Any], role: Role, place: str) -> None:
    what = value.get("type")
    what = what if type(what) is str and role not in _FIXED else ""
    if role not in _FIXED:
        role = _role(what, value.get("role"), role)
    opaque = _OPAQUE.get(what) or (opaque_kind(value, _LINKED) if role not in _FIXED else None)
    if opaque is not None:
        body.unscannable.append((place, opaque))
    for key, inner in value.items():
        known = key in VOCABULARY
        if known and type(inner) not in _HOLDS:
            continue
        at = f"{place}/{escaped(key)}"
        if not known:
            body.add(role, key, at + "#key")
        if key == "logprobs" and type(inner) is list:
            tokens, others = spelled(inner)
            body.add(role, tokens, at)
            body.add(role, others, at + "/top")
        elif key == "result" and what == "image_generation_call" and inner:
            body.unscannable.append((at, "image"))
            if type(inner) is str:
                body.encoded(role, inner, at)
            else:
                read_value(body, inner, role, at, key)
        elif opaque is not None and is_bytes(key, inner):
            body.encoded(role, inner, at)
        else:
            read_value(body, inner, role if role in _FIXED else _KEYS.get(key, role), at, key)


def _role(what: str, told: Any, role: Role) -> Role:
    """Who speaks in an object of type `what` with a member `role`."""
    if type(told) is str and what not in _TYPES:
        return ROLES.get(told, Role.USER)
    if what.endswith("_call"):
        return Role.TOOL_CALL
    return Role.TOOL_RESULT if what.endswith("_output") else _TYPES.get(what, role)


def _text(body: Body, text: str, role: Role, place: str, key: str) -> None:
    if not text or (role in _FIXED and text in VOCABULARY):
        return
    if key in _ENCODED and role is not Role.TOOL_DEFINITION:  # what a definition tells by way of example is read
        body.unscannable.append((place, _ENCODED[key]))
        if _ENCODED[key] != "encrypted":
            body.encoded(role, text, place)
            return
        if looks_sealed(text):
            return
    if role is Role.TOOL_CALL and key in _CODE:
        body.arguments(text, place)
    else:
        body.add(role, text, place)


def read_output(body: Body, output: Any, place: str) -> None:
    """The items of an answer. What several messages say is one text to a client that asks for `output_text`."""
    read_value(body, output, Role.ASSISTANT, place)
    texts = [
        part["text"]
        for item in (output if isinstance(output, list) else ())
        if isinstance(item, dict) and isinstance(item.get("content"), list) and item.get("type") == "message"
        for part in item["content"]
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    if len(texts) > 1:
        body.add(Role.ASSISTANT, "".join(texts), place + "#said")


def read_response(body: Body, tree: dict[str, Any], place: str, asked: dict[str, Any]) -> None:
    """A response object. It repeats what was asked: where that is what the caller sent (`asked`), word for word, it
    tells the caller nothing and was judged as input."""
    for key, value in tree.items():
        known = key in VOCABULARY
        if (known and type(value) not in _HOLDS) or (value and key in _ECHOED and asked.get(key) == value):
            continue
        at = f"{place}/{escaped(key)}"
        if not known:
            body.add(Role.SETTING, key, at + "#key")
        if key == "output":
            read_output(body, value, at)
        else:
            role = Role.TOOL_DEFINITION if key in {"tools", "text"} else Role.ERROR if key == "error" else Role.SETTING
            read_value(body, value, role, at, key)


_ECHOED = frozenset(
    {"instructions", "tools", "text", "metadata", "tool_choice", "reasoning", "user", "safety_identifier"}
)
