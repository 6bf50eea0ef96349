"""T14, T57: every field of the official clients that names a stored thing or a model, and what Penstock does with it.

The clients' own types say which fields there are. One that a new version brings fails here until it is decided on: its
owner is asked for (`accounts/stored.py`), it is a model that a key must be for (`Request.others`, `helpers`), or it is
a word between the caller and its tools and stands in the table below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest

from proxy.accounts.holder import Holder
from proxy.app import DIALECTS
from proxy.dialects.base import NotFound, Request
from proxy.dialects.messages import CountTokens, Messages
from proxy.dialects.responses import Responses
from tests.conformance.sdk_types import examples, requests

STRANGER = "stranger_1"
NAMES = re.compile(r"(^|_)ids?$|model")
WORDS = {
    "*.tool_call_id *.tool_use_id *.call_id *.caller_id *.tool_id *.approval_request_id": "a step of this conversation",
    "tool_calls.id function.id custom.id *_use.id *_call.id *_output.id reasoning.id program.id message.id": "the same",
    "additional_tools.id compaction*.id configuration_update.id mcp_*.id *_safety_checks.id": "the same",
    "*.tab_id *.download_id": "what a browser of the caller's showed",
    "*citation.container_id *citation.file_id file_path.file_id results.file_id": "what an answer said of files",
    "code_interpreter_call.container_id": "where an answer's code ran",
    "anthropic.skill_id mcp.connector_id": "the provider's own, for everybody",
    "metadata.user_id": "a claim, and recorded as one",
    "*_params.user_profile_id *_params.workspace_id": "headers: `answers._CREDENTIALS` drops them",
    "background_options.continuation_id": "a word of the caller's that leads to nothing",
    "moderation.model": "the provider's moderation",
    "svg_usage.model from.model to.model": "what an answer said of itself",
    "prompt.id": "the operator's, opened by `open_fields`",
}
"""Fields that are judged as text and nothing else, and why: by the type of the object that they are in, else by the
name of what it stands under."""
FIELDS = ["background", "conversation", "item_reference", "previous_response_id", "prompt", "thread"]
READERS: dict[str, Any] = {dialect.name: dialect for _, dialect in DIALECTS} | {
    "responses": Responses(FIELDS), "messages": Messages(FIELDS), "count_tokens": CountTokens(FIELDS),
}  # fmt: skip


class Everything:
    """Who owns what: all is everybody's, but for what is a stranger's."""

    def owns(self, account: str, name: str) -> bool:
        return name != STRANGER

    def foreign(self, account: str, names: Iterable[str]) -> bool:
        return STRANGER in names


def members(tree: Any, under: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each member that may name something: what it is called in the table, the object that holds it, its name."""
    stack = [(tree, under)]
    while stack:
        value, above = stack.pop()
        if isinstance(value, list):
            stack += [(inner, above) for inner in value]
        elif isinstance(value, dict):
            kind = value.get("type")
            for key, inner in value.items():
                if NAMES.search(key) and not isinstance(inner, dict):
                    yield f"{kind if isinstance(kind, str) else above}.{key}", value, key
                stack.append((inner, key))


def asked(dialect: str) -> list[Any]:
    """Requests with every field."""
    if dialect in {"messages", "count_tokens"}:
        from anthropic.types.beta import message_count_tokens_params as counted
        from anthropic.types.beta import message_create_params as created

        kind = created.MessageCreateParamsStreaming if dialect == "messages" else counted.MessageCountTokensParams
        return [*requests(dialect), *examples(kind)]
    return list(requests(dialect))


def decided(dialect: str, tree: Any) -> str:
    """What becomes of a request in which a stranger's thing is named."""
    holder: Any = Holder(Everything(), "me")  # type: ignore[arg-type]
    try:
        holder.request(tree)
    except NotFound:
        return "owner"
    request: Request = READERS[dialect].read_request(tree)
    if STRANGER in {request.model, *request.others(), *request.helpers()}:
        return "model"
    read = any(STRANGER in message.text for message in request.messages)
    return "text" if read else "opaque" if request.unscannable else "unseen"


@pytest.mark.parametrize("dialect", READERS)
def test_every_field_that_names_something_is_decided_on(dialect: str) -> None:
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    words = [pattern for patterns in WORDS for pattern in patterns.split()]
    found: dict[str, str] = {}
    for tree in asked(dialect):
        tree["stream"] = True
        for name, holder, key in list(members(tree, f"{dialect}_params")):
            if name in found:
                continue
            before = holder[key]
            holder[key] = [STRANGER] if isinstance(before, list) or key.endswith("ids") else STRANGER
            found[name] = decided(dialect, tree)
            holder[key] = before
    open_ones = {
        name: became
        for name, became in found.items()
        if became not in {"owner", "model"} and not (became == "text" and any(fnmatchcase(name, w) for w in words))
    }
    assert open_ones == {}, "fields of the client that nobody has decided on: see the head of this file"
    assert found[f"{dialect}_params.model"] == "model"
