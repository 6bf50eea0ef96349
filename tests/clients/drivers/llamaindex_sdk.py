"""LlamaIndex's models, and with tools its function agent."""

from __future__ import annotations

from typing import Any

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses

from tests.clients.drivers.talk import ABOUT, KEY, TOOL, URL, Order, main

KNOWN = "gpt-4o-mini"
"""It knows the window of each model, and takes no other name."""


async def ask(order: Order) -> str:
    kind = OpenAIResponses if order.dialect == "responses" else OpenAI
    model: Any = kind(model=KNOWN, api_base=URL + "/v1", api_key=KEY)
    if not order.tools:
        asked = [ChatMessage(role="user", content=order.prompt)]
        if order.stream:
            return "".join([piece.delta or "" async for piece in await model.astream_chat(asked)])
        return str((await model.achat(asked)).message.content)

    async def get_weather(city: str) -> str:
        return order.run(city)

    tool = FunctionTool.from_defaults(async_fn=get_weather, name=TOOL, description=ABOUT)
    running = FunctionAgent(tools=[tool], llm=model, streaming=order.stream).run(order.prompt)
    if not order.stream:
        return str(await running)
    seen = ""
    async for event in running.stream_events():
        seen += event.delta or "" if isinstance(event, AgentStream) else ""
    await running
    return seen


if __name__ == "__main__":
    main(ask)
