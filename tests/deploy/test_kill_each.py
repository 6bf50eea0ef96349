"""Two Penstocks, Redis, PostgreSQL and Ray Serve, each killed in turn: once here, again and again in `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.candidates import BenchError
from tests.deploy.killed import killed, running


async def test_each_is_killed_in_turn(tmp_path: Path) -> None:
    """One test: a start of Ray takes a dozen seconds of a core."""
    try:
        with running() as parts:
            found = await killed(tmp_path, parts)
    except BenchError as error:
        pytest.skip(str(error))
    assert found.seen > 30
    assert (found.lost, found.broken) == (0, "")
