"""The OpenAI Agents SDK."""

from __future__ import annotations

import json
from typing import Any

from agents import (
    Agent,
    FunctionTool,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import create_model

from tests.clients.drivers.talk import ABOUT, KEY, SCHEMA, TOOL, URL, Order, main

set_tracing_disabled(True)
Weather: Any = create_model("Weather", city=(str, ...))


async def ask(order: Order) -> str:
    async def invoke(_: Any, arguments: str) -> str:
        return order.run(json.loads(arguments)["city"])

    kind = OpenAIResponsesModel if order.dialect == "responses" else OpenAIChatCompletionsModel
    client = AsyncOpenAI(base_url=URL + "/v1", api_key=KEY)
    tool = FunctionTool(
        name=TOOL, description=ABOUT, params_json_schema=SCHEMA, on_invoke_tool=invoke, strict_json_schema=False
    )
    agent = Agent(
        name="tests",
        model=kind(model=order.model, openai_client=client),
        tools=[tool] if order.tools else [],
        output_type=Weather if order.object else None,
    )
    if not order.stream:
        return shown((await Runner.run(agent, order.prompt)).final_output, order)
    running, seen = Runner.run_streamed(agent, order.prompt), ""
    async for event in running.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            seen += event.data.delta
    return shown(running.final_output, order) if order.object else seen


def shown(made: Any, order: Order) -> str:
    return order.run(made.city) if order.object else str(made)


if __name__ == "__main__":
    main(ask)
