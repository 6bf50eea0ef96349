"""What all tests share: property tests are not timed one by one, for a busy machine would fail them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.bench.candidates import BenchError

if TYPE_CHECKING:
    from tests.servers.postgres import Postgres
    from tests.servers.redis import Redis

settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; `postgres.database()` is a new one for a test. Whoever ends it starts one of their own."""
    from tests.servers.postgres import server

    with server() as made:
        yield made


@pytest.fixture(scope="session")
def _redis() -> Iterator[Redis]:
    from tests.servers.redis import server

    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(server())
        except BenchError as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture
def redis(_redis: Redis) -> Redis:
    """An empty Redis. Whoever ends it, or gives it other options, starts one of their own."""
    _redis.run("FLUSHALL")
    return _redis
