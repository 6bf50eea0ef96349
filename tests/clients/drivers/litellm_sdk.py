"""LiteLLM's SDK, in the loop that its documentation shows: what was called is run, whatever the finish reason says."""

from __future__ import annotations

import json
from typing import Any

import litellm

from tests.clients.drivers.talk import ABOUT, KEY, SCHEMA, TOOL, URL, Order, main

litellm.suppress_debug_info = True
TOOLS = [{"type": "function", "function": {"name": TOOL, "description": ABOUT, "parameters": SCHEMA}}]


async def ask(order: Order) -> str:
    vendor, base = ("anthropic", URL) if order.dialect == "messages" else ("openai", URL + "/v1")
    said: list[Any] = [{"role": "user", "content": order.prompt}]
    while True:
        more: dict[str, Any] = {"tools": TOOLS} if order.tools else {}
        answer: Any = await litellm.acompletion(
            model=f"{vendor}/{order.model}", api_base=base, api_key=KEY, messages=said, stream=order.stream, **more
        )
        seen = ""
        if order.stream:
            pieces = [piece async for piece in answer]
            seen = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
            answer = litellm.stream_chunk_builder(pieces, messages=said)
        message = answer.choices[0].message
        if not message.tool_calls:
            return seen or str(message.content or "")
        said.append(message.model_dump())
        for call in message.tool_calls:
            result = order.run(json.loads(call.function.arguments)["city"])
            said.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    main(ask)
