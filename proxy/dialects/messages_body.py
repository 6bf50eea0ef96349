"""Anthropic Messages: what a body says. Every string and every key is read.

A message is a string or a list of blocks, and blocks hold blocks. Text and thinking are read as such, a tool's call
and result as such, and an unknown block leaf by leaf. Only words of the API's own vocabulary, standing alone, are left
out, and encoded bytes, which are named as unscannable instead.
"""

from __future__ import annotations

from typing import Any

from classifiers.base import Role

from .base import BadRequest, Body, Refusal, escaped, looks_sealed

ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM}
"""An unknown role is read as the user's."""

VOCABULARY = frozenset(
    # keys and values of the API itself: alone they say nothing that a person wrote
    """
    model messages role content system max_tokens stream metadata user_id stop_sequences temperature top_k top_p tools
    tool_choice thinking budget_tokens service_tier container context_management mcp_servers output_config
    output_format format schema effort speed inference_geo betas
    user assistant text type id name input source data media_type base64 url file file_id title context citations
    cache_control ephemeral ttl 5m 1h enabled disabled adaptive display signature redacted_thinking tool_use
    tool_use_id tool_result is_error image document search_result server_tool_use mcp_tool_use mcp_tool_result
    server_name web_search web_search_result web_search_tool_result web_fetch web_fetch_result web_fetch_tool_result
    code_execution code_execution_result code_execution_output code_execution_tool_result bash_code_execution
    bash_code_execution_result bash_code_execution_tool_result text_editor_code_execution
    text_editor_code_execution_tool_result container_upload compaction caller direct encrypted_content
    encrypted_index encrypted_stdout page_age stdout stderr return_code error_code retrieved_at
    description input_schema properties required items enum anyOf additionalProperties default strict object string
    number integer boolean array null auto any none tool disable_parallel_tool_use allowed_domains blocked_domains
    max_uses user_location approximate city country region timezone json_schema low medium high standard_only standard
    priority batch tool_configuration allowed_tools authorization_token
    message stop_reason stop_sequence stop_details category explanation end_turn pause_turn refusal
    model_context_window_exceeded usage input_tokens output_tokens cache_creation_input_tokens cache_read_input_tokens
    cache_creation ephemeral_5m_input_tokens ephemeral_1h_input_tokens web_search_requests web_fetch_requests
    output_tokens_details thinking_tokens expires_at cited_text document_index document_title start_char_index
    end_char_index start_page_number end_page_number start_block_index end_block_index search_result_index
    char_location page_location content_block_location search_result_location web_search_result_location
    message_start message_delta message_stop content_block_start content_block_delta content_block_stop ping error
    index content_block delta text_delta input_json_delta thinking_delta signature_delta citations_delta citation
    partial_json request_id
    invalid_request_error authentication_error permission_error not_found_error request_too_large rate_limit_error
    api_error timeout_error overloaded_error billing_error
    """.split()  # noqa: SIM905
)

ENCRYPTED = frozenset({"encrypted_content", "encrypted_stdout"})
"""Fields that only the provider can read: a part that no classifier sees."""
_PLAIN = frozenset({int, float, bool, type(None)})
_SOURCES = frozenset({"base64", "url", "file"})
_READABLE = frozenset({"text", "content"})
_FOREIGN = frozenset({"document", "search_result"})
"""What a user's turn may hold of somebody else's words."""
_ERRORS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def check_shape(tree: dict[str, Any]) -> None:
    """The few types that the way of an exchange depends on. The rest is the upstream's to refuse."""
    if not isinstance(tree.get("model"), str) or not tree["model"]:
        raise BadRequest("model: a string is required.", "model")
    messages = tree.get("messages")
    if not isinstance(messages, list):
        raise BadRequest("messages: a list of messages is required.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(f"messages.{index}: it must be an object with a role and content.", f"messages.{index}")
        if not isinstance(message.get("role", "user"), str):
            raise BadRequest(f"messages.{index}.role: it must be a string.", f"messages.{index}.role")
    if not isinstance(tree.get("stream"), bool | None):
        raise BadRequest("stream: it must be true or false.", "stream")


STORED = (
    "it goes on with a conversation that is stored at the provider and was not judged here: send its messages instead."
)


class Unthreaded(BadRequest):
    """A request that goes on with what is stored elsewhere. Its code is the API's own: the tool runners of Anthropic's
    SDKs, which keep each conversation there by default, then send the whole of it, once and for all."""

    code = "thread_unsupported_request"


def goes_on(tree: dict[str, Any]) -> bool:
    """Whether the request goes on with a conversation that is kept at the provider. To have one kept leads nowhere."""
    thread = tree.get("thread")
    return thread is not None and thread != {"type": "create"}


def says_nothing(key: str, value: Any) -> bool:
    """Whether a member is a number, a flag or a null under one of the API's own names."""
    return type(value) in _PLAIN and key in VOCABULARY


def speaker(kind: Any, role: Role) -> Role:
    """Who speaks in a block of type `kind` that stands in a message of `role`."""
    if not isinstance(kind, str):
        return role
    if kind.endswith("tool_use"):
        return Role.TOOL_CALL
    if kind.endswith("_result") or kind in _FOREIGN:
        return Role.TOOL_RESULT
    return Role.REASONING if kind.endswith("thinking") else role


def read_message(body: Body, message: dict[str, Any], role: Role, origin: str) -> None:
    """One message of a request, or the fields of an answer that make one."""
    for key, value in message.items():
        if says_nothing(key, value) or (key == "role" and value in ROLES):
            continue
        place = f"{origin}/{escaped(key)}"
        if key == "content":
            read_content(body, value, role, place)
        else:
            read_field(body, key, value, Role.SETTING if key == "role" else role, place)


def read_field(body: Body, key: str, value: Any, role: Role, place: str) -> None:
    """A member of no special meaning: its key, and every leaf of it."""
    if says_nothing(key, value):
        return
    if key not in VOCABULARY:
        body.add(role, key, place + "#key")
    body.leaves(value, role, place, VOCABULARY)


def read_content(body: Body, value: Any, role: Role, origin: str) -> None:
    """A string, a block, or a list of them."""
    if isinstance(value, str):
        body.add(role, value, origin)
    elif isinstance(value, dict):
        read_block(body, value, role, origin)
    elif isinstance(value, list):
        texts: list[str] = []
        for index, item in enumerate(value):
            place = f"{origin}/{index}"
            if isinstance(item, dict):
                texts.extend(read_block(body, item, role, place))
            elif isinstance(item, str):
                texts.append(item)
                body.add(role, item, place)
            else:
                body.leaves(item, role, place, frozenset())
        if len(texts) > 1:
            # What is split over blocks is one text to the model, and to the reader.
            body.add(role, "".join(texts), origin + "#joined")
        thoughts = [item["thinking"] for item in value if isinstance(item, dict) and _thinks(item)]
        if len(thoughts) > 1:
            body.add(Role.REASONING, "".join(thoughts), origin + "#thoughts")


def _thinks(block: dict[str, Any]) -> bool:
    return block.get("type") == "thinking" and isinstance(block.get("thinking"), str)


def read_block(body: Body, block: dict[str, Any], role: Role, origin: str) -> list[str]:
    """One block; answers its text, where it is a part of the speaker's own."""
    kind = kind_of(block)
    if role is Role.USER and kind in _FOREIGN:
        # The user's own words or a stranger's: judged as both.
        again = Body()
        _members(again, block, kind, role, origin)
        body.messages.extend(again.messages)
    opaque = opaque_kind(block)
    if opaque is not None:
        body.unscannable.append((origin, opaque))
    return _members(body, block, kind, speaker(kind, role), origin)


def kind_of(block: dict[str, Any]) -> str | None:
    """A block's type; None where it has none that is a word."""
    kind = block.get("type")
    return kind if isinstance(kind, str) else None


def opaque_kind(block: dict[str, Any]) -> str | None:
    """What a block holds that is no text, if anything."""
    kind, source = kind_of(block), block.get("source")
    if kind == "image":
        return "image"
    if kind == "container_upload":
        return "file"
    if kind == "document":
        of = kind_of(source) if isinstance(source, dict) else None
        return None if of in _READABLE or isinstance(source, str) else "file"
    if kind == "redacted_thinking" or not ENCRYPTED.isdisjoint(block):
        return "encrypted"
    # Sound and films, as servers take them that speak this API without being Anthropic's.
    return "file" if isinstance(source, dict) and kind_of(source) in _SOURCES else None


def _members(body: Body, block: dict[str, Any], kind: Any, role: Role, origin: str) -> list[str]:
    texts: list[str] = []
    for key, value in block.items():
        place = f"{origin}/{escaped(key)}"
        if sealed(kind, key, value):
            continue
        if key == "text":
            if isinstance(value, str):
                texts.append(value)
            body.leaves(value, role, place, frozenset())
        elif key == "thinking":
            body.leaves(value, role, place, frozenset())
        elif key == "input":
            body.given(value, role, place)
        elif key == "content":
            read_content(body, value, role, place)
        elif key == "source" and isinstance(value, dict):
            _source(body, value, role, place)
        else:
            read_field(body, key, value, Role.SETTING if key == "type" else role, place)
    return texts


def sealed(kind: Any, key: str, value: Any) -> bool:
    """Whether a member of a block holds bytes that only the provider can read (`opaque_kind` names them)."""
    named = key in ENCRYPTED or (key == "data" and kind == "redacted_thinking")
    return named and isinstance(value, str) and looks_sealed(value)


def _source(body: Body, source: dict[str, Any], role: Role, origin: str) -> None:
    """Where an image or a document comes from: encoded bytes are left out, a text is read."""
    encoded, kind = source.get("type") == "base64", source.get("media_type")
    for key, value in source.items():
        place = f"{origin}/{escaped(key)}"
        if key == "data" and isinstance(value, str):
            if encoded:
                body.encoded(role, value, place, kind if isinstance(kind, str) else "")
            else:
                body.add(role, value, place)
        elif key == "content":
            read_content(body, value, role, place)
        else:
            read_field(body, key, value, role, place)


def error_of(status: int, code: str, message: str, decision: str = "") -> dict[str, Any]:
    """The inner part of an error. `code` is Penstock's own word for it: the API has only types."""
    kind = _ERRORS.get(status) or ("overloaded_error" if code == "overloaded" else None)
    error: dict[str, Any] = {
        "type": kind or ("api_error" if status >= 500 else "invalid_request_error"),
        "message": message,
        "code": code,
    }
    if code == Unthreaded.code:
        error["details"] = {"error_code": code, "unsupported": ["inference_hooks"]}
    if decision:
        error["penstock"] = {"decision_id": decision}
    return error


def trace_of(refusal: Refusal) -> dict[str, str]:
    return {
        "reason": refusal.reason,
        "policy": refusal.policy,
        "stage": refusal.stage,
        "decision_id": refusal.decision,
    }


def refused_message(refusal: Refusal, model: str) -> dict[str, Any]:
    """A whole answer that refuses in words."""
    return {
        "id": f"msg_{refusal.decision}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": refusal.message}],
        **stop_of(refusal),
        "usage": refusal.cost("input_tokens", "output_tokens"),
        "penstock": trace_of(refusal),
    }


def stop_of(refusal: Refusal) -> dict[str, Any]:
    """Why the model stopped: it did not, it was stopped."""
    if refusal.complete:
        return {"stop_reason": "end_turn", "stop_sequence": None}
    details = {"type": "refusal", "category": None, "explanation": None}
    return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
