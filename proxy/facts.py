"""What a request says beside its texts, as policies ask for it: settings, tools on offer, the steps of the
conversation, and the calls of tools in an answer. What has another shape than it should is left out here; it is for
the dialects to refuse it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from classifiers.base import Message, Role
from policies.facts import Account, Call, Facts, Settings, Turn

from .dialects.base import Request
from .strict import Malformed, parse

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL_RESULT,
    "function": Role.TOOL_RESULT,
}
_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens", "max_tokens_to_sample")
Json = dict[str, Any]


def facts_of(request: Request, dialect: str, account: Account, hashed: Callable[[str], str]) -> Facts:
    """The facts of a request. `hashed` is a keyed hash, as hex digits: what a canary is drawn by is the account and how
    the conversation began, so that each turn of one is on the same side."""
    tree: Json = request.tree if isinstance(request.tree, dict) else {}
    first = next((m.text for m in request.messages if m.role is Role.USER and "#" not in m.origin), "")
    return Facts(
        dialect,
        request.model,
        _settings(tree, request),
        tuple(_names(tree)),
        account,
        tuple(_turns(tree)),
        lot=bytes.fromhex(hashed(f"canary\n{account.id}\n{first}")),
    )


def _settings(tree: Json, request: Request) -> Settings:
    bound = next((tree[key] for key in _BOUNDS if _number(tree.get(key))), 0)
    heat = tree.get("temperature")
    heat = float(heat) if isinstance(heat, int | float) and not isinstance(heat, bool) else 1.0
    return Settings(_effort(tree), request.choices, request.stream, int(bound), heat)


def _effort(tree: Json) -> str:
    """The reasoning effort that is asked for; `thinking` where only that is asked for."""
    said = [tree.get("reasoning_effort"), *(_of(tree.get(key)).get("effort") for key in ("reasoning", "output_config"))]
    found = next((each for each in said if isinstance(each, str) and each), "")
    return found or ("thinking" if _name(_of(tree.get("thinking")).get("type")) in {"enabled", "adaptive"} else "")


def _names(tree: Json) -> Iterator[str]:
    """Names of the tools on offer; of a tool without one its kind, as its calls have it. Where the tools of an MCP
    server are on offer nobody knows their names: `mcp` stands for them."""
    if _list(tree.get("mcp_servers")):
        yield "mcp"
    later = [item for item in _list(tree.get("input")) if item.get("type") == "additional_tools"]
    for key, holder in (("tools", tree), ("functions", tree), *(("tools", item) for item in later)):
        for tool in _list(holder.get(key)):
            if tool.get("type") == "namespace":
                yield from _names(tool)
            inner = next((_of(tool.get(kind)) for kind in ("function", "custom") if _of(tool.get(kind))), tool)
            name = inner.get("name") or tool.get("server_label") or tool.get("type")
            if isinstance(name, str):
                yield "computer" if name.startswith("computer") else name.removesuffix("_preview")
            if tool.get("type") == "mcp":
                yield "mcp"


# The conversation ---------------------------------------------------------------------------------------------------


def _turns(tree: Json) -> Iterator[Turn]:
    if tree.get("system") or tree.get("instructions"):
        yield Turn(Role.SYSTEM)
    for key in ("prompt", "input"):
        if isinstance(tree.get(key), str):
            yield Turn(Role.USER)
    called: dict[str, str] = {}
    for item in (*_list(tree.get("messages")), *_list(tree.get("input"))):
        role = _ROLES.get(str(item.get("role")))
        if role is None:
            yield from _step(item, called)
        elif role is Role.TOOL_RESULT:
            yield Turn(role, _name(called.get(_name(item.get("tool_call_id")), item.get("name"))))
        else:
            blocks = _list(item.get("content"))
            steps = [turn for block in blocks for turn in _step(block, called)]
            if not blocks or len(steps) < len(blocks):
                yield Turn(role)
            yield from steps
            for call in (*_list(item.get("tool_calls")), _of(item.get("function_call"))):
                yield from _call_step(call, called)


def _step(item: Json, called: dict[str, str]) -> Iterator[Turn]:
    """The step that an item or a block of a known kind is."""
    kind = str(item.get("type"))
    if kind.endswith(("_call", "tool_use")):
        yield from _call_step(item, called)
    elif kind.endswith(("_output", "tool_result")):
        identity = _name(item.get("call_id", item.get("tool_use_id")))
        yield Turn(Role.TOOL_RESULT, _name(called.get(identity)))
    elif kind == "reasoning" or kind.endswith("thinking"):
        yield Turn(Role.REASONING)


def _call_step(item: Json, called: dict[str, str]) -> Iterator[Turn]:
    call = _call(item)
    if call is not None:
        for key in ("call_id", "id"):
            if isinstance(item.get(key), str):
                called[item[key]] = call.name
        yield Turn(Role.TOOL_CALL, call.name)


# Calls of tools -----------------------------------------------------------------------------------------------------


def calls_of(tree: Any) -> tuple[Call, ...]:
    """The calls of tools in an answer, wherever they stand in it."""
    found: list[Call] = []
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(reversed(value))
        elif isinstance(value, dict):
            call = _call(value)
            if call is not None:
                found.append(call)
            else:
                stack.extend(reversed(value.values()))
    return tuple(found)


def _call(item: Json) -> Call | None:
    """The call that an object is, in any of the APIs' words; None where it is none."""
    for kind in ("function", "custom"):
        inner = item.get(kind)
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            return Call(inner["name"], _read(inner.get("arguments", inner.get("input"))))
    said, name = item.get("type"), item.get("name")
    called = isinstance(said, str) and said.endswith(("_call", "tool_use"))
    if isinstance(name, str) and (called or (said is None and isinstance(item.get("arguments"), str))):
        return Call(name, _read(item.get("arguments", item.get("input"))))
    if called:
        return Call(str(said).removesuffix("_call"), {key: value for key, value in item.items() if key != "type"})
    function = item.get("function_call")
    return _call(function) if isinstance(function, dict) else None


_BESIDE = ("/id", "/call_id", "/item_id", "/type", "/status")
"""What stands beside name and arguments of a call and is none of them."""
_MEMBER = re.compile(r"(.*)/(name|arguments|input|partial_json)")


def calls_told(messages: Sequence[Message]) -> bool:
    """Whether `calls_in` sees every call in these texts, and all of it."""
    texts = [m for m in messages if m.role is Role.TOOL_CALL and "#" not in m.origin]
    return all(_MEMBER.fullmatch(m.origin) or m.origin.endswith(_BESIDE) for m in texts)


def calls_in(messages: Sequence[Message]) -> tuple[Call, ...]:
    """The calls of tools in the texts of a stream: by then each is whole. A name that comes once alone, when the call
    begins, and again with its arguments, is one call; arguments that come alone are another's that come again."""
    members: dict[str, dict[str, str]] = {}
    for message in messages:
        found = _MEMBER.fullmatch(message.origin) if message.role is Role.TOOL_CALL else None
        if found is not None:
            members.setdefault(found[1], {})[found[2]] = message.text
    calls = [
        Call(said.get("name", ""), _read(next((text for key, text in said.items() if key != "name"), None)))
        for said in members.values()
    ]
    told = {call.name for call in calls if call.arguments is not None}
    named = [call.arguments for call in calls if call.name]
    return tuple(
        call
        for call in calls
        if (call.arguments is not None or call.name not in told) and (call.name or call.arguments not in named)
    )


def _read(arguments: Any) -> Any:
    """Arguments as they will be read; None where they are no JSON."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return parse(arguments or "{}")
    except Malformed:
        return None


def _of(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(value: Any) -> str:
    return value if isinstance(value, str) else ""
