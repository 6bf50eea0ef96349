"""Instructor: a tool call is not run but becomes an object, which is what its user acts on. It shows no text."""

from __future__ import annotations

from typing import Any

import instructor
from openai import AsyncOpenAI
from pydantic import create_model

from tests.clients.drivers.talk import KEY, TOOL, URL, Order, main

Weather: Any = create_model(TOOL, city=(str, ...))


async def ask(order: Order) -> str:
    client = instructor.from_openai(AsyncOpenAI(base_url=URL + "/v1", api_key=KEY))
    asked: Any = [{"role": "user", "content": order.prompt}]
    made: Any = None
    if order.stream:
        async for made in client.chat.completions.create_partial(  # noqa: B007
            model=order.model, messages=asked, response_model=Weather
        ):
            pass
    else:
        made = await client.chat.completions.create(model=order.model, messages=asked, response_model=Weather)
    if made is not None and made.city is not None:
        order.run(made.city)
    return ""


if __name__ == "__main__":
    main(ask)
