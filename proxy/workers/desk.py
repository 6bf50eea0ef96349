"""What waits for a person in any of the workers, and a person's word to the one where it waits."""

from __future__ import annotations

from typing import Any

from .crew import Crew


class Desk:
    """As `Reviews`, for all workers."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    async def listed(self) -> list[dict[str, Any]]:
        said = await self._crew.ask("reviews", self._crew.serving)
        held: list[dict[str, Any]] = [each for one in said if one is not None for each in one]
        return sorted(held, key=lambda each: float(each["at"]))

    async def told(self, id: str, *, passed: bool, by: str) -> bool:
        said = await self._crew.ask("review", self._crew.serving, value={"id": id, "passed": passed, "by": by})
        return any(said)
