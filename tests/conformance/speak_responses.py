"""OpenAI Responses: a request, and an answer whose items hold what a part of a chat's answer would."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.conformance.cases import Answer, Case, Send
from tests.upstream import responses, shapes
from tests.upstream.responses import Json


def applies(case: Case) -> bool:
    """Whether a case written for Chat says nothing that only Chat can say: messages, a path, an upstream's bytes."""
    send, upstream = case.send, case.upstream
    told = send.raw is None or case.expect.code in _BEFORE
    plain = told and send.path is None and not upstream.literal and upstream.part in _PARTS
    return plain and not {"messages", "n"} & set(send.body) and case.dialects == ["chat"]


_BEFORE = {"invalid_json", "unsupported_media_type", "unsupported_encoding", "method_not_allowed"}
"""What is refused before anybody asks which API it is."""


def finishes(trees: list[Any]) -> set[str]:
    """How an answer ended, in the words that the cases use."""
    found = set()
    for tree in trees:
        response = tree.get("response", tree) if isinstance(tree, dict) else {}
        if isinstance(response, dict) and response.get("object") == "response" and response["status"] != "in_progress":
            refused = "penstock" in response
            found.add("content_filter" if refused else {"completed": "stop"}.get(response["status"], "other"))
    return found


def body(send: Send, streamed: bool) -> bytes:
    return json.dumps({"model": "gpt-4o-mini", "input": send.text, "stream": streamed, **send.body}).encode()


def _arguments(text: str) -> str:
    return json.dumps({"city": text}, ensure_ascii=False)


def _said(text: str, **more: Any) -> tuple[list[Json], Json]:
    return [responses.message(responses.text(text, **more))], {}


_PARTS: dict[str, Callable[[str], tuple[list[Json], Json]]] = {
    "content": _said,
    "refusal": lambda text: ([responses.message(responses.refusal(text))], {}),
    "reasoning": lambda text: ([responses.reasoning(summary=text), *_said("Well.")[0]], {}),
    "last choice": lambda text: ([*_said("One.")[0], responses.message(responses.text(text), id="msg_2")], {}),
    "arguments": lambda text: ([responses.call(arguments=_arguments(text))], {}),
    "escaped arguments": lambda text: ([responses.call(arguments=_arguments(text).replace("M", "\\u004d"))], {}),
    "second call": lambda text: (
        [responses.call(), responses.call(arguments=_arguments(text), id="fc_2", call_id="call_2")], {},
    ),
    "tool name": lambda text: ([responses.call(name=text)], {}),
    "tool id": lambda text: ([responses.call(call_id=text)], {}),
    "model": lambda text: (_said("Well.")[0], {"model": text}),
    "id": lambda text: (_said("Well.")[0], {"id": text}),
    "finish": lambda text: (_said("Well.")[0], {"incomplete_details": {"reason": text}}),
    "logprobs": lambda text: _said(text, logprobs=responses.tokens(text)),
    "unknown key": lambda text: _said("Well.", **{text: None}),
    "unknown field": lambda text: _said("Well.", x_new={"deep": [text]}),
    "annotation": lambda text: _said("Well.", annotations=[{"type": "url_citation", "url": "u", "title": text}]),
    "transcript": lambda text: ([responses.reasoning(thoughts=text), *_said("Well.")[0]], {}),
    "function_call": lambda text: ([responses.custom(input=text)], {}),
    "content list": lambda text: (
        [{"id": "x", "type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": text}]}], {},
    ),
}  # fmt: skip


def whole(answer: Answer) -> Any:
    items, frame = _PARTS[answer.part](answer.text)
    return responses.response(*items, **frame)


def stream(answer: Answer) -> list[bytes]:
    items, frame = _PARTS[answer.part](answer.text)
    # As some servers do, so that the cases of a stream that lost its last line can be told here, too.
    return [*responses.stream(*items, **frame, size=answer.size), shapes.DONE]
