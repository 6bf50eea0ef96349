"""What `make soak` does for long, for a moment: kill -9, the end with streams under way, readers that do not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proxy import endure


async def test_workers_killed_at_any_moment_lose_no_decision(tmp_path: Path) -> None:
    """P5, T52: every id that a client saw is in the audit, with how it ended, and the chain is whole."""
    found = await endure.kills(tmp_path, 200)
    assert found.more["kills"] >= 200
    assert found.seen >= 200
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
    assert found.more["kib_each"] < 2500, found
    assert found.more["refused"] == [(503, True)] * 3
    assert found.more["served_again"] == 200
    assert found.broken == ""


async def test_a_classifier_that_hangs_piles_nothing_up(tmp_path: Path) -> None:
    """P10: each request is refused by its rule's deadline; threads and files stay as few as they were."""
    found = await endure.hanging(tmp_path, 80)
    assert found.more["statuses"] == {503: 80}
    threads, files = found.more["threads"], found.more["files"]
    assert threads[1] <= threads[0] + 1
    assert files[1] <= files[0] + 2
    assert found.broken == ""
    assert found.more["seconds"] < 15  # to its end: nobody waits for a thread that hangs (30 seconds here)


async def test_streams_that_drip_for_ever_end(tmp_path: Path) -> None:
    """P9, in a process of its own; how exactly, `make soak` says."""
    found = await endure.late(tmp_path, 20, 0.5)
    assert found.more["endings"] == {"late": 20}
    assert found.more["overrun_ms"][0] > -50
    assert (found.seen, found.lost, found.broken, found.open) == (20, 0, "", 0)
