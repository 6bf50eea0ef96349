"""Strands' agent."""

from __future__ import annotations

from typing import Any

from strands import Agent, tool
from strands.models.anthropic import AnthropicModel
from strands.models.openai import OpenAIModel

from tests.clients.drivers.talk import ABOUT, KEY, TOOL, URL, Order, main


def model(order: Order) -> Any:
    if order.dialect == "messages":
        return AnthropicModel(client_args={"api_key": KEY, "base_url": URL}, model_id=order.model, max_tokens=100)
    return OpenAIModel(client_args={"api_key": KEY, "base_url": URL + "/v1"}, model_id=order.model)


async def ask(order: Order) -> str:
    def get_weather(city: str) -> str:
        return order.run(city)

    tools = [tool(name=TOOL, description=ABOUT)(get_weather)] if order.tools else []
    agent: Any = Agent(model=model(order), tools=tools, callback_handler=None)
    if not order.stream:
        return str(await agent.invoke_async(order.prompt))
    seen = ""
    async for event in agent.stream_async(order.prompt):
        seen += event.get("data", "")
    return seen


if __name__ == "__main__":
    main(ask)
