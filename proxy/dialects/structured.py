"""Whether a request asks for JSON, or for a call: then words are no answer, and refusals are errors.

Decision: a blocked answer to such a request is the 400 of a blocked question, as long as nothing of it has left, and
JSON that has begun does not go on in words. Why: whoever parses an answer takes words for a broken one and asks again
(pydantic-ai once more, Instructor three times), or shows none (LangChain over Responses); of an error all clients show
the words, and ask once (tests/clients/README.md). Cost: such a stream begins when its first text may leave, or after
FRAMES events without one; who sets `on_block: message` has words all the same.
"""

from __future__ import annotations

from typing import Any

FRAMES = 8
"""Events without text that a stream may begin with before it is begun here, too. The APIs send four."""
_JSON = ("json_schema", "json_object")
_FREE = ("auto", "none")
_GUIDES = (
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar", "json_schema",
)  # fmt: skip
"""What vLLM and llama.cpp hold an answer to."""
_ASKS = frozenset(
    {"text", "output_config", "response_format", "output_format", "tool_choice", "function_call", *_GUIDES}
)


def structured(tree: dict[str, Any]) -> bool:
    """Whether an answer to the request `tree`, in any API, must be JSON or a call."""
    if _ASKS.isdisjoint(tree):  # nearly every request
        return False
    text, config = tree.get("text"), tree.get("output_config")
    forms = [
        tree.get("response_format"),
        tree.get("output_format"),
        text.get("format") if isinstance(text, dict) else None,
        config.get("format") if isinstance(config, dict) else None,
    ]
    if any(isinstance(form, dict) and form.get("type") in _JSON for form in forms):
        return True
    if any(tree.get(name) for name in _GUIDES):
        return True
    return _forced(tree.get("tool_choice")) or isinstance(tree.get("function_call"), dict)


def _forced(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return isinstance(choice, str) and choice not in _FREE
    if choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools")
        return _forced((inner if isinstance(inner, dict) else choice).get("mode"))
    return choice.get("type") not in _FREE
