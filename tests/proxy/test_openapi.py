"""The document says what is served: it holds every route and every code, and schemathesis finds nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proxy.admin import ROUTES
from proxy.app import DIALECTS, SERVED
from proxy.cli import app
from proxy.openapi import ERRORS, document
from proxy.relay import RELAYED
from tests.packages import ROOT, packages
from tests.proxy.conftest import Make
from tests.upstream import api, replies, responses, shapes
from tests.upstream.server import Request

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "unsupported_method,allow_header_conformance"
)
SEEN = re.compile(r'\b([45]\d\d), f?"([a-z_]+)[{"]')
"""A status and a code in our own source, the beginning of one where it is put together."""


def references(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        own = [tree["$ref"]] if "$ref" in tree else []
        return own + [found for value in tree.values() for found in references(value)]
    return [found for item in tree for found in references(item)] if isinstance(tree, list) else []


def test_every_route_is_in_it_and_nothing_leads_nowhere() -> None:
    tree = document()
    judged = {path.decode() for path, _ in (*DIALECTS, *SERVED)}
    passed = {path.decode() + more for path in RELAYED for more in ("", "/{name}")}
    assert set(tree["paths"]) == judged | passed | {path for _, path, _ in ROUTES}
    for place in references(tree):
        part = tree
        for step in place.removeprefix("#/").split("/"):
            part = part[step]
    assert references(tree)


@pytest.mark.parametrize("name", ["app", "heads", "targets", "exchange", "relay", "moderate", "listener", "cors"])
def test_every_code_of_ours_is_in_it(name: str) -> None:
    found = SEEN.findall((ROOT / "proxy" / f"{name}.py").read_text())
    assert found
    for status, code in found:
        assert f"`{code}" in ERRORS[int(status)]


async def test_it_is_printed_and_served(stand: Make) -> None:
    async with stand() as s:
        served = await s.client.get(s.admin_url + "/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == json.loads(CliRunner().invoke(app, ["openapi"]).stdout) == document()


def upstream(request: Request) -> replies.Reply:
    """An upstream that knows all dialects."""
    asked = request.body if request.method == "POST" else b""
    if request.path == "/v1/responses":
        said = responses.message(responses.text("Warm."))
        streamed = b'"stream":true' in asked.replace(b" ", b"")
        return replies.sse(responses.stream(said)) if streamed else replies.json(responses.response(said))
    if request.path == "/v1/embeddings":
        return replies.json({"object": "list", "data": [], "model": "m", "usage": {}})
    if request.path == "/v1/completions":
        choice = {"index": 0, "text": "Warm.", "finish_reason": "stop", "logprobs": None}
        return replies.json(
            {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        )
    if request.path == "/v1/chat/completions":
        return replies.json(shapes.completion("Warm."))
    return api.answer(request)


async def driven(folder: Path, url: str, tag: str) -> str:
    """What schemathesis said of the paths with this tag; it fails the test where it found something."""
    installed = await asyncio.to_thread(packages, "schemathesis")
    written = folder / "openapi.json"
    written.write_text(json.dumps(document()))
    options = [
        "--url", url, "--include-tag", tag, "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "4",
        "--seed", "20261128", "--generation-database", "none", "--no-shrink", "--warnings", "off",
        "--continue-on-failure", "--suppress-health-check", "all",
    ]  # fmt: skip
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "TMPDIR"}}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "schemathesis.cli", "run", str(written), *options], cwd=folder,
        env={**kept, "PYTHONPATH": str(installed), "NO_COLOR": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


async def test_the_data_plane_answers_as_it_says(stand: Make, tmp_path: Path) -> None:
    async with stand(settings={"policy": "observe"}) as s:
        s.upstream.reply = upstream
        said = await driven(tmp_path, s.url, "data")
        assert f"Tested: {len(DIALECTS) + len(SERVED) + 2 * len(RELAYED)}\n" in said
        assert {request.path for request in s.upstream.requests} > {path.decode() for path, _ in DIALECTS}


async def test_the_admin_listener_answers_as_it_says(stand: Make, tmp_path: Path) -> None:
    async with stand() as s:
        assert f"Tested: {len(ROUTES)}\n" in await driven(tmp_path, s.admin_url, "admin")
