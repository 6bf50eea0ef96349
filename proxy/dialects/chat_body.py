"""Chat Completions: what a body says. Every string and every key is read.

Known fields get the role that policies expect; an unknown field is read all the same, as a setting. Only words of the
API's own vocabulary, standing alone, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from classifiers.base import Role

from ..strict import Malformed
from .base import BadRequest, Body, Refusal, escaped

ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL_RESULT,
    "function": Role.TOOL_RESULT,
}
"""An unknown role is read as the user's."""

VOCABULARY = frozenset(
    # keys and values of the API itself: alone they say nothing that a person wrote
    """
    model messages role content name tool_calls tool_call_id id type function arguments parameters description strict
    tools tool_choice functions function_call stream stream_options include_usage include_obfuscation n temperature
    top_p max_tokens max_completion_tokens presence_penalty frequency_penalty logit_bias logprobs top_logprobs stop
    seed user response_format json_schema json_object schema properties required items enum anyOf additionalProperties
    default format parallel_tool_calls reasoning_effort verbosity service_tier store metadata modalities audio
    prediction safety_identifier prompt_cache_key custom input text image_url input_audio file url detail data refusal
    system developer assistant tool auto none low medium high minimal object string number integer boolean array null
    default flex priority choices index message delta finish_reason created system_fingerprint usage chat.completion
    chat.completion.chunk prompt_tokens completion_tokens total_tokens prompt_tokens_details completion_tokens_details
    cached_tokens audio_tokens reasoning_tokens accepted_prediction_tokens rejected_prediction_tokens stop length
    content_filter reasoning_content reasoning obfuscation error code param annotations title
    text_completion prompt suffix echo best_of tokens token_logprobs text_offset embedding list float base64
    encoding_format dimensions
    """.split()  # noqa: SIM905
)

OPAQUE: Mapping[str, str] = {
    **dict.fromkeys(("image_url", "input_image", "image", "image_pil"), "image"),
    **dict.fromkeys(("input_audio", "audio", "audio_url"), "audio"),
    **dict.fromkeys(("file", "input_file"), "file"),
    **dict.fromkeys(("video_url", "input_video", "video"), "video"),
    **dict.fromkeys(("image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"), "embeddings"),
}
"""Parts of a message that hold something other than text, by their types and by the fields that hold it. OpenAI's API
knows four of them; vLLM and its like take all, and go by the field where there is no type, or a `uuid`."""
_BYTES = frozenset({"data", "file_data", "b64_json"})
_URLS = frozenset({"url", "uri", "file_url", "images", *OPAQUE})
"""Fields that may hold a data URL: what stands in any other is read as it stands, however it begins."""
_PLAIN = frozenset({int, float, bool, type(None)})
_SPELLING = frozenset({"token", "logprob", "bytes", "top_logprobs", "content", "refusal"})
REASONING = frozenset({"reasoning_content", "reasoning"})


def check_shape(tree: dict[str, Any]) -> None:
    """The few types that the way of an exchange depends on. The rest is the upstream's to refuse."""
    if not isinstance(tree.get("model"), str) or not tree["model"]:
        raise BadRequest("You must provide a model parameter: a string.", "model")
    messages = tree.get("messages")
    if not isinstance(messages, list):
        raise BadRequest("'messages' must be an array of messages.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(f"'messages[{index}]' must be an object with a role and content.", f"messages[{index}]")
        if not isinstance(message.get("role", "user"), str):
            raise BadRequest(f"'messages[{index}].role' must be a string.", f"messages[{index}].role")
    if not isinstance(tree.get("stream"), bool | None):
        raise BadRequest("'stream' must be true or false.", "stream")
    if not isinstance(tree.get("stream_options"), dict | None):
        raise BadRequest("'stream_options' must be an object.", "stream_options")
    n = tree.get("n")
    if n is not None and (type(n) is not int or not 1 <= n <= 128):
        raise BadRequest("'n' must be an integer from 1 to 128.", "n")


def says_nothing(key: str, value: Any) -> bool:
    """Whether a member is a number, a flag or a null under one of the API's own names."""
    return type(value) in _PLAIN and key in VOCABULARY


def read_message(body: Body, message: dict[str, Any], role: Role, origin: str) -> None:
    """One message of a request, or the message of an answer's choice."""
    for key, value in message.items():
        if says_nothing(key, value) or (type(value) is str and key == "role" and value in VOCABULARY):
            continue
        place = f"{origin}/{escaped(key)}"
        if value is None:
            read_key(body, key, role, place)
        elif key == "content":
            _content(body, value, role, place)
        elif key in {"role", "tool_call_id"}:
            body.leaves(value, Role.SETTING, place, VOCABULARY)
        elif key in {"tool_calls", "function_call"}:
            for number, call in enumerate(value if isinstance(value, list) else [value]):
                _call(body, call, f"{place}/{number}" if isinstance(value, list) else place)
        elif key == "refusal":
            body.leaves(value, Role.REFUSAL, place, VOCABULARY)
        elif key in REASONING:
            body.leaves(value, Role.REASONING, place, frozenset())
            read_joined(body, value, Role.REASONING, place)
        elif key == "audio":
            _audio(body, value, role, place)
        elif key == "images" and value:
            read_key(body, key, role, place)
            body.unscannable.append((place, "image"))
            around(body, value, role, place, key)
        else:
            read_key(body, key, role, place)
            body.leaves(value, role, place, VOCABULARY)
            read_joined(body, value, role, place)


def read_key(body: Body, key: str, role: Role, place: str) -> None:
    """An object key, unless it is the API's own."""
    if key not in VOCABULARY:
        body.add(role, key, place + "#key")


def _content(body: Body, value: Any, role: Role, origin: str) -> None:
    if isinstance(value, str):
        body.add(role, value, origin)
        return
    if not isinstance(value, list):
        body.leaves(value, role, origin, frozenset())
        return
    texts: list[str] = []
    for index, part in enumerate(value):
        place = f"{origin}/{index}"
        if isinstance(part, str):
            texts.append(part)
            body.add(role, part, place)
        elif isinstance(part, dict):
            texts.extend(_part(body, part, role, place))
        else:
            body.leaves(part, role, place, frozenset())
    if len(texts) > 1:
        # What is split over parts is one text to the model.
        body.add(role, "".join(texts), origin + "#joined")


def opaque_kind(part: dict[str, Any], known: Mapping[str, str] = OPAQUE) -> str | None:
    """What a part holds that is no text, if anything."""
    kind = part.get("type")
    if isinstance(kind, str) and kind in known:
        return known[kind]
    if known.keys().isdisjoint(part):
        return None
    # An empty field says nothing, but where it stands for what was sent under its `uuid` before.
    empty_too = kind is None or part.get("uuid") is not None
    return next((known[key] for key in part if key in known and (empty_too or part[key] is not None)), None)


def _part(body: Body, part: dict[str, Any], role: Role, origin: str) -> Iterator[str]:
    """One part of a content array; yields its text."""
    opaque = opaque_kind(part)
    if opaque is not None:
        body.unscannable.append((origin, opaque))
    for key, value in part.items():
        place = f"{origin}/{escaped(key)}"
        if key not in VOCABULARY:
            body.add(role, key, place + "#key")
        if isinstance(value, str) and key in {"text", "refusal"}:
            yield value
            body.add(Role.REFUSAL if key == "refusal" else role, value, place)
        elif key == "type":
            body.leaves(value, Role.SETTING, place, VOCABULARY)
        elif opaque is not None:
            if is_bytes(key, value):
                body.encoded(role, value, place)
            else:
                around(body, value, role, place, key)
        else:
            thinks = role is Role.ASSISTANT and (key == "thinking" or key in REASONING)
            said = Role.REASONING if thinks else role
            body.leaves(value, said, place, frozenset())
            read_joined(body, value, said, place)


def read_joined(body: Body, parts: Any, role: Role, origin: str) -> None:
    """What is split over the parts of a list is one text to whoever reads them."""
    if isinstance(parts, list) and len(parts) > 1:
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        said = [text for text in texts if isinstance(text, str)]
        if len(said) > 1:
            body.add(role, "".join(said), origin + "#joined")


def is_bytes(key: str, value: Any) -> bool:
    """Whether a member of an opaque part is its encoded bytes."""
    if not isinstance(value, str):
        return False
    return key in _BYTES or OPAQUE.get(key) == "embeddings" or (key in _URLS and value.startswith("data:"))


def around(body: Body, value: Any, role: Role, origin: str, under: str) -> None:
    """The text around an opaque part (names, links), without its encoded bytes. It stands `under` a key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{origin}/{escaped(key)}"
            if key not in VOCABULARY:
                body.add(role, key, place + "#key")
            if is_bytes(key, inner):
                body.encoded(role, inner, place)
            else:
                around(body, inner, role, place, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            around(body, item, role, f"{origin}/{index}", under)
    elif is_bytes(under, value):
        body.encoded(role, value, origin)
    else:
        body.leaves(value, role, origin, VOCABULARY)


def _audio(body: Body, value: Any, role: Role, origin: str) -> None:
    body.unscannable.append((origin, "audio"))
    around(body, value, role, origin, "audio")


def _call(body: Body, call: Any, origin: str) -> None:
    if not isinstance(call, dict):
        body.leaves(call, Role.TOOL_CALL, origin, frozenset())
        return
    for key, value in call.items():
        place = f"{origin}/{escaped(key)}"
        if key in {"arguments", "input"} and isinstance(value, str):
            body.arguments(value, place)
        elif key in {"function", "custom"} and isinstance(value, dict):
            _call(body, value, place)
        elif key in {"id", "type"}:
            body.leaves(value, Role.SETTING, place, VOCABULARY)
        else:
            if key not in VOCABULARY:
                body.add(Role.TOOL_CALL, key, place + "#key")
            body.given(value, Role.TOOL_CALL, place)


def read_choice(body: Body, choice: Any, origin: str) -> None:
    if not isinstance(choice, dict):
        raise Malformed("a choice is not a JSON object")
    for key, value in choice.items():
        if key == "message" and isinstance(value, dict):
            read_message(body, value, Role.ASSISTANT, f"{origin}/message")
        elif key == "logprobs":
            if value is not None:
                tokens, others = spelled(value)
                body.add(Role.ASSISTANT, tokens, f"{origin}/logprobs")
                body.add(Role.ASSISTANT, others, f"{origin}/logprobs/top")
        elif key in VOCABULARY:
            body.leaf(value, Role.SETTING, origin, key, VOCABULARY)
        else:
            place = f"{origin}/{escaped(key)}"
            body.add(Role.SETTING, key, place + "#key")
            body.leaves(value, Role.SETTING, place, VOCABULARY)


def spelled(logprobs: Any) -> tuple[str, str]:
    """The text that log probabilities spell: the sampled tokens joined; all other leaves and keys, one a line.

    Byte arrays are decoded: they spell the tokens a second time, one by one and joined."""
    sampled: list[str] = []
    again: list[int] = []
    others: list[str] = []
    stack: list[tuple[Any, bool]] = [(logprobs, True)]
    while stack:
        value, top = stack.pop()
        if isinstance(value, str):
            others.append(value)
        elif isinstance(value, list):
            if value and all(type(item) is int and 0 <= item < 256 for item in value):
                others.append(bytes(value).decode("utf-8", "replace"))
                again.extend(value if top else ())
            else:
                stack.extend((item, top) for item in reversed(value))
        elif isinstance(value, dict):
            others.extend(key for key in value if key not in _SPELLING)
            for key, inner in value.items():
                if key == "token" and top and isinstance(inner, str):
                    sampled.append(inner)
                elif key == "top_logprobs":
                    stack.append((inner, False))
                elif inner is not None:
                    stack.append((inner, top))
    text = "".join(sampled)
    joined = bytes(again).decode("utf-8", "replace")
    if joined != text:
        others.append(joined)
    return text, "\n".join(other for other in others if other)


def error_of(status: int, code: str, message: str, param: str | None, decision: str = "") -> dict[str, Any]:
    kind = {403: "permission_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    traced = {"penstock": {"decision_id": decision}} if decision else {}
    return {"message": message, "type": kind, "param": param, "code": code, **traced}


USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


def finish_of(refusal: Refusal) -> str:
    """Why an answer ended whose words are the policy's."""
    return "stop" if refusal.complete else "content_filter"


def trace_of(refusal: Refusal) -> dict[str, str]:
    return {
        "reason": refusal.reason,
        "policy": refusal.policy,
        "stage": refusal.stage,
        "decision_id": refusal.decision,
    }
