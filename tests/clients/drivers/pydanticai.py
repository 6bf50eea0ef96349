"""pydantic-ai's agent."""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic
from pydantic import create_model
from pydantic_ai import Agent, Tool
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.drivers.talk import ABOUT, KEY, TOOL, URL, Order, main

Weather: Any = create_model("Weather", city=(str, ...))


def model(order: Order) -> Any:
    if order.dialect == "messages":
        client = AsyncAnthropic(base_url=URL, api_key=KEY)
        return AnthropicModel(order.model, provider=AnthropicProvider(anthropic_client=client))
    provider = OpenAIProvider(base_url=URL + "/v1", api_key=KEY)
    kind = OpenAIResponsesModel if order.dialect == "responses" else OpenAIChatModel
    return kind(order.model, provider=provider)


async def ask(order: Order) -> str:
    async def get_weather(city: str) -> str:
        return order.run(city)

    if order.object:
        maker: Any = Agent(model(order), output_type=Weather)
        if not order.stream:
            return order.run((await maker.run(order.prompt)).output.city)
        async with maker.run_stream(order.prompt) as making:
            return order.run((await making.get_output()).city)
    tools = [Tool(get_weather, name=TOOL, description=ABOUT)] if order.tools else []
    agent: Any = Agent(model(order), tools=tools)
    if not order.stream:
        return str((await agent.run(order.prompt)).output)
    seen = ""
    async with agent.run_stream(order.prompt) as running:
        async for piece in running.stream_text(delta=True):
            seen += piece
    return seen


if __name__ == "__main__":
    main(ask)
