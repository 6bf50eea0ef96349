"""`penstock demo`: a real client, a real model, and Penstock between them; a table of what became of each request."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from . import local_model
from .audit import Reader
from .config import Settings
from .config import load as load_settings
from .logs import configure_logs
from .server import CannotServe, Running, serving

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=160)

STYLES = {
    "pass": "green",
    "log": "yellow",
    "advise": "yellow",
    "rewrite": "cyan",
    "mask": "cyan",
    "route": "cyan",
    "review": "magenta",
    "block": "red",
}


def run_demo(port: int, admin_port: int, *, once: bool) -> int:
    """Run it; the exit code. Raises CannotServe where something is missing."""
    if importlib.util.find_spec("openai") is None:
        raise CannotServe(f"the openai client is not installed ({local_model.MEND})")
    try:
        with _progress("starting a real model (SmolLM2-135M-Instruct on llama.cpp)"):
            stack = contextlib.ExitStack()
            upstream = stack.enter_context(local_model.running())
    except local_model.NoModel as error:
        raise CannotServe(str(error)) from None
    configure_logs("error", human=True)
    with stack, tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        settings = load_settings(
            None,
            upstream=upstream,
            policy="baseline",
            port=port,
            admin_port=admin_port,
            data_dir=Path(folder),
            decision_headers=True,
        )
        asyncio.run(_show(settings, once))
    return 0


async def _show(settings: Settings, once: bool) -> None:
    began = time.perf_counter()
    async with serving(settings) as running:
        host, port = running.address
        console.print(f"Penstock serves after {time.perf_counter() - began:.1f} s, policy [b]{settings.policy}[/b].")
        await _ask_all(f"http://{host}:{port}/v1", settings, running)
        _tell(f"http://{host}:{port}/v1", settings, running)
        if once:
            return
        console.print("Both keep running. Press [b]Ctrl-C[/b] to end.")
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()


async def _ask_all(base_url: str, settings: Settings, running: Running) -> None:
    import openai

    text = files("proxy").joinpath("demo.yaml").read_text("utf-8")
    requests: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(text)
    table = Table(title="What became of each request", title_justify="left")
    for name, style in (("request", ""), ("decision", ""), ("rule", ""), ("score", "dim"), ("added ms", "")):
        table.add_column(name, style=style, justify="right" if name in {"score", "added ms"} else "left", no_wrap=True)
    table.add_column("what the client saw", style="dim", overflow="fold")
    async with openai.AsyncOpenAI(base_url=base_url, api_key="demo-key", max_retries=0) as client:
        with console.status("") as status:
            for number, request in enumerate(requests, 1):
                status.update(f"request {number} of {len(requests)}: {request['name']}")
                decision, seen = await _ask(client, request)
                table.add_row(request["name"], *_row(await _outcome(decision, settings, running)), _short(seen))
    console.print(table)


async def _ask(client: Any, request: dict[str, Any]) -> tuple[str, str]:
    """Send one request; the decision id, and what the client saw."""
    import openai

    turns = request.get("turns") or [{"role": "user", "content": request["say"]}]
    more: dict[str, Any] = {}
    if "tools" in request:
        more["tools"] = [
            {"type": "function", "function": {"name": name, "description": name.replace("_", " "), "parameters": {}}}
            for name in request["tools"]
        ]
    ask = client.chat.completions.with_raw_response.create
    common = {"model": local_model.MODEL, "messages": turns, "max_tokens": 48, "temperature": 0, **more}
    try:
        if request.get("stream"):
            raw = await ask(stream=True, **common)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in raw.parse() if chunk.choices]
            seen = "".join(pieces)
        else:
            raw = await ask(**common)
            seen = raw.parse().choices[0].message.content or ""
    except openai.APIStatusError as error:
        return error.response.headers[
            "x-penstock-decision"
        ], f"{error.status_code} {error.code}: {error.body['message']}"  # type: ignore[index]
    return raw.headers["x-penstock-decision"], " ".join(seen.split())


async def _outcome(decision: str, settings: Settings, running: Running) -> dict[str, Any] | None:
    """What the audit says of a decision. The last word is written when the answer has ended: a moment later."""
    for _ in range(100):
        await running.audit.probe()
        with Reader(settings.audit_where) as reader:
            exchange = reader.exchange(decision)
        if exchange is not None and exchange.outcome is not None:
            return exchange.outcome
        await asyncio.sleep(0.02)
    return None


def _row(outcome: dict[str, Any] | None) -> tuple[str, str, str, str]:
    """Decision, rule, score and added milliseconds of one exchange, as the audit has them."""
    if outcome is None:
        return "?", "", "", ""
    action, rule = outcome["action"], outcome.get("rule") or ""
    scores = outcome.get("why") or {}
    score = max(scores.values(), default=None)
    style = STYLES.get(action, "")
    added = outcome["milliseconds"]["added"]
    return f"[{style}]{action}[/{style}]", rule, "" if score is None else f"{score:.2f}", f"{added:.1f}"


def _tell(base_url: str, settings: Settings, running: Running) -> None:
    admin = "http://{}:{}".format(*running.admin_address)
    command = sys.argv[0] if sys.argv[0].endswith("penstock") else "penstock"
    console.print(f"""
Metrics   {admin}/metrics      (health: {admin}/readyz)
Audit     {command} audit tail{"" if settings.audit_database else f" --path {settings.audit_path}"}
Your turn [b]client = openai.OpenAI(base_url="{base_url}", api_key="anything")[/b]
          model="{local_model.MODEL}"
""", soft_wrap=True)  # fmt: skip


def _short(text: str, width: int = 52) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    began = time.perf_counter()
    with console.status(what):
        yield
    console.print(f"Done in {time.perf_counter() - began:.1f} s: {what}.")
