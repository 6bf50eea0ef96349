"""Anthropic's SDK, with tools its own runner."""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic, beta_async_tool

from tests.clients.drivers.talk import ABOUT, KEY, TOOL, URL, Order, main


async def ask(order: Order) -> str:
    client = AsyncAnthropic(base_url=URL, api_key=KEY)
    asked: Any = {"model": order.model, "max_tokens": 100, "messages": [{"role": "user", "content": order.prompt}]}
    if not order.tools:
        if order.stream:
            async with client.messages.stream(**asked) as stream:
                return "".join([piece async for piece in stream.text_stream])
        return _text(await client.messages.create(**asked))

    @beta_async_tool(name=TOOL, description=ABOUT)
    async def get_weather(city: str) -> str:
        return order.run(city)

    runner: Any = client.beta.messages.tool_runner(**asked, tools=[get_weather], stream=order.stream)
    if not order.stream:
        return _text(await runner.until_done())
    seen = ""
    async for turn in runner:
        seen += "".join([piece async for piece in turn.text_stream])
    return seen


def _text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


if __name__ == "__main__":
    main(ask)
