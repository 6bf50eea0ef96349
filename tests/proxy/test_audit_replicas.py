"""Two Penstocks without anything in common but a database and a key keep one audit."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx2
import pytest

from proxy.audit import Key, Reader
from proxy.config import load
from proxy.server import CannotServe, serving
from tests.servers.postgres import Postgres
from tests.upstream import Upstream, api

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello."}]}
SECRET = "5c" * 32


async def test_two_replicas_write_one_chain(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.emptied()
    monkeypatch.chdir(tmp_path)  # a data directory may be named as it lies from here, as the default is
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream(api.answer))

        async def replica(name: str, key: str) -> httpx2.AsyncClient:
            settings = load(
                None, upstream=upstream.url, policy="observe", port=0, admin_port=0, data_dir=Path(name),
                audit_database=url, audit_key=key, heartbeat_interval=0, log_level="error",
            )  # fmt: skip
            running = await stack.enter_async_context(serving(settings))
            base = "http://{}:{}".format(*running.address)
            return await stack.enter_async_context(httpx2.AsyncClient(base_url=base, timeout=30, trust_env=False))

        clients = [await replica("one", SECRET), await replica("two", SECRET)]
        asked = [
            client.post("/v1/chat/completions", json={**CHAT, "stream": n % 2 == 0})
            for n in range(10)
            for client in clients
        ]
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        with pytest.raises(CannotServe, match="another key"):
            await replica("three", "d" * 64)
    with Reader(url, tmp_path / "one" / "audit-database-head") as log:
        verdict = log.verify(Key(bytes.fromhex(SECRET)))
        assert verdict.broken is None
        assert [each["status"] for each in log.latest(99)] == ["released"] * 20
        assert len(set(log.select("SELECT writer FROM records"))) == 2
