"""What all tests share: property tests are not timed one by one, for a busy machine would fail them; and clients share
the certificates of the system, for reading them anew takes each longer than most tests."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

# Before numpy is loaded: its threads spin while they wait, and where other tests run at the same time, they wait long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpcore2
import pytest
from hypothesis import settings

from tests.bench.candidates import BenchError

if TYPE_CHECKING:
    from tests.servers.postgres import Postgres
    from tests.servers.redis import Redis

WAITING = ("vendors", "clients", "deploy", "servers")
"""Folders of tests that take long and mostly wait, for servers and packages: last, one of them would be waited for."""

settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in WAITING)


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
