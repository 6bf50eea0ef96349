"""LangChain's chat models, and with tools LangGraph's agent; objects as JSON over Chat, elsewhere as a call."""

from __future__ import annotations

import warnings
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent

from tests.clients.drivers.talk import ABOUT, KEY, SCHEMA, TOOL, URL, Order, main

warnings.simplefilter("ignore")


def model(order: Order) -> Any:
    if order.dialect == "messages":
        return ChatAnthropic(model=order.model, base_url=URL, api_key=KEY)
    return ChatOpenAI(
        model=order.model, base_url=URL + "/v1", api_key=KEY, use_responses_api=order.dialect == "responses"
    )


async def ask(order: Order) -> str:
    asked = [("user", order.prompt)]
    if order.object:
        method = "json_schema" if order.dialect == "chat" else "function_calling"
        maker = model(order).with_structured_output({"title": "Weather", **SCHEMA}, method=method)
        made: Any = None
        if order.stream:
            async for made in maker.astream(asked):  # noqa: B007
                pass
        else:
            made = await maker.ainvoke(asked)
        return order.run(made["city"]) if made else ""
    if not order.tools:
        if order.stream:
            return "".join([str(piece.text) async for piece in model(order).astream(asked)])
        return str((await model(order).ainvoke(asked)).text)

    async def get_weather(city: str) -> str:
        return order.run(city)

    tool = StructuredTool.from_function(coroutine=get_weather, name=TOOL, description=ABOUT)
    agent = create_react_agent(model(order), [tool])
    if not order.stream:
        return str((await agent.ainvoke({"messages": asked}))["messages"][-1].text)
    seen = ""
    async for piece, _ in agent.astream({"messages": asked}, stream_mode="messages"):
        seen += str(piece.text) if piece.type == "AIMessageChunk" else ""
    return seen


if __name__ == "__main__":
    main(ask)
