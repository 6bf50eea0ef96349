"""Haystack's generators, and with tools its agent."""

from __future__ import annotations

import os
from typing import Any

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # before it is imported

from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

from tests.clients.drivers.talk import ABOUT, KEY, SCHEMA, TOOL, URL, Order, main


async def ask(order: Order) -> str:
    seen: list[str] = []

    async def heard(chunk: Any) -> None:
        seen.append(chunk.content or "")

    listener = heard if order.stream else None
    kind = OpenAIResponsesChatGenerator if order.dialect == "responses" else OpenAIChatGenerator
    key = Secret.from_token(KEY)
    model = kind(model=order.model, api_base_url=URL + "/v1", api_key=key, streaming_callback=listener)
    asked = [ChatMessage.from_user(order.prompt)]
    if not order.tools:
        reply = (await model.run_async(messages=asked))["replies"][0]
        return "".join(seen) or str(reply.text)
    tool = Tool(name=TOOL, description=ABOUT, parameters=SCHEMA, function=order.run)
    agent = Agent(chat_generator=model, tools=[tool], streaming_callback=listener)
    agent.warm_up()
    last = (await agent.run_async(messages=asked))["messages"][-1]
    return "".join(seen) or str(last.text)


if __name__ == "__main__":
    main(ask)
