"""The lines that a driver reads and writes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

URL = sys.argv[1]
KEY = sys.argv[2] if len(sys.argv) > 2 else "sk-test"
TOOL = "get_weather"
ABOUT = "The weather in a city."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass
class Order:
    """What to ask: over which dialect, in a stream or not, with the tool or without, or for an object. `ran` notes each
    call of the tool, and what was made of an object."""

    dialect: str
    stream: bool
    tools: bool
    prompt: str
    object: bool = False
    model: str = "sim"
    ran: list[str] = field(default_factory=list)

    def run(self, city: str) -> str:
        """The tool."""
        self.ran.append(city)
        return "sunny"


def main(ask: Callable[[Order], Awaitable[str]]) -> None:
    """Answer orders until stdin ends. `ask` returns the text that a person would see."""
    asyncio.run(_main(ask))


async def _main(ask: Callable[[Order], Awaitable[str]]) -> None:
    _say({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = Order(**json.loads(line))
        text, error = "", None
        try:
            text = await ask(order)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        _say({"text": text, "error": error, "ran": order.ran})


def _say(outcome: dict[str, Any]) -> None:
    print("\n" + json.dumps(outcome), file=sys.__stdout__, flush=True)
