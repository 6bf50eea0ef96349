"""What `make soak` does for long, for a moment: kill -9, the end with streams under way, readers that do not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proxy import endure


async def test_workers_killed_at_any_moment_lose_no_decision(tmp_path: Path) -> None:
    """P5, T52: every id that a client saw is in the audit, with how it ended, and the chain is whole."""
    found = await endure.kills(tmp_path, 40)
    assert found.more["kills"] >= 40
    assert found.seen >= 160
    assert (found.lost, found.broken, found.open) == (0, "", 0)


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_end_with_two_hundred_streams(tmp_path: Path, workers: int) -> None:
    """P11, T55: each hears in its API's words that it is cut, none is unaudited, and the end comes in time."""
    found = await endure.drained(tmp_path, 200, workers)
    assert found.more["endings"] == {"error": 200}
    assert found.more["outcomes"] == {"cancelled": 200}
    assert (found.seen, found.lost, found.broken, found.open) == (200, 0, "", 0)
    assert found.more["code"] == 0
    assert found.more["seconds"] < 15


async def test_readers_that_do_not_read_cost_little(tmp_path: Path) -> None:
    """P8, T56: what waits for them does not grow, and who is too many is told when to come again."""
    found = await endure.slow_readers(tmp_path, 200)  # and comes to rest, or this ends with a timeout
    assert found.more["kib_each"] < 1200, found
    assert found.more["refused"] == [(503, True)] * 3
    assert found.more["served_again"] == 200
    assert found.broken == ""
