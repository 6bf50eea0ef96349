"""The server that other tests lean on does what they believe of it."""

from __future__ import annotations

import psycopg
import pytest

from tests.servers.postgres import Postgres, server


def test_it_syncs_asks_for_the_password_and_is_ours_alone(postgres: Postgres) -> None:
    url = postgres.database()
    assert postgres.run("SHOW fsync", url) == [("on",)]
    assert postgres.run("SHOW listen_addresses", url) == [("127.0.0.1",)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url("postgres", password="wrong"))
    assert postgres.database() != url


def test_what_was_committed_survives_a_crash() -> None:
    with server() as own:
        url = own.database()
        own.run("CREATE TABLE kept (n int)", url)
        own.run("INSERT INTO kept VALUES (7)", url)
        own.stop(crash=True)
        with pytest.raises(psycopg.OperationalError):
            own.run("SELECT 1", url)
        own.start()
        assert own.run("SELECT n FROM kept", url) == [(7,)]
        own.hang()
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(url, connect_timeout=2)
        own.hang(False)
        assert own.run("SELECT n FROM kept", url) == [(7,)]
