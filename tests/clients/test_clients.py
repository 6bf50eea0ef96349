"""No client shows an empty answer, asks again after a refusal, or runs a tool that was blocked.

Each client runs in a process of its own, with packages that are installed for it alone (tests/packages.py)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.clients.sayings import AFTER, Saying
from tests.packages import ROOT, node_packages, packages
from tests.proxy.conftest import Stand, standing
from tests.upstream import Request, replies, responses

FOLDER = Path(__file__).parent
SCENARIOS: list[dict[str, Any]] = YAML(typ="safe").load(FOLDER / "scenarios.yaml")
WORDS = "I'm sorry, but I can't help with that request"
PATIENCE = 60.0
"""Seconds for a client to import what it needs, and to carry out an order."""


@dataclass(frozen=True, slots=True)
class Client:
    """One client: its driver, the APIs that it speaks, what it says itself in place of our words, the lock of its
    packages, whether its driver asks for objects."""

    driver: str
    dialects: tuple[str, ...]
    own: str = WORDS
    lock: str = "frameworks"
    objects: bool = False

    @property
    def node(self) -> bool:
        return self.driver.endswith(".mjs")


ALL = ("chat", "responses", "messages")
OPENAI = ("chat", "responses")
CLIENTS = {
    "langchain": Client("langchain", ALL, objects=True),
    "openai-agents": Client("openai_agents", OPENAI, objects=True),
    "pydantic-ai": Client("pydanticai", OPENAI, objects=True),
    "litellm": Client("litellm_sdk", ("chat", "messages")),
    "anthropic": Client("anthropic_sdk", ("messages",)),
    "agno": Client("agno_sdk", ALL, lock="agents"),
    "haystack": Client("haystack_sdk", OPENAI, lock="agents"),
    "llama-index": Client("llamaindex_sdk", OPENAI, lock="agents"),
    "strands": Client("strands_sdk", ("chat", "messages"), lock="agents"),
    "node-openai": Client("openai.mjs", OPENAI, own="rejected by the content filter"),
    "node-anthropic": Client("anthropic.mjs", ("messages",)),
    "node-ai": Client("ai.mjs", ALL, objects=True),
}


def command(client: Client, *where: str) -> tuple[list[str], dict[str, str]]:
    """How a driver is started."""
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "TMPDIR"}}
    kept["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet first
    if client.node:
        folder = node_packages(FOLDER / "node")
        for file in (FOLDER / "node").glob("*.mjs"):
            shutil.copy(file, folder)  # Node looks for packages beside the program
        return ["node", str(folder / client.driver), *where], kept
    path = os.pathsep.join([str(packages(client.lock)), str(ROOT)])
    return [sys.executable, "-m", f"tests.clients.drivers.{client.driver}", *where], {**kept, "PYTHONPATH": path}


@asynccontextmanager
async def driven(client: Client, *where: str) -> AsyncIterator[Callable[[dict[str, Any]], Any]]:
    """A client in its process, by its base URL and perhaps a key: it takes an order and tells what came of it."""
    program, environment = await asyncio.to_thread(command, client, *where)
    process = await asyncio.create_subprocess_exec(
        *program, env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def said() -> Any:
        async with asyncio.timeout(PATIENCE):
            while line := await stdout.readline():
                if line.startswith(b"{"):
                    return json.loads(line)
        raise AssertionError("the client's process has ended")

    async def ask(order: dict[str, Any]) -> Any:
        stdin.write(json.dumps(order).encode() + b"\n")
        return await said()

    try:
        await said()
        yield ask
    finally:
        stdin.close()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


UNHEARD = frozenset({"thread_unsupported_request"})
"""Refused, and nobody need know: Anthropic's tool runners then send the whole conversation."""


async def put(s: Stand) -> int:
    """How many requests Penstock got that somebody waits for."""
    return sum(row["detail"] not in UNHEARD for row in await s.rows())


async def play(s: Stand, ask: Any, client: Client, scenario: dict[str, Any], dialect: str, stream: bool) -> list[str]:
    """What is wrong with what a client did: nothing where all is well."""
    s.upstream.reply = Saying(**scenario["say"])
    before, rows = len(s.upstream.requests), await put(s)
    order = {
        "dialect": dialect,
        "stream": stream,
        "tools": scenario.get("tools", False),
        "object": scenario.get("object", False),
        "prompt": scenario.get("prompt", "What is the weather like?"),
    }
    found = await ask(order)
    seen = f"{found['text']}\n{found['error'] or ''}".replace("\\", "")  # some show the body as it is written
    wrong = []
    if sorted(found["ran"]) != sorted(scenario.get("ran", [])):
        wrong.append(f"the tool ran for {found['ran']}")
    refusal = scenario["sees"] == "refusal"
    if not any(words in seen for words in ((WORDS, client.own) if refusal else (scenario["sees"],))):
        wrong.append(f"a person reads {seen!r}")
    if found["error"] and not refusal:
        wrong.append("it raised")
    if "MARK" in seen:
        wrong.append("blocked text was shown")
    for what, count in (("upstream", len(s.upstream.requests) - before), ("asked", await put(s) - rows)):
        if count != scenario[what]:
            wrong.append(f"{what}: {count} requests instead of {scenario[what]}")
    way = f"{dialect}, {'streamed' if stream else 'whole'}: {scenario['name']}"
    return [f"{way}: {item}" for item in wrong]


ALWAYS = frozenset({"langchain", "openai-agents", "pydantic-ai", "node-ai"})
"""Those that `make test` drives; `make clients` drives all."""


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(client, id=name, marks=() if name in ALWAYS else pytest.mark.clients)
        for name, client in CLIENTS.items()
    ],
)
async def test_what_a_client_does(tmp_path: Path, client: Client) -> None:
    wrong: list[str] = []
    async with standing(tmp_path) as s, driven(client, s.url) as ask:
        for dialect in client.dialects:
            for scenario in [each for each in SCENARIOS if client.objects or not each.get("object")]:
                for stream in (False, True):
                    wrong += await play(s, ask, client, scenario, dialect, stream)
    assert not wrong, "\n".join(wrong)


def thinking(request: Request) -> replies.Reply:
    """A model that thinks before it calls the tool, and before it says what that told: its thoughts have ids, and are
    kept at the provider."""
    asked = request.json()
    items = asked["input"] if isinstance(asked["input"], list) else []
    called = any(item.get("type") == "function_call_output" for item in items)
    said = responses.message(responses.text(AFTER)) if called else responses.call()
    output = [responses.reasoning("A lookup is due.", id=f"rs_{len(items)}"), said]
    if asked.get("stream"):
        return replies.sse(responses.stream(*output))
    return replies.json(responses.response(*output))


@pytest.mark.parametrize("keys", [False, True])
async def test_an_agent_sends_its_thoughts_back(tmp_path: Path, keys: bool) -> None:
    """It names them by the ids that it was given: under `baseline` it goes on, and with keys it alone."""
    order = {"dialect": "responses", "tools": True, "prompt": "What is the weather like?"}
    held: dict[str, dict[str, Any]] | None = {"a": {}, "b": {}} if keys else None
    async with standing(tmp_path, settings={"policy": "baseline"}, keys=held) as s:
        s.upstream.reply = thinking
        async with driven(CLIENTS["openai-agents"], s.url, s.keys["a"] if keys else "sk-test") as ask:
            for stream in (False, True):
                assert await ask({**order, "stream": stream}) == {"text": AFTER, "error": None, "ran": ["Paris"]}
        sent = [item for request in s.upstream.requests for item in request.json()["input"]]
        assert len([item for item in sent if item.get("type") == "reasoning" and item["id"].startswith("rs_")]) == 2
        assert {row["status"] for row in await s.rows()} == {"released"}


@pytest.mark.clients
async def test_instructor_makes_no_object_of_a_blocked_call(tmp_path: Path) -> None:
    """Where it gets no call it asks again, whatever the answer says; of an error it does not."""
    client = Client("instructor_sdk", ("chat",))
    order = {"dialect": "chat", "tools": True, "prompt": "What is the weather like?"}
    async with standing(tmp_path) as s, driven(client, s.url) as ask:
        for stream in (False, True):
            s.upstream.reply = Saying(cities=["Paris"])
            assert await ask({**order, "stream": stream}) == {"text": "", "error": None, "ran": ["Paris"]}
            for cities in (["MARK"], ["MARK", "Paris"]):
                s.upstream.reply, rows = Saying(cities=cities), len(await s.rows())
                found = await ask({**order, "stream": stream})
                assert found["ran"] == []
                assert WORDS in found["error"]
                assert "MARK" not in str(found)
                assert len(await s.rows()) == rows + 1
            rows = len(await s.rows())
            found = await ask({**order, "stream": stream, "prompt": "What about MARK?"})
            assert WORDS in found["error"]
            assert len(await s.rows()) == rows + 1
