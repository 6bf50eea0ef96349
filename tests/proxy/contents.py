"""Kept content, for tests: a server that keeps it, and when it is there."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.proxy.conftest import Stand


def keeps(choice: str) -> dict[str, Any]:
    """The settings; the master key is the fixture `key_file`."""
    return {"keep_content": choice}


async def written(s: Stand, count: int) -> None:
    """Once so many exchanges are in the store."""
    made = s.running.plane.keeping
    assert made is not None
    async with asyncio.timeout(20):
        while made.kept < count:
            await asyncio.sleep(0.02)
