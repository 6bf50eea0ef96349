"""agno's agent."""

from __future__ import annotations

from typing import Any

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.models.openai import OpenAIChat, OpenAIResponses

from tests.clients.drivers.talk import KEY, URL, Order, main


def model(order: Order) -> Any:
    if order.dialect == "messages":
        return Claude(id=order.model, api_key=KEY, client_params={"base_url": URL})
    kind = OpenAIResponses if order.dialect == "responses" else OpenAIChat
    return kind(id=order.model, api_key=KEY, base_url=URL + "/v1")


async def ask(order: Order) -> str:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return order.run(city)

    agent: Any = Agent(model=model(order), tools=[get_weather] if order.tools else [], telemetry=False)
    if not order.stream:
        return str((await agent.arun(order.prompt)).content)
    seen = ""
    async for event in agent.arun(order.prompt, stream=True):
        seen += str(event.content or "") if event.event in {"RunContent", "RunError"} else ""
    return seen


if __name__ == "__main__":
    main(ask)
