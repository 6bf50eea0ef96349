"""Penstock on real sockets, in this process, in front of a simulated upstream."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from classifiers import catalog
from proxy.audit import Reader
from proxy.config import load as load_settings
from proxy.server import Running, serving
from tests.proxy import kinds
from tests.proxy.keyring import give
from tests.upstream import Upstream

RULES = """
id: test
version: 1
owner: tests
description: Blocks the word MARK and masks the word SECRET, wherever they stand.
on_block: {on_block}
classifiers:
  canary: {{kind: canary, {options}}}
  veil: {{kind: canary, word: SECRET, inline: true}}
rules:
  - id: no-mark
    description: The word MARK is blocked.
    stages: {stages}
    when: {{finding: canary.mark, at_least: 0.5}}
    action: {action}
    mode: {mode}
    on_error: {on_error}
    stream: {stream}
  - id: veil-secret
    description: The word SECRET is masked.
    stages: [input, output]
    when: {{finding: veil.mark, at_least: 0.5}}
    action: mask
    stream: {{hold_back: 8}}
    mask_with: "[VEILED]"
"""
DEFAULTS = {
    "options": "inline: true",
    "stages": "[input, output]",
    "action": "block",
    "mode": "enforce",
    "on_error": "block",
    "stream": "{hold_back: 8}",
    "on_block": "error",
}


@dataclass
class Stand:
    """Penstock, its upstream, and a client that speaks to it; the Penstock keys that were made for it, by name."""

    running: Running
    upstream: Upstream
    client: httpx2.AsyncClient
    data: Path
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.running.address)

    @property
    def admin_url(self) -> str:
        return "http://{}:{}".format(*self.running.admin_address)

    async def chat(self, *messages: Any, **more: Any) -> httpx2.Response:
        """POST a chat completion; a bare string is the user's."""
        turns = [{"role": "user", "content": item} if isinstance(item, str) else item for item in messages]
        return await self.client.post("/v1/chat/completions", json={"model": "m", "messages": turns, **more})

    async def rows(self, most: int = 1000) -> list[Any]:
        """What the audit says of every exchange so far, or of the last ones."""
        await self.running.audit.probe()
        with Reader(self.data / "audit.db") as reader:
            return list(reader.latest(most))


@pytest.fixture(autouse=True)
def _canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(catalog.KINDS, "canary", "tests.proxy.kinds:Canary")
    kinds.RELEASE.clear()
    yield
    kinds.RELEASE.set()


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The master key of kept content, as the environment names it."""
    path = tmp_path / "master.key"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    monkeypatch.setenv("PENSTOCK_CONTENT_KEY_FILE", str(path))
    return path


Make = Callable[..., contextlib.AbstractAsyncContextManager[Stand]]


@contextlib.asynccontextmanager
async def standing(
    folder: Path,
    policy: str | None = None,
    settings: dict[str, Any] | None = None,
    keys: dict[str, dict[str, Any]] | None = None,
    **rule: str,
) -> AsyncIterator[Stand]:
    """A stand whose files lie in `folder`: the test policy, changed where told, or another. `keys` are the keys
    that callers need, by name, each with what its record is to say."""
    path = folder / "policy.yaml"
    path.write_text(policy or RULES.format(**{**DEFAULTS, **rule}))
    data = folder / "data"
    async with Upstream() as upstream:
        chosen: dict[str, Any] = {
            "upstream": upstream.url, "policy": str(path), "port": 0, "admin_port": 0, "data_dir": data,
            "drain_timeout": 1.0, "heartbeat_interval": 0, **(settings or {}),
        }  # fmt: skip
        if "upstreams" in chosen:
            del chosen["upstream"]
        if keys:
            chosen["credentials"] = "keys"
        made = {name: give(data, name, **more) for name, more in (keys or {}).items()}
        async with serving(load_settings(None, **chosen)) as running:
            base = "http://{}:{}".format(*running.address)
            async with httpx2.AsyncClient(base_url=base, timeout=20, trust_env=False) as client:
                yield Stand(running, upstream, client, data, made)


@pytest.fixture
def stand(tmp_path: Path) -> Make:
    """`async with stand(options=..., settings=...) as s`: the test policy, changed where told."""
    return functools.partial(standing, tmp_path)
